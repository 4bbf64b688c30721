/* SPDX-License-Identifier: MIT */
/*
 * quick.c - the checks of robust.c for the common case: few copies, small items, nothing wrong.
 *
 * What is looked at is the same, but all that is the same from call to call is worked out once: the
 * reciprocal of the slot's size, the range that the last item was in. Whatever is unusual, first of
 * all a finding, is left as it was to the general way, which then finds it again.
 */
#include "cache.h"

__extension__ typedef unsigned __int128 uint128;

enum { MOST_COPIES = 16, MOST_WORDS = 32 };

void percpu_quick_prepare(struct percpu_pool *pool)
{
    pool->quick = pool->robust && !pool->poisoned && !pool->constructed &&
                  pool->space->units == 1 && pool->space->range_init == NULL &&
                  pool->space->copies <= MOST_COPIES &&
                  pool->slot_size <= MOST_WORDS * sizeof(uint64_t) &&
                  pool->item_size % sizeof(uint64_t) == 0 &&
                  pool->slot_size % sizeof(uint64_t) == 0;
    pool->stride = pool->space->stride;
    pool->copies = pool->space->copies;
    /* Rounded up: exact for offsets below 2^32, and those are below the stride. */
    pool->reciprocal = UINT64_MAX / pool->slot_size + 1;
}

/* The item's place in the list of sites; NULL if it is not certain that this is an item. */
static inline const void **site_of(struct percpu_pool *pool, const void *item)
{
    uintptr_t base = (uintptr_t)item & ~(uintptr_t)(pool->stride - 1);
    uintptr_t offset = (uintptr_t)item - base;
    if (percpu_unlikely(base != __atomic_load_n(&pool->seen_base, __ATOMIC_RELAXED))) {
        const struct block *found = percpu_block_at(pool->space, item);
        if (found == NULL || found->pool != pool) /* of a size class that shares the ranges */
            return NULL;
        __atomic_store_n(&pool->seen_base, base, __ATOMIC_RELAXED);
    }
    size_t index = (size_t)((uint128)offset * pool->reciprocal >> 64);
    const void *range = percpu_range_of(item, pool->stride);
    const struct block *block = (const struct block *)range - 1; /* its only one */
    if (percpu_unlikely(index * pool->slot_size != offset ||
                        index >= __atomic_load_n(&block->cut, __ATOMIC_RELAXED)))
        return NULL;
    return &block->sites[index];
}

/* What an untouched item holds. */
static inline const uint64_t *reference(const struct range *range, const void *item)
{
    static const uint64_t zeros[MOST_WORDS];
    if (range->initial == NULL)
        return zeros;
    return (const uint64_t *)(const void *)(range->initial + ((const char *)item - range->base));
}

void *percpu_quick_alloc(struct percpu_pool *pool, const void *site, uint64_t *entry)
{
    uint64_t bits = 0;
    if (percpu_cs_stack_pop(pool->marked, entry) != PERCPU_COMMITTED) {
        *entry = 0;
        return NULL;
    }
    void *item = entry_item(*entry);
    size_t stride = pool->stride, words = pool->slot_size / sizeof bits;
    const void **place = site_of(pool, item);
    if (percpu_unlikely(place == NULL || __atomic_load_n(place, __ATOMIC_RELAXED) != NULL))
        return NULL;
    const uint64_t *should = reference(percpu_range_of(item, stride), item);
    const char *copy = item;
    for (unsigned left = pool->copies; left > 0; left--, copy += stride)
        for (size_t word = 0; word < words; word++)
            bits |= ((const uint64_t *)(const void *)copy)[word] ^ should[word];
    if (percpu_unlikely(bits != 0))
        return NULL;
    __atomic_store_n(place, site, __ATOMIC_RELAXED);
    return item;
}

/* The words of the item may be as its user left them; those behind may not. */
static inline bool restore(const struct percpu_pool *pool, void *item, const uint64_t *should)
{
    size_t words = pool->slot_size / sizeof *should, own = pool->item_size / sizeof *should;
    uint64_t bits = 0;
    char *copy = item;
    for (unsigned left = pool->copies; left > 0; left--, copy += pool->stride) {
        uint64_t *words_of_copy = (uint64_t *)(void *)copy;
        size_t word = 0;
        for (; word < own; word++)
            if (words_of_copy[word] != should[word])
                words_of_copy[word] = should[word];
        for (; word < words; word++)
            bits |= words_of_copy[word] ^ should[word];
    }
    return bits == 0;
}

bool percpu_quick_free(struct percpu_pool *pool, void *item)
{
    const void **place = site_of(pool, item), *site;
    if (place == NULL ||
        (site = __atomic_exchange_n(place, (const void *)NULL, __ATOMIC_RELAXED)) == NULL)
        return false;
    if (percpu_unlikely(
            !restore(pool, item, reference(percpu_range_of(item, pool->stride), item)))) {
        __atomic_store_n(place, site, __ATOMIC_RELAXED);
        return false;
    }
    uint64_t entry = (uintptr_t)item | CLEAN;
    if (percpu_cs_stack_push(pool->marked, entry, pool->cache_items) != PERCPU_COMMITTED)
        percpu_cache_put(pool, entry);
    return true;
}
