/* SPDX-License-Identifier: MIT */
/*
 * counter.h - percpu_counter: one 64-bit number that all CPUs add to without a lock.
 *
 * Named after the kernel's lib/percpu_counter.c, with one difference that matters. The kernel
 * takes a CPU's delta away when it moves it to the shared total, so a reader that comes between
 * misses completed adds, and a lock keeps it out. Here a CPU's word is only ever added to:
 *
 *      per CPU   count     everything added on this CPU        this CPU's adds; critical section
 *                flushed   the part of count that is in total  anyone's flush; compare-and-swap
 *      shared    total     sum of all `flushed`, but for flushes under way
 *                base      what set() and exchange() moved
 *
 *      add(n)    one section: new = count += n
 *                if |new - flushed| >= batch: flush
 *      flush     repeat  f = flushed; c = count
 *                        if |c - f| < batch: done
 *                        if compare-and-swap(flushed: f -> c): total += c - f
 *      sum()     base + sum of count       exact for every add that returned before the call
 *      read()    base + total              O(1)
 *
 * When no add is under way, every CPU has |count - flushed| < batch, so
 * |read() - sum()| <= (batch - 1) * CPUs. While adds are under way it may be further off: by what
 * each of them adds, and by what a thread that stalls in the middle of a flush has taken from its
 * CPU, which is less than a batch and the adds of those that were adding there at that moment.
 *
 * All arithmetic is modulo 2^64; a value that fits int64_t is right whatever the words did.
 */
#ifndef PERCPU_COUNTER_H
#define PERCPU_COUNTER_H

#include "arch.h"
#include "platform.h"
#include "pool.h"
#include "ptr.h"
#include "slow.h"

/* What one CPU has of a counter: one item of PERCPU_COUNTER_ITEM bytes. */
struct percpu_counter_slot {
    uint64_t count;
    uint64_t flushed;
};
#define PERCPU_COUNTER_ITEM sizeof(struct percpu_counter_slot)
_Static_assert(sizeof(struct percpu_counter_slot) == 16, "a slot is one 16-byte item");

#define PERCPU_COUNTER_BATCH 32 /* the kernel's default */
#define PERCPU_COUNTER_BATCH_MAX (INT64_C(1) << 48)

struct percpu_counter {
    percpu_ptr slots; /* read at every add; written by init and destroy alone */
    uint64_t margin;  /* batch - 1 */
    struct percpu_pool *pool;
    unsigned cpus;               /* copies of the item */
    uint32_t generation;         /* 2 * the percpu_fork_generation that `total` is right for */
    char pad[PERCPU_CACHE_LINE]; /* keeps the flushes off the line that every add reads */
    uint64_t total;
    uint64_t base;
};

/*
 * Make a counter of `value` in `pool`, whose items must have at least PERCPU_COUNTER_ITEM bytes
 * aligned to 8; NULL: a pool of the process. `batch` is 1 to PERCPU_COUNTER_BATCH_MAX; 0:
 * PERCPU_COUNTER_BATCH. Returns 0; -1 with errno EINVAL or ENOMEM. The pool must outlive it.
 */
PERCPU_API int percpu_counter_init(struct percpu_counter *counter, struct percpu_pool *pool,
                                   int64_t value, int64_t batch);

/* Give its item back. No thread may be using the counter. */
PERCPU_API void percpu_counter_destroy(struct percpu_counter *counter);

/* For percpu_counter_add(): move a slot's unflushed part to the total. */
PERCPU_API void percpu_counter_flush(struct percpu_counter *counter,
                                     struct percpu_counter_slot *slot) PERCPU_COLD;
PERCPU_API void percpu_counter_add_slow(struct percpu_counter *counter, uint64_t n) PERCPU_COLD;

/* Add `n`. Thread-safe, async-signal-safe; does not fail. */
PERCPU_INLINE void percpu_counter_add(struct percpu_counter *counter, int64_t n)
{
    uint64_t count;
    void *copy;
    if (percpu_unlikely(percpu_cs_load_add_store_at(counter->slots, (uint64_t)n, &count, &copy) !=
                        PERCPU_COMMITTED)) {
        percpu_counter_add_slow(counter, (uint64_t)n);
        return;
    }
    struct percpu_counter_slot *slot = (struct percpu_counter_slot *)copy;
    uint64_t unflushed = count - __atomic_load_n(&slot->flushed, __ATOMIC_RELAXED);
    if (percpu_unlikely(unflushed + counter->margin > 2 * counter->margin))
        percpu_counter_flush(counter, slot);
}

PERCPU_INLINE void percpu_counter_sub(struct percpu_counter *counter, int64_t n)
{
    percpu_counter_add(counter, (int64_t)(0 - (uint64_t)n));
}

PERCPU_INLINE void percpu_counter_inc(struct percpu_counter *counter)
{
    percpu_counter_add(counter, 1);
}

PERCPU_INLINE void percpu_counter_dec(struct percpu_counter *counter)
{
    percpu_counter_add(counter, -1);
}

/*
 * The approximate value. What it reads does not grow with the number of CPUs, and of that only one
 * cache line is written by flushes. Thread-safe, async-signal-safe.
 */
PERCPU_API int64_t percpu_counter_read(struct percpu_counter *counter);

/* How far read() may be from sum() when no add is under way: (batch - 1) * CPUs. */
PERCPU_API int64_t percpu_counter_error(const struct percpu_counter *counter);

/* The exact value: reads one word of each CPU. Thread-safe, async-signal-safe. */
PERCPU_API int64_t percpu_counter_sum(const struct percpu_counter *counter);

/*
 * -1, 0 or 1 as the value is below, equal to or above `rhs`. Sums only if read() is too close to
 * tell. Thread-safe.
 */
PERCPU_API int percpu_counter_compare(struct percpu_counter *counter, int64_t rhs);

/*
 * Make the value `value`, and return what it was. Moves `base` alone, so an add that races with it
 * is not lost: it counts before or after. Thread-safe, lock-free.
 */
PERCPU_API int64_t percpu_counter_exchange(struct percpu_counter *counter, int64_t value);
PERCPU_API void percpu_counter_set(struct percpu_counter *counter, int64_t value);

/*
 * Test every invariant. Returns NULL, or a sentence (static storage) about the first that does not
 * hold. No other thread may use the counter meanwhile.
 */
PERCPU_API const char *percpu_counter_check(struct percpu_counter *counter);

#endif
