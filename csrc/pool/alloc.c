/* SPDX-License-Identifier: MIT */
/* alloc.c - alloc and free, when the one section of pool.h was not enough. */
#include <errno.h>
#include <string.h>

#include "cache.h"

/* The retry succeeded where the inlined section did not: it was aborted, or turned away. */
static void count_abort(struct percpu_pool *pool)
{
    if (percpu_rseq_info()->mode != PERCPU_MODE_NONE)
        __atomic_fetch_add(&pool->aborts, 1, __ATOMIC_RELAXED);
}

/* The items that follow are prepared with what is asked for now. */
static void learn(struct percpu_pool *pool, struct image image)
{
    percpu_space_lock(pool->space);
    if (image.size > 0)
        memcpy((void *)(uintptr_t)pool->prepared.bytes, image.bytes, image.size);
    pool->prepared.size = image.size;
    percpu_space_unlock(pool->space);
}

static bool is_right(const struct percpu_pool *pool, uint64_t entry, struct image image)
{
    return entry & CLEAN && percpu_copies_refer(pool, entry_item(entry), image);
}

/* Make the item hold `image`. The entry returned may be another one. */
static uint64_t fill(struct percpu_pool *pool, uint64_t entry, struct image image)
{
    const struct space *space = pool->space;
    if (is_right(pool, entry, image))
        return entry;
    bool other = space->initial && !percpu_copies_refer(pool, entry_item(entry), image);
    if (other)
        learn(pool, image);
    if (other && !pool->robust && !pool->constructed &&
        __atomic_load_n(&percpu_range_of(entry_item(entry), space->stride)->frozen,
                        __ATOMIC_RELAXED)) {
        entry = percpu_cache_trade(pool, entry);
        if (is_right(pool, entry, image))
            return entry;
    }
    percpu_copies_set(pool, entry, image);
    return entry;
}

/* 0; or -1 with errno of ctor, and the item is as if it had never been taken. */
static int construct(struct percpu_pool *pool, uint64_t entry)
{
    fill(pool, entry, pool->initial);
    if (pool->ctor == NULL || pool->ctor(pool->priv, entry_item(entry)) == 0)
        return 0;
    int error = errno;
    if (pool->robust)
        percpu_robust_withdraw(pool, entry_item(entry));
    percpu_cache_put(pool, (entry & ~MARKS) | FRESH);
    errno = error;
    return -1;
}

/* `image` is NULL for an item with whatever is in it. */
static void *hand_out(struct percpu_pool *pool, const struct image *image, const void *site)
{
    enum percpu_want want = image != NULL && !pool->constructed && !pool->poisoned ? WANT_CLEAN
                                                                                   : WANT_ANY;
    uint64_t entry;
    do {
        entry = percpu_cache_take(pool, want);
        if (entry == 0)
            return NULL;
    } while (pool->robust && !percpu_robust_alloc(pool, entry, site));
    if (pool->constructed)
        return entry & FRESH && construct(pool, entry) != 0 ? NULL : entry_item(entry);
    if (image != NULL)
        entry = fill(pool, entry, *image);
    return entry_item(entry);
}

void *percpu_pool_alloc_slowly(struct percpu_pool *pool)
{
    uint64_t entry;
    if (pool->head.capacity > 0 && percpu_stack_pop(pool->recycled, &entry)) {
        count_abort(pool);
        return entry_item(entry);
    }
    return hand_out(pool, NULL, __builtin_return_address(0));
}

void *percpu_pool_alloc_initial(struct percpu_pool *pool)
{
    return hand_out(pool, &pool->initial, __builtin_return_address(0));
}

void *percpu_pool_zalloc(struct percpu_pool *pool)
{
    return hand_out(pool, &(struct image){NULL, 0}, __builtin_return_address(0));
}

void *percpu_pool_alloc_init(struct percpu_pool *pool, const void *init, size_t size)
{
    if (size > pool->item_size) {
        errno = EINVAL;
        return NULL;
    }
    return hand_out(pool, &(struct image){init, size}, __builtin_return_address(0));
}

/* What becomes of the copies of an item that is freed. Returns the entry. */
static uint64_t wipe(struct percpu_pool *pool, void *item)
{
    uint64_t entry = (uintptr_t)item;
    if (pool->poisoned) {
        percpu_copies_set(pool, entry, pool->poison);
        return entry;
    }
    if (pool->constructed)
        return entry;
    percpu_copies_restore(pool, &entry, 1);
    return entry | CLEAN;
}

void percpu_pool_free_slowly(struct percpu_pool *pool, void *item)
{
    uint64_t entry = (uintptr_t)item;
    if (pool->head.capacity > 0) {
        if (percpu_stack_push(pool->recycled, entry, pool->cache_items))
            count_abort(pool);
        else
            percpu_cache_put(pool, entry);
        return;
    }
    if (!pool->robust || percpu_robust_free(pool, item))
        percpu_cache_put(pool, wipe(pool, item));
}
