/* SPDX-License-Identifier: MIT */
/*
 * test_limiter_threads.c - percpu_limiter with more threads than CPUs that hop between them, a
 * signal storm whose handler acquires and releases too, hogs that take everything, and forks.
 *
 * Everybody counts what they hold in one atomic, after they got it and before they give it back,
 * so that it is never above what the limiter says is held: if it exceeds the capacity, the limit
 * was passed. Where all wants together fit in the capacity, no acquire may fail. At the end the
 * capacity can be had exactly, and then nothing is held. A section that commits twice or not at
 * all, a transfer beside sections that go on, or a token that is in no word while it moves fails
 * one of these.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>
#include "threads.h"

enum { WORKERS = 6, STORM = 200, RUN_MS = 80, MOST = 5 };

static struct percpu_limiter limiter;
static uint64_t capacity;
static atomic_ullong held, taken, refusals;
static bool everybody_fits; /* no acquire may fail */
static struct percpu_pool *pool;
static cpu_set_t allowed;

static bool take(uint64_t n)
{
    if (!percpu_limiter_acquire(&limiter, n)) {
        CHECK(!everybody_fits);
        atomic_fetch_add(&refusals, 1);
        return false;
    }
    CHECK(atomic_fetch_add(&held, n) + n <= capacity);
    atomic_fetch_add(&taken, 1);
    return true;
}

static void give(uint64_t n)
{
    atomic_fetch_sub(&held, n);
    CHECK(percpu_limiter_release(&limiter, n) == 0);
}

static atomic_ullong children;
static atomic_bool forks_wanted;
static _Thread_local volatile bool forking; /* fork() may not be called in the middle of fork() */

static void child(void);

static void fork_now(void)
{
    forking = true;
    pid_t pid = fork();
    forking = false;
    CHECK(pid >= 0);
    if (pid == 0) {
        child();
        _exit(0);
    }
    int status;
    while (waitpid(pid, &status, 0) != pid)
        CHECK(errno == EINTR);
    CHECK_CASE(status == 0, "status %#x", (unsigned)status);
    atomic_fetch_add(&children, 1);
}

/* Wherever the thread is: in a section, on the slow path, before a fork of its own. */
static void in_handler(void)
{
    if (take(1))
        give(1);
    if (!forking && !stopping() && atomic_exchange(&forks_wanted, false))
        fork_now();
}

/* ---- workers ------------------------------------------------------------------------------- */

/* Acquire and release at once, what the sections are for. */
static void pairs(struct worker *worker)
{
    for (; !stopping(); worker->done++)
        if (take(1))
            give(1);
}

/* Hold up to MOST, in steps of several, on whatever CPU. */
static void mixed(struct worker *worker)
{
    uint64_t random = worker->id + 1, mine = 0;
    for (; !stopping(); worker->done++) {
        uint64_t n = 1 + (random_next(&random) >> 32) % MOST;
        if (mine + n <= MOST && random_next(&random) >> 63) {
            mine += take(n) ? n : 0;
        } else if (mine > 0) {
            n = n < mine ? n : mine;
            give(n);
            mine -= n;
        }
        unsigned cpu = (unsigned)(random_next(&random) >> 32) % percpu_nr_cpus();
        if (random_next(&random) >> 57 == 0 && CPU_ISSET(cpu, &allowed))
            CHECK(pin(cpu));
    }
    if (mine > 0)
        give(mine);
}

static void reader(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        CHECK(percpu_limiter_outstanding(&limiter) <= capacity);
        const char *broken = percpu_limiter_check(&limiter);
        CHECK_CASE(broken == NULL, "%s", broken);
        sched_yield();
    }
}

/* Take all there is, one by one or at once, and give it back in one. */
static void hog(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        uint64_t mine = 0;
        if (worker->done % 2 == 0 && take(capacity))
            mine = capacity;
        while (mine < capacity && take(1))
            mine++;
        if (mine > 0)
            give(mine);
        sched_yield();
    }
}

/* What other threads held at the fork stays held, and all that is left can be had. */
static void child(void)
{
    deadline(20);
    CHECK(percpu_limiter_check(&limiter) == NULL);
    uint64_t lost = percpu_limiter_outstanding(&limiter), mine = 0;
    CHECK(lost <= capacity);
    while (percpu_limiter_acquire(&limiter, 1))
        mine++;
    CHECK(mine == capacity - lost);
    CHECK(percpu_limiter_outstanding(&limiter) == capacity);
    CHECK(percpu_limiter_release(&limiter, mine) == 0);
    CHECK(percpu_limiter_outstanding(&limiter) == lost);
    CHECK(percpu_limiter_check(&limiter) == NULL);
    /* They are not coming back for it. */
    CHECK(percpu_limiter_release(&limiter, lost + 1) == -1 && errno == EINVAL);
    CHECK(percpu_limiter_release(&limiter, lost) == 0);
    CHECK(percpu_limiter_outstanding(&limiter) == 0);
}

static void forker(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        if (take(1))
            give(1);
        fork_now();
        atomic_store(&forks_wanted, true); /* the next one is some handler's */
    }
}

/* ---- runs ---------------------------------------------------------------------------------- */

/* Nobody is at work: nothing is held, the capacity can be had exactly, and nothing more. */
static void check_the_end(void)
{
    CHECK(atomic_load(&held) == 0);
    CHECK(percpu_limiter_outstanding(&limiter) == 0);
    CHECK(percpu_limiter_check(&limiter) == NULL);
    for (uint64_t i = 0; i < capacity; i++)
        CHECK(percpu_limiter_acquire(&limiter, 1));
    CHECK(!percpu_limiter_acquire(&limiter, 1));
    CHECK(percpu_limiter_release(&limiter, capacity) == 0);
    CHECK(percpu_limiter_release(&limiter, 1) == -1);
}

static void run(void (*const *bodies)(struct worker *), unsigned kinds, uint64_t tokens)
{
    capacity = tokens;
    CHECK(percpu_limiter_init(&limiter, pool, capacity) == 0);
    (void)run_workers(WORKERS, bodies, kinds, STORM, RUN_MS);
    check_the_end();
    percpu_limiter_destroy(&limiter);
}

/* Where other processes want the CPUs too, a run may be over before anything has happened. */
static void until_it_happened(void (*runs)(void), const atomic_ullong *event)
{
    unsigned long hits = atomic_load(&storm_hits);
    unsigned long long before = atomic_load(event);
    for (unsigned tries = 0; tries < 50; tries++) {
        runs();
        if (atomic_load(event) > before && atomic_load(&storm_hits) > hits)
            return;
    }
    CHECK(!"nothing has happened");
}

/* A handler may come while its thread holds what it wants. */
static void test_no_refusal_without_need(void)
{
    void (*const update[])(struct worker *) = {pairs};
    void (*const mix[])(struct worker *) = {pairs, mixed, reader, mixed};
    everybody_fits = true;
    run(update, 1, 2 * WORKERS);
    run(mix, 4, WORKERS * (MOST + 1));
    everybody_fits = false;
}

static void test_scarce(void)
{
    void (*const update[])(struct worker *) = {pairs};
    void (*const mix[])(struct worker *) = {mixed};
    void (*const read[])(struct worker *) = {pairs, reader, reader};
    run(update, 1, 1);
    run(mix, 1, WORKERS * MOST / 2);
    run(read, 3, 2);
}

static void test_hogs(void)
{
    void (*const one[])(struct worker *) = {hog, pairs, mixed, pairs, mixed, reader};
    void (*const all[])(struct worker *) = {hog};
    run(one, 6, 100);
    run(all, 1, 30);
}

static void test_forks(void)
{
    void (*const bodies[])(struct worker *) = {forker, pairs, mixed, hog};
    run(bodies, 4, 20);
}

/* ---- one holds everything ------------------------------------------------------------------ */

enum { GIVEN = 37 };
static atomic_ullong got;

/* Take until there is nothing, and keep it. */
static void grab(struct worker *worker)
{
    while (take(1))
        worker->done++;
    atomic_fetch_add(&got, worker->done);
}

/* The others get exactly what the hog gives back, and everything can be given back to zero. */
static void test_others_reach_the_capacity_exactly(void)
{
    void (*const bodies[])(struct worker *) = {grab};
    capacity = 1000;
    CHECK(percpu_limiter_init(&limiter, pool, capacity) == 0);
    for (unsigned round = 0; round < 5; round++) {
        while (take(1))
            ;
        CHECK(held == capacity);
        got = 0;
        (void)run_workers(WORKERS, bodies, 1, 0, 1);
        CHECK(got == 0);
        give(GIVEN);
        (void)run_workers(WORKERS, bodies, 1, STORM, 1);
        while (take(1)) /* what a handler held at the last moment */
            got++;
        CHECK(got == GIVEN && held == capacity);
        CHECK(percpu_limiter_outstanding(&limiter) == capacity);
        while (held > 0)
            give(1);
        CHECK(percpu_limiter_outstanding(&limiter) == 0);
        CHECK(percpu_limiter_check(&limiter) == NULL);
    }
    percpu_limiter_destroy(&limiter);
}

static void test_all(void)
{
    until_it_happened(test_no_refusal_without_need, &taken);
    until_it_happened(test_scarce, &refusals);
    until_it_happened(test_hogs, &refusals);
    until_it_happened(test_forks, &children);
    test_others_reach_the_capacity_exactly();
}

int main(void)
{
    deadline(100);
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    storm_work = in_handler;
    test_all(); /* in a pool of the process */
    struct percpu_pool_attr attr = {.item_size = 8, .cpus = percpu_nr_cpus() + 3};
    if (percpu_index_check(PERCPU_INDEX_CID) == 0)
        attr.index = PERCPU_INDEX_CID;
    CHECK((pool = percpu_pool_create(&attr)) != NULL);
    unsigned former = percpu_set_max_attempts(0); /* what is not done at once is done gated */
    test_all();
    percpu_set_max_attempts(former);
    percpu_pool_destroy(pool);
    return 0;
}
