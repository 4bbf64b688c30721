/* SPDX-License-Identifier: MIT */
/* cache.h - what alloc.c calls of cache.c. None is called with the lock held. */
#ifndef PERCPU_POOL_CACHE_H
#define PERCPU_POOL_CACHE_H

#include "internal.h"

enum percpu_want { WANT_ANY, WANT_CLEAN };

/* An entry that is this thread's now, clean if wanted (but fresh ones of a pool with range_init);
 * 0 with errno. */
uint64_t percpu_cache_take(struct percpu_pool *pool, enum percpu_want want);

/* Instead of an entry of a frozen range one of another range; the same if there is none. */
uint64_t percpu_cache_trade(struct percpu_pool *pool, uint64_t frozen);

void percpu_cache_put(struct percpu_pool *pool, uint64_t entry);

#endif
