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
        .least = HUGE_VAL,
        .most = -HUGE_VAL,
    };
    return batch->counts != NULL ? 0 : -1;
}

/*
 * A batch is counted in blocks, each copied first, so that what is found out about its values stays
 * true of them. Then it goes in steps that have no branch to mispredict, and no result that the next
 * value has to wait for.
 *
 * Values are mostly within the range of those before them, so that is asked of all together, and
 * the range and its buckets are worked out anew for a block that has others.
 */
enum { BLOCK = 64, MANY_BOUNDS = 32 };

typedef double pair __attribute__((vector_size(16), aligned(8)));
typedef int64_t hits __attribute__((vector_size(16))); /* -1 for each half that is one */

static inline pair pair_at(const double *values)
{
    return *(const pair *)values;
}

/* `count` values, at most BLOCK, and one behind them that is above no bound: they are compared in
 * pairs. */
static void copy_block(double *block, const double *values, size_t count)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        pair a = pair_at(values + i), b = pair_at(values + i + 2);
        pair c = pair_at(values + i + 4), d = pair_at(values + i + 6);
        *(pair *)(block + i) = a;
        *(pair *)(block + i + 2) = b;
        *(pair *)(block + i + 4) = c;
        *(pair *)(block + i + 6) = d;
    }
    for (; i < count; i++)
        block[i] = values[i];
    block[count] = -HUGE_VAL;
    /* The compiler is not to look at the values again instead of the copy. */
    __asm__ __volatile__("" : : "r"(block) : "memory");
}

/* What a look at all values of a block tells. If one of them is NaN or infinite, so is the sum. */
struct look {
    double sum;
    bool beyond; /* one is below `least` or above `most` */
};

static struct look look_at(const double *block, size_t count, double least, double most)
{
    const pair low = {least, least}, high = {most, most};
    pair sum = {0, 0}, other_sum = sum;
    hits below = {0, 0}, above = below;
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        pair a = pair_at(block + i), b = pair_at(block + i + 2);
        sum += a;
        other_sum += b;
        below += a < low;
        above += high < a;
        below += b < low;
        above += high < b;
    }
    sum += other_sum;
    below += above;
    struct look look = {sum[0] + sum[1], below[0] + below[1] != 0};
    for (; i < count; i++) {
        look.sum += block[i];
        look.beyond |= block[i] < least || block[i] > most;
    }
    return look;
}

/* Four at a time, none of which waits for another. */
static void widen(struct percpu_histogram_batch *batch, const double *block, size_t count)
{
    enum { LANES = 4 };
    double least[LANES], most[LANES];
    for (size_t lane = 0; lane < LANES; lane++) {
        least[lane] = batch->least;
        most[lane] = batch->most;
    }
    for (size_t i = 0; i < count; i++) {
        least[i % LANES] = block[i] < least[i % LANES] ? block[i] : least[i % LANES];
        most[i % LANES] = block[i] > most[i % LANES] ? block[i] : most[i % LANES];
    }
    for (size_t lane = 0; lane < LANES; lane++) {
        batch->least = least[lane] < batch->least ? least[lane] : batch->least;
        batch->most = most[lane] > batch->most ? most[lane] : batch->most;
    }
    batch->first = percpu_histogram_bucket(batch->histogram, batch->least);
    batch->last = percpu_histogram_bucket(batch->histogram, batch->most);
}

/* Neighbours often go to one bucket: with two arrays of counts, the second addition does not wait
 * for the first. */
static void count_log(const struct percpu_histogram_batch *batch, const double *block, size_t count)
{
    const struct percpu_histogram *histogram = batch->histogram;
    /* Whether all values have buckets with two ends, so that there is nothing to clamp. */
    bool inside = batch->first > 0 && batch->last + 1 < histogram->buckets;
    uint32_t shift = histogram->shift;
    uint64_t origin = (uint64_t)histogram->origin;
    uint64_t *even = batch->counts, *odd = even + histogram->buckets;
    size_t i = 0;
    for (; inside && i + 2 <= count; i += 2) {
        even[(percpu_f64_bits(block[i]) >> shift) - origin]++;
        odd[(percpu_f64_bits(block[i + 1]) >> shift) - origin]++;
    }
    for (; i < count; i++)
        even[percpu_histogram_bucket_log(histogram, block[i])]++;
}

/* How many values of a block are above each of two bounds. */
static hits count_above(const double *block, size_t count, double bound, double next)
{
    hits above = {0, 0}, above_next = above;
    for (size_t i = 0; i < count; i += 2) {
        pair values = pair_at(block + i);
        above -= values > (pair){bound, bound};
        above_next -= values > (pair){next, next};
    }
    return (hits){above[0] + above[1], above_next[0] + above_next[1]};
}

/* Few bounds lie among the values: how many are above each of those says how many are between. */
static void count_few_bounds(const struct percpu_histogram_batch *batch, const double *block,
                             size_t count)
{
    const double *bounds = batch->histogram
                               ->bounds; /* behind the last one there are infinite ones */
    uint64_t *counts = batch->counts, left = count;
    for (size_t bucket = batch->first; bucket < batch->last; bucket += 2) {
        hits above = count_above(block, count, bounds[bucket], bounds[bucket + 1]);
        counts[bucket] += left - (uint64_t)above[0];
        counts[bucket + 1] += (uint64_t)(above[0] - above[1]);
        left = (uint64_t)above[1];
    }
    counts[batch->last] += left;
}

static void count_bounds(const struct percpu_histogram_batch *batch, const double *block,
                         size_t count)
{
    uint64_t *even = batch->counts, *odd = even + batch->histogram->buckets;
    size_t i = 0;
    for (; i + 2 <= count; i += 2) {
        even[percpu_histogram_bucket_bounds(batch->histogram, block[i])]++;
        odd[percpu_histogram_bucket_bounds(batch->histogram, block[i + 1])]++;
    }
    if (i < count)
        even[percpu_histogram_bucket_bounds(batch->histogram, block[i])]++;
}

static void add_block(struct percpu_histogram_batch *batch, const double *block, size_t count,
                      struct look look)
{
    if (percpu_unlikely(look.beyond))
        widen(batch, block, count);
    if (batch->histogram->bounds == NULL)
        count_log(batch, block, count);
    else if (batch->last - batch->first <= MANY_BOUNDS)
        count_few_bounds(batch, block, count);
    else
        count_bounds(batch, block, count);
    batch->sum += look.sum;
}

/* A sum is infinite, or NaN: how many values there are before the first that is; those are added
 * in their order, because in another the sum of finite ones might be infinite. */
static PERCPU_COLD size_t look_again(struct percpu_histogram_batch *batch, double *block,
                                     size_t count, struct look *look)
{
    double sum = batch->sum;
    size_t i = 0;
    for (; i < count && percpu_histogram_accepts(block[i]); i++)
        sum += block[i];
    if (i < count)
        batch->refused = block[i];
    block[i] = -HUGE_VAL;
    batch->sum = sum;
    *look = (struct look){0, true};
    return i;
}

size_t percpu_histogram_batch_add(struct percpu_histogram_batch *batch, const double *values,
                                  size_t count)
{
    double block[BLOCK + 1];
    size_t done = 0, some, good;
    for (good = some = 0; done < count && good == some; done += good) {
        some = good = count - done < BLOCK ? count - done : BLOCK;
        copy_block(block, values + done, some);
        struct look look = look_at(block, some, batch->least, batch->most);
        if (percpu_unlikely(!percpu_histogram_accepts(batch->sum + look.sum)))
            good = look_again(batch, block, some, &look);
        if (good > 0)
            add_block(batch, block, good, look);
    }
    return done;
}

void percpu_histogram_batch_commit(struct percpu_histogram_batch *batch)
{
    if (batch->least > batch->most)
        return;
    for (size_t bucket = batch->first; bucket <= batch->last; bucket++)
        batch->counts[bucket] += batch->counts[batch->histogram->buckets + bucket];
    add_counts(batch->histogram, batch->counts, batch->first, batch->last, batch->sum);
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
