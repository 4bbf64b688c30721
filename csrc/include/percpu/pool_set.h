/* SPDX-License-Identifier: MIT */
/*
 * pool_set.h - several item sizes behind one allocator, for records of variable size.
 *
 * A set holds pools of different item sizes and the same stride, copies and index. It takes the
 * smallest that fits, and the next larger one when that one is full.
 *
 * Size classes are pools that share one set of ranges: a range is cut into blocks of whole pages,
 * each of which holds items of one class. Sizes of classes follow each other by at most 1/4 (8, 16,
 * 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, ...), so a record of 72 bytes costs 80, not 128.
 *
 *      one stride   | 80 80 80 80 ... | 16 16 16 16 16 ... | 640 640 640 ... | free pages |
 *                     block             block                block (larger)
 */
#ifndef PERCPU_POOL_SET_H
#define PERCPU_POOL_SET_H

#include "pool.h"

struct percpu_pool_set;

/*
 * An empty set; NULL with errno ENOMEM. Thread-safe.
 */
PERCPU_API struct percpu_pool_set *percpu_pool_set_create(void);

/* Destroy the set and its pools, as percpu_pool_destroy(). NULL is allowed. */
PERCPU_API void percpu_pool_set_destroy(struct percpu_pool_set *set);

/*
 * Add `pool`; the set then owns it. 0; -1 with errno EBUSY (there is a pool of this item_size),
 * EINVAL (stride, copies or index differ from those of the pools there are), ENOSPC (128 pools).
 * Thread-safe, also beside allocations.
 */
PERCPU_API int percpu_pool_set_add(struct percpu_pool_set *set, struct percpu_pool *pool);

/*
 * Add pools that share their ranges: the size classes up to attr->item_size. Attributes hold for
 * all of them; max_ranges and cache_bytes (default 512 KiB) are limits for all together, capacity
 * is that of one block. `init`, `constructed`, ctor, dtor, slot_size and range_init are not for
 * classes (EINVAL). Otherwise 0, or -1 with the errors of percpu_pool_create() and
 * percpu_pool_set_add(); after EBUSY classes below the one that was there may have been added.
 */
PERCPU_API int percpu_pool_set_add_classes(struct percpu_pool_set *set,
                                           const struct percpu_pool_attr *attr);

/* The size of the class that holds `size` bytes; 0 if size is 0 or above 2^29. */
PERCPU_API size_t percpu_size_class(size_t size);

/*
 * Allocate at least `size` bytes on every CPU: as percpu_pool_alloc(), _zalloc() and _alloc_init().
 * NULL with errno ENOMEM (also when no pool has items as large) and the others of those.
 * Thread-safe.
 */
PERCPU_API void *percpu_pool_set_alloc(struct percpu_pool_set *set, size_t size);
PERCPU_API void *percpu_pool_set_zalloc(struct percpu_pool_set *set, size_t size);
PERCPU_API void *percpu_pool_set_alloc_init(struct percpu_pool_set *set, const void *init,
                                            size_t size);

/* Give an item of one of the set's pools back, as percpu_pool_free(). NULL is allowed. */
PERCPU_API void percpu_pool_set_free(struct percpu_pool_set *set, void *item);

/* The pool of the set whose item this is; NULL if none is. Thread-safe. */
PERCPU_API struct percpu_pool *percpu_pool_set_find(struct percpu_pool_set *set, const void *item);

/* Pool number `number`, in order of item size; NULL beyond the last. */
PERCPU_API struct percpu_pool *percpu_pool_set_get(struct percpu_pool_set *set, unsigned number);

/*
 * The pools of percpu_pool_set_add_classes() without a set: up to `room` of them go to `pools`, in
 * order of size; returns how many there are, or -1 with errno. Each is destroyed by itself, in any
 * order; the ranges go with the last.
 */
PERCPU_API int percpu_pool_create_classes(const struct percpu_pool_attr *attr,
                                          struct percpu_pool **pools, unsigned room);

/*
 * The pool that `item` was allocated from, found by mask: for items handed out by pools of this
 * `stride` only. Any other address may crash.
 */
PERCPU_API struct percpu_pool *percpu_pool_of(const void *item, size_t stride);

#endif
