/* SPDX-License-Identifier: MIT */
/*
 * cache.c - alloc and free.
 *
 * The fast path is one section on this CPU's cache: a pop, or a push. An empty cache is refilled
 * with CACHE_BATCH entries, a full one gives CACHE_BATCH back, under the pool's lock; meanwhile the
 * thread may change CPU, so each entry goes through a section too. When the ranges have nothing
 * left and may not grow, the caches of all CPUs are drained before an allocation fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "internal.h"
#include <percpu/sections.h>

/* Give entries that found no room in a cache back to the ranges. */
static void put_all(struct percpu_pool *pool, const uint64_t *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        percpu_range_put(pool, entries[i]);
}

size_t percpu_cache_drain(struct percpu_pool *pool)
{
    uint64_t entries[CACHE_CAPACITY];
    size_t drained = 0;
    for (unsigned cpu = 0; cpu < pool->cpus; cpu++) {
        struct cache *cache = percpu_ptr_cpu(pool->caches, cpu);
        if (__atomic_load_n(&cache->count, __ATOMIC_RELAXED) == 0)
            continue; /* the gate costs microseconds */
        uint64_t count = percpu_stack_take_all_of(pool->caches, cpu, entries);
        put_all(pool, entries, count);
        drained += count;
    }
    return drained;
}

void percpu_pool_drain(struct percpu_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    percpu_cache_drain(pool);
    pthread_mutex_unlock(&pool->lock);
}

/* Some entries, out of the ranges, a new range, or other CPUs' caches. 0 if there is nothing. */
static size_t find_entries(struct percpu_pool *pool, uint64_t *entries)
{
    size_t count = percpu_range_take(pool, entries, CACHE_BATCH);
    if (count == 0 && percpu_range_add(pool) == 0)
        count = percpu_range_take(pool, entries, CACHE_BATCH);
    if (count == 0 && percpu_cache_drain(pool) > 0)
        count = percpu_range_take(pool, entries, CACHE_BATCH);
    return count;
}

/* An entry when the one attempt at a pop did not give one: pop again, or refill the cache and
 * return one of what came. 0 with errno ENOMEM. */
static uint64_t PERCPU_COLD take_slowly(struct percpu_pool *pool)
{
    uint64_t entries[CACHE_BATCH], entry;
    if (percpu_stack_pop(pool->caches, &entry))
        return entry;
    pthread_mutex_lock(&pool->lock);
    size_t count = find_entries(pool, entries);
    pool->refills += count > 0;
    /* Last first, so that the next allocations get ascending addresses. */
    while (count > 1 && percpu_stack_push(pool->caches, entries[count - 1], CACHE_CAPACITY))
        count--;
    if (count > 1)
        put_all(pool, entries + 1, count - 1);
    pthread_mutex_unlock(&pool->lock);
    if (count == 0) {
        errno = ENOMEM;
        return 0;
    }
    return entries[0];
}

/* The same for a push: push again, or make room first. */
static void PERCPU_COLD put_slowly(struct percpu_pool *pool, uint64_t entry)
{
    if (percpu_stack_push(pool->caches, entry, CACHE_CAPACITY))
        return;
    pthread_mutex_lock(&pool->lock);
    pool->overflows++;
    for (int moved = 0; moved < CACHE_BATCH; moved++) {
        uint64_t other;
        if (!percpu_stack_pop(pool->caches, &other))
            break;
        percpu_range_put(pool, other);
    }
    if (!percpu_stack_push(pool->caches, entry, CACHE_CAPACITY))
        percpu_range_put(pool, entry); /* a full cache again: we changed CPU */
    pthread_mutex_unlock(&pool->lock);
}

PERCPU_INLINE uint64_t take_entry(struct percpu_pool *pool)
{
    uint64_t entry;
    if (percpu_likely(percpu_cs_stack_pop(pool->caches, &entry) == PERCPU_COMMITTED))
        return entry;
    return take_slowly(pool);
}

static void *entry_item(uint64_t entry)
{
    return (void *)(uintptr_t)(entry & ~FRESH);
}

/* Make a copy `size` bytes of `init` and then zeros. Where it is so already, nothing is written:
 * a store would give memory to a CPU that never wrote. */
static void restore_copy(char *copy, const void *init, size_t size, size_t item_size)
{
    if (size > 0 && memcmp(copy, init, size) != 0)
        memcpy(copy, init, size);
    size_t at = size;
    while (at < item_size && copy[at] == 0) {
        uint64_t word;
        while (at + sizeof word <= item_size && (memcpy(&word, copy + at, sizeof word), word == 0))
            at += sizeof word;
        if (at < item_size && copy[at] == 0)
            at++;
    }
    if (at < item_size)
        memset(copy + at, 0, item_size - at);
}

static void restore(const struct percpu_pool *pool, void *item, const void *init, size_t size)
{
    for (unsigned cpu = 0; cpu < pool->cpus; cpu++)
        restore_copy((char *)item + cpu * pool->stride, init, size, pool->item_size);
}

/* A function of its own, so that it is a tail call and alloc needs no stack frame. */
static void *PERCPU_COLD alloc_slowly(struct percpu_pool *pool)
{
    return entry_item(take_slowly(pool));
}

void *percpu_pool_alloc(struct percpu_pool *pool)
{
    uint64_t entry;
    if (percpu_likely(percpu_cs_stack_pop(pool->caches, &entry) == PERCPU_COMMITTED))
        return entry_item(entry);
    return alloc_slowly(pool);
}

void *percpu_pool_zalloc(struct percpu_pool *pool)
{
    uint64_t entry = take_entry(pool);
    void *item = entry_item(entry);
    if (item != NULL && !(entry & FRESH))
        restore(pool, item, NULL, 0);
    return item;
}

void *percpu_pool_alloc_init(struct percpu_pool *pool, const void *init, size_t size)
{
    if (size > pool->item_size) {
        errno = EINVAL;
        return NULL;
    }
    void *item = entry_item(take_entry(pool));
    if (item != NULL)
        restore(pool, item, init, size);
    return item;
}

void percpu_pool_free(struct percpu_pool *pool, void *item)
{
    if (percpu_unlikely(item == NULL))
        return;
    uint64_t entry = (uintptr_t)item;
    if (percpu_unlikely(percpu_cs_stack_push(pool->caches, entry, CACHE_CAPACITY) !=
                        PERCPU_COMMITTED))
        put_slowly(pool, entry);
}
