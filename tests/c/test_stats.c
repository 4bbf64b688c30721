/* SPDX-License-Identifier: MIT */
/*
 * test_stats.c - percpu_stats: each count is exact under more threads than CPUs, a signal storm and
 * changes of affinity, whether threads mostly add, mostly read or do both; sums never miss an add
 * that returned; bulk adds check before they add; a child forked in the middle has counts of its own.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>

#include "threads.h"

enum { WORKERS = 6, COUNTS = 300, BULK = 64 };

static struct percpu_stats stats;
static unsigned nr_cpus;

/* ---- one thread ------------------------------------------------------------------------- */

static void test_counts_are_apart(void)
{
    static const size_t sizes[] = {1, 2, 7, 8, 300, 1000, 8192, 8193, 20000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct percpu_stats mine, other;
        size_t n = sizes[k];
        CHECK(percpu_stats_init(&mine, NULL, n) == 0 && percpu_stats_init(&other, NULL, n) == 0);
        CHECK(mine.n == n && mine.cpus >= nr_cpus);
        int64_t *sums = malloc(n * sizeof *sums);
        CHECK(sums != NULL);
        for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
            CHECK(pin(cpu));
            for (size_t i = cpu; i < n; i += nr_cpus) {
                percpu_stats_add(&mine, i, (int64_t)(i * i) - 5);
                percpu_stats_inc(&mine, i);
            }
        }
        percpu_stats_sum_all(&mine, sums);
        for (size_t i = 0; i < n; i++) {
            CHECK(sums[i] == (int64_t)(i * i) - 4 && percpu_stats_sum(&mine, i) == sums[i]);
            CHECK(percpu_stats_sum(&other, i) == 0);
        }
        int64_t *here = malloc(n * sizeof *here);
        CHECK(here != NULL);
        for (unsigned cpu = 0; cpu < mine.cpus; cpu++) {
            percpu_stats_read_cpu(&mine, cpu, here);
            for (size_t i = 0; i < n; i++)
                CHECK(here[i] == (cpu == i % nr_cpus ? sums[i] : 0));
        }
        CHECK(percpu_stats_check(&mine) == NULL && percpu_stats_check(&other) == NULL);
        free(here);
        free(sums);
        percpu_stats_destroy(&mine);
        percpu_stats_destroy(&other);
    }
    CHECK(percpu_stats_init(&stats, NULL, 8) == 0); /* the memory of another is 0 again */
    for (size_t i = 0; i < 8; i++)
        CHECK(percpu_stats_sum(&stats, i) == 0);
    percpu_stats_destroy(&stats);
}

static void test_wraps(void)
{
    CHECK(percpu_stats_init(&stats, NULL, 2) == 0);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        CHECK(pin(cpu));
        percpu_stats_add(&stats, 1, INT64_MAX);
    }
    CHECK(percpu_stats_sum(&stats, 1) == (int64_t)(nr_cpus * (uint64_t)INT64_MAX));
    percpu_stats_add(&stats, 1, INT64_MIN);
    percpu_stats_add(&stats, 1, INT64_MIN);
    CHECK(percpu_stats_sum(&stats, 1) == (int64_t)(nr_cpus * (uint64_t)INT64_MAX));
    CHECK(percpu_stats_sum(&stats, 0) == 0);
    percpu_stats_destroy(&stats);
}

static void test_bad_sizes(void)
{
    struct percpu_pool *small = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 20});
    struct percpu_pool *global = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 64, .global = true});
    struct percpu_pool *full = percpu_pool_create(&(struct percpu_pool_attr){
        .item_size = 4096, .stride = 4096, .cpus = nr_cpus + 3, .max_ranges = 1});
    CHECK(small != NULL && global != NULL && full != NULL);
    const struct {
        struct percpu_pool *pool;
        size_t n;
        int error;
    } cases[] = {
        {NULL, 0, EINVAL},        {NULL, PERCPU_STATS_MAX + 1, EINVAL},
        {NULL, SIZE_MAX, EINVAL}, {NULL, SIZE_MAX / 8 + 2, EINVAL},
        {small, 3, EINVAL},       {small, SIZE_MAX / 8, EINVAL},
        {global, 1, EINVAL},      {small, 2, 0},
        {full, 512, 0},           {NULL, PERCPU_STATS_MAX, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        errno = 0;
        int done = percpu_stats_init(&stats, cases[i].pool, cases[i].n);
        CHECK_CASE(done == (cases[i].error == 0 ? 0 : -1) && errno == cases[i].error, "%zu", i);
        if (done == 0) {
            percpu_stats_inc(&stats, cases[i].n - 1);
            CHECK(percpu_stats_sum(&stats, cases[i].n - 1) == 1);
            CHECK(percpu_stats_check(&stats) == NULL);
            percpu_stats_destroy(&stats);
        }
    }
    struct percpu_stats other;
    CHECK(percpu_stats_init(&stats, full, 512) == 0 && stats.cpus == nr_cpus + 3);
    CHECK(percpu_stats_init(&other, full, 1) == -1 && errno == ENOMEM);
    percpu_stats_destroy(&stats);
    percpu_pool_destroy(small);
    percpu_pool_destroy(global);
    percpu_pool_destroy(full);
}

static void test_bulk(void)
{
    static const uint64_t indices[] = {3, 0, 3, 9, 3}, bad[] = {1, 2, 10, UINT64_MAX};
    static const int64_t weights[] = {5, -7, INT64_MAX, 1, INT64_MAX};
    CHECK(percpu_stats_init(&stats, NULL, 10) == 0);
    CHECK(percpu_stats_add_at(&stats, indices, NULL, 5) == 5);
    CHECK(percpu_stats_sum(&stats, 3) == 3 && percpu_stats_sum(&stats, 9) == 1);
    CHECK(percpu_stats_add_at(&stats, indices, weights, 5) == 5);
    CHECK(percpu_stats_sum(&stats, 3) == 6 && percpu_stats_sum(&stats, 0) == -6);
    CHECK(percpu_stats_add_at(&stats, bad, NULL, 4) == 2); /* and nothing was added */
    CHECK(percpu_stats_add_at(&stats, bad + 3, NULL, 1) == 0);
    CHECK(percpu_stats_add_at(&stats, bad, NULL, 0) == 0);
    CHECK(percpu_stats_sum(&stats, 1) == 0 && percpu_stats_sum(&stats, 2) == 0);
    percpu_stats_destroy(&stats);
}

static void test_check_finds_damage(void)
{
    CHECK(percpu_stats_init(&stats, NULL, 9) == 0); /* 72 bytes of 80 */
    CHECK(percpu_stats_check(&stats) == NULL);
    uint64_t *behind = (uint64_t *)percpu_ptr_cpu(stats.counts, stats.cpus - 1) + 9;
    *behind = 1;
    CHECK(percpu_stats_check(&stats) != NULL);
    *behind = 0;
    struct percpu_stats wrong = stats;
    wrong.counts.base += 8;
    CHECK(percpu_stats_check(&wrong) != NULL);
    wrong = stats;
    wrong.n = 11;
    CHECK(percpu_stats_check(&wrong) != NULL);
    wrong = stats;
    wrong.cpus--;
    CHECK(percpu_stats_check(&wrong) != NULL);
    percpu_stats_destroy(&stats);
}

/* ---- torture ---------------------------------------------------------------------------- */

/* What each worker has begun and finished adding to count 0, on a line each. */
static struct progress {
    _Alignas(64) atomic_ullong begun, finished;
} progress[MAX_WORKERS];
static atomic_ullong handler_begun, handler_finished, checked;
static atomic_ullong expected[COUNTS];
static uint64_t handled; /* in all tests: a short one may be over before a signal comes */

/* In the middle of everything: one add, and one in bulk. Count 1 is the handler's own. */
static void in_handler(void)
{
    static const uint64_t both[] = {0, 1};
    atomic_fetch_add(&handler_begun, 1);
    percpu_stats_add_at(&stats, both, NULL, 2);
    atomic_fetch_add(&handler_finished, 1);
}

static void count_one(struct worker *worker)
{
    struct progress *mine = &progress[worker->id];
    worker->done++;
    atomic_store(&mine->begun, worker->done);
    percpu_stats_inc(&stats, 0);
    atomic_store(&mine->finished, worker->done);
}

static uint64_t total(bool begun)
{
    uint64_t sum = atomic_load(begun ? &handler_begun : &handler_finished);
    for (unsigned i = 0; i < MAX_WORKERS; i++)
        sum += atomic_load(begun ? &progress[i].begun : &progress[i].finished);
    return sum;
}

/* finished before <= sum <= begun after, at every instant; all counts at once say the same. */
static void look(void)
{
    static __thread int64_t sums[COUNTS];
    uint64_t low = total(false);
    uint64_t one = (uint64_t)percpu_stats_sum(&stats, 0);
    uint64_t between = total(true);
    percpu_stats_sum_all(&stats, sums);
    uint64_t all = (uint64_t)sums[0], high = total(true);
    CHECK_CASE(low <= one && one <= between, "%llu <= %llu <= %llu", (unsigned long long)low,
               (unsigned long long)one, (unsigned long long)between);
    CHECK_CASE(one <= all && all <= high, "%llu <= %llu <= %llu", (unsigned long long)one,
               (unsigned long long)all, (unsigned long long)high);
    atomic_fetch_add(&checked, 1);
}

static void updater(struct worker *worker)
{
    uint64_t random = worker->id + 1, added[COUNTS] = {0};
    while (!stopping()) {
        count_one(worker);
        size_t i = 2 + random_next(&random) % (COUNTS - 2);
        int64_t n = (int64_t)(random >> (worker->done % 64));
        percpu_stats_add(&stats, i, n);
        added[i] += (uint64_t)n;
    }
    for (unsigned i = 0; i < COUNTS; i++)
        atomic_fetch_add(&expected[i], added[i]);
}

static void bulk_updater(struct worker *worker)
{
    uint64_t random = worker->id + 1, added[COUNTS] = {0}, indices[BULK];
    int64_t weights[BULK];
    while (!stopping()) {
        for (unsigned k = 0; k < BULK; k++) {
            indices[k] = 2 + random_next(&random) % (COUNTS - 2);
            weights[k] = (int64_t)random;
            added[indices[k]] += (uint64_t)weights[k];
        }
        CHECK(percpu_stats_add_at(&stats, indices, weights, BULK) == BULK);
        count_one(worker);
    }
    for (unsigned i = 0; i < COUNTS; i++)
        atomic_fetch_add(&expected[i], added[i]);
}

static void reader(struct worker *worker)
{
    (void)worker;
    do
        look();
    while (!stopping());
}

/* Mostly reads, adds, and changes its CPU. */
static void mixed(struct worker *worker)
{
    do {
        look();
        for (unsigned i = 0; i < 50; i++)
            count_one(worker);
        (void)pin((unsigned)worker->done % nr_cpus);
    } while (!stopping());
}

static void torture(void (*const *bodies)(struct worker *), unsigned kinds)
{
    CHECK(percpu_stats_init(&stats, NULL, COUNTS) == 0);
    memset(progress, 0, sizeof progress);
    handler_begun = handler_finished = checked = 0;
    memset(expected, 0, sizeof expected);
    uint64_t done = run_workers(WORKERS, bodies, kinds, 200, 120);
    CHECK(handler_begun == handler_finished);
    handled += handler_finished;
    CHECK((uint64_t)percpu_stats_sum(&stats, 0) == done + handler_finished);
    CHECK((uint64_t)percpu_stats_sum(&stats, 1) == handler_finished);
    for (unsigned i = 2; i < COUNTS; i++)
        CHECK_CASE((uint64_t)percpu_stats_sum(&stats, i) == expected[i], "count %u", i);
    CHECK(percpu_stats_check(&stats) == NULL);
    percpu_stats_destroy(&stats);
}

static void test_torture(void)
{
    static void (*const updates[])(struct worker *) = {updater, bulk_updater, updater};
    static void (*const reads[])(struct worker *) = {reader, mixed, reader};
    static void (*const both[])(struct worker *) = {updater, reader, mixed, bulk_updater};
    torture(updates, 3);
    torture(reads, 3);
    CHECK(checked > 0);
    torture(both, 4);
    CHECK(checked > 0);
}

/* ---- fork ------------------------------------------------------------------------------- */

#ifndef __SANITIZE_THREAD__ /* it does not support threads in the child of a process with threads */

static void fork_once(void)
{
    sigset_t storm, before;
    sigemptyset(&storm);
    sigaddset(&storm, STORM_SIGNAL);
    /* A signal makes the kernel begin a fork again: on a busy machine it would never end. */
    CHECK(pthread_sigmask(SIG_BLOCK, &storm, &before) == 0);
    pid_t child = fork();
    CHECK(child >= 0 && pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (child == 0) {
        deadline(20);
        uint64_t before = (uint64_t)percpu_stats_sum(&stats, 0);
        for (unsigned i = 0; i < 1000; i++)
            percpu_stats_inc(&stats, 0);
        CHECK((uint64_t)percpu_stats_sum(&stats, 0) == before + 1000);
        CHECK(percpu_stats_check(&stats) == NULL);
        struct percpu_stats more;
        CHECK(percpu_stats_init(&more, NULL, COUNTS) == 0);
        percpu_stats_destroy(&more);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void forker(struct worker *worker)
{
    for (int i = 0; i < 4 || !stopping(); i++) {
        fork_once();
        count_one(worker);
    }
}

static void test_forks_in_the_middle(void)
{
    static void (*const bodies[])(struct worker *) = {updater, forker, bulk_updater};
    torture(bodies, 3);
}
#else
static void test_forks_in_the_middle(void)
{
}
#endif

/* With an argument: the torture alone. */
int main(int argc, char **argv)
{
    (void)argv;
    cpu_set_t before;
    deadline(100);
    nr_cpus = percpu_nr_cpus();
    storm_work = in_handler;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    if (argc == 1) {
        if (pin(nr_cpus - 1) && pin(0)) { /* every CPU is online and ours */
            test_counts_are_apart();
            test_wraps();
        }
        CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
        test_bad_sizes();
        test_bulk();
        test_check_finds_damage();
    }
    test_torture();
    test_forks_in_the_middle();
    CHECK(handled > 0);
    return 0;
}
