/* SPDX-License-Identifier: MIT */
/*
 * stats.h - percpu_stats: many 64-bit counts, each by its index, that all CPUs add to.
 *
 * Named after the kernel's vm_event_states (mm/vmstat.c), whose count_vm_event() it resembles: each
 * CPU has an array of its own, so adding is one critical section on one word, and counts that a
 * program updates together lie beside each other:
 *
 *      CPU 0   [0] [1] [2] [3] ... [n - 1]          8 bytes each, packed, one item of a pool
 *      CPU 1   [0] [1] [2] [3] ... [n - 1]
 *      ...
 *
 * A count costs 8 bytes on each CPU that wrote to its page, and nothing elsewhere. There is no
 * shared total, so no cheap approximate read, and nothing that CPUs share: for one number that is
 * read often there is percpu_counter.
 *
 * All arithmetic is modulo 2^64. A sum has every add that returned before the call; of several
 * counts summed in one call each is exact in this way, but adds under way may be in one and not yet
 * in another.
 */
#ifndef PERCPU_STATS_H
#define PERCPU_STATS_H

#include "platform.h"
#include "pool.h"
#include "ptr.h"
#include "this_cpu.h"

struct percpu_stats {
    percpu_ptr counts; /* read at every add; written by init and destroy alone, as is the rest */
    size_t n;
    unsigned cpus; /* copies */
    struct percpu_pool *pool;
};

#define PERCPU_STATS_MAX ((size_t)1 << 21) /* counts; without a pool of one's own */

/*
 * Make `n` counts of 0 in `pool`, whose items must have at least 8 * n bytes; NULL: a
 * pool of the process, for at most PERCPU_STATS_MAX counts. Returns 0; -1 with errno EINVAL or
 * ENOMEM. The pool must outlive them.
 */
PERCPU_API int percpu_stats_init(struct percpu_stats *stats, struct percpu_pool *pool, size_t n);

/* Give the item back. No thread may be using it. */
PERCPU_API void percpu_stats_destroy(struct percpu_stats *stats);

/* Count `i`, for the operations of this_cpu.h. `i` must be below n, here and below. */
PERCPU_INLINE percpu_ptr percpu_stats_count(const struct percpu_stats *stats, size_t i)
{
    return percpu_ptr_field(stats->counts, 8 * i);
}

/* Add `n` to count `i`. Thread-safe, async-signal-safe; does not fail. */
PERCPU_INLINE void percpu_stats_add(const struct percpu_stats *stats, size_t i, int64_t n)
{
    percpu_this_add_i64(percpu_stats_count(stats, i), n);
}

PERCPU_INLINE void percpu_stats_inc(const struct percpu_stats *stats, size_t i)
{
    percpu_stats_add(stats, i, 1);
}

/* The exact value of count `i`: reads one word of each CPU. Thread-safe, async-signal-safe. */
PERCPU_API int64_t percpu_stats_sum(const struct percpu_stats *stats, size_t i);

/*
 * The values of all n counts, to `sums`: CPU by CPU, so memory is read in its order. Thread-safe,
 * async-signal-safe.
 */
PERCPU_API void percpu_stats_sum_all(const struct percpu_stats *stats, int64_t *sums);

/* What all n counts are on CPU `cpu`, which must be below stats->cpus. Thread-safe,
 * async-signal-safe. */
PERCPU_API void percpu_stats_read_cpu(const struct percpu_stats *stats, unsigned cpu,
                                      int64_t *counts);

/*
 * For each k below `count` add weights[k] (NULL: 1) to count indices[k]. Returns `count`; if an
 * index is not below n, its position (the first such), and then nothing is added. The arrays must
 * not change meanwhile. Thread-safe, async-signal-safe; a thread may change CPU between two adds.
 */
PERCPU_API size_t percpu_stats_add_at(const struct percpu_stats *stats, const uint64_t *indices,
                                      const int64_t *weights, size_t count);

/*
 * Test every invariant, among them that nobody wrote behind the last count. Returns NULL, or a
 * sentence (static storage) about the first that does not hold. Thread-safe.
 */
PERCPU_API const char *percpu_stats_check(const struct percpu_stats *stats);

#endif
