/* SPDX-License-Identifier: MIT */
/*
 * test_histogram_threads.c - a histogram under more threads than CPUs, moved between CPUs, a signal
 * storm and forks: no observation is lost from a bucket or from the sum, a reader sees all that
 * returned before, and a batch is counted whole or not at all.
 */
#define _GNU_SOURCE
#include <math.h>
#include <percpu/percpu.h>
#include <sys/wait.h>

#include "threads.h"

/* LEAST: observations of a thread that comes late on a busy machine, every kind among them. */
enum { WORKERS = 6, KINDS = 8, BATCH = 300, LEAST = 400 };

/* Values of different buckets in both layouts, with sums that are exact. */
static const double values[KINDS] = {-3, 0, 0.5, 1, 7, 64, 4096, 1e6};
static const double bounds[] = {-1, 0.25, 0.75, 2, 10, 1000, 9999};

static struct percpu_histogram histogram;
static atomic_ullong observed[KINDS]; /* by threads that have ended, and by handlers */
static atomic_ullong begun, finished; /* by those that readers watch */

static void in_handler(void)
{
    static atomic_uint turn;
    unsigned kind = atomic_fetch_add(&turn, 1) % KINDS;
    atomic_fetch_add(&begun, 1);
    CHECK(percpu_histogram_observe(&histogram, values[kind]) == 0);
    CHECK(percpu_histogram_observe(&histogram, NAN) == -1);
    atomic_fetch_add(&observed[kind], 1);
    atomic_fetch_add(&finished, 1);
}

static void add_observed(const uint64_t *counts)
{
    for (size_t i = 0; i < KINDS; i++)
        atomic_fetch_add(&observed[i], counts[i]);
}

static void observer(struct worker *worker)
{
    uint64_t counts[KINDS] = {0}, random = worker->id + 1;
    for (; !stopping() || worker->done < LEAST; worker->done++) {
        unsigned kind = (unsigned)(random_next(&random) % KINDS);
        atomic_fetch_add(&begun, 1);
        CHECK(percpu_histogram_observe(&histogram, values[kind]) == 0);
        atomic_fetch_add(&finished, 1);
        counts[kind]++;
        if (worker->done % 256 == 0)
            (void)pin((unsigned)(random >> 8) % percpu_nr_cpus());
    }
    add_observed(counts);
}

/* As fast as can be: nothing that readers could watch. */
static void heavy_observer(struct worker *worker)
{
    uint64_t counts[KINDS] = {0};
    for (; !stopping() || worker->done < LEAST; worker->done++) {
        unsigned kind = (unsigned)worker->done % KINDS;
        CHECK(percpu_histogram_observe(&histogram, values[kind]) == 0);
        counts[kind]++;
    }
    add_observed(counts);
}

static void batcher(struct worker *worker)
{
    uint64_t counts[KINDS] = {0}, random = worker->id + 1;
    double many[BATCH];
    for (; !stopping(); worker->done++) {
        uint64_t here[KINDS] = {0};
        size_t length = (size_t)(random_next(&random) % BATCH) + 1, bad;
        for (size_t i = 0; i < length; i++) {
            unsigned kind = (unsigned)(random_next(&random) % KINDS);
            many[i] = values[kind];
            here[kind]++;
        }
        bool spoil = random % 3 == 0;
        if (spoil)
            many[length / 2] = random % 2 == 0 ? NAN : -INFINITY;
        atomic_fetch_add(&begun, spoil ? 0 : length);
        int done = percpu_histogram_observe_many(&histogram, many, length, &bad);
        CHECK(spoil ? done == -1 && errno == EINVAL && bad == length / 2 : done == 0);
        atomic_fetch_add(&finished, spoil ? 0 : length);
        for (size_t i = 0; !spoil && i < KINDS; i++)
            counts[i] += here[i];
    }
    add_observed(counts);
}

/* finished before <= count <= begun after, at every instant. */
static void reader(struct worker *worker)
{
    static __thread uint64_t counts[1000];
    while (!stopping()) {
        double sum;
        uint64_t low = atomic_load(&finished), seen = 0;
        percpu_histogram_read(&histogram, counts, &sum);
        uint64_t high = atomic_load(&begun);
        for (size_t i = 0; i < histogram.buckets; i++)
            seen += counts[i];
        CHECK_CASE(low <= seen && seen <= high, "%llu <= %llu <= %llu", (unsigned long long)low,
                   (unsigned long long)seen, (unsigned long long)high);
        CHECK(percpu_histogram_check(&histogram) == NULL);
        double median = percpu_histogram_quantile(&histogram, counts, 0.5);
        CHECK(seen == 0 || (median >= -3 && median <= 2e6));
    }
    worker->done = 0;
}

/* A child in the middle of everything has a histogram that is whole, and of its own. */
static void forker(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            deadline(20);
            uint64_t before = percpu_histogram_count(&histogram);
            CHECK(percpu_histogram_check(&histogram) == NULL);
            for (int i = 0; i < 100; i++)
                CHECK(percpu_histogram_observe(&histogram, values[i % KINDS]) == 0);
            CHECK(percpu_histogram_count(&histogram) == before + 100);
            struct percpu_histogram fresh;
            CHECK(percpu_histogram_init_log(&fresh, NULL, 0.05, 1, 2) == 0);
            CHECK(percpu_histogram_observe(&fresh, 1) == 0 && percpu_histogram_sum(&fresh) == 1);
            percpu_histogram_destroy(&fresh);
            _exit(0);
        }
        int status;
        while (waitpid(child, &status, 0) < 0)
            CHECK(errno == EINTR);
        CHECK_CASE(status == 0, "wait status %#x", (unsigned)status);
        sleep_ms(2);
    }
    worker->done = 0;
}

static void begin(enum percpu_index index, bool log, struct percpu_pool **pool)
{
    *pool = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 8192, .index = index});
    CHECK(*pool != NULL);
    if (log)
        CHECK(percpu_histogram_init_log(&histogram, *pool, 0.05, 1e-6, 1e5) == 0);
    else
        CHECK(percpu_histogram_init_bounds(&histogram, *pool, bounds, 7) == 0);
    for (size_t i = 0; i < KINDS; i++)
        observed[i] = 0;
    begun = finished = 0;
}

static void end(struct percpu_pool *pool)
{
    uint64_t *counts = calloc(histogram.buckets, sizeof *counts), all = 0, seen = 0;
    double sum, expected = 0;
    CHECK(counts != NULL);
    const char *broken = percpu_histogram_check(&histogram);
    CHECK_CASE(broken == NULL, "%s", broken);
    percpu_histogram_read(&histogram, counts, &sum);
    for (size_t i = 0; i < KINDS; i++) {
        expected += values[i] * (double)observed[i];
        all += observed[i];
        counts[percpu_histogram_bucket(&histogram, values[i])] -= observed[i];
        seen += observed[i] > 0;
    }
    CHECK(seen == KINDS);
    for (size_t i = 0; i < histogram.buckets; i++)
        CHECK_CASE(counts[i] == 0, "bucket %zu: %lld too many", i, (long long)counts[i]);
    CHECK_CASE(sum == expected, "%.17g is not %.17g", sum, expected);
    CHECK(percpu_histogram_count(&histogram) == all);
    free(counts);
    percpu_histogram_destroy(&histogram);
    percpu_pool_destroy(pool);
}

static void run(enum percpu_index index, bool log, void (*const *bodies)(struct worker *),
                unsigned kinds, long milliseconds)
{
    struct percpu_pool *pool;
    begin(index, log, &pool);
    run_workers(WORKERS, bodies, kinds, 200, milliseconds);
    end(pool);
}

/* Every thread makes its first histogram of a size at once: one pool comes of it. */
static struct percpu_histogram made[WORKERS];

static void maker(struct worker *worker)
{
    double one[3000]; /* a size that nothing else here has */
    for (size_t i = 0; i < 3000; i++)
        one[i] = (double)i;
    CHECK(percpu_histogram_init_bounds(&made[worker->id], NULL, one, 3000) == 0);
    CHECK(percpu_histogram_observe(&made[worker->id], worker->id) == 0);
}

static void test_one_pool_for_a_size(void)
{
    static void (*const bodies[])(struct worker *) = {maker};
    run_workers(WORKERS, bodies, 1, 0, 1);
    for (unsigned i = 0; i < WORKERS; i++) {
        CHECK(made[i].pool == made[0].pool);
        CHECK(percpu_histogram_count(&made[i]) == 1 && percpu_histogram_sum(&made[i]) == i);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        percpu_histogram_destroy(&made[i]);
}

int main(void)
{
    static void (*const update_heavy[])(struct worker *) = {heavy_observer};
    static void (*const read_heavy[])(struct worker *) = {observer, reader, reader};
    static void (*const mixed[])(struct worker *) = {observer, batcher, reader, forker};
    static void (*const mixed_alone[])(struct worker *) = {observer, batcher, reader};
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    bool forks = true;
#if defined(__SANITIZE_THREAD__)
    forks = false; /* TSan does not support threads in the child of a process with threads */
#endif
    deadline(100);
    storm_work = in_handler;
    test_one_pool_for_a_size();
    for (size_t i = 0; i < 2; i++) {
        if (percpu_index_check(indexes[i]) != 0)
            continue;
        for (int log = 0; log < 2; log++) {
            run(indexes[i], log, update_heavy, 1, 100);
            run(indexes[i], log, read_heavy, 3, 100);
            run(indexes[i], log, forks ? mixed : mixed_alone, forks ? 4 : 3, 150);
        }
    }
    return 0;
}
