/* SPDX-License-Identifier: MIT */
/*
 * test_stop.c - percpu_stop() shows one instant of all CPUs, and what it writes there is kept:
 * beside storms of sections and of remote operations, from threads and from signal handlers, by
 * cpu_id and by mm_cid, and in a child that was forked in the middle.
 *
 * A gate that stays open, a fence of fewer CPUs than all, or a signal that comes in between show
 * as words that change while everything is stopped, as pairs that do not belong together, as
 * tokens in two places, or as a count that was lost.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>
#include "threads.h"

enum { WORKERS = 6, STORM = 200, RUN_MS = 200, TOKENS = 100, FORKS = 10, BULK = 1 << 13 };

struct words {
    uint64_t tokens;
    uint64_t first, second; /* second is first, or first + 1 before a commit and after an abort */
    uint64_t counted;       /* by sections, by remote operations and by who stopped everything */
    uint64_t head;          /* goes up by a section of microseconds */
};
struct copy {
    struct words words;
    char bulk[BULK];
};

static struct copy *copies;
static unsigned nr_cpus;
static enum percpu_index index_used;
static atomic_ullong counts, stops;
static _Thread_local volatile bool inside;

static percpu_ptr field(size_t offset)
{
    return (percpu_ptr){(char *)copies + offset, sizeof(struct copy), index_used};
}
#define FIELD(name) field(offsetof(struct copy, words.name))
#define OFFSET(from, to) (offsetof(struct copy, to) - offsetof(struct copy, from))

/* ---- what is stopped -------------------------------------------------------------------- */

static void step(void)
{
    uint64_t seen = percpu_this_read_u64(FIELD(first));
    (void)percpu_this_cbne_store_store(FIELD(first), seen, seen + 1,
                                       OFFSET(words.first, words.second), seen + 1);
    percpu_this_inc_u64(FIELD(counted));
    atomic_fetch_add_explicit(&counts, 1, memory_order_relaxed);
    /* Take a token where we are, and put it down where we are then. */
    if (percpu_this_add_within(FIELD(tokens), UINT64_MAX, 1, TOKENS, UINT64_MAX))
        percpu_this_inc_u64(FIELD(tokens));
}

static void long_step(void)
{
    static const char bulk[BULK];
    uint64_t seen = percpu_this_read_u64(FIELD(head));
    (void)percpu_this_cbne_memcpy_store(FIELD(head), seen, seen + 1, OFFSET(words.head, bulk), bulk,
                                        sizeof bulk);
}

static void busy(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        step();
        long_step();
    }
}

static void remote(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        (void)percpu_cpu_add_return_u64(FIELD(counted), (unsigned)worker->done % nr_cpus, 1);
        atomic_fetch_add_explicit(&counts, 1, memory_order_relaxed);
    }
}

/* ---- stopping it ------------------------------------------------------------------------ */

enum { COPIES_MAX = 64 };

static void look(void *argument)
{
    struct words seen[COPIES_MAX];
    uint64_t tokens = 0;
    inside = true;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        struct words *words = &copies[cpu].words;
        seen[cpu] = *words;
        tokens += words->tokens;
        CHECK(words->second - words->first <= 1);
        words->counted++;
    }
    CHECK_CASE(tokens <= TOKENS && tokens + 2 * WORKERS >= TOKENS, "%llu tokens",
               (unsigned long long)tokens);
    for (volatile unsigned i = 0; i < 2000; i++)
        ;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        seen[cpu].counted++;
        CHECK(memcmp(&seen[cpu], &copies[cpu].words, sizeof seen[cpu]) == 0);
    }
    /* All tokens that are not in a hand move on by one CPU. */
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        copies[(cpu + 1) % nr_cpus].words.tokens = seen[cpu].tokens;
    ++*(unsigned *)argument;
    inside = false;
}

static void stop(void)
{
    unsigned called = 0;
    CHECK(percpu_stop(look, &called));
    CHECK(called == 1);
    atomic_fetch_add(&counts, nr_cpus);
    atomic_fetch_add(&stops, 1);
}

static void in_handler(void)
{
    CHECK(!inside);
    step();
    if (atomic_load(&storm_hits) % 8 == 0)
        stop();
}

static void stopper(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        stop();
        step();
    }
}

/* The child has one thread, and whatever the others had in their hands is gone. */
static void child(void)
{
    deadline(20);
    for (unsigned i = 0; i < 50; i++) {
        stop();
        step();
        long_step();
    }
    struct words before = {0}, after = {0};
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        before.counted += copies[cpu].words.counted;
    stop();
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        after.counted += copies[cpu].words.counted;
    CHECK(after.counted == before.counted + nr_cpus);
}

static void forker(struct worker *worker)
{
    for (; !stopping() && worker->done < FORKS; worker->done++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            child();
            _exit(0);
        }
        int status;
        while (waitpid(pid, &status, 0) != pid)
            CHECK(errno == EINTR);
        CHECK_CASE(status == 0, "status %#x", (unsigned)status);
    }
}

static void test_one_instant(void)
{
    void (*const bodies[])(struct worker *) = {busy, stopper, busy, remote, stopper, forker};
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        memset(&copies[cpu].words, 0, sizeof copies[cpu].words);
    copies[0].words.tokens = TOKENS;
    counts = stops = 0;
    unsigned long hits = atomic_load(&storm_hits);
    /* Where other processes want the CPUs too, a run may be over before anything has happened. */
    for (unsigned tries = 0; tries < 50 && (stops == 0 || storm_hits == hits); tries++)
        (void)run_workers(WORKERS, bodies, 6, STORM, RUN_MS);
    CHECK(stops > 0 && storm_hits > hits);
    uint64_t counted = 0, tokens = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        counted += copies[cpu].words.counted;
        tokens += copies[cpu].words.tokens;
    }
    CHECK(counted == counts && tokens == TOKENS);
}

static void never(void *argument)
{
    (void)argument;
    CHECK(!"called in mode none");
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    deadline(100);
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE) {
        CHECK(!percpu_stop(never, NULL));
        return 0;
    }
    nr_cpus = percpu_nr_cpus();
    CHECK(nr_cpus <= COPIES_MAX);
    copies = map_copies(nr_cpus, sizeof *copies);
    storm_work = in_handler;
    for (size_t i = 0; i < 2; i++) {
        index_used = indexes[i];
        if (percpu_index_check(index_used) != 0)
            continue;
        for (unsigned attempts = 0; attempts <= 100; attempts += 100) {
            unsigned former = percpu_set_max_attempts(attempts);
            test_one_instant();
            percpu_set_max_attempts(former);
        }
    }
    return 0;
}
