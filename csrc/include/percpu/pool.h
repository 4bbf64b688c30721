/* SPDX-License-Identifier: MIT */
/*
 * pool.h - per-CPU memory: a pool of equally sized items, each with one copy per CPU.
 *
 * Glossary
 *   item    what is allocated: `item_size` bytes on every CPU. Its address is that of CPU 0's copy;
 *           CPU c's copy is c * stride further on.
 *   stride  bytes from one CPU's copy of an item to the next: a power of two, at least a page.
 *           Items are packed inside a stride, so an item costs its own size on each CPU.
 *   range   one mapping: a header, then one stride for each CPU, aligned to the stride, so that the
 *           header of an item's range is found by masking the item's address.
 *   cache   a stack of free items per CPU, itself per-CPU memory: alloc and free are one critical
 *           section each. The pool's lock is taken only to move half a cache at a time.
 *
 *      header | stride of CPU 0      | stride of CPU 1      | ...
 *      -------+----------------------+----------------------+----
 *             | item item item ..... | item item item ..... |
 *             ^ base: aligned to the stride
 *
 * Memory is anonymous and private: pages that no CPU has written cost nothing and read as zeros,
 * and after fork() parent and child each have their own copies.
 */
#ifndef PERCPU_POOL_H
#define PERCPU_POOL_H

#include "platform.h"
#include "ptr.h"
#include "rseq.h"

struct percpu_pool;

/* How to make a pool. Zero means the default, so start from {.item_size = n}. */
struct percpu_pool_attr {
    size_t item_size;  /* bytes per CPU, 1 to the stride */
    size_t stride;     /* bytes; default 64 KiB, or the next power of two that holds an item */
    unsigned cpus;     /* copies; default and least: percpu_nr_cpus(); at most PERCPU_MAX_CPUS */
    size_t max_ranges; /* default: no limit */
    enum percpu_index index; /* default PERCPU_INDEX_CPU */
};

/*
 * Make a pool. Returns NULL with errno EINVAL (item_size 0 or larger than the stride; a stride that
 * is not a power of two, is below the page size or above 2^30, or makes a range larger than 2^46
 * bytes; cpus out of range; index unknown), ENOTSUP (PERCPU_INDEX_CID without mm_cid) or ENOMEM.
 * The caller owns it.
 */
PERCPU_API struct percpu_pool *percpu_pool_create(const struct percpu_pool_attr *attr);

/* Unmap everything, items included. No thread may be using the pool. NULL is allowed. */
PERCPU_API void percpu_pool_destroy(struct percpu_pool *pool);

/*
 * Allocate an item: as it was left (alloc), all zeros (zalloc), or with each CPU's copy starting
 * with the `size` bytes at `init` followed by zeros (alloc_init). Returns the address of CPU 0's
 * copy, aligned to the largest power of two that divides item_size (at least 8, at most 64; an
 * item below 8 bytes: item_size rounded up to a power of two). NULL with errno ENOMEM (no memory,
 * or max_ranges reached with no free item on any CPU) or EINVAL (size larger than item_size). An
 * item never handed out before is zero without being touched. Thread-safe.
 */
PERCPU_API void *percpu_pool_alloc(struct percpu_pool *pool);
PERCPU_API void *percpu_pool_zalloc(struct percpu_pool *pool);
PERCPU_API void *percpu_pool_alloc_init(struct percpu_pool *pool, const void *init, size_t size);

/*
 * Give an item back. Nobody may use it any more. NULL is allowed. As with free(3), `item` must be
 * an item of this pool that is handed out: nothing is checked here. Thread-safe.
 */
PERCPU_API void percpu_pool_free(struct percpu_pool *pool, void *item);

/* Whether `item` is the address of one of the pool's items, handed out or not. Thread-safe. */
PERCPU_API bool percpu_pool_owns(const struct percpu_pool *pool, const void *item);

/* The item as a per-CPU object, for the operations of this_cpu.h. */
PERCPU_API percpu_ptr percpu_pool_ptr(const struct percpu_pool *pool, void *item);

/* What the pool was made with, defaults filled in; slot_size is item_size rounded up for alignment,
 * capacity the items in one range. */
struct percpu_pool_geometry {
    size_t item_size, slot_size, stride, capacity, max_ranges;
    unsigned cpus;
    enum percpu_index index;
};
PERCPU_API void percpu_pool_geometry(const struct percpu_pool *pool,
                                     struct percpu_pool_geometry *geometry);

/* Counts are exact when no other thread uses the pool. */
struct percpu_pool_stats {
    size_t ranges;
    size_t live;           /* items handed out */
    size_t cached;         /* free items in the CPUs' caches */
    size_t free;           /* free items in the ranges, those never handed out included */
    size_t virtual_bytes;  /* address space mapped, headers and caches included */
    size_t resident_bytes; /* of that, in memory; before Linux 6.7 with pages that were only read,
                              although those are the shared page of zeros */
    uint64_t refills;      /* times a cache was filled from the ranges */
    uint64_t overflows;    /* times half a cache went back to the ranges */
};
/* Thread-safe. */
PERCPU_API void percpu_pool_stats(struct percpu_pool *pool, struct percpu_pool_stats *stats);

/* Bytes in memory of CPU `cpu`'s strides, all ranges together. Thread-safe. */
PERCPU_API size_t percpu_pool_resident(struct percpu_pool *pool, unsigned cpu);

/* Move the free items in the caches of all CPUs back to the ranges. Thread-safe. */
PERCPU_API void percpu_pool_drain(struct percpu_pool *pool);

/*
 * Walk everything and test every invariant. Returns NULL, or a sentence (static storage) about the
 * first one that does not hold. No other thread may use the pool meanwhile.
 */
PERCPU_API const char *percpu_pool_check(struct percpu_pool *pool);

/*
 * A pool of the process for items of `item_size` bytes (1, 2, 4, 8 or 16), made at its first use
 * and never destroyed. NULL with errno EINVAL or ENOMEM. Thread-safe.
 */
PERCPU_API struct percpu_pool *percpu_pool_shared(size_t item_size);

/*
 * Test hook: the `after`-th system call from now that maps memory for a pool fails with ENOMEM, and
 * each one after it until the hook is set to -1.
 */
PERCPU_API void percpu_pool_fail_maps(int after);

#endif
