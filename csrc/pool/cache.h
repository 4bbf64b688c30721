/* SPDX-License-Identifier: MIT */
/* cache.h - what alloc.c calls of cache.c. None is called with the lock held. */
#ifndef PERCPU_POOL_CACHE_H
#define PERCPU_POOL_CACHE_H

#include "internal.h"

enum percpu_want { WANT_ANY, WANT_CLEAN };

/* An entry that is this thread's now, clean if wanted (but fresh ones of a pool with range_init);
 * 0 with errno. `image` is what it is wanted for, or NULL. */
uint64_t percpu_cache_take(struct percpu_pool *pool, enum percpu_want want,
                           const struct image *image);

/* Prepare the fresh items that follow with these bytes. Returns whether they were wanted last time
 * too. */
bool percpu_cache_learn(struct percpu_pool *pool, struct image image);

/* Make an entry hold other bytes than a file has for it, and this CPU's other clean entries with
 * it, since it costs hardly more. Returns the entry, which is not clean if its range was frozen. */
uint64_t percpu_cache_convert(struct percpu_pool *pool, uint64_t entry, struct image image);

/* Instead of an entry of a frozen range one that holds `image` or can be made to, if there is one;
 * 0 with errno. */
uint64_t percpu_cache_trade(struct percpu_pool *pool, uint64_t frozen, struct image image);

void percpu_cache_put(struct percpu_pool *pool, uint64_t entry);

#endif
