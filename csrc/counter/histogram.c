/* SPDX-License-Identifier: MIT */
/*
 * histogram.c - percpu_histogram: making, and adding many observations at a time.
 *
 * Items come from the process's pools of any size (percpu_pool_shared_for()): small histograms share
 * pages, and any histogram costs the pages that its observations write, and little more. A pool of
 * its own would cost it a header, and caches on each CPU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <percpu/histogram.h>

/* making ------------------------------------------------------------------------------------- */

/* With the buckets of `histogram` decided. */
static int place(struct percpu_histogram *histogram, struct percpu_pool *pool)
{
    size_t item_size = PERCPU_HISTOGRAM_ITEM(histogram->buckets);
    if (pool == NULL && (pool = percpu_pool_shared_for(item_size)) == NULL)
        return -1;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    if (geometry.item_size < item_size || geometry.slot_size % sizeof(uint64_t) != 0 ||
        geometry.global || geometry.constructed) {
        errno = EINVAL;
        return -1;
    }
    void *item = percpu_pool_zalloc(pool);
    if (item == NULL)
        return -1;
    histogram->pool = pool;
    histogram->slots = percpu_pool_ptr(pool, item);
    histogram->cpus = geometry.cpus;
    return 0;
}

static const double least_low = 0x1p-1022, most_high = 0x1p1023;

/* The bits below those that choose a bucket, with as few buckets as `relative_error` allows. */
static uint32_t shift_for(double relative_error)
{
    uint32_t shift = 52;
    for (double error = 0.5; error > relative_error && shift > 0; error /= 2)
        shift--;
    return shift;
}

/* The number of buckets; 0 with errno. */
static size_t shape_log(struct percpu_histogram *histogram, double relative_error, double low,
                        double high)
{
    /* Not (... < ...) for NaN's sake. */
    if (!(relative_error > 0 && relative_error < 1) || !(low >= least_low) ||
        !(high <= most_high) || !(low < high)) {
        errno = EINVAL;
        return 0;
    }
    uint32_t shift = shift_for(relative_error);
    uint64_t part = UINT64_C(1) << shift;
    uint64_t first = percpu_f64_bits(low) >> shift;
    uint64_t end = (percpu_f64_bits(high) + part - 1) >> shift;
    if (end - first > PERCPU_HISTOGRAM_MAX_BUCKETS - 2) {
        errno = ERANGE;
        return 0;
    }
    histogram->shift = shift;
    histogram->origin = (int64_t)first - 1;
    histogram->buckets = (uint32_t)(end - first) + 2;
    return histogram->buckets;
}

size_t percpu_histogram_log_buckets(double relative_error, double low, double high)
{
    struct percpu_histogram shape;
    return shape_log(&shape, relative_error, low, high);
}

int percpu_histogram_init_log(struct percpu_histogram *histogram, struct percpu_pool *pool,
                              double relative_error, double low, double high)
{
    memset(histogram, 0, sizeof *histogram);
    return shape_log(histogram, relative_error, low, high) > 0 ? place(histogram, pool) : -1;
}

/* Not (... > ...) for NaN's sake. */
static bool increasing(const double *bounds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!percpu_histogram_accepts(bounds[i]) || (i > 0 && !(bounds[i] > bounds[i - 1])))
            return false;
    return true;
}

int percpu_histogram_init_bounds(struct percpu_histogram *histogram, struct percpu_pool *pool,
                                 const double *bounds, size_t count)
{
    memset(histogram, 0, sizeof *histogram);
    if (count > PERCPU_HISTOGRAM_MAX_BUCKETS - 1) {
        errno = ERANGE;
        return -1;
    }
    if (count == 0 || !increasing(bounds, count)) {
        errno = EINVAL;
        return -1;
    }
    double *copy = malloc((count + PERCPU_HISTOGRAM_PAD) * sizeof *copy);
    if (copy == NULL)
        return -1;
    memcpy(copy, bounds, count * sizeof *copy);
    for (size_t i = 0; i < PERCPU_HISTOGRAM_PAD; i++)
        copy[count + i] = HUGE_VAL;
    histogram->bounds = copy;
    histogram->buckets = (uint32_t)count + 1;
    if (place(histogram, pool) == 0)
        return 0;
    int error = errno;
    percpu_histogram_forget(histogram);
    errno = error;
    return -1;
}

void percpu_histogram_forget(struct percpu_histogram *histogram)
{
    free(histogram->bounds);
    memset(histogram, 0, sizeof *histogram);
}

void percpu_histogram_destroy(struct percpu_histogram *histogram)
{
    percpu_pool_free(histogram->pool, histogram->slots.base);
    percpu_histogram_forget(histogram);
}

/* many at a time ----------------------------------------------------------------------------- */

/* The count before the sum, as an observation does it. */
static void add_counts(struct percpu_histogram *histogram, const uint64_t *counts, size_t first,
                       size_t last, double sum)
{
    for (size_t bucket = first; bucket <= last; bucket++)
        if (counts[bucket] != 0)
            percpu_this_add_u64(percpu_ptr_field(histogram->slots, PERCPU_HISTOGRAM_ITEM(bucket)),
                                counts[bucket]);
    percpu_this_add_f64(histogram->slots, sum);
}

void percpu_histogram_merge(struct percpu_histogram *histogram, const uint64_t *counts, double sum)
{
    add_counts(histogram, counts, 0, histogram->buckets - 1, sum);
}

int percpu_histogram_batch_begin(struct percpu_histogram_batch *batch,
                                 struct percpu_histogram *histogram)
{
    *batch = (struct percpu_histogram_batch){
        .histogram = histogram,
        .counts = calloc(2 * (size_t)histogram->buckets, sizeof *batch->counts),
        .least = histogram->buckets,
    };
    return batch->counts != NULL ? 0 : -1;
}

/* A batch is counted in blocks, each in steps that have no branch to mispredict, and no result that
 * the next value has to wait for. */
enum { BLOCK = 64, LANES = 4 };

/* What a look at each value of a block tells. */
struct look {
    double sum, least, most;
};

static inline void look_on(struct look *look, double x)
{
    look->sum += x;
    look->least = x < look->least ? x : look->least;
    look->most = x > look->most ? x : look->most;
}

static inline void look_together(struct look *look, const struct look *other)
{
    look->sum += other->sum;
    look->least = other->least < look->least ? other->least : look->least;
    look->most = other->most > look->most ? other->most : look->most;
}

/* If one of the values is NaN or infinite, so is the sum. */
static struct look look_at(const double *values, size_t count)
{
    struct look a = {0, values[0], values[0]}, b = a, c = a, d = a;
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        look_on(&a, values[i]);
        look_on(&b, values[i + 1]);
        look_on(&c, values[i + 2]);
        look_on(&d, values[i + 3]);
    }
    for (; i < count; i++)
        look_on(&a, values[i]);
    look_together(&a, &b);
    look_together(&c, &d);
    look_together(&a, &c);
    return a;
}

/*
 * Neighbours often go to one bucket: with two arrays of counts, the second addition does not wait
 * for the first. `inside`: all values have buckets with two ends, so there is nothing to clamp.
 */
static void count_log(const struct percpu_histogram *histogram, uint64_t *even, uint64_t *odd,
                      const double *values, size_t count, bool inside)
{
    uint32_t shift = histogram->shift;
    uint64_t origin = (uint64_t)histogram->origin;
    size_t i = 0;
    for (; inside && i + 2 <= count; i += 2) {
        even[(percpu_f64_bits(values[i]) >> shift) - origin]++;
        odd[(percpu_f64_bits(values[i + 1]) >> shift) - origin]++;
    }
    for (; i < count; i++)
        even[percpu_histogram_bucket_log(histogram, values[i])]++;
}

static void count_bounds(const struct percpu_histogram *histogram, uint64_t *even, uint64_t *odd,
                         const double *values, size_t count)
{
    size_t i = 0;
    for (; i + 2 <= count; i += 2) {
        even[percpu_histogram_bucket_bounds(histogram, values[i])]++;
        odd[percpu_histogram_bucket_bounds(histogram, values[i + 1])]++;
    }
    if (i < count)
        even[percpu_histogram_bucket_bounds(histogram, values[i])]++;
}

static void add_block(struct percpu_histogram_batch *batch, const double *values, size_t count,
                      struct look look)
{
    const struct percpu_histogram *histogram = batch->histogram;
    size_t least = percpu_histogram_bucket(histogram, look.least);
    size_t most = percpu_histogram_bucket(histogram, look.most);
    uint64_t *even = batch->counts, *odd = even + histogram->buckets;
    if (histogram->bounds != NULL)
        count_bounds(histogram, even, odd, values, count);
    else
        count_log(histogram, even, odd, values, count, least > 0 && most + 1 < histogram->buckets);
    batch->least = least < batch->least ? least : batch->least;
    batch->most = most > batch->most ? most : batch->most;
    batch->sum += look.sum;
}

static size_t accepted(const double *values, size_t count)
{
    size_t i = 0;
    while (i < count && percpu_histogram_accepts(values[i]))
        i++;
    return i;
}

size_t percpu_histogram_batch_add(struct percpu_histogram_batch *batch, const double *values,
                                  size_t count)
{
    size_t done = 0, some, good;
    for (good = some = 0; done < count && good == some; done += good) {
        some = good = count - done < BLOCK ? count - done : BLOCK;
        struct look look = look_at(values + done, some);
        if (percpu_unlikely(!percpu_histogram_accepts(look.sum))) {
            good = accepted(values + done, some);
            look = good > 0 ? look_at(values + done, good) : look;
        }
        if (good > 0)
            add_block(batch, values + done, good, look);
    }
    return done;
}

void percpu_histogram_batch_commit(struct percpu_histogram_batch *batch)
{
    if (batch->least > batch->most)
        return;
    for (size_t bucket = batch->least; bucket <= batch->most; bucket++)
        batch->counts[bucket] += batch->counts[batch->histogram->buckets + bucket];
    add_counts(batch->histogram, batch->counts, batch->least, batch->most, batch->sum);
}

void percpu_histogram_batch_end(struct percpu_histogram_batch *batch)
{
    free(batch->counts);
    batch->counts = NULL;
}

int percpu_histogram_observe_many(struct percpu_histogram *histogram, const double *values,
                                  size_t count, size_t *bad)
{
    struct percpu_histogram_batch batch;
    if (percpu_histogram_batch_begin(&batch, histogram) != 0)
        return -1;
    size_t taken = percpu_histogram_batch_add(&batch, values, count);
    if (taken == count)
        percpu_histogram_batch_commit(&batch);
    percpu_histogram_batch_end(&batch);
    if (taken == count)
        return 0;
    if (bad != NULL)
        *bad = taken;
    errno = EINVAL;
    return -1;
}
