/* SPDX-License-Identifier: MIT */
/*
 * test_ref_threads.c - a ref under more threads than CPUs, a signal storm, killers and forks: what
 * a holder holds is not released under it, release() runs once for each life, and the count is
 * exact in the end. In the manner of perfbook's counttorture: updates, reads, and both with kills.
 *
 * A put that is not seen by kill(), a get counted in a word that was collected already, or a
 * change that a fork cut in two shows as a release too early, too often or never, or as a count
 * that is off.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>

#include "threads.h"

enum { WORKERS = 8, STORM = 300, HANDLER_REFS = 2, WORKER_REFS = 4 };

static struct percpu_ref ref;
static atomic_bool alive; /* what the ref protects: false from release() to reinit() */
static atomic_ullong released, lives, refused, resurrected;

/* What only holders write, each a line: release() reads it, and sees what they did before. */
static struct line {
    _Alignas(64) uint64_t uses;
} lines[WORKERS];
static uint64_t uses_seen;

static uint64_t all_released, all_refused; /* of all mixtures */

static void release(struct percpu_ref *which, void *priv)
{
    CHECK(which == &ref && priv == &lines);
    CHECK(percpu_ref_is_zero(which) && !percpu_ref_tryget(which));
    CHECK(alive);
    uses_seen = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        uses_seen += __atomic_load_n(&lines[i].uses, __ATOMIC_RELAXED);
    atomic_fetch_add(&released, 1);
    CHECK(atomic_exchange(&alive, false)); /* last: somebody waits for it to revive the ref */
}

static void begin(struct percpu_pool *pool)
{
    memset(lines, 0, sizeof lines);
    released = refused = 0;
    alive = true;
    lives = 1;
    CHECK(percpu_ref_init(&ref, pool, release, &lines) == 0);
}

/* Kill what is left: nobody holds anything any more. */
static void end(void)
{
    const char *broken = percpu_ref_check(&ref);
    CHECK_CASE(broken == NULL, "%s", broken);
    if (!percpu_ref_is_dying(&ref)) {
        CHECK_CASE(percpu_ref_count(&ref) == 1, "%lld", (long long)percpu_ref_count(&ref));
        CHECK(percpu_ref_kill(&ref) == 0);
    }
    CHECK(percpu_ref_is_zero(&ref) && !alive);
    CHECK_CASE(released == lives, "%llu releases, %llu lives", (unsigned long long)released,
               (unsigned long long)lives);
    uint64_t uses = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        uses += lines[i].uses;
    CHECK(uses == uses_seen);
    percpu_ref_exit(&ref);
    all_released += released;
    all_refused += refused;
}

/* ---- workers ---------------------------------------------------------------------------- */

/* A reference that was gotten keeps the thing alive until it is put. */
static void in_handler(void)
{
    if (!percpu_ref_tryget_live(&ref))
        return;
    CHECK(alive && percpu_ref_get(&ref) == 0);
    CHECK(percpu_ref_put_many(&ref, 2) == 0);
}

/* A handler may kill and revive, too, whatever it interrupts. */
static void in_killing_handler(void)
{
    in_handler();
    if (atomic_load(&storm_hits) % 4 != 0)
        return;
    (void)percpu_ref_kill(&ref);
    (void)percpu_ref_resurrect(&ref);
}

static void use(struct worker *worker)
{
    CHECK(alive);
    __atomic_store_n(&lines[worker->id].uses, lines[worker->id].uses + 1, __ATOMIC_RELAXED);
    CHECK(!percpu_ref_is_zero(&ref));
}

static void updater(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        if (!percpu_ref_tryget_live(&ref)) {
            atomic_fetch_add(&refused, 1);
            sched_yield();
            continue;
        }
        use(worker);
        CHECK(percpu_ref_get_many(&ref, 2) == 0);
        if (worker->done % 16 == 0) {
            sched_yield(); /* and put them elsewhere */
            CHECK(percpu_ref_tryget(&ref) && percpu_ref_put(&ref) == 0);
        }
        use(worker);
        CHECK(percpu_ref_put(&ref) == 0);
        CHECK(percpu_ref_put_many(&ref, 2) == 0);
    }
}

static void reader(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        bool zero = percpu_ref_is_zero(&ref);
        CHECK(zero || percpu_ref_is_dying(&ref) || percpu_ref_count(&ref) > -1000);
        if (percpu_ref_tryget(&ref)) {
            use(worker);
            CHECK(percpu_ref_put(&ref) == 0);
        }
    }
}

/* Several of these race: of two kills one succeeds, of two revivals one. */
static void killer(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    for (; !stopping(); worker->done++) {
        if (percpu_ref_kill(&ref) != 0)
            CHECK_CASE(errno == EALREADY, "errno %d", errno);
        if (random_next(&random) % 2 == 0)
            sched_yield();
        if (random_next(&random) % 2 == 0 && percpu_ref_resurrect(&ref) == 0) {
            atomic_fetch_add(&resurrected, 1);
            continue;
        }
        /* reinit() is for whoever sees to it that nobody else does. */
        if (worker->id != 1)
            continue;
        for (unsigned wait = 0; !stopping() && atomic_load(&alive) && wait < 100; wait++)
            sched_yield();
        if (!atomic_load(&alive)) {
            atomic_store(&alive, true);
            atomic_fetch_add(&lives, 1);
            CHECK(percpu_ref_reinit(&ref) == 0);
        }
    }
}

static void confirm(struct percpu_ref *which, void *argument)
{
    CHECK(which == &ref && alive && !percpu_ref_is_zero(which));
    ++*(unsigned *)argument;
}

static void confirming_killer(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        unsigned confirmed = 0;
        bool killed = percpu_ref_kill_and_confirm(&ref, confirm, &confirmed) == 0;
        CHECK(confirmed == killed && (killed || errno == EALREADY));
        if (killed && percpu_ref_resurrect(&ref) == 0)
            atomic_fetch_add(&resurrected, 1);
    }
}

/* ---- forks in the middle ---------------------------------------------------------------- */

/* Nobody else is here, so everything must be in order at once, but for what the others held. */
static void child(void)
{
    deadline(20);
    CHECK(percpu_ref_check(&ref) == NULL);
    int64_t count = percpu_ref_count(&ref);
    CHECK_CASE(count >= 0 && count <= 1 + WORKERS * (WORKER_REFS + HANDLER_REFS), "%lld",
               (long long)count);
    if (percpu_ref_is_zero(&ref)) {
        atomic_store(&alive, true);
        CHECK(percpu_ref_reinit(&ref) == 0);
    } else if (percpu_ref_is_dying(&ref)) {
        CHECK(percpu_ref_resurrect(&ref) == 0);
    }
    CHECK(percpu_ref_check(&ref) == NULL);
    count = percpu_ref_count(&ref);
    CHECK(percpu_ref_tryget_live(&ref) && percpu_ref_kill(&ref) == 0);
    CHECK(percpu_ref_count(&ref) == count && !percpu_ref_tryget_live(&ref));
    uint64_t before = released;
    CHECK(percpu_ref_put_many(&ref, (uint32_t)count) == 0);
    CHECK(percpu_ref_is_zero(&ref) && released == before + 1);
}

static void forker(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
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

/* ---- mixtures --------------------------------------------------------------------------- */

typedef void body(struct worker *worker);

static uint64_t all_done;

/* On a busy machine a short run may be over before a worker has begun: then there is another. */
static bool all_happened(void)
{
    return all_done > 0 && storm_hits > 0 && all_released > 10 && all_refused > 0 &&
           resurrected > 0;
}

static void torture(enum percpu_index index, body *const *bodies, unsigned kinds, long ms)
{
    struct percpu_pool *pool = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 8, .index = index});
    CHECK(pool != NULL);
    begin(pool);
    all_done += run_workers(WORKERS, bodies, kinds, STORM, ms);
    end();
    percpu_pool_destroy(pool);
}

int main(void)
{
    static body *const updates[] = {updater}, *const reads[] = {updater, reader, reader, reader},
                       *const kills[] = {updater, killer, updater, reader, killer},
                       *const confirms[] = {updater, confirming_killer, reader, updater},
                       *const forks[] = {updater, killer, forker, updater};
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    deadline(100);
    storm_work = in_handler;
    for (size_t i = 0; i < 2 || !all_happened(); i++) {
        enum percpu_index index = indexes[i % 2];
        if (percpu_index_check(index) != 0)
            continue;
        torture(index, updates, 1, 100);
        CHECK(refused == 0);
        torture(index, reads, 4, 100);
        torture(index, kills, 5, 150);
        storm_work = in_killing_handler;
        torture(index, kills, 5, 150);
        storm_work = in_handler;
        torture(index, confirms, 4, 200);
#ifndef __SANITIZE_THREAD__ /* does not support threads and forks */
        torture(index, forks, 4, 250);
#else
        (void)forks;
#endif
    }
    return 0;
}
