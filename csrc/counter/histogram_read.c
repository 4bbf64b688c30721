/* SPDX-License-Identifier: MIT */
/* histogram_read.c - percpu_histogram: what was counted, and quantiles of it. */
#include <math.h>

#include <percpu/histogram.h>

/* buckets ------------------------------------------------------------------------------------ */

/* Log-linear: where a bucket other than the first starts. */
static uint64_t start_bits(const struct percpu_histogram *histogram, size_t bucket)
{
    return (uint64_t)(histogram->origin + (int64_t)bucket) << histogram->shift;
}

double percpu_histogram_bound(const struct percpu_histogram *histogram, size_t bucket)
{
    return histogram->bounds != NULL ? histogram->bounds[bucket]
                                     : percpu_f64_from_bits(start_bits(histogram, bucket + 1));
}

double percpu_histogram_error(const struct percpu_histogram *histogram)
{
    if (histogram->bounds != NULL)
        return NAN;
    /* 2^-(k+1) with k = 52 - shift; 1023 is the bias of a double's exponent. */
    return percpu_f64_from_bits((uint64_t)(1023 - 52 - 1 + histogram->shift) << 52);
}

bool percpu_histogram_alike(const struct percpu_histogram *a, const struct percpu_histogram *b)
{
    if (a->buckets != b->buckets || (a->bounds == NULL) != (b->bounds == NULL))
        return false;
    if (a->bounds == NULL)
        return a->shift == b->shift && a->origin == b->origin;
    for (size_t i = 0; i + 1 < a->buckets; i++)
        if (!(a->bounds[i] == b->bounds[i]))
            return false;
    return true;
}

/* reading ------------------------------------------------------------------------------------ */

static uint64_t count_of(const struct percpu_histogram *histogram, unsigned cpu, size_t bucket)
{
    return percpu_cpu_read_u64(percpu_ptr_field(histogram->slots, PERCPU_HISTOGRAM_ITEM(bucket)),
                               cpu);
}

double percpu_histogram_sum(const struct percpu_histogram *histogram)
{
    double sum = 0;
    for (unsigned cpu = 0; cpu < histogram->cpus; cpu++)
        sum += percpu_cpu_read_f64(histogram->slots, cpu);
    return sum;
}

uint64_t percpu_histogram_count_of(const struct percpu_histogram *histogram, unsigned cpu)
{
    uint64_t count = 0;
    for (size_t bucket = 0; bucket < histogram->buckets; bucket++)
        count += count_of(histogram, cpu, bucket);
    return count;
}

uint64_t percpu_histogram_count(const struct percpu_histogram *histogram)
{
    uint64_t count = 0;
    for (unsigned cpu = 0; cpu < histogram->cpus; cpu++)
        count += percpu_histogram_count_of(histogram, cpu);
    return count;
}

void percpu_histogram_read(const struct percpu_histogram *histogram, uint64_t *counts, double *sum)
{
    *sum = percpu_histogram_sum(histogram);
    for (size_t bucket = 0; bucket < histogram->buckets; bucket++)
        counts[bucket] = 0;
    for (unsigned cpu = 0; cpu < histogram->cpus; cpu++) /* one CPU's copy after the other */
        for (size_t bucket = 0; bucket < histogram->buckets; bucket++)
            counts[bucket] += count_of(histogram, cpu, bucket);
}

/* quantiles ---------------------------------------------------------------------------------- */

/* The first bucket that has any and up to whose end there are `rank` observations; how many there
 * are before it. `rank` is at most their number. */
static size_t bucket_at(const struct percpu_histogram *histogram, const uint64_t *counts,
                        double rank, uint64_t *before)
{
    uint64_t up_to = 0;
    for (size_t bucket = 0; bucket < histogram->buckets; bucket++) {
        *before = up_to;
        up_to += counts[bucket];
        if (counts[bucket] > 0 && (double)up_to >= rank)
            return bucket;
    }
    return histogram->buckets - 1u;
}

static double quantile_log(const struct percpu_histogram *histogram, size_t bucket)
{
    size_t last = histogram->buckets - 1u;
    if (bucket == 0 || bucket == last)
        return percpu_histogram_bound(histogram, bucket == 0 ? 0 : last - 1);
    uint64_t half = UINT64_C(1) << histogram->shift >> 1;
    return percpu_f64_from_bits(start_bits(histogram, bucket) + half);
}

/* `share` of the bucket's observations are below the quantile. */
static double quantile_bounds(const struct percpu_histogram *histogram, size_t bucket, double share)
{
    const double *bounds = histogram->bounds;
    size_t last = histogram->buckets - 1u;
    if (bucket == last || (bucket == 0 && bounds[0] <= 0))
        return bounds[bucket == 0 ? 0 : bucket - (bucket == last)];
    double low = bucket > 0 ? bounds[bucket - 1] : 0, high = bounds[bucket];
    double quantile = low * (1 - share) + high * share; /* high - low might be infinite */
    return quantile < low ? low : quantile > high ? high : quantile;
}

double percpu_histogram_quantile(const struct percpu_histogram *histogram, const uint64_t *counts,
                                 double q)
{
    uint64_t count = 0, before = 0;
    for (size_t bucket = 0; bucket < histogram->buckets; bucket++)
        count += counts[bucket];
    if (count == 0)
        return NAN;
    /* The r-th smallest with r = q * count rounded up is in the first bucket up to whose end there
     * are q * count observations or more. */
    double rank = q * (double)count;
    size_t bucket = bucket_at(histogram, counts, rank, &before);
    if (histogram->bounds == NULL)
        return quantile_log(histogram, bucket);
    return quantile_bounds(histogram, bucket, (rank - (double)before) / (double)counts[bucket]);
}

/* the walker --------------------------------------------------------------------------------- */

const char *percpu_histogram_check(const struct percpu_histogram *histogram)
{
    for (size_t bucket = 0; bucket + 1 < histogram->buckets; bucket++) {
        double bound = percpu_histogram_bound(histogram, bucket);
        if (bucket > 0 && !(percpu_histogram_bound(histogram, bucket - 1) < bound))
            return "the bounds of the buckets do not increase";
        size_t found = percpu_histogram_bucket(histogram, bound);
        if (found != (histogram->bounds != NULL ? bucket : bucket + 1))
            return "a bound is not found in its bucket";
    }
    for (unsigned cpu = 0; cpu < histogram->cpus; cpu++)
        for (size_t bucket = 0; bucket < histogram->buckets; bucket++)
            if (count_of(histogram, cpu, bucket) >> 63 != 0)
                return "a CPU has counted more than can be";
    return NULL;
}
