/* SPDX-License-Identifier: MIT */
/*
 * counter.c - percpu_counter: flushing, reading, setting, and what fork() leaves behind.
 *
 * After fork. A thread that was between its compare-and-swap of `flushed` and its addition to
 * `total` does not exist in the child, so `total` may lack a part there (sums do not use it). The
 * first flush or read of the child mends it: `generation` goes from what the parent left to
 * 2 * generation + 1 while one thread sets flushed = count on every CPU and total to their sum,
 * then to 2 * generation. Nobody waits for that thread, so a signal handler or another fork may
 * come at any point: a flush that finds the mending under way leaves the slot to the mender, which
 * looks at every slot again when it has finished.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include <percpu/counter.h>

int percpu_counter_init(struct percpu_counter *counter, struct percpu_pool *pool, int64_t value,
                        int64_t batch)
{
    memset(counter, 0, sizeof *counter);
    if (batch == 0)
        batch = PERCPU_COUNTER_BATCH;
    if (batch < 1 || batch > PERCPU_COUNTER_BATCH_MAX) {
        errno = EINVAL;
        return -1;
    }
    if (pool == NULL && (pool = percpu_pool_shared(PERCPU_COUNTER_ITEM)) == NULL)
        return -1;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    if (geometry.item_size < PERCPU_COUNTER_ITEM) {
        errno = EINVAL;
        return -1;
    }
    void *item = percpu_pool_zalloc(pool);
    if (item == NULL)
        return -1;
    counter->pool = pool;
    counter->slots = percpu_pool_ptr(pool, item);
    counter->cpus = geometry.cpus;
    counter->margin = (uint64_t)batch - 1;
    counter->base = (uint64_t)value;
    counter->generation = 2 * __atomic_load_n(&percpu_fork_generation, __ATOMIC_RELAXED);
    return 0;
}

void percpu_counter_destroy(struct percpu_counter *counter)
{
    percpu_pool_free(counter->pool, counter->slots.base);
    memset(counter, 0, sizeof *counter);
}

static struct percpu_counter_slot *slot_of(const struct percpu_counter *counter, unsigned cpu)
{
    return percpu_ptr_cpu(counter->slots, cpu);
}

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

/* Whether `unflushed`, a difference modulo 2^64, is within a batch of 0. */
static bool within_batch(const struct percpu_counter *counter, uint64_t unflushed)
{
    return unflushed + counter->margin <= 2 * counter->margin;
}

/*
 * How many flushes of this thread are between their two steps. A signal handler may come there,
 * flush too, fork, and go on in the child: it must leave the mending to what comes after the flush
 * that it interrupted, which goes on in the child as well.
 */
static __thread volatile unsigned flushing __attribute__((tls_model("initial-exec")));

/*
 * Whoever moves `flushed` from f to c owes `total` c - f. The count that was read may be out of
 * date by the time of the swap, so look again until the slot is within a batch.
 */
static void flush_slot(struct percpu_counter *counter, struct percpu_counter_slot *slot)
{
    for (;;) {
        uint64_t flushed = load(&slot->flushed);
        uint64_t count = load(&slot->count);
        if (within_batch(counter, count - flushed))
            return;
        flushing++;
        if (__atomic_compare_exchange_n(&slot->flushed, &flushed, count, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            __atomic_fetch_add(&counter->total, count - flushed, __ATOMIC_RELAXED);
        flushing--;
    }
}

/* See the top. Returns whether `total` may be used now. */
static PERCPU_COLD bool mend(struct percpu_counter *counter, uint32_t mended)
{
    /* Sequentially consistent, as is the mender's store below: either we see that it has finished,
     * or it sees the count that brought us here when it looks at every slot again. */
    uint32_t seen = __atomic_fetch_add(&counter->generation, 0, __ATOMIC_SEQ_CST);
    uint32_t mending = mended + 1;
    if (seen == mended)
        return true;
    if (flushing > 0 || seen == mending ||
        !__atomic_compare_exchange_n(&counter->generation, &seen, mending, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return false;
    uint64_t total = 0;
    for (unsigned cpu = 0; cpu < counter->cpus; cpu++) {
        uint64_t count = load(&slot_of(counter, cpu)->count);
        __atomic_store_n(&slot_of(counter, cpu)->flushed, count, __ATOMIC_RELAXED);
        total += count;
    }
    __atomic_store_n(&counter->total, total, __ATOMIC_RELAXED);
    /* Release: pairs with the acquire in usable(). */
    __atomic_exchange_n(&counter->generation, mended, __ATOMIC_SEQ_CST);
    for (unsigned cpu = 0; cpu < counter->cpus; cpu++)
        flush_slot(counter, slot_of(counter, cpu));
    return true;
}

static bool usable(struct percpu_counter *counter)
{
    uint32_t mended = 2 * __atomic_load_n(&percpu_fork_generation, __ATOMIC_RELAXED);
    return percpu_likely(__atomic_load_n(&counter->generation, __ATOMIC_ACQUIRE) == mended) ||
           mend(counter, mended);
}

void percpu_counter_flush(struct percpu_counter *counter, struct percpu_counter_slot *slot)
{
    if (usable(counter))
        flush_slot(counter, slot);
}

void percpu_counter_add_slow(struct percpu_counter *counter, uint64_t n)
{
    struct percpu_op op = {.code = PERCPU_OP_ADD, .width = 8, .p = counter->slots, .x = n};
    percpu_slow(&op);
    struct percpu_counter_slot *slot = op.copy;
    if (!within_batch(counter, op.old + n - load(&slot->flushed)))
        percpu_counter_flush(counter, slot);
}

int64_t percpu_counter_read(struct percpu_counter *counter)
{
    (void)usable(counter);
    return (int64_t)(load(&counter->base) + load(&counter->total));
}

int64_t percpu_counter_error(const struct percpu_counter *counter)
{
    return (int64_t)(counter->margin * counter->cpus);
}

static uint64_t sum_counts(const struct percpu_counter *counter)
{
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < counter->cpus; cpu++)
        sum += load(&slot_of(counter, cpu)->count);
    return sum;
}

/* The sum of the counts, and the base that they go with: it did not move while they were read. */
static uint64_t snapshot(const struct percpu_counter *counter, uint64_t *base)
{
    uint64_t counts;
    *base = __atomic_load_n(&counter->base, __ATOMIC_ACQUIRE);
    for (;;) {
        counts = sum_counts(counter);
        uint64_t again = __atomic_load_n(&counter->base, __ATOMIC_ACQUIRE);
        if (again == *base)
            return counts;
        *base = again;
    }
}

int64_t percpu_counter_sum(const struct percpu_counter *counter)
{
    uint64_t base, counts = snapshot(counter, &base);
    return (int64_t)(base + counts);
}

int percpu_counter_compare(struct percpu_counter *counter, int64_t rhs)
{
    int64_t value = percpu_counter_read(counter), error = percpu_counter_error(counter);
    uint64_t apart = value > rhs ? (uint64_t)value - (uint64_t)rhs
                                 : (uint64_t)rhs - (uint64_t)value;
    /* Near the ends of int64_t, what read() said may have wrapped around although the sum fits. */
    if (apart <= (uint64_t)error || value < INT64_MIN + error || value > INT64_MAX - error)
        value = percpu_counter_sum(counter);
    return (value > rhs) - (value < rhs);
}

int64_t percpu_counter_exchange(struct percpu_counter *counter, int64_t value)
{
    for (;;) {
        uint64_t base, counts = snapshot(counter, &base), was = base;
        /* Adds since `counts` was read stay in the slots, and so count after the exchange. */
        if (__atomic_compare_exchange_n(&counter->base, &was, (uint64_t)value - counts, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return (int64_t)(base + counts);
    }
}

void percpu_counter_set(struct percpu_counter *counter, int64_t value)
{
    (void)percpu_counter_exchange(counter, value);
}

const char *percpu_counter_check(struct percpu_counter *counter)
{
    if (!usable(counter))
        return "the total is being mended after a fork";
    uint64_t flushed = 0;
    for (unsigned cpu = 0; cpu < counter->cpus; cpu++) {
        const struct percpu_counter_slot *slot = slot_of(counter, cpu);
        if (!within_batch(counter, load(&slot->count) - load(&slot->flushed)))
            return "a CPU has a batch or more that it did not flush";
        flushed += load(&slot->flushed);
    }
    if (flushed != load(&counter->total))
        return "the total is not the sum of what the CPUs flushed";
    return NULL;
}
