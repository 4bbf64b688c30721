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
 *                base      what set(), exchange() and try_add() moved; compare-and-swap
 *                local     what one thread added while there was no per-CPU memory; plain adds
 *                remote    what all others added then; atomic adds
 *
 *      add(n)    one section: new = count += n
 *                if |new - flushed| >= batch: flush
 *      flush     repeat  f = flushed; c = count
 *                        if |c - f| < batch: done
 *                        if compare-and-swap(flushed: f -> c): total += c - f; on another CPU
 *                                                              than that one: fence (rseq.h)
 *      sum()     base + local + remote + sum of count     exact for every add that returned
 *                                                         before the call
 *      read()    base + local + remote + total            O(1)
 *
 * When no add is under way, every CPU has |count - flushed| < batch, so
 * |read() - sum()| <= (batch - 1) * CPUs. While adds are under way it may be further off: by what
 * each of them adds, and by what a thread that stalls in the middle of a flush has taken from its
 * CPU, which is less than a batch and the adds of those that were adding there at that moment.
 *
 * Lazy counters (dual mode). One made by percpu_counter_init_lazy() has no per-CPU memory. The
 * first thread that adds to it owns `local`, and adds there without an atomic instruction; others
 * add to `remote`. When those others have added PERCPU_COUNTER_CONTENDED times, or when
 * percpu_counter_upgrade() says so, the per-CPU item is allocated and published by one
 * compare-and-swap of slots.base, and whoever sees it adds there from then on. Nothing stops, and
 * nothing is moved: all words stay summands for ever, so a thread that has not seen the item yet
 * adds to its old place and is counted. `local` has one writer at a time: the owner is known by its
 * thread pointer, which no two living threads share. The idea is that of G. Krisman Bertazi's
 * dual-mode counters for the kernel (2025), which need a promise of the caller where these look.
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

/* How many adds of threads other than its owner make a lazy counter take per-CPU memory. */
#define PERCPU_COUNTER_CONTENDED 32u

/*
 *      read at every add | written now and then            | written at every flush
 *      slots ... local   | pool ... base  (64 bytes)       | total
 *
 * so that flushes leave the cache line alone that every add reads.
 */
struct percpu_counter {
    percpu_ptr slots; /* base is NULL as long as there is no per-CPU memory */
    uint64_t margin;  /* batch - 1 */
    uintptr_t owner;  /* of `local`: a thread pointer; 0: nobody yet */
    uint64_t local;
    struct percpu_pool *pool;
    unsigned cpus;        /* copies that the item has, or will have */
    uint32_t generation;  /* 2 * the percpu_fork_generation that `total` is right for */
    uint32_t remote_adds; /* how often `remote` was added to */
    uint32_t exchanges;   /* begun plus ended: odd while one is under way */
    double error;         /* 0, or the relative error that percpu_counter_set_error() asked for */
    uint64_t seen;        /* what percpu_counter_delta() saw last */
    uint64_t remote;
    uint64_t base;
    uint64_t pad;
    uint64_t total;
};
_Static_assert(offsetof(struct percpu_counter, total) >=
                   offsetof(struct percpu_counter, pool) + PERCPU_CACHE_LINE,
               "flushes must not disturb adds");

/*
 * Make a counter of `value` in `pool`, whose items must have at least PERCPU_COUNTER_ITEM bytes
 * aligned to 8; NULL: a pool of the process. `batch` is 1 to PERCPU_COUNTER_BATCH_MAX; 0:
 * PERCPU_COUNTER_BATCH. Returns 0; -1 with errno EINVAL or ENOMEM. The pool must outlive it.
 */
PERCPU_API int percpu_counter_init(struct percpu_counter *counter, struct percpu_pool *pool,
                                   int64_t value, int64_t batch);

/* The same without per-CPU memory yet: see the top. */
PERCPU_API int percpu_counter_init_lazy(struct percpu_counter *counter, struct percpu_pool *pool,
                                        int64_t value, int64_t batch);

/* Make `n` counters of `value`, all or none. percpu_counter_destroy() each. */
PERCPU_API int percpu_counter_init_many(struct percpu_counter *counters, size_t n,
                                        struct percpu_pool *pool, int64_t value, int64_t batch);

/*
 * Choose the batch by how far read() may be from sum(), before the counter is used: the largest
 * batch that keeps it within `error`, if that is 1 or more; within `error` times the value if it is
 * above 0 and below 1. That batch follows the value: it is adjusted when a CPU flushes and when the
 * value is set or read; when it shrinks, which costs a fence (rseq.h), all CPUs are flushed. Returns 0; -1
 * with errno EINVAL for an error that is neither.
 */
PERCPU_API int percpu_counter_set_error(struct percpu_counter *counter, double error);

/* Give its item back. No thread may be using the counter. */
PERCPU_API void percpu_counter_destroy(struct percpu_counter *counter);

/*
 * Allocate a lazy counter's per-CPU memory now. Returns 0, also if it has it already; -1 with errno
 * ENOMEM, and the counter goes on without. Thread-safe.
 */
PERCPU_API int percpu_counter_upgrade(struct percpu_counter *counter);

/* Whether it has no per-CPU memory yet. Thread-safe, async-signal-safe. */
PERCPU_INLINE bool percpu_counter_is_lazy(const struct percpu_counter *counter)
{
    return __atomic_load_n(&counter->slots.base, __ATOMIC_RELAXED) == NULL;
}

/* For percpu_counter_add(): move a slot's unflushed part to the total; add when one section did not
 * commit; add as a thread that does not own `local`. */
PERCPU_API void percpu_counter_flush(struct percpu_counter *counter,
                                     struct percpu_counter_slot *slot) PERCPU_COLD;
PERCPU_API void percpu_counter_add_slow(struct percpu_counter *counter, uint64_t n) PERCPU_COLD;
PERCPU_API void percpu_counter_add_remote(struct percpu_counter *counter, uint64_t n) PERCPU_COLD;

/*
 * Add `n`. Does not fail. Thread-safe, async-signal-safe: a handler that interrupted the allocation
 * of per-CPU memory leaves a lazy counter as it is.
 */
PERCPU_INLINE void percpu_counter_add(struct percpu_counter *counter, int64_t n)
{
    percpu_ptr slots = counter->slots;
    /* Acquire: pairs with the release in percpu_counter_upgrade(), and what the item holds. */
    slots.base = __atomic_load_n(&counter->slots.base, __ATOMIC_ACQUIRE);
    if (slots.base == NULL) {
        if (percpu_likely(__atomic_load_n(&counter->owner, __ATOMIC_RELAXED) ==
                          percpu_thread_pointer()))
            percpu_own_add_u64(&counter->local, (uint64_t)n);
        else
            percpu_counter_add_remote(counter, (uint64_t)n);
        return;
    }
    uint64_t count;
    void *copy;
    if (percpu_unlikely(percpu_cs_load_add_store_at(slots, (uint64_t)n, &count, &copy) !=
                        PERCPU_COMMITTED)) {
        percpu_counter_add_slow(counter, (uint64_t)n);
        return;
    }
    struct percpu_counter_slot *slot = (struct percpu_counter_slot *)copy;
    uint64_t unflushed = count - __atomic_load_n(&slot->flushed, __ATOMIC_RELAXED);
    uint64_t margin = __atomic_load_n(&counter->margin, __ATOMIC_RELAXED);
    if (percpu_unlikely(unflushed + margin > 2 * margin))
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
 * Add `n` if the value is then not above `limit`; subtract `n` if it is then not below `floor`.
 * Returns whether it did. However the try_ functions, set() and exchange() of all threads
 * interleave, none of them takes the value past its limit, and each fails only if its limit was in
 * the way at an instant of the call. add() and sub() do not ask: beside them, the value that
 * decides is a sum() taken during the call. Costs a sum() and a compare-and-swap of `base`: for a
 * limit that many CPUs work against all the time take limiter.h. Waits for nothing but an exchange
 * under way. Thread-safe, async-signal-safe.
 */
PERCPU_API bool percpu_counter_try_add(struct percpu_counter *counter, int64_t n, int64_t limit);
PERCPU_API bool percpu_counter_try_sub(struct percpu_counter *counter, int64_t n, int64_t floor);

/*
 * The approximate value. What it reads does not grow with the number of CPUs, and of that only one
 * cache line is written by flushes. Thread-safe, async-signal-safe.
 */
PERCPU_API int64_t percpu_counter_read(struct percpu_counter *counter);

/* How far read() may be from sum() when no add is under way: (batch - 1) * CPUs; 0 as long as there
 * is no per-CPU memory. */
PERCPU_API int64_t percpu_counter_error(const struct percpu_counter *counter);

/* read(), and between what the sum is when no add is under way; all of int64_t where the value may
 * have wrapped around. */
PERCPU_API int64_t percpu_counter_read_bounds(struct percpu_counter *counter, int64_t *low,
                                              int64_t *high);

/* The exact value: reads one word of each CPU. Thread-safe, async-signal-safe. */
PERCPU_API int64_t percpu_counter_sum(const struct percpu_counter *counter);

/* What was added on CPU `cpu`, which must be below counter->cpus: 0 as long as there is no per-CPU
 * memory. Thread-safe, async-signal-safe. */
PERCPU_API int64_t percpu_counter_on(const struct percpu_counter *counter, unsigned cpu);

/*
 * -1, 0 or 1 as the value is below, equal to or above `rhs`. Sums only if read() is too close to
 * tell. Thread-safe.
 */
PERCPU_API int percpu_counter_compare(struct percpu_counter *counter, int64_t rhs);

/*
 * By how much the sum has changed since the last call, or since the counter was made. However many
 * threads call it, each change is in the result of one of them. Thread-safe, async-signal-safe.
 */
PERCPU_API int64_t percpu_counter_delta(struct percpu_counter *counter);

/*
 * Make the value `value`, and return what it was. Moves `base` alone, so an add that races with it
 * is not lost: it counts before or after. Of several one runs at a time, and sums and the try_
 * functions wait for it, by the lock of percpu_exclude_fork(), whose function must not call them.
 * Thread-safe, async-signal-safe.
 */
PERCPU_API int64_t percpu_counter_exchange(struct percpu_counter *counter, int64_t value);
PERCPU_API void percpu_counter_set(struct percpu_counter *counter, int64_t value);

/*
 * Test every invariant. Returns NULL, or a sentence (static storage) about the first that does not
 * hold. No other thread may use the counter meanwhile.
 */
PERCPU_API const char *percpu_counter_check(struct percpu_counter *counter);

#endif
