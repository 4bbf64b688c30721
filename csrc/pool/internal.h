/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the pool's data, and what its files call of each other.
 *
 *   pool.c      attributes, creation, destruction, the pools of the process, fork
 *   range.c     mapping memory, finding an item's range, the free items of a range
 *   cache.c     alloc and free: the CPUs' caches, and what moves between them and the ranges
 *   report.c    statistics and the invariant walker
 *   resident.c  which pages are really there
 *
 * An item is in exactly one place: handed out; an entry in one CPU's cache; on its range's stack of
 * free items; or beyond its range's `cut`, never used. For every range: free_count <= cut <=
 * capacity. An entry is the item's address, with FRESH set if it was never handed out, so that
 * all its copies are still zero.
 *
 * Locking: `lock` guards the ranges and their stacks. The caches need none: sections of their
 * CPUs, and the gate, move entries. The table of ranges is read without the lock: it only grows.
 */
#ifndef PERCPU_POOL_INTERNAL_H
#define PERCPU_POOL_INTERNAL_H

#include <pthread.h>

#include <percpu/pool.h>

#define RANGE_MAGIC UINT64_C(0x7065726370755230)
#define FRESH (UINT64_C(1) << 63)       /* in an entry: user space ends below it */
#define FRESH_INDEX (UINT32_C(1) << 31) /* the same in a range's stack */

enum { CACHE_CAPACITY = 64, CACHE_BATCH = CACHE_CAPACITY / 2 };

/* One CPU's cache: a stack of sections.h. */
struct cache {
    uint64_t count;
    uint64_t entries[CACHE_CAPACITY];
};

/* Lies before the first stride: at base - pool->header_size. */
struct range {
    uint64_t magic;
    struct percpu_pool *pool;
    struct range *next;
    struct range *next_available;
    size_t number;         /* how many ranges the pool had before it */
    bool available;        /* in the list of ranges that may have free items */
    char *base;            /* CPU 0's stride, aligned to the stride */
    uint32_t cut;          /* items below it have been handed to a cache at least once */
    uint32_t free_count;   /* entries of free_items */
    uint32_t free_items[]; /* indices of free items, last in first out */
};

/* Which addresses are bases of ranges: open addressing, 0 for an empty slot. */
struct range_table {
    struct range_table *outgrown; /* readers may still be in it: freed with the pool */
    size_t mask;
    uintptr_t bases[];
};

struct percpu_pool {
    percpu_ptr caches; /* read by every alloc and free */
    struct range_table *table;
    size_t stride;
    size_t header_size;
    unsigned stride_shift;
    size_t item_size, slot_size, capacity, max_ranges;
    unsigned cpus;
    enum percpu_index index;
    size_t caches_length;
    pthread_mutex_t lock;
    struct range *ranges;    /* newest first */
    struct range *available; /* those that may have free items; all others have none */
    size_t range_count;
    uint64_t refills, overflows;
    struct percpu_pool *next, **link; /* all pools, for fork() */
};

static inline char *range_item(const struct percpu_pool *pool, const struct range *range,
                               uint32_t index)
{
    return range->base + index * pool->slot_size;
}

/* Anonymous private memory without huge pages, or NULL with errno ENOMEM. */
void *percpu_map(size_t length);

/* With the lock held: one more range. 0, or -1 with errno ENOMEM. */
int percpu_range_add(struct percpu_pool *pool);
void percpu_range_unmap(struct percpu_pool *pool, struct range *range);

/* The range of an item of the pool, by mask. */
struct range *percpu_range_of(const struct percpu_pool *pool, uintptr_t item);

/* With the lock held: move up to `wanted` entries out of the ranges. Returns how many. */
size_t percpu_range_take(struct percpu_pool *pool, uint64_t *entries, size_t wanted);

/* With the lock held: put an entry back on its range's stack. */
void percpu_range_put(struct percpu_pool *pool, uint64_t entry);

/* percpu_pool_drain() with the lock held. Returns how many items came back. */
size_t percpu_cache_drain(struct percpu_pool *pool);

/* How many of the `length` bytes at `start`, whole pages, are in memory. */
size_t percpu_resident(const char *start, size_t length);

#endif
