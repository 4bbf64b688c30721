/* SPDX-License-Identifier: MIT */
/* alloc.c - alloc and free, when the one section of pool.h was not enough. */
#include <errno.h>

#include "cache.h"

/* The retry succeeded where the inlined section did not: it was aborted, or turned away. */
static void count_abort(struct percpu_pool *pool)
{
    if (percpu_rseq_info()->mode != PERCPU_MODE_NONE)
        __atomic_fetch_add(&pool->aborts, 1, __ATOMIC_RELAXED);
}

static bool is_right(const struct percpu_pool *pool, uint64_t entry, struct image image)
{
    return entry & CLEAN && percpu_copies_refer(pool, entry_item(entry), image);
}

/* Other bytes than the file has for the item. */
static uint64_t fill_from_file(struct percpu_pool *pool, uint64_t entry, struct image image)
{
    const struct range *range = percpu_range_of(entry_item(entry), pool->space->stride);
    if (__atomic_load_n(&range->frozen, __ATOMIC_RELAXED)) {
        entry = percpu_cache_trade(pool, entry, image);
        if (entry == 0 || is_right(pool, entry, image))
            return entry;
    }
    return percpu_cache_learn(pool, image) ? percpu_cache_convert(pool, entry, image) : entry;
}

/* Make the item hold `image`. The entry returned may be another one; or 0 with errno. */
static uint64_t fill(struct percpu_pool *pool, uint64_t entry, struct image image)
{
    if (is_right(pool, entry, image))
        return entry;
    if (pool->space->initial && !pool->robust && !pool->constructed &&
        !percpu_copies_refer(pool, entry_item(entry), image)) {
        entry = fill_from_file(pool, entry, image);
        if (entry == 0 || is_right(pool, entry, image))
            return entry;
    }
    percpu_copies_set(pool, entry, image);
    return entry;
}

/* 0; or -1 with errno of ctor, and the item is as if it had never been taken. */
static int construct(struct percpu_pool *pool, uint64_t entry)
{
    if (pool->space->range_init == NULL || pool->initial.size > 0) /* else what that wrote stays */
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

/* `image` is NULL for an item with whatever is in it. `entry` is 0, or one taken already. */
static void *hand_out(struct percpu_pool *pool, uint64_t entry, const struct image *image,
                      const void *site)
{
    enum percpu_want want = image != NULL && !pool->constructed && !pool->poisoned ? WANT_CLEAN
                                                                                   : WANT_ANY;
    do {
        if (entry == 0 && (entry = percpu_cache_take(pool, want, image)) == 0)
            return NULL;
    } while (pool->robust && !percpu_robust_alloc(pool, entry, site) && (entry = 0, true));
    if (pool->constructed) {
        if (entry & FRESH && construct(pool, entry) != 0)
            return NULL;
        entry &= ~MARKS;
        if (image == &pool->initial)
            image = NULL;
    }
    if (image != NULL)
        entry = fill(pool, entry, *image);
    return entry_item(entry);
}

void *percpu_pool_alloc_slowly(struct percpu_pool *pool)
{
    uint64_t entry = 0, popped;
    if (pool->quick) {
        void *item = percpu_quick_alloc(pool, __builtin_return_address(0), &entry);
        if (percpu_likely(item != NULL))
            return item;
    } else if (pool->head.capacity > 0 && percpu_stack_pop(pool->recycled, &popped)) {
        count_abort(pool);
        return entry_item(popped);
    }
    return hand_out(pool, entry, NULL, __builtin_return_address(0));
}

void *percpu_pool_alloc_initial(struct percpu_pool *pool)
{
    return hand_out(pool, 0, &pool->initial, __builtin_return_address(0));
}

void *percpu_pool_zalloc(struct percpu_pool *pool)
{
    return hand_out(pool, 0, &(struct image){NULL, 0}, __builtin_return_address(0));
}

void *percpu_pool_alloc_init(struct percpu_pool *pool, const void *init, size_t size)
{
    if (size > pool->item_size) {
        errno = EINVAL;
        return NULL;
    }
    return hand_out(pool, 0, &(struct image){init, size}, __builtin_return_address(0));
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
    if (pool->quick && percpu_quick_free(pool, item))
        return;
    if (!pool->robust || percpu_robust_free(pool, item))
        percpu_cache_put(pool, wipe(pool, item));
}
