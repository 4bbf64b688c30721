/* SPDX-License-Identifier: MIT */
/*
 * test_counter.c - one thread and a counter: every operation against plain arithmetic while the
 * thread hops from CPU to CPU, the bound of read(), borders and wrapping, bad input.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "threads.h"

static unsigned nr_cpus;

static void check(struct percpu_counter *counter)
{
    const char *broken = percpu_counter_check(counter);
    CHECK_CASE(broken == NULL, "%s", broken);
    int64_t sum = percpu_counter_sum(counter), apart = sum - percpu_counter_read(counter);
    int64_t error = percpu_counter_error(counter);
    CHECK_CASE(apart <= error && apart >= -error, "%lld apart", (long long)apart);
}

static void test_bad_input(void)
{
    struct percpu_counter counter;
    const int64_t bad[] = {-1, INT64_MIN, PERCPU_COUNTER_BATCH_MAX + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(percpu_counter_init(&counter, NULL, 0, bad[i]) == -1 && errno == EINVAL);
    }
    struct percpu_pool *small = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 15});
    CHECK(small != NULL);
    errno = 0;
    CHECK(percpu_counter_init(&counter, small, 0, 0) == -1 && errno == EINVAL);
    percpu_pool_destroy(small);
}

static void test_defaults(void)
{
    struct percpu_counter counter;
    CHECK(percpu_counter_init(&counter, NULL, -7, 0) == 0);
    CHECK(percpu_counter_sum(&counter) == -7 && percpu_counter_read(&counter) == -7);
    CHECK(percpu_counter_error(&counter) == 31 * (int64_t)nr_cpus);
    check(&counter);
    percpu_counter_destroy(&counter);
    CHECK(percpu_counter_init(&counter, NULL, 0, PERCPU_COUNTER_BATCH_MAX) == 0);
    CHECK(percpu_counter_error(&counter) == (PERCPU_COUNTER_BATCH_MAX - 1) * (int64_t)nr_cpus);
    percpu_counter_destroy(&counter);
}

/* On one CPU the flush comes exactly when |count - flushed| reaches the batch. */
static void test_flush_at_the_batch(int64_t batch)
{
    struct percpu_counter counter;
    CHECK(percpu_counter_init(&counter, NULL, 100, batch) == 0);
    for (int sign = -1; sign <= 1; sign += 2) {
        percpu_counter_add(&counter, sign * (batch - 1));
        CHECK(percpu_counter_read(&counter) == 100);
        CHECK(percpu_counter_sum(&counter) == 100 + sign * (batch - 1));
        percpu_counter_add(&counter, sign);
        CHECK(percpu_counter_read(&counter) == 100 + sign * batch);
        check(&counter);
        percpu_counter_sub(&counter, sign * batch);
        CHECK(percpu_counter_read(&counter) == 100 && percpu_counter_sum(&counter) == 100);
        check(&counter);
    }
    percpu_counter_destroy(&counter);
}

static void test_against_arithmetic(struct percpu_pool *pool, int64_t batch, uint64_t seed)
{
    struct percpu_counter counter;
    uint64_t random = seed, model = 12345;
    CHECK(percpu_counter_init(&counter, pool, (int64_t)model, batch) == 0);
    for (unsigned step = 0; step < 4000; step++) {
        uint64_t value = random_next(&random) >> (random_next(&random) >> 58);
        if (step % 16 == 0)
            pin((unsigned)(value % nr_cpus));
        if (step % 8 == 1) /* small numbers too: they are what batches are for */
            value %= 64;
        switch (random_next(&random) >> 61) {
        case 0:
            percpu_counter_add(&counter, (int64_t)value);
            model += value;
            break;
        case 1:
            percpu_counter_sub(&counter, (int64_t)value);
            model -= value;
            break;
        case 2:
            percpu_counter_inc(&counter);
            model++;
            break;
        case 3:
            percpu_counter_dec(&counter);
            model--;
            break;
        case 4:
            percpu_counter_set(&counter, (int64_t)value);
            model = value;
            break;
        case 5:
            CHECK(percpu_counter_exchange(&counter, (int64_t)value) == (int64_t)model);
            model = value;
            break;
        case 6:
            percpu_counter_add_slow(&counter, value);
            model += value;
            break;
        default: {
            int64_t rhs = (int64_t)(model + value % 5 - 2), now = (int64_t)model;
            CHECK(percpu_counter_compare(&counter, rhs) == (now > rhs) - (now < rhs));
            rhs = (int64_t)value;
            CHECK(percpu_counter_compare(&counter, rhs) == (now > rhs) - (now < rhs));
        }
        }
        CHECK(percpu_counter_sum(&counter) == (int64_t)model);
        CHECK(percpu_counter_check(&counter) == NULL);
        uint64_t apart = model - (uint64_t)percpu_counter_read(&counter);
        uint64_t error = (uint64_t)percpu_counter_error(&counter);
        CHECK(apart + error <= 2 * error);
    }
    percpu_counter_destroy(&counter);
}

/* Slots, total and base may all wrap; a value that fits 64 bits is right all the same. */
static void test_borders(void)
{
    struct percpu_counter counter;
    CHECK(percpu_counter_init(&counter, NULL, INT64_MAX, 0) == 0);
    percpu_counter_add(&counter, INT64_MIN);
    CHECK(percpu_counter_sum(&counter) == -1);
    percpu_counter_sub(&counter, INT64_MIN);
    CHECK(percpu_counter_sum(&counter) == INT64_MAX);
    CHECK(percpu_counter_compare(&counter, INT64_MAX) == 0);
    CHECK(percpu_counter_compare(&counter, INT64_MIN) == 1);
    CHECK(percpu_counter_exchange(&counter, INT64_MIN) == INT64_MAX);
    CHECK(percpu_counter_compare(&counter, INT64_MAX) == -1);
    CHECK(percpu_counter_compare(&counter, INT64_MIN) == 0);
    /* What read() says has wrapped around here, the sum has not. */
    percpu_counter_dec(&counter);
    percpu_counter_set(&counter, INT64_MAX);
    CHECK(percpu_counter_compare(&counter, 0) == 1);
    percpu_counter_add(&counter, 2);
    percpu_counter_set(&counter, INT64_MIN);
    CHECK(percpu_counter_compare(&counter, 0) == -1);
    for (unsigned i = 0; i < 5; i++) {
        percpu_counter_add(&counter, INT64_MAX);
        percpu_counter_sub(&counter, INT64_MAX);
        percpu_counter_inc(&counter);
    }
    CHECK(percpu_counter_sum(&counter) == INT64_MIN + 5);
    check(&counter);
    percpu_counter_destroy(&counter);
}

/* A counter lives in the pool it was given, and gives its item back. */
static void test_pool_of_ones_own(void)
{
    struct percpu_pool_stats stats;
    struct percpu_counter counter;
    struct percpu_pool_attr attr = {.item_size = 24, .stride = 4096, .max_ranges = 1};
    attr.cpus = nr_cpus + 3;
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK(pool != NULL);
    test_against_arithmetic(pool, 8, 77);
    while (percpu_pool_alloc(pool) != NULL)
        continue;
    errno = 0;
    CHECK(percpu_counter_init(&counter, pool, 0, 0) == -1 && errno == ENOMEM);
    percpu_pool_destroy(pool);
    pool = percpu_pool_create(&attr);
    CHECK(pool != NULL && percpu_counter_init(&counter, pool, 0, 5) == 0);
    CHECK(percpu_counter_error(&counter) == 4 * ((int64_t)nr_cpus + 3));
    percpu_pool_stats(pool, &stats);
    CHECK(stats.live == 1);
    percpu_counter_destroy(&counter);
    percpu_pool_stats(pool, &stats);
    CHECK(stats.live == 0);
    percpu_pool_destroy(pool);
}

/* The walker is no decoration: it sees counts that were changed behind the counter's back. */
static void test_check_sees_a_lost_flush(void)
{
    struct percpu_counter counter;
    CHECK(percpu_counter_init(&counter, NULL, 0, 4) == 0);
    percpu_counter_add(&counter, 10);
    CHECK(percpu_counter_check(&counter) == NULL);
    struct percpu_counter_slot *slot = percpu_ptr_cpu(counter.slots, 0);
    slot->flushed += 1;
    CHECK(percpu_counter_check(&counter) != NULL);
    slot->flushed -= 1;
    slot->count += 4;
    CHECK(percpu_counter_check(&counter) != NULL);
    percpu_counter_destroy(&counter);
}

int main(void)
{
    static const int64_t batches[] = {
        1, 2, 3, 32, 1024, INT64_C(1) << 32, PERCPU_COUNTER_BATCH_MAX};
    deadline(60);
    nr_cpus = percpu_nr_cpus();
    test_bad_input();
    test_defaults();
    test_borders();
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++)
        test_against_arithmetic(NULL, batches[i], i + 1);
    test_pool_of_ones_own();
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        if (!pin(cpu))
            continue;
        for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++)
            test_flush_at_the_batch(batches[i]);
    }
    test_check_sees_a_lost_flush();
    return 0;
}
