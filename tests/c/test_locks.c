/* SPDX-License-Identifier: MIT */
/*
 * test_locks.c - the per-CPU lock: one holder at a time, from inside and from other CPUs, held
 * across migration, with a signal storm beside it.
 *
 * The data that a lock protects are plain words that must agree whenever the lock is free. Two
 * holders at once, or a taking that is no acquire, makes them disagree.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>
#include "threads.h"

enum { WORKERS = 6, WORDS = 6 };

struct copy {
    uint64_t lock;
    uint64_t words[WORDS]; /* all equal whenever the lock is free */
    uint64_t bumped;
};

static struct copy *copies;
static unsigned nr_cpus;
static percpu_ptr lock, bumped;

static void change(unsigned cpu)
{
    uint64_t value = copies[cpu].words[0];
    for (unsigned i = 0; i < WORDS; i++) {
        CHECK(copies[cpu].words[i] == value);
        copies[cpu].words[i] = value + 1;
    }
}

static void use_lock(struct worker *worker)
{
    while (!stopping()) {
        unsigned cpu = percpu_lock(lock);
        CHECK(cpu < nr_cpus);
        if (worker->done % 64 == 0)
            sched_yield(); /* and perhaps wake up on another CPU, still its holder */
        change(cpu);
        percpu_unlock(lock, cpu);
        worker->done++;
    }
}

static void try_lock(struct worker *worker)
{
    while (!stopping()) {
        int cpu = percpu_trylock(lock);
        if (cpu < 0)
            continue;
        change((unsigned)cpu);
        percpu_unlock(lock, (unsigned)cpu);
        worker->done++;
    }
}

static void lock_others(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % nr_cpus;
        percpu_lock_of(lock, cpu);
        change(cpu);
        percpu_unlock(lock, cpu);
        worker->done++;
    }
}

static void in_handler(void)
{
    percpu_this_inc_u64(bumped);
}

static void test_one_thread(void)
{
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        percpu_lock_of(lock, cpu);
        CHECK(copies[cpu].lock != 0);
        if (lock.index == PERCPU_INDEX_CPU && pin(cpu))
            CHECK(percpu_trylock(lock) == -1);
        percpu_unlock(lock, cpu);
        CHECK(copies[cpu].lock == 0);
    }
    if (lock.index != PERCPU_INDEX_CPU)
        return;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        if (!pin(cpu))
            continue;
        CHECK(percpu_lock(lock) == cpu && copies[cpu].lock != 0);
        percpu_unlock(lock, cpu);
        CHECK(percpu_trylock(lock) == (int)cpu);
        percpu_unlock(lock, cpu);
    }
}

static void test_many_threads(void)
{
    void (*const bodies[])(struct worker *) = {use_lock, try_lock, lock_others};
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        memset(&copies[cpu], 0, sizeof copies[cpu]);
    unsigned long before = atomic_load(&storm_hits);
    uint64_t done = run_workers(WORKERS, bodies, 3, 300, 300), changes = 0, hits = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        CHECK(copies[cpu].lock == 0);
        for (unsigned i = 1; i < WORDS; i++)
            CHECK(copies[cpu].words[i] == copies[cpu].words[0]);
        changes += copies[cpu].words[0];
        hits += copies[cpu].bumped;
    }
    CHECK(done > 0 && changes == done);
    CHECK(hits > 0 && hits == atomic_load(&storm_hits) - before);
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    cpu_set_t allowed;
    deadline(60);
    nr_cpus = percpu_nr_cpus();
    copies = map_copies(nr_cpus, sizeof *copies);
    storm_work = in_handler;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (size_t i = 0; i < 2; i++) {
        if (percpu_index_check(indexes[i]) != 0)
            continue;
        lock = (percpu_ptr){(char *)&copies->lock, sizeof *copies, indexes[i]};
        bumped = (percpu_ptr){(char *)&copies->bumped, sizeof *copies, indexes[i]};
        test_one_thread();
        CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
        test_many_threads();
    }
    return 0;
}
