/* SPDX-License-Identifier: MIT */
/*
 * test_sections.c - lists, stacks, conditional commits and bounded adds, with more threads than CPUs, a signal
 * storm whose handler uses the same objects, and remote takers.
 *
 * Every node and every token has one owner at a time; taking one that somebody else owns fails the
 * test at once. At the end all of them are there, each once. What a log's commit published is
 * whole, and was appended once. A section that commits after a migration or a signal, that is not
 * restarted by the fence, or that stores past its commit shows up here.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>
#include "threads.h"

enum { WORKERS = 6, STORM = 200, RUN_MS = 250 };
enum { BOUND = 5 };
enum { NODES = 64, TOKENS = 512, CAPACITY = 40, LOG_ENTRIES = 1 << 14 };

/* What one CPU has. The stack and the logs start with their count or head. */
struct copy {
    void *list;
    uint64_t stack[1 + CAPACITY];
    uint64_t bumped;  /* by signal handlers */
    uint64_t bounded; /* at most BOUND in its low half; the high half is their own to change */
    uint64_t word_log_head; /* entries appended */
    uint64_t word_log[LOG_ENTRIES];
    uint64_t record_log_head;
    struct record {
        uint64_t thread, sequence, padding[2], sum;
    } record_log[LOG_ENTRIES];
};

static struct copy *copies;
static unsigned nr_cpus;

static percpu_ptr field(enum percpu_index index, size_t offset)
{
    return (percpu_ptr){(char *)copies + offset, sizeof(struct copy), index};
}
#define FIELD(name) field(index_used, offsetof(struct copy, name))
static enum percpu_index index_used;

/* ---- one owner at a time ---------------------------------------------------------------- */

struct node {
    struct percpu_list_node link;
    atomic_int owned;
};
static struct node nodes[NODES];
static atomic_int token_owned[TOKENS];
static unsigned tokens; /* three quarters of what the stacks hold, so that some are full */

static void take(atomic_int *owned)
{
    CHECK(atomic_exchange_explicit(owned, 1, memory_order_relaxed) == 0);
}

static void give(atomic_int *owned)
{
    CHECK(atomic_exchange_explicit(owned, 0, memory_order_relaxed) == 1);
}

static bool list_step(void)
{
    struct node *node = (struct node *)percpu_list_pop(FIELD(list));
    if (node == NULL)
        return false;
    take(&node->owned);
    give(&node->owned);
    percpu_list_push(FIELD(list), &node->link);
    return true;
}

/* Onto the first stack with room, from CPU `cpu` on. */
static void push_somewhere(uint64_t token, unsigned cpu)
{
    struct percpu_op push = {.code = PERCPU_OP_STACK_PUSH,
                             .width = 8,
                             .p = FIELD(stack),
                             .x = token,
                             .expect = CAPACITY};
    while (percpu_remote(&push, cpu % nr_cpus) != PERCPU_COMMITTED)
        cpu++;
}

static bool stack_step(void)
{
    uint64_t token;
    if (!percpu_stack_pop(FIELD(stack), &token))
        return false;
    CHECK(token < tokens);
    take(&token_owned[token]);
    give(&token_owned[token]);
    if (!percpu_stack_push(FIELD(stack), token, CAPACITY))
        push_somewhere(token, 0);
    return true;
}

static atomic_ullong bound_net, bound_high;

/* Add to the low half where there is room, or take away where there is something; and add to the
 * high half whatever is below. */
static void bounded_step(bool up)
{
    bool done = up ? percpu_this_add_within(FIELD(bounded), UINT32_MAX, 0, BOUND, 1)
                   : percpu_this_add_within(FIELD(bounded), UINT32_MAX, 1, BOUND, UINT64_MAX);
    if (done)
        atomic_fetch_add_explicit(&bound_net, up ? 1 : UINT64_MAX, memory_order_relaxed);
    if (percpu_this_add_within(FIELD(bounded), UINT32_MAX, 0, BOUND + 1, UINT64_C(1) << 32))
        atomic_fetch_add_explicit(&bound_high, 1, memory_order_relaxed);
}

static void in_handler(void)
{
    percpu_this_inc_u64(FIELD(bumped));
    list_step();
    bounded_step(storm_hits % 2);
}

/* ---- workers ---------------------------------------------------------------------------- */

static void use_list(struct worker *worker)
{
    while (!stopping())
        worker->done += list_step();
}

static void use_stack(struct worker *worker)
{
    while (!stopping())
        worker->done += stack_step();
}

/* Give back a whole chain of nodes, wherever this thread now is. */
static unsigned push_chain(struct percpu_list_node *chain)
{
    unsigned length = 0;
    while (chain != NULL) {
        struct percpu_list_node *next = chain->next;
        take(&((struct node *)chain)->owned);
        give(&((struct node *)chain)->owned);
        percpu_list_push(FIELD(list), chain);
        chain = next;
        length++;
        CHECK(length <= NODES);
    }
    return length;
}

static void steal_lists(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        if (random_next(&random) % 2 == 0)
            worker->done += push_chain(percpu_list_pop_all(FIELD(list)));
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % nr_cpus;
        worker->done += push_chain(percpu_list_pop_all_of(FIELD(list), cpu));
    }
}

/* Take a whole stack, and give its tokens back to whoever has room. */
static uint64_t push_all(unsigned cpu)
{
    uint64_t values[CAPACITY], count = percpu_stack_take_all_of(FIELD(stack), cpu, values);
    CHECK(count <= CAPACITY);
    for (uint64_t i = 0; i < count; i++) {
        CHECK(values[i] < tokens);
        take(&token_owned[values[i]]);
    }
    for (uint64_t i = 0; i < count; i++) {
        give(&token_owned[values[i]]);
        push_somewhere(values[i], cpu + 1);
    }
    return count;
}

static void steal_tokens(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % nr_cpus;
        if (random_next(&random) % 4 == 0) {
            worker->done += push_all(cpu);
            continue;
        }
        struct percpu_op pop = {.code = PERCPU_OP_STACK_POP, .width = 8, .p = FIELD(stack)};
        if (percpu_remote(&pop, cpu) != PERCPU_COMMITTED)
            continue;
        CHECK(pop.old < tokens);
        take(&token_owned[pop.old]);
        give(&token_owned[pop.old]);
        push_somewhere(pop.old, cpu);
        worker->done++;
    }
}

static uint64_t entry_of(unsigned thread, uint64_t sequence)
{
    return (uint64_t)(thread + 1) << 48 | sequence;
}

static void append_words(struct worker *worker)
{
    uint64_t sequence = 0;
    while (!stopping()) {
        uint64_t head = percpu_this_read_u64(FIELD(word_log_head));
        if (head >= LOG_ENTRIES)
            break;
        size_t at = offsetof(struct copy, word_log) - offsetof(struct copy, word_log_head) +
                    head * sizeof(uint64_t);
        if (percpu_this_cbne_store_store(FIELD(word_log_head), head, head + 1, at,
                                         entry_of(worker->id, sequence)))
            sequence++;
    }
    worker->done = sequence;
}

static void append_records(struct worker *worker)
{
    uint64_t sequence = 0;
    while (!stopping()) {
        uint64_t head = percpu_this_read_u64(FIELD(record_log_head));
        if (head >= LOG_ENTRIES)
            break;
        struct record record = {.thread = worker->id, .sequence = sequence};
        record.sum = ~(record.thread * 31 + record.sequence);
        size_t at = offsetof(struct copy, record_log) - offsetof(struct copy, record_log_head) +
                    head * sizeof record;
        if (percpu_this_cbne_memcpy_store(FIELD(record_log_head), head, head + 1, at, &record,
                                          sizeof record))
            sequence++;
    }
    worker->done = sequence;
}

/* ---- what must hold at the end ---------------------------------------------------------- */

/* With nobody at work: every node is in one list, once; the lists are empty afterwards. */
static void check_lists(void)
{
    unsigned found = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        struct percpu_list_node *node = percpu_list_pop_all_of(FIELD(list), cpu);
        for (; node != NULL; node = node->next) {
            take(&((struct node *)node)->owned);
            found++;
        }
    }
    CHECK(found == NODES);
    for (unsigned i = 0; i < NODES; i++)
        give(&nodes[i].owned);
}

static void check_stacks(void)
{
    unsigned found = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        CHECK(copies[cpu].stack[0] <= CAPACITY);
        for (uint64_t i = 0; i < copies[cpu].stack[0]; i++) {
            take(&token_owned[copies[cpu].stack[1 + i]]);
            found++;
        }
        copies[cpu].stack[0] = 0;
    }
    CHECK(found == tokens);
    for (unsigned i = 0; i < tokens; i++)
        give(&token_owned[i]);
}

static void check_logs(uint64_t words, uint64_t records)
{
    uint64_t word_sum = 0, record_sum = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        uint64_t last_word[WORKERS] = {0}, last_record[WORKERS] = {0};
        for (uint64_t i = 0; i < copies[cpu].word_log_head; i++) {
            uint64_t entry = copies[cpu].word_log[i], thread = (entry >> 48) - 1;
            uint64_t sequence = (entry & 0xffffffffffff) + 1;
            CHECK(thread < WORKERS && sequence > last_word[thread]);
            last_word[thread] = sequence;
        }
        word_sum += copies[cpu].word_log_head;
        for (uint64_t i = 0; i < copies[cpu].record_log_head; i++) {
            struct record *record = &copies[cpu].record_log[i];
            CHECK(record->thread < WORKERS && record->sequence + 1 > last_record[record->thread]);
            CHECK(record->sum == ~(record->thread * 31 + record->sequence));
            last_record[record->thread] = record->sequence + 1;
        }
        record_sum += copies[cpu].record_log_head;
        copies[cpu].word_log_head = copies[cpu].record_log_head = 0;
    }
    CHECK(word_sum == words && record_sum == records);
}

static void test_lists_and_stacks(void)
{
    void (*const bodies[])(struct worker *) = {use_list, use_stack, steal_lists, steal_tokens};
    for (unsigned i = 0; i < NODES; i++)
        percpu_list_push(FIELD(list), &nodes[i].link);
    for (unsigned i = 0; i < tokens; i++)
        push_somewhere(i, i);
    CHECK(run_workers(WORKERS, bodies, 4, STORM, RUN_MS) > 0);
    check_lists();
    check_stacks();
}

static void add_within_bounds(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        bounded_step(random_next(&random) >> 63);
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % nr_cpus;
        CHECK((uint32_t)percpu_cpu_read_u64(FIELD(bounded), cpu) <= BOUND);
        worker->done++;
    }
}

static void test_bounded_adds(void)
{
    void (*const bodies[])(struct worker *) = {add_within_bounds};
    CHECK(run_workers(WORKERS, bodies, 1, STORM, RUN_MS / 2) > 0);
    uint64_t low = 0, high = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        low += (uint32_t)copies[cpu].bounded;
        high += copies[cpu].bounded >> 32;
    }
    CHECK(low == bound_net && (uint32_t)high == (uint32_t)bound_high);
}

static void test_conditional_commits(void)
{
    void (*const words[])(struct worker *) = {append_words};
    void (*const records[])(struct worker *) = {append_records};
    uint64_t appended = run_workers(WORKERS, words, 1, STORM, RUN_MS / 2);
    CHECK(appended > 0);
    check_logs(appended, 0);
    appended = run_workers(WORKERS, records, 1, STORM, RUN_MS / 2);
    CHECK(appended > 0);
    check_logs(0, appended);
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    deadline(100);
    nr_cpus = percpu_nr_cpus();
    copies = map_copies(nr_cpus, sizeof *copies);
    tokens = nr_cpus * CAPACITY * 3 / 4 < TOKENS ? nr_cpus * CAPACITY * 3 / 4 : TOKENS;
    storm_work = in_handler;
    for (size_t i = 0; i < 2; i++) {
        index_used = indexes[i];
        if (percpu_index_check(index_used) != 0)
            continue;
        unsigned long before = atomic_load(&storm_hits);
        test_lists_and_stacks();
        test_conditional_commits();
        test_bounded_adds();
        unsigned long hits = atomic_load(&storm_hits) - before, bumped = 0;
        CHECK(hits > 0);
        for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
            bumped += copies[cpu].bumped;
            copies[cpu].bumped = 0;
        }
        CHECK(bumped == hits);
    }
    return 0;
}
