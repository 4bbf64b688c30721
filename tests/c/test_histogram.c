/* SPDX-License-Identifier: MIT */
/*
 * test_histogram.c - a histogram in one thread: the lowest and the highest double of every bucket
 * are counted there, the middle of a bucket is as near as was asked for, quantiles and sums are what
 * they should be, and what cannot be is refused with nothing counted.
 */
#define _GNU_SOURCE
#include <float.h>
#include <math.h>
#include <percpu/percpu.h>

#include "threads.h"

/* The neighbours of a double, without libm. */
static double above(double x)
{
    uint64_t bits = percpu_f64_bits(x);
    return percpu_f64_from_bits(x == 0 ? 1 : x > 0 ? bits + 1 : bits - 1);
}

static double below(double x)
{
    return -above(-x);
}

static size_t bucket_of(struct percpu_histogram *histogram, double x)
{
    uint64_t *before = calloc(histogram->buckets, 8), *after = calloc(histogram->buckets, 8);
    double sum_before, sum;
    size_t found = SIZE_MAX;
    CHECK(before != NULL && after != NULL);
    percpu_histogram_read(histogram, before, &sum_before);
    CHECK(percpu_histogram_observe(histogram, x) == 0);
    percpu_histogram_read(histogram, after, &sum);
    for (size_t i = 0; i < histogram->buckets; i++)
        if (after[i] != before[i]) {
            CHECK(found == SIZE_MAX && after[i] == before[i] + 1);
            found = i;
        }
    CHECK(found == percpu_histogram_bucket(histogram, x));
    free(before);
    free(after);
    return found;
}

/* The ends of every bucket are where percpu_histogram_bound() says. */
static void test_edges(struct percpu_histogram *histogram)
{
    bool log = histogram->bounds == NULL;
    size_t last = histogram->buckets - 1;
    CHECK(percpu_histogram_check(histogram) == NULL);
    for (size_t i = 0; i < last; i++) {
        double bound = percpu_histogram_bound(histogram, i);
        double highest = log ? below(bound) : bound, lowest = log ? bound : above(bound);
        CHECK_CASE(percpu_histogram_bucket(histogram, highest) == i, "bucket %zu, %a", i, highest);
        CHECK_CASE(percpu_histogram_bucket(histogram, lowest) == i + 1, "bucket %zu, %a", i,
                   lowest);
        if (i < 40 || i + 40 > last) { /* and are counted there */
            CHECK(bucket_of(histogram, highest) == i);
            CHECK(bucket_of(histogram, lowest) == i + 1);
        }
    }
    static const double low[] = {0.0, -0.0, -1.0, -DBL_MAX, -DBL_MIN, 0x1p-1074, -0x1p-1074};
    for (size_t i = 0; i < sizeof low / sizeof *low; i++) {
        size_t found = bucket_of(histogram, low[i]);
        if (log)
            CHECK_CASE(found == 0, "%a", low[i]);
        else
            CHECK(found == 0 || histogram->bounds[found - 1] < low[i]);
    }
    double first = percpu_histogram_bound(histogram, 0);
    double end = percpu_histogram_bound(histogram, last - 1);
    CHECK(bucket_of(histogram, DBL_MAX) == last);
    CHECK(bucket_of(histogram, below(first)) == 0);
    CHECK(bucket_of(histogram, above(end)) == last);
}

static void test_log_edges(double error, double low, double high)
{
    struct percpu_histogram histogram;
    size_t buckets = percpu_histogram_log_buckets(error, low, high);
    CHECK(percpu_histogram_init_log(&histogram, NULL, error, low, high) == 0);
    CHECK_CASE(buckets == histogram.buckets && buckets >= 3, "%g %g %g", error, low, high);
    size_t last = buckets - 1;
    double got = percpu_histogram_error(&histogram);
    CHECK(got <= error || got == 0.5);
    CHECK(got * 2 > error || got == 0.5); /* no finer than it has to be */
    /* Rounded outwards, and by less than a bucket. */
    CHECK(percpu_histogram_bound(&histogram, 0) <= low);
    CHECK(percpu_histogram_bound(&histogram, 1) > low);
    CHECK(percpu_histogram_bound(&histogram, last - 1) >= high);
    CHECK(percpu_histogram_bound(&histogram, last - 2) < high);
    test_edges(&histogram);
    percpu_histogram_destroy(&histogram);
}

/* The middle of each bucket is within the error of both of its ends. */
static void test_error(double error)
{
    struct percpu_histogram histogram;
    CHECK(percpu_histogram_init_log(&histogram, NULL, error, 1e-3, 1e6) == 0);
    uint64_t *counts = calloc(histogram.buckets, 8);
    CHECK(counts != NULL);
    double limit = percpu_histogram_error(&histogram);
    for (size_t i = 1; i + 1 < histogram.buckets; i++) {
        double low = percpu_histogram_bound(&histogram, i - 1);
        double high = below(percpu_histogram_bound(&histogram, i));
        counts[i] = 1;
        double middle = percpu_histogram_quantile(&histogram, counts, 0.5);
        counts[i] = 0;
        CHECK(low < middle && middle < high);
        CHECK_CASE(middle - low <= limit * low, "%zu: %a %a", i, low, middle);
        CHECK_CASE(high - middle <= limit * high, "%zu: %a %a", i, high, middle);
    }
    free(counts);
    percpu_histogram_destroy(&histogram);
}

static void test_bounds_edges(void)
{
    static const double bounds[] = {-1e300, -2.5, -0x1p-1074, 0.0,        0x1p-1074,
                                    1e-300, 0.1,  0.1000001,  1,          2.5,
                                    10,     1e9,  1e300,      DBL_MAX / 2};
    for (size_t count = 1; count <= sizeof bounds / sizeof *bounds; count++) {
        struct percpu_histogram histogram;
        CHECK(percpu_histogram_init_bounds(&histogram, NULL, bounds, count) == 0);
        CHECK(histogram.buckets == count + 1);
        CHECK(isnan(percpu_histogram_error(&histogram)));
        test_edges(&histogram);
        for (size_t i = 0; i < count; i++)
            CHECK(percpu_histogram_bound(&histogram, i) == bounds[i]);
        percpu_histogram_destroy(&histogram);
    }
}

/* So many bounds that they are halved first: see PERCPU_HISTOGRAM_FEW. */
static void test_many_bounds(void)
{
    double bounds[150];
    for (size_t count = PERCPU_HISTOGRAM_FEW - 1; count <= 150; count++) {
        struct percpu_histogram histogram;
        for (size_t i = 0; i < count; i++)
            bounds[i] = ((double)i - 20) / 4;
        CHECK(percpu_histogram_init_bounds(&histogram, NULL, bounds, count) == 0);
        for (size_t i = 0; i < count; i++) {
            CHECK_CASE(percpu_histogram_bucket(&histogram, bounds[i]) == i, "%zu of %zu", i, count);
            CHECK(percpu_histogram_bucket(&histogram, below(bounds[i])) == i);
            CHECK(percpu_histogram_bucket(&histogram, above(bounds[i])) == i + 1);
        }
        percpu_histogram_destroy(&histogram);
    }
}

static void test_quantiles(void)
{
    static const double bounds[] = {1, 2, 4};
    static const uint64_t none[4], counts[] = {2, 0, 4, 2}, high[] = {0, 0, 0, 3};
    struct percpu_histogram histogram;
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, bounds, 3) == 0);
    CHECK(isnan(percpu_histogram_quantile(&histogram, none, 0.5)));
    CHECK(percpu_histogram_quantile(&histogram, counts, 0) == 0); /* the first starts at 0 */
    CHECK(percpu_histogram_quantile(&histogram, counts, 0.125) == .5);
    CHECK(percpu_histogram_quantile(&histogram, counts, 0.25) == 1);
    CHECK(percpu_histogram_quantile(&histogram, counts, 0.5) == 3); /* the empty one is passed */
    CHECK(percpu_histogram_quantile(&histogram, counts, 0.75) == 4);
    CHECK(percpu_histogram_quantile(&histogram, counts, 0.9) == 4); /* the last has no end */
    CHECK(percpu_histogram_quantile(&histogram, high, 0) == 4);
    percpu_histogram_destroy(&histogram);

    static const double from_zero[] = {0, 1}, negative[] = {-5, 1}, wide[] = {-DBL_MAX, DBL_MAX};
    static const uint64_t first[] = {2, 0, 0}, middle[] = {0, 2, 0};
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, from_zero, 2) == 0);
    CHECK(percpu_histogram_quantile(&histogram, first, 0.5) == 0);
    percpu_histogram_destroy(&histogram);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, negative, 2) == 0);
    CHECK(percpu_histogram_quantile(&histogram, first, 0.5) == -5);
    percpu_histogram_destroy(&histogram);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, wide, 2) == 0);
    CHECK(percpu_histogram_quantile(&histogram, middle, 0.5) == 0);
    percpu_histogram_destroy(&histogram);

    CHECK(percpu_histogram_init_log(&histogram, NULL, 0.5, 1, 8) == 0); /* octaves */
    static const uint64_t octaves[] = {1, 1, 1, 0, 1};
    CHECK(histogram.buckets == 5);
    CHECK(percpu_histogram_quantile(&histogram, octaves, 0) == 1); /* below low */
    CHECK(percpu_histogram_quantile(&histogram, octaves, 0.5) == 1.5);
    CHECK(percpu_histogram_quantile(&histogram, octaves, 0.51) == 3);
    CHECK(percpu_histogram_quantile(&histogram, octaves, 1) == 8); /* high and above */
    percpu_histogram_destroy(&histogram);
}

static void expect_refused(struct percpu_histogram *histogram, double x)
{
    uint64_t count = percpu_histogram_count(histogram);
    double sum = percpu_histogram_sum(histogram);
    errno = 0;
    CHECK(percpu_histogram_observe(histogram, x) == -1 && errno == EINVAL);
    for (size_t n = 1; n < 200; n++) { /* at every place of a batch, and before and after blocks */
        double values[200];
        size_t bad = SIZE_MAX;
        for (size_t i = 0; i < n; i++)
            values[i] = 1;
        values[n * 7 % n + n / 2] = x;
        errno = 0;
        CHECK(percpu_histogram_observe_many(histogram, values, n, &bad) == -1 && errno == EINVAL);
        CHECK_CASE(bad == n * 7 % n + n / 2, "%zu of %zu", bad, n);
        CHECK(percpu_histogram_observe_many(histogram, values, n, NULL) == -1);
    }
    CHECK(percpu_histogram_count(histogram) == count);
    CHECK(percpu_histogram_sum(histogram) == sum);
}

static void test_refusals(void)
{
    static const double falling[] = {1, 1}, nan_bound[] = {1, NAN, 2}, infinite[] = {1, INFINITY};
    struct percpu_histogram histogram;
    static const struct {
        double error, low, high;
        int code;
    } wrong[] = {
        {0, 1, 2, EINVAL},         {1, 1, 2, EINVAL},     {NAN, 1, 2, EINVAL},
        {-0.1, 1, 2, EINVAL},      {0.1, 2, 2, EINVAL},   {0.1, 3, 2, EINVAL},
        {0.1, 0, 2, EINVAL},       {0.1, -1, 2, EINVAL},  {0.1, DBL_MIN / 2, 2, EINVAL},
        {0.1, NAN, 2, EINVAL},     {0.1, 1, NAN, EINVAL}, {0.1, 1, INFINITY, EINVAL},
        {0.1, 1, DBL_MAX, EINVAL}, {1e-9, 1, 2, ERANGE},  {0.0004, 0x1p-1022, 0x1p1023, ERANGE},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        errno = 0;
        CHECK_CASE(percpu_histogram_init_log(&histogram, NULL, wrong[i].error, wrong[i].low,
                                             wrong[i].high) == -1 &&
                       errno == wrong[i].code,
                   "case %zu: %d", i, errno);
        CHECK(percpu_histogram_log_buckets(wrong[i].error, wrong[i].low, wrong[i].high) == 0);
    }
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, falling, 2) == -1 && errno == EINVAL);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, nan_bound, 3) == -1 && errno == EINVAL);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, infinite, 2) == -1 && errno == EINVAL);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, falling, 0) == -1 && errno == EINVAL);
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, falling, PERCPU_HISTOGRAM_MAX_BUCKETS) ==
              -1 &&
          errno == ERANGE);

    struct percpu_pool *small = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = PERCPU_HISTOGRAM_ITEM(2) - 8});
    CHECK(percpu_histogram_init_bounds(&histogram, small, falling, 1) == -1 && errno == EINVAL);
    percpu_pool_destroy(small);

    CHECK(percpu_histogram_init_log(&histogram, NULL, 0.05, 1e-9, 1e9) == 0);
    CHECK(percpu_histogram_observe(&histogram, 1) == 0);
    expect_refused(&histogram, NAN);
    expect_refused(&histogram, -NAN);
    expect_refused(&histogram, INFINITY);
    expect_refused(&histogram, -INFINITY);
    percpu_histogram_destroy(&histogram);
}

/* A batch counts as one observation after the other does, whatever its length. */
static void test_many(struct percpu_histogram *one, struct percpu_histogram *many)
{
    static double values[1000];
    static uint64_t counts[2][1000];
    uint64_t random = 5;
    double sums[2];
    for (size_t n = 0; n < 1000; n = n < 140 ? n + 1 : n + 97) {
        for (size_t i = 0; i < n; i++) { /* quarters: their sums are exact */
            values[i] = (double)(random_next(&random) >> (40 + i % 24)) / 4;
            values[i] *= random % 16 == 0 ? -1 : 1;
            CHECK(percpu_histogram_observe(one, values[i]) == 0);
        }
        CHECK(percpu_histogram_observe_many(many, values, n, NULL) == 0);
        percpu_histogram_read(one, counts[0], &sums[0]);
        percpu_histogram_read(many, counts[1], &sums[1]);
        CHECK_CASE(sums[0] == sums[1], "%zu: %a %a", n, sums[0], sums[1]);
        for (size_t i = 0; i < one->buckets; i++)
            CHECK_CASE(counts[0][i] == counts[1][i], "%zu values, bucket %zu", n, i);
    }
    /* Values whose sum is beyond doubles are still counted, and none is refused. */
    for (size_t i = 0; i < 100; i++)
        values[i] = i % 3 == 0 ? -DBL_MAX : DBL_MAX;
    uint64_t count = percpu_histogram_count(many);
    CHECK(percpu_histogram_observe_many(many, values, 100, NULL) == 0);
    CHECK(percpu_histogram_count(many) == count + 100);
    CHECK(!percpu_histogram_accepts(percpu_histogram_sum(many)));
}

/* As far as one after the other would: no block's sum in another order is infinite instead. */
static void test_many_large(void)
{
    struct percpu_histogram histogram;
    double values[200];
    for (size_t i = 0; i < 200; i++)
        values[i] = i % 2 == 0 ? DBL_MAX : -DBL_MAX;
    for (size_t n = 1; n <= 200; n++) {
        CHECK(percpu_histogram_init_log(&histogram, NULL, 0.05, 1, 2) == 0);
        CHECK(percpu_histogram_observe_many(&histogram, values, n, NULL) == 0);
        CHECK(percpu_histogram_sum(&histogram) == (n % 2 == 0 ? 0 : DBL_MAX));
        CHECK(percpu_histogram_count(&histogram) == n);
        percpu_histogram_destroy(&histogram);
    }
}

/* A batch goes on behind the value that it refused. */
static void test_batch_goes_on(void)
{
    struct percpu_histogram histogram;
    struct percpu_histogram_batch batch;
    double values[300];
    for (size_t bad = 0; bad < 300; bad++) {
        for (size_t i = 0; i < 300; i++)
            values[i] = (double)i;
        values[bad] = bad % 2 == 0 ? -INFINITY : INFINITY;
        CHECK(percpu_histogram_init_bounds(&histogram, NULL, (const double[]){99, 199}, 2) == 0);
        CHECK(percpu_histogram_batch_begin(&batch, &histogram) == 0);
        CHECK(percpu_histogram_batch_add(&batch, values, 300) == bad);
        CHECK(batch.refused == values[bad]);
        CHECK(percpu_histogram_batch_add(&batch, values + bad + 1, 299 - bad) == 299 - bad);
        percpu_histogram_batch_commit(&batch);
        percpu_histogram_batch_end(&batch);
        uint64_t counts[3];
        double sum;
        percpu_histogram_read(&histogram, counts, &sum);
        CHECK(sum == 300 * 299 / 2 - (double)bad);
        for (size_t i = 0; i < 3; i++)
            CHECK_CASE(counts[i] == 100 - (bad / 100 == i), "%zu, bucket %zu", bad, i);
        percpu_histogram_destroy(&histogram);
    }
}

static void test_many_of_both_layouts(void)
{
    static const double bounds[] = {-100, 0, 0.25, 1, 10, 1000, 5000, 1e5, 1e6};
    for (size_t count = 0; count <= sizeof bounds / sizeof *bounds; count++) {
        struct percpu_histogram one, many;
        if (count == 0) {
            CHECK(percpu_histogram_init_log(&one, NULL, 0.05, 0.5, 1e6) == 0);
            CHECK(percpu_histogram_init_log(&many, NULL, 0.05, 0.5, 1e6) == 0);
        } else {
            CHECK(percpu_histogram_init_bounds(&one, NULL, bounds, count) == 0);
            CHECK(percpu_histogram_init_bounds(&many, NULL, bounds, count) == 0);
        }
        CHECK(percpu_histogram_alike(&one, &many));
        test_many(&one, &many);
        percpu_histogram_destroy(&one);
        percpu_histogram_destroy(&many);
    }
    double more[70]; /* some counted with few bounds between them, some searched */
    for (size_t i = 0; i < 70; i++)
        more[i] = (double)((size_t)1 << i % 10) + 1000 * (double)(i / 10);
    for (size_t count = 25; count <= 70; count += 9) {
        struct percpu_histogram one, many;
        CHECK(percpu_histogram_init_bounds(&one, NULL, more, count) == 0);
        CHECK(percpu_histogram_init_bounds(&many, NULL, more, count) == 0);
        test_many(&one, &many);
        percpu_histogram_destroy(&one);
        percpu_histogram_destroy(&many);
    }
}

static void test_alike(void)
{
    static const double bounds[] = {1, 2, 3}, others[] = {1, 2, 4};
    struct percpu_histogram all[6];
    CHECK(percpu_histogram_init_bounds(&all[0], NULL, bounds, 3) == 0);
    CHECK(percpu_histogram_init_bounds(&all[1], NULL, others, 3) == 0);
    CHECK(percpu_histogram_init_bounds(&all[2], NULL, bounds, 2) == 0);
    CHECK(percpu_histogram_init_log(&all[3], NULL, 0.5, 1, 4) == 0); /* 4 buckets, too */
    CHECK(percpu_histogram_init_log(&all[4], NULL, 0.5, 2, 8) == 0);
    CHECK(percpu_histogram_init_log(&all[5], NULL, 0.25, 1, 2) == 0);
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 6; j++)
            CHECK_CASE(percpu_histogram_alike(&all[i], &all[j]) == (i == j), "%zu %zu", i, j);
    for (size_t i = 0; i < 6; i++)
        percpu_histogram_destroy(&all[i]);
}

/* Merging on one CPU, observing on others: the sums go CPU by CPU. */
static void test_merge_and_cpus(void)
{
    struct percpu_histogram a, b;
    static uint64_t counts[1000];
    double sum;
    CHECK(percpu_histogram_init_log(&a, NULL, 0.05, 1e-9, 1e9) == 0 && a.buckets < 1000);
    CHECK(percpu_histogram_init_log(&b, NULL, 0.05, 1e-9, 1e9) == 0);
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    unsigned used = 0;
    for (unsigned cpu = 0; cpu < percpu_nr_cpus() && cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || !pin(cpu) || percpu_current_cpu() != (int)cpu)
            continue;
        for (unsigned i = 0; i <= cpu; i++)
            CHECK(percpu_histogram_observe(&a, 1 + cpu) == 0);
        CHECK(percpu_histogram_count_of(&a, cpu) == cpu + 1 || getenv("PERCPU_TEST_EMULATED"));
        used += cpu + 1;
    }
    CHECK(percpu_histogram_count(&a) == used);
    percpu_histogram_read(&a, counts, &sum);
    CHECK(sum == percpu_histogram_sum(&a));
    percpu_histogram_merge(&b, counts, sum);
    percpu_histogram_merge(&b, counts, sum);
    CHECK(percpu_histogram_count(&b) == 2 * used && percpu_histogram_sum(&b) == 2 * sum);
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    percpu_histogram_destroy(&a);
    percpu_histogram_destroy(&b);
}

/* Small histograms share pages; a fresh one starts with zeros, also where another one was. */
static void test_memory(void)
{
    static struct percpu_histogram histograms[300];
    static const double bounds[] = {1, 2, 3};
    for (size_t i = 0; i < 300; i++)
        CHECK(percpu_histogram_init_bounds(&histograms[i], NULL, bounds, 3) == 0);
    CHECK(histograms[0].pool == histograms[299].pool);
    struct percpu_pool_stats stats;
    percpu_pool_stats(histograms[0].pool, &stats);
    CHECK(stats.live >= 300 && stats.ranges == 1);
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < 300; i++) {
            CHECK(percpu_histogram_count(&histograms[i]) == 0);
            CHECK(percpu_histogram_sum(&histograms[i]) == 0);
            for (size_t j = 0; j < 5; j++)
                CHECK(percpu_histogram_observe(&histograms[i], (double)j) == 0);
            percpu_histogram_destroy(&histograms[i]);
            CHECK(percpu_histogram_init_bounds(&histograms[i], NULL, bounds, 3) == 0);
        }
    for (size_t i = 0; i < 300; i++)
        percpu_histogram_destroy(&histograms[i]);

    struct percpu_histogram large; /* the largest there is */
    CHECK(percpu_histogram_log_buckets(0x1p-16, 1, 0x1p31) == 31 * 32768 + 2);
    CHECK(percpu_histogram_init_log(&large, NULL, 0x1p-20, 1, 2 - 0x1p-18) == 0);
    CHECK(large.buckets == PERCPU_HISTOGRAM_MAX_BUCKETS / 2 - 2 + 2);
    CHECK(percpu_histogram_observe(&large, 1.5) == 0 && percpu_histogram_count(&large) == 1);
    percpu_histogram_destroy(&large);
}

static void test_check_finds(void)
{
    static const double bounds[] = {1, 2, 3};
    struct percpu_histogram histogram;
    CHECK(percpu_histogram_init_bounds(&histogram, NULL, bounds, 3) == 0);
    CHECK(percpu_histogram_check(&histogram) == NULL);
    histogram.bounds[1] = 1;
    CHECK(percpu_histogram_check(&histogram) != NULL);
    histogram.bounds[1] = NAN;
    CHECK(percpu_histogram_check(&histogram) != NULL);
    histogram.bounds[1] = 2;
    uint64_t *count = (uint64_t *)(void *)(histogram.slots.base + PERCPU_HISTOGRAM_ITEM(2));
    *count = (uint64_t)-1;
    CHECK(percpu_histogram_check(&histogram) != NULL);
    *count = 0;
    CHECK(percpu_histogram_check(&histogram) == NULL);
    percpu_histogram_destroy(&histogram);
}

int main(void)
{
    deadline(100);
    test_log_edges(PERCPU_HISTOGRAM_ERROR, PERCPU_HISTOGRAM_LOW, PERCPU_HISTOGRAM_HIGH);
    test_log_edges(0.999, 1, 2);
    test_log_edges(0.5, 3, 5);
    test_log_edges(0.1, 0x1p-1022, 0x1p-1010);
    test_log_edges(0.1, 0x1p1020, 0x1p1023);
    test_log_edges(0.3, 0x1p-1022, 0x1p1023);
    test_log_edges(0.01, 1e-3, 60);
    test_log_edges(0.001, 0.9999, 1.0001);
    test_log_edges(0x1p-52, 0.5, 0.5 + 1e-14);
    test_log_edges(0x1p-53, 1, 1 + 1e-13); /* a bucket for each double */
    test_log_edges(0x1p-53, 0x1p1022, 0x1.00000000001p1022);
    static const double errors[] = {0.9, 0.5, 0.25, 0.05, 0.01, 0.001};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        test_error(errors[i]);
    test_bounds_edges();
    test_many_bounds();
    test_quantiles();
    test_refusals();
    test_many_of_both_layouts();
    test_many_large();
    test_batch_goes_on();
    test_alike();
    test_merge_and_cpus();
    test_memory();
    test_check_finds();
    return 0;
}
