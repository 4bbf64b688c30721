/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - percpu_histogram: how many observations fell into each of many buckets, and their
 * sum, counted by all CPUs without a lock.
 *
 * Per CPU one item: the sum of what was observed there, a double, and then one 8-byte count for
 * each bucket. An observation is one search for its bucket, and two critical sections on the copy
 * of this CPU: count += 1, then sum += x. Counts are only ever added to.
 *
 * Two layouts of buckets. The first and the last bucket have no end; `bound` is what
 * percpu_histogram_bound() says.
 *
 *      log-linear, after HdrHistogram (G. Tene): every octave [2^e, 2^(e+1)) is cut into 2^k equal
 *      parts, so the top bits of a double, sign, exponent and the first k of the fraction, taken as
 *      an integer, are the bucket's number but for a constant:
 *
 *          bucket     0            1                      ...         last
 *          holds      x < low      bound[0] <= x < bound[1]           x >= high
 *
 *      A part is 2^-k of its octave's start wide, so its middle is within 2^-(k+1) of any value in
 *      it, relative to that value. Zero, -0.0 and negative numbers are below `low`.
 *
 *      explicit bounds, as in Prometheus ("le"), which are searched
 *
 *          bucket     0               1                           ...         last
 *          holds      x <= bound[0]   bound[0] < x <= bound[1]                x > bound[last - 1]
 *
 * The number of observations is the sum of the counts, so it always agrees with the quantiles. The
 * sum of an observation follows its count: while threads observe, what a reader sees of the sums
 * may lack observations that it sees in the counts, or have some that it does not. After a fork the
 * child may lack for good the sum of an observation that another thread was in the middle of.
 *
 * Doubles are added in the order in which the observations come on each CPU, and the CPUs' sums in
 * the order of CPUs, so the rounding of the sum differs from run to run. A sum beyond the largest
 * double is infinite or NaN from then on.
 */
#ifndef PERCPU_HISTOGRAM_H
#define PERCPU_HISTOGRAM_H

#include <errno.h>

#include "platform.h"
#include "pool.h"
#include "ptr.h"
#include "this_cpu.h"

/*
 * What a log-linear histogram has if nobody asks for more: 16 parts to an octave, 959 buckets from a
 * billionth to a billion, 7680 bytes of address space on each CPU. A page holds 32 octaves: values that are within a
 * factor of 10^9 of each other take one or two pages on each CPU that observes any.
 */
#define PERCPU_HISTOGRAM_ERROR 0.05
#define PERCPU_HISTOGRAM_LOW 1e-9
#define PERCPU_HISTOGRAM_HIGH 1e9

/* The most buckets, those without an end included: 8 MiB on each CPU. */
#define PERCPU_HISTOGRAM_MAX_BUCKETS (1u << 20)

/* Of how many bounds a search compares all, and how many more there are for that. */
#define PERCPU_HISTOGRAM_FEW 16
#define PERCPU_HISTOGRAM_PAD 3

/* Bytes of an item: the sum, then the counts. */
#define PERCPU_HISTOGRAM_ITEM(buckets) (sizeof(uint64_t) * (1 + (size_t)(buckets)))

struct percpu_histogram {
    percpu_ptr slots;
    double *bounds; /* explicit: buckets - 1 of them, and PERCPU_HISTOGRAM_PAD infinite ones; owned;
                       NULL: log-linear */
    int64_t origin; /* log-linear: a bucket's number is (bits >> shift) - origin */
    uint32_t shift; /* log-linear: bits of a double below those that choose its bucket */
    uint32_t buckets;
    struct percpu_pool *pool;
    unsigned cpus; /* copies of the item */
};
_Static_assert(sizeof(struct percpu_histogram) == 64,
               "what an observation reads fits a cache line");

/*
 * How many buckets percpu_histogram_init_log() makes; 0 with errno EINVAL: relative_error is not
 * above 0 and below 1; low is below 2^-1022, where doubles lose their relative precision, high is
 * above 2^1023, or low is not below high. ERANGE: too many. Pure.
 */
PERCPU_API size_t percpu_histogram_log_buckets(double relative_error, double low, double high);

/*
 * Make a log-linear histogram, with as few parts to an octave as keep the middle of every bucket
 * within `relative_error` of what is in it. `low` is rounded down and `high` up to where a bucket
 * starts. Its item comes from `pool`, whose items must have PERCPU_HISTOGRAM_ITEM(buckets) bytes
 * or more, aligned to 8; NULL: percpu_pool_shared_for() that many. Returns 0; -1 with the errno of
 * percpu_histogram_log_buckets(), EINVAL for a pool that will not do, or ENOMEM. The pool must
 * outlive it.
 */
PERCPU_API int percpu_histogram_init_log(struct percpu_histogram *histogram,
                                         struct percpu_pool *pool, double relative_error,
                                         double low, double high);

/*
 * Make one of `count` upper bounds, finite and each above the one before; copied. Returns as above:
 * EINVAL for bounds that are not, or none; ERANGE for too many.
 */
PERCPU_API int percpu_histogram_init_bounds(struct percpu_histogram *histogram,
                                            struct percpu_pool *pool, const double *bounds,
                                            size_t count);

/* Give its memory back. No thread may be using the histogram. */
PERCPU_API void percpu_histogram_destroy(struct percpu_histogram *histogram);

/* Free the bounds alone: for a histogram whose item its owner gives back. */
PERCPU_API void percpu_histogram_forget(struct percpu_histogram *histogram);

/* Whether `x` is neither NaN nor infinite: only such values can be observed, because they could
 * not be taken out of the sum again. */
PERCPU_INLINE bool percpu_histogram_accepts(double x)
{
    return (percpu_f64_bits(x) & UINT64_C(0x7ff0000000000000)) != UINT64_C(0x7ff0000000000000);
}

/* The bucket of `x`. For a value that is not accepted it is some bucket. */
PERCPU_INLINE size_t percpu_histogram_bucket_log(const struct percpu_histogram *histogram, double x)
{
    int64_t last = (int64_t)histogram->buckets - 1;
    int64_t bucket = (int64_t)percpu_f64_bits(x) >> histogram->shift;
    /* Compared first: with no shift, a negative number less the origin may be out of range. */
    bucket = bucket < histogram->origin ? 0 : bucket - histogram->origin;
    return (size_t)(bucket > last ? last : bucket);
}

/* Halve until few bounds are left, then compare with each of those, two at a time: halving is a
 * chain of loads that wait for each other, comparing is not. Neither has a branch to mispredict. */
PERCPU_INLINE size_t percpu_histogram_bucket_bounds(const struct percpu_histogram *histogram,
                                                    double x)
{
    typedef double pair __attribute__((vector_size(16)));
    typedef double pair_there __attribute__((vector_size(16), aligned(8)));
    typedef int64_t hits __attribute__((vector_size(16)));
    /* The answer is from `below` to below + left: how many bounds are less than x. */
    size_t below = 0, left = histogram->buckets - 1;
    while (left > PERCPU_HISTOGRAM_FEW) {
        size_t half = left / 2;
        below += histogram->bounds[below + half - 1] < x ? half : 0;
        left -= half;
    }
    hits first = {0, 0}, second = {0, 0}; /* a comparison is -1 where it holds */
    const double *bounds = histogram->bounds + below;
    for (size_t i = 0; i < left; i += 4) { /* those beyond what is left are not less than x */
        first += *(const pair_there *)(bounds + i) < (pair){x, x};
        second += *(const pair_there *)(bounds + i + 2) < (pair){x, x};
    }
    first += second;
    return below - (size_t)(first[0] + first[1]);
}

PERCPU_INLINE size_t percpu_histogram_bucket(const struct percpu_histogram *histogram, double x)
{
    return percpu_likely(histogram->bounds == NULL) ? percpu_histogram_bucket_log(histogram, x)
                                                    : percpu_histogram_bucket_bounds(histogram, x);
}

/* Count `x`. Returns 0; -1 with errno EINVAL, and counts nothing, if it is NaN or infinite.
 * Thread-safe, async-signal-safe. */
PERCPU_INLINE int percpu_histogram_observe(struct percpu_histogram *histogram, double x)
{
    if (percpu_unlikely(!percpu_histogram_accepts(x))) {
        errno = EINVAL;
        return -1;
    }
    size_t bucket = percpu_histogram_bucket(histogram, x);
    percpu_this_inc_u64(percpu_ptr_field(histogram->slots, PERCPU_HISTOGRAM_ITEM(bucket)));
    percpu_this_add_f64(histogram->slots, x);
    return 0;
}

/*
 * Observations that are collected on the side, by one thread and for one histogram, and counted
 * together: many at a time cost much less so, and nothing is counted before all of them were seen.
 */
struct percpu_histogram_batch {
    struct percpu_histogram *histogram;
    uint64_t *counts; /* two arrays, to be added up */
    double sum;
    double least, most; /* all values are from least to most */
    size_t first, last; /* their buckets */
    double refused;     /* the value that was not taken, if one was not */
};

/* An empty batch. Returns 0; -1 with errno ENOMEM. The histogram must outlive it. */
PERCPU_API int percpu_histogram_batch_begin(struct percpu_histogram_batch *batch,
                                            struct percpu_histogram *histogram);

/* Collect `count` values. Returns how many it took: all, or those before the first that is NaN or
 * infinite, which is then `refused`. Each is read once, so that other threads may write there
 * meanwhile. */
PERCPU_API size_t percpu_histogram_batch_add(struct percpu_histogram_batch *batch,
                                             const double *values, size_t count);

/* Count what was collected, on this CPU. */
PERCPU_API void percpu_histogram_batch_commit(struct percpu_histogram_batch *batch);

/* Free what it takes, whether it was committed or not. */
PERCPU_API void percpu_histogram_batch_end(struct percpu_histogram_batch *batch);

/*
 * Count many values. Returns 0; -1 with errno ENOMEM, or EINVAL and the place of the first that is
 * NaN or infinite in `*bad` (which may be NULL), and then counts nothing. Thread-safe.
 */
PERCPU_API int percpu_histogram_observe_many(struct percpu_histogram *histogram,
                                             const double *values, size_t count, size_t *bad);

/* Add `counts`, one for each bucket, and `sum` on this CPU: those of another histogram with the same
 * buckets, for instance. No count may come to 2^63. Thread-safe, async-signal-safe. */
PERCPU_API void percpu_histogram_merge(struct percpu_histogram *histogram, const uint64_t *counts,
                                       double sum);

/* Whether two histograms have the same buckets. */
PERCPU_API bool percpu_histogram_alike(const struct percpu_histogram *a,
                                       const struct percpu_histogram *b);

/* The bound between buckets `bucket` and bucket + 1; `bucket` is below buckets - 1. */
PERCPU_API double percpu_histogram_bound(const struct percpu_histogram *histogram, size_t bucket);

/* The relative error that a log-linear histogram really has: 2^-(k+1). NaN with explicit bounds. */
PERCPU_API double percpu_histogram_error(const struct percpu_histogram *histogram);

/*
 * Read the counts of all CPUs together, one for each bucket, and the sum: every observation that
 * returned before the call is in them. Thread-safe, async-signal-safe.
 */
PERCPU_API void percpu_histogram_read(const struct percpu_histogram *histogram, uint64_t *counts,
                                      double *sum);

/* The number of observations, and their sum; the number of those made on CPU `cpu`. Thread-safe,
 * async-signal-safe. */
PERCPU_API uint64_t percpu_histogram_count(const struct percpu_histogram *histogram);
PERCPU_API double percpu_histogram_sum(const struct percpu_histogram *histogram);
PERCPU_API uint64_t percpu_histogram_count_of(const struct percpu_histogram *histogram,
                                              unsigned cpu);

/*
 * The q-th quantile, q from 0 to 1, of observations with these counts; NaN if there are none.
 *
 * Log-linear: the middle of the bucket that holds the r-th smallest, r = q * count rounded up, at
 * least 1. So it is within percpu_histogram_error() of the r-th smallest, if that is from low on and
 * below high; values outside count as low and as high.
 *
 * Explicit bounds: as Prometheus' histogram_quantile(), the observations of a bucket are taken to
 * lie evenly between its bounds. The first bucket starts at 0 if its bound is above that; otherwise,
 * and in the last bucket, it is the bound that there is.
 */
PERCPU_API double percpu_histogram_quantile(const struct percpu_histogram *histogram,
                                            const uint64_t *counts, double q);

/*
 * Test every invariant. Returns NULL, or a sentence (static storage) about the first that does not
 * hold. Thread-safe.
 */
PERCPU_API const char *percpu_histogram_check(const struct percpu_histogram *histogram);

#endif
