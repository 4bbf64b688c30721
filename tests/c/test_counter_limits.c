/* SPDX-License-Identifier: MIT */
/*
 * test_counter_limits.c - try_add() and try_sub() hold their limits and fail for nothing else;
 * delta() loses nothing; a relative error is kept while the value goes up and down.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "threads.h"

enum { WORKERS = 6, LIMIT = 100 };

static struct percpu_counter counter;
static bool lazy;

static void begin(int64_t value)
{
    int (*init)(struct percpu_counter *, struct percpu_pool *, int64_t,
                int64_t) = lazy ? percpu_counter_init_lazy : percpu_counter_init;
    CHECK(init(&counter, NULL, value, 4) == 0);
}

static void end(int64_t expected)
{
    const char *broken = percpu_counter_check(&counter);
    CHECK_CASE(broken == NULL, "%s", broken);
    int64_t sum = percpu_counter_sum(&counter);
    CHECK_CASE(sum == expected, "%lld, not %lld", (long long)sum, (long long)expected);
    percpu_counter_destroy(&counter);
}

static void test_borders(void)
{
    begin(10);
    CHECK(!percpu_counter_try_add(&counter, 1, 10) && percpu_counter_try_add(&counter, 1, 11));
    CHECK(percpu_counter_try_add(&counter, 0, 11) && !percpu_counter_try_add(&counter, 0, 10));
    CHECK(!percpu_counter_try_sub(&counter, 12, 0) && percpu_counter_try_sub(&counter, 11, 0));
    CHECK(percpu_counter_try_add(&counter, -5, 0) && percpu_counter_try_sub(&counter, -5, 0));
    /* Towards the limit from beyond it does not suffice: the result must be within. */
    percpu_counter_set(&counter, 20);
    CHECK(!percpu_counter_try_add(&counter, -5, 10) && percpu_counter_try_add(&counter, -15, 10));
    percpu_counter_set(&counter, INT64_MAX - 1);
    CHECK(percpu_counter_try_add(&counter, 1, INT64_MAX));
    CHECK(!percpu_counter_try_add(&counter, 1, INT64_MAX)); /* would wrap around */
    CHECK(!percpu_counter_try_add(&counter, INT64_MAX, INT64_MAX));
    CHECK(percpu_counter_try_sub(&counter, INT64_MAX, INT64_MIN));
    CHECK(!percpu_counter_try_sub(&counter, INT64_MIN, INT64_MIN)); /* 0 + 2^63 */
    CHECK(percpu_counter_try_add(&counter, INT64_MIN, INT64_MIN));
    CHECK(!percpu_counter_try_sub(&counter, 1, INT64_MIN));
    percpu_counter_add(&counter, INT64_MAX); /* adds do not ask, and are in the value */
    CHECK(!percpu_counter_try_add(&counter, 2, 0) && percpu_counter_try_add(&counter, 1, 0));
    end(0);
}

/* Up and down at random, and readers that must never see the value outside. */
static atomic_llong moved;

static void mover(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    int64_t net = 0;
    while (!stopping()) {
        int64_t n = (int64_t)(random_next(&random) >> 61);
        if (random % 2 == 0)
            net += percpu_counter_try_add(&counter, n, LIMIT) ? n : 0;
        else
            net -= percpu_counter_try_sub(&counter, n, 0) ? n : 0;
        worker->done++;
    }
    atomic_fetch_add(&moved, net);
}

static void watcher(struct worker *worker)
{
    while (!stopping()) {
        int64_t value = percpu_counter_sum(&counter);
        CHECK_CASE(value >= 0 && value <= LIMIT, "%lld", (long long)value);
        value = percpu_counter_read(&counter);
        CHECK_CASE(value >= 0 && value <= LIMIT, "%lld", (long long)value);
        worker->done++;
    }
}

/* Sets the value, within the limits: what was there is accounted for. */
static void setter(struct worker *worker)
{
    int64_t net = 0;
    while (!stopping()) {
        int64_t value = (int64_t)(worker->done % (LIMIT + 1));
        net += value - percpu_counter_exchange(&counter, value);
        worker->done++;
        sched_yield();
    }
    atomic_fetch_add(&moved, net);
}

static void try_in_handler(void)
{
    if (percpu_counter_try_add(&counter, 1, LIMIT))
        atomic_fetch_add(&moved, 1);
    if (percpu_counter_try_sub(&counter, 2, 0))
        atomic_fetch_sub(&moved, 2);
}

static void test_never_past_the_limit(bool with_setter)
{
    static void (*const bodies[])(struct worker *) = {mover, watcher, mover, setter, mover};
    begin(50);
    moved = 0;
    storm_work = try_in_handler;
    run_workers(WORKERS, bodies, with_setter ? 4 : 3, 300, 100);
    end(50 + moved);
}

/* A hog holds everything but what is left; the others take exactly that, then exactly nothing. */
static atomic_llong taken;

static void taker(struct worker *worker)
{
    do { /* until there is nothing left, however late it begins */
        while (percpu_counter_try_add(&counter, 1, LIMIT)) {
            atomic_fetch_add(&taken, 1);
            worker->done++;
        }
    } while (!stopping());
}

static void test_exactly_the_limit(int64_t hogged)
{
    static void (*const bodies[])(struct worker *) = {taker};
    begin(0);
    CHECK(percpu_counter_try_add(&counter, hogged, LIMIT));
    taken = 0;
    run_workers(WORKERS, bodies, 1, 0, 20);
    CHECK_CASE(taken == LIMIT - hogged, "%lld", (long long)taken);
    CHECK(percpu_counter_try_sub(&counter, LIMIT, 0) && !percpu_counter_try_sub(&counter, 1, 0));
    end(0);
}

/* As many ones as there are threads: the limit is never in the way, so nobody may fail. */
static void pair(struct worker *worker)
{
    while (!stopping()) {
        CHECK(percpu_counter_try_add(&counter, 1, WORKERS));
        CHECK(percpu_counter_try_sub(&counter, 1, 0));
        worker->done++;
    }
}

static void test_fails_for_nothing_else(void)
{
    static void (*const bodies[])(struct worker *) = {pair};
    begin(0);
    run_workers(WORKERS, bodies, 1, 0, 80);
    end(0);
}

/*
 * The value jumps between 90, 0 and 50, by set() and add(). Whoever takes what it was before a set()
 * with an add after that finds 140. Pinned: all adds are in one word, so that a sum takes them in
 * their order.
 */
static void jumper(struct worker *worker)
{
    CHECK(pin((unsigned)sched_getcpu()));
    for (; !stopping(); worker->done++) {
        percpu_counter_set(&counter, 90);
        percpu_counter_set(&counter, 0);
        percpu_counter_add(&counter, 50);
        percpu_counter_sub(&counter, 50);
    }
}

static void asker(struct worker *worker)
{
    for (; !stopping(); worker->done++) {
        CHECK(percpu_counter_try_add(&counter, 0, 90));
        CHECK(percpu_counter_try_sub(&counter, 0, 0));
    }
}

static void test_no_value_that_never_was(void)
{
    static void (*const bodies[])(struct worker *) = {jumper, asker, asker};
    begin(0);
    run_workers(3, bodies, 3, 0, 150);
    end(0);
}

/* delta() in several threads: every change is in one of the results. */
static atomic_llong added, exported;

static void adder(struct worker *worker)
{
    while (!stopping()) {
        percpu_counter_inc(&counter);
        worker->done++;
    }
    atomic_fetch_add(&added, (long long)worker->done);
}

static void exporter(struct worker *worker)
{
    int64_t sum = 0;
    while (!stopping()) {
        sum += percpu_counter_delta(&counter);
        worker->done++;
    }
    atomic_fetch_add(&exported, sum);
}

static void test_delta(void)
{
    static void (*const bodies[])(struct worker *) = {adder, exporter, adder};
    begin(1000);
    added = exported = 0;
    run_workers(WORKERS, bodies, 3, 0, 80);
    exported += percpu_counter_delta(&counter);
    CHECK(exported == added && percpu_counter_delta(&counter) == 0);
    end(1000 + added);
}

/* error ----------------------------------------------------------------------------------------- */

static void test_error_of_an_amount(void)
{
    static const double bad[] = {0, -1, -0.5, 1.0 / 0.0, 0.0 / 0.0};
    int64_t cpus = percpu_nr_cpus();
    CHECK(percpu_counter_init(&counter, NULL, 0, 0) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(percpu_counter_set_error(&counter, bad[i]) == -1 && errno == EINVAL);
    }
    for (int64_t amount = 1; amount < 1000; amount += 7) {
        CHECK(percpu_counter_set_error(&counter, (double)amount) == 0);
        int64_t error = percpu_counter_error(&counter);
        CHECK(error <= amount && error > amount - cpus);
    }
    CHECK(percpu_counter_set_error(&counter, 1e300) == 0);
    CHECK(percpu_counter_error(&counter) == (PERCPU_COUNTER_BATCH_MAX - 1) * cpus);
    end(0);
}

static atomic_llong swung;
static atomic_int direction;

static void swinger(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    int64_t net = 0;
    for (; !stopping(); worker->done++) {
        int64_t n = (int64_t)(random_next(&random) >> 56) - 127;
        n += atomic_load_explicit(&direction, memory_order_relaxed) * 100;
        percpu_counter_add(&counter, n);
        net += n;
        if (worker->id == 0 && worker->done % 5000 == 4999) { /* up, or down towards 0 */
            int64_t now = percpu_counter_sum(&counter);
            atomic_store(&direction, worker->done % 10000 < 5000 ? 1 : now > 0 ? -1 : 1);
        }
    }
    atomic_fetch_add(&swung, net);
}

/* Shrinking the margin races with adds by the old one; afterwards read() is within the error. */
static void test_relative_error(double error)
{
    static void (*const bodies[])(struct worker *) = {swinger};
    for (long round = effort(12); round > 0; round--) {
        begin(0);
        CHECK(percpu_counter_set_error(&counter, error) == 0);
        swung = direction = 0;
        run_workers(WORKERS, bodies, 1, 0, 8);
        int64_t about = percpu_counter_read(&counter), sum = percpu_counter_sum(&counter);
        double apart = (double)(about > sum ? about - sum : sum - about);
        CHECK_CASE(apart <= error * (double)(sum < 0 ? -sum : sum), "%lld for %lld, margin %llu",
                   (long long)about, (long long)sum, (unsigned long long)counter.margin);
        int64_t low, high;
        CHECK(percpu_counter_read_bounds(&counter, &low, &high) == about);
        CHECK(low <= sum && sum <= high);
        percpu_counter_set(&counter, 0);
        CHECK(percpu_counter_error(&counter) == 0 && percpu_counter_read(&counter) == 0);
        end(0);
    }
}

static void test_many(void)
{
    enum { MANY = 1000 };
    static struct percpu_counter many[MANY];
    struct percpu_pool_stats stats;
    struct percpu_pool_attr attr = {.item_size = 16, .stride = 16384, .max_ranges = 1};
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK(pool != NULL && percpu_counter_init_many(many, MANY, pool, 3, 0) == 0);
    for (unsigned i = 0; i < MANY; i++) {
        percpu_counter_add(&many[i], i);
        CHECK(percpu_counter_sum(&many[i]) == 3 + (int64_t)i);
    }
    for (unsigned i = 0; i < MANY; i++)
        percpu_counter_destroy(&many[i]);
    while (percpu_pool_alloc(pool) != NULL) /* all or none: 24 do not suffice */
        percpu_pool_stats(pool, &stats);
    percpu_pool_stats(pool, &stats);
    size_t before = stats.live;
    errno = 0;
    CHECK(percpu_counter_init_many(many, MANY, pool, 3, 0) == -1 && errno == ENOMEM);
    percpu_pool_stats(pool, &stats);
    CHECK(stats.live == before);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    test_error_of_an_amount();
    test_many();
    for (int i = 0; i < 2; i++) {
        lazy = i == 1;
        test_borders();
        test_never_past_the_limit(false);
        test_never_past_the_limit(true);
        test_exactly_the_limit(0);
        test_exactly_the_limit(37);
        test_exactly_the_limit(LIMIT);
        test_fails_for_nothing_else();
        test_no_value_that_never_was();
        test_delta();
        test_relative_error(0.01);
        test_relative_error(0.3);
    }
    return 0;
}
