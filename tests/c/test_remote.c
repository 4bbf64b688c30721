/* SPDX-License-Identifier: MIT */
/*
 * test_remote.c - writing other CPUs' copies through the gate while their owners add: no update is
 * lost, on either side, for every width, by cpu_id and by mm_cid, and whoever has to take the gate
 * for its own operations makes progress beside the others.
 *
 * A gate without its fence, a section that does not look at the gate, or one that looks before it
 * starts, loses updates here.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>
#include "slow_word.h"
#include "threads.h"

enum { WORKERS = 6 };

/* One cache line of words of every type; neighbours show an operation of the wrong width. */
struct copy {
    uint64_t added;   /* locals add 1, remotes add 1000000 */
    uint64_t drained; /* locals add 1, remotes take everything */
    uint64_t traded;  /* locals add 1 by cmpxchg, remotes 1000000 by cmpxchg */
    double f64;
    uint32_t u32;
    uint16_t u16[2];
    uint8_t u8[4];
    uint32_t guard;
    uint64_t boxed;     /* locals add 1 if there is room for it, remotes 1000000 */
    uint64_t published; /* locals commit +1 after a long copy to `bulk`, remotes add 1000000 */
    char bulk[1 << 16];
};

static struct copy *copies;
static unsigned nr_cpus;
static enum percpu_index index_used;
static atomic_ullong local_done, remote_done, collected, remote_trades, local_trades, by_hand;
static atomic_ullong published;
static atomic_ullong boxed; /* put into boxes, less what was taken out */

static percpu_ptr field(size_t offset)
{
    return (percpu_ptr){(char *)copies + offset, sizeof(struct copy), index_used};
}
#define FIELD(name) field(offsetof(struct copy, name))
#define BOX UINT64_C(50000000)
#define ADD(total, n) atomic_fetch_add_explicit(&(total), (n), memory_order_relaxed)

/* Into a word that stays below BOX, and is emptied when there is no room in it. */
static void box(void)
{
    if (percpu_this_add_within(FIELD(boxed), UINT64_MAX, 0, BOX - 1, 1))
        ADD(boxed, 1);
    else
        ADD(boxed, 0 - percpu_this_xchg_u64(FIELD(boxed), 0));
}

static void remote_box(unsigned cpu)
{
    struct percpu_op op = {.code = PERCPU_OP_ADD_WITHIN,
                           .width = 8,
                           .p = FIELD(boxed),
                           .x = 1000000,
                           .expect = 0,
                           .x2 = BOX - 1000000,
                           .mask = UINT64_MAX};
    if (percpu_remote(&op, cpu) == PERCPU_COMMITTED)
        ADD(boxed, 1000000);
    CHECK(percpu_cpu_read_u64(FIELD(boxed), cpu) < BOX);
}

static void gated_box(void)
{
    percpu_ptr p = FIELD(boxed);
    if (percpu_slow_add_within(p.base, p.stride, p.index, UINT64_MAX, 0, BOX - 1, 1))
        ADD(boxed, 1);
}

static void locals_step(void)
{
    percpu_this_inc_u64(FIELD(added));
    (void)percpu_this_add_return_u64(FIELD(drained), 1);
    percpu_this_add_f64(FIELD(f64), 1.0);
    percpu_this_inc_u32(FIELD(u32));
    percpu_this_inc_u16(FIELD(u16[1]));
    percpu_this_inc_u8(FIELD(u8[1]));
    percpu_this_dec_u8(FIELD(u8[2]));
    box();
}

/* A section of microseconds: time enough for a remote writer to come in the middle of it. */
static void publish(void)
{
    static const char bulk[1 << 16];
    uint64_t seen = percpu_this_read_u64(FIELD(published));
    size_t to = offsetof(struct copy, bulk) - offsetof(struct copy, published);
    if (percpu_this_cbne_memcpy_store(FIELD(published), seen, seen + 1, to, bulk, sizeof bulk))
        ADD(published, 1);
}

static void locals(struct worker *worker)
{
    while (!stopping()) {
        locals_step();
        if (worker->done % 16 == 0)
            publish();
        uint64_t seen = percpu_this_read_u64(FIELD(traded));
        if (percpu_this_cmpxchg_u64(FIELD(traded), seen, seen + 1) == seen)
            ADD(local_trades, 1);
        worker->done++;
    }
    ADD(local_done, worker->done);
}

static void remotes(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % nr_cpus;
        (void)percpu_cpu_add_return_u64(FIELD(added), cpu, 1000000);
        (void)percpu_cpu_add_return_u64(FIELD(published), cpu, 1000000);
        remote_box(cpu);
        ADD(collected, percpu_cpu_xchg_u64(FIELD(drained), cpu, 0));
        (void)percpu_cpu_add_return_f64(FIELD(f64), cpu, 1000000.0);
        (void)percpu_cpu_add_return_u32(FIELD(u32), cpu, 1000000);
        (void)percpu_cpu_add_return_u16(FIELD(u16[1]), cpu, 10000);
        (void)percpu_cpu_add_return_u8(FIELD(u8[1]), cpu, 100);
        uint64_t seen = percpu_cpu_read_u64(FIELD(traded), cpu);
        if (percpu_cpu_cmpxchg_u64(FIELD(traded), cpu, seen, seen + 1000000) == seen)
            ADD(remote_trades, 1);
        worker->done++;
    }
    ADD(remote_done, worker->done);
}

/* Every operation of this worker goes straight to the slow path, and there under the gate. */
static void gated(struct worker *worker)
{
    while (!stopping()) {
        (void)slow_word(FIELD(added), PERCPU_OP_ADD, 8, 1, 0);
        (void)slow_word(FIELD(u32), PERCPU_OP_ADD, 4, 1, 0);
        (void)slow_word(FIELD(u16[1]), PERCPU_OP_ADD, 2, 1, 0);
        (void)slow_word(FIELD(u8[1]), PERCPU_OP_ADD, 1, 1, 0);
        gated_box();
        worker->done++;
    }
    ADD(by_hand, worker->done);
}

static void in_handler(void)
{
    percpu_this_inc_u64(FIELD(added));
}

static void test_nothing_is_lost(void)
{
    void (*const bodies[])(struct worker *) = {locals, remotes, locals, gated};
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        memset(&copies[cpu], 0, sizeof copies[cpu]);
    local_done = remote_done = collected = remote_trades = local_trades = by_hand = 0;
    published = boxed = 0;
    unsigned long before = atomic_load(&storm_hits);
    CHECK(run_workers(WORKERS, bodies, 4, 500, 400) > 0);
    CHECK(local_done > 0 && remote_done > 0 && by_hand > 0);

    struct copy sum;
    memset(&sum, 0, sizeof sum);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        struct copy *copy = &copies[cpu];
        CHECK(copy->guard == 0 && copy->u16[0] == 0 && copy->u8[0] == 0 && copy->u8[3] == 0);
        sum.added += copy->added;
        sum.drained += copy->drained;
        sum.traded += copy->traded;
        sum.f64 += copy->f64;
        sum.published += copy->published;
        sum.boxed += copy->boxed;
        sum.u32 += copy->u32;
        sum.u16[1] = (uint16_t)(sum.u16[1] + copy->u16[1]);
        sum.u8[1] = (uint8_t)(sum.u8[1] + copy->u8[1]);
        sum.u8[2] = (uint8_t)(sum.u8[2] + copy->u8[2]);
    }
    unsigned long hits = atomic_load(&storm_hits) - before;
    uint64_t locally = local_done + by_hand;
    CHECK(hits > 0);
    CHECK(sum.added == locally + hits + 1000000 * remote_done);
    CHECK(sum.drained + collected == local_done);
    CHECK(sum.traded == local_trades + 1000000 * remote_trades);
    CHECK(published > 0 && sum.published == published + 1000000 * remote_done);
    CHECK(sum.boxed == boxed);
    CHECK(sum.f64 == (double)local_done + 1000000.0 * (double)remote_done);
    CHECK(sum.u32 == (uint32_t)(locally + 1000000 * remote_done));
    CHECK(sum.u16[1] == (uint16_t)(locally + 10000 * remote_done));
    CHECK(sum.u8[1] == (uint8_t)(locally + 100 * remote_done));
    CHECK(sum.u8[2] == (uint8_t)(0 - local_done));
}

/* The fence can be had exactly where sections exist, for one CPU and for all. */
static void test_fence(void)
{
    bool sections = percpu_rseq_info()->mode != PERCPU_MODE_NONE;
    for (int cpu = -1; cpu < (int)nr_cpus; cpu++) {
        errno = 0;
        int answer = percpu_rseq_fence(cpu);
        CHECK(sections ? answer == 0 : answer == -1 && errno == ENOTSUP);
    }
}

/* A slow operation that may not try a section closes the gate, for all to see. */
static void watch_the_gate(struct worker *worker)
{
    while (!stopping())
        worker->done += __atomic_load_n(&percpu_runtime.limit, __ATOMIC_RELAXED) == 0;
}

static void slow_without_attempts(struct worker *worker)
{
    while (!stopping())
        (void)slow_word(FIELD(added), PERCPU_OP_ADD, 8, 1, 0);
    worker->done = 0;
}

static void test_slow_operations_take_the_gate(void)
{
    void (*const bodies[])(struct worker *) = {watch_the_gate, slow_without_attempts};
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        return; /* there is no gate: atomics need none */
    unsigned former = percpu_set_max_attempts(0);
    uint64_t seen = 0; /* where other processes want the CPUs too, the watcher may miss all of it */
    for (unsigned tries = 0; tries < 50 && seen == 0; tries++)
        seen = run_workers(2, bodies, 2, 0, 200);
    CHECK(seen > 0);
    percpu_set_max_attempts(former);
}

/* ---- concurrency ids that are not the CPUs' ---------------------------------------------- */

static void *write_copy_0(void *unused)
{
    for (unsigned i = 0; i < (unsigned)effort(20000); i++) {
        (void)percpu_cpu_add_return_u64(FIELD(added), 0, 1000000);
        (void)percpu_cpu_add_return_u64(FIELD(published), 0, 1000000);
        ADD(remote_done, 1);
    }
    atomic_store(&workers_stop, true);
    return unused;
}

/* A thread that never runs on another CPU than 0, from its first instruction on. */
static pthread_t start_on_cpu_0(void *(*body)(void *))
{
    pthread_t thread;
    pthread_attr_t attributes;
    cpu_set_t zero;
    CPU_ZERO(&zero);
    CPU_SET(0, &zero);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setaffinity_np(&attributes, sizeof zero, &zero) == 0);
    CHECK(pthread_create(&thread, &attributes, body, NULL) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
    return thread;
}

/* One CPU is busy with adds to copy 0, by concurrency id 0; another writes that copy remotely. */
static void count_with_cid_0(void)
{
    memset(copies, 0, nr_cpus * sizeof *copies);
    local_done = remote_done = published = 0;
    atomic_store(&workers_stop, false);
    pthread_t writer = start_on_cpu_0(write_copy_0);
    for (; !stopping(); ADD(local_done, 1)) {
        locals_step();
        publish();
    }
    CHECK(pthread_join(writer, NULL) == 0);
    uint64_t added_sum = 0, published_sum = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        added_sum += copies[cpu].added;
        published_sum += copies[cpu].published;
    }
    CHECK(added_sum == local_done + 1000000 * remote_done);
    CHECK(published_sum == published + 1000000 * remote_done);
}

/*
 * A process that is born on the last CPU, and keeps it busy, has concurrency id 0 there: a fence of
 * CPU 0 would do nothing for who writes that copy.
 */
static void test_cid_0_on_the_last_cpu(void)
{
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    if (!percpu_rseq_info()->mm_cid || !CPU_ISSET(0, &allowed) || !pin(nr_cpus - 1))
        return;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        deadline(30);
        index_used = PERCPU_INDEX_CID;
        count_with_cid_0();
        exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    deadline(60);
    nr_cpus = percpu_nr_cpus();
    copies = map_copies(nr_cpus, sizeof *copies);
    storm_work = in_handler;
    test_fence();
    test_slow_operations_take_the_gate();
    test_cid_0_on_the_last_cpu();
    for (size_t i = 0; i < 2; i++) {
        index_used = indexes[i];
        if (percpu_index_check(index_used) != 0)
            continue;
        for (unsigned attempts = 0; attempts <= 1; attempts++) {
            struct percpu_slow_stats before, after;
            percpu_slow_stats(&before);
            unsigned former = percpu_set_max_attempts(attempts == 0 ? 0 : 100);
            test_nothing_is_lost();
            percpu_set_max_attempts(former);
            percpu_slow_stats(&after);
            CHECK(after.remote - before.remote >= remote_done);
            if (attempts == 0 && percpu_rseq_info()->mode != PERCPU_MODE_NONE)
                CHECK(after.gated - before.gated >= 5 * by_hand);
        }
    }
    return 0;
}
