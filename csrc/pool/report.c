/* SPDX-License-Identifier: MIT */
/* report.c - what a pool holds, in numbers, and the walker that tests every invariant. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "internal.h"

static uint64_t cached_on(const struct percpu_pool *pool, unsigned cpu)
{
    const struct cache *cache = percpu_ptr_cpu(pool->caches, cpu);
    return __atomic_load_n(&cache->count, __ATOMIC_RELAXED);
}

void percpu_pool_stats(struct percpu_pool *pool, struct percpu_pool_stats *stats)
{
    size_t length = pool->header_size + pool->cpus * pool->stride;
    *stats = (struct percpu_pool_stats){0};
    pthread_mutex_lock(&pool->lock);
    for (struct range *range = pool->ranges; range != NULL; range = range->next) {
        stats->free += range->free_count + (pool->capacity - range->cut);
        stats->resident_bytes += percpu_resident((const char *)range, length);
    }
    for (unsigned cpu = 0; cpu < pool->cpus; cpu++)
        stats->cached += cached_on(pool, cpu);
    stats->ranges = pool->range_count;
    /* Beside other threads the caches change while they are counted. */
    size_t known = stats->free + stats->cached, all = pool->range_count * pool->capacity;
    stats->live = all > known ? all - known : 0;
    stats->virtual_bytes = pool->range_count * length + pool->caches_length;
    stats->resident_bytes += percpu_resident(pool->caches.base, pool->caches_length);
    stats->refills = pool->refills;
    stats->overflows = pool->overflows;
    pthread_mutex_unlock(&pool->lock);
}

size_t percpu_pool_resident(struct percpu_pool *pool, unsigned cpu)
{
    size_t bytes = 0;
    pthread_mutex_lock(&pool->lock);
    for (struct range *range = pool->ranges; range != NULL; range = range->next)
        bytes += percpu_resident(range->base + cpu * pool->stride, pool->stride);
    pthread_mutex_unlock(&pool->lock);
    return bytes;
}

/* Mark one free item; false if it was marked before or is no item. */
static bool mark(const struct percpu_pool *pool, unsigned char *seen, uint64_t entry)
{
    uintptr_t item = entry & ~FRESH;
    if (!percpu_pool_owns(pool, (const void *)item))
        return false;
    const struct range *range = percpu_range_of(pool, item);
    size_t index = (item - (uintptr_t)range->base) / pool->slot_size;
    if (index >= range->cut)
        return false;
    size_t number = range->number * pool->capacity + index;
    bool new = !(seen[number / 8] >> (number % 8) & 1);
    seen[number / 8] |= (unsigned char)(1 << (number % 8));
    return new;
}

static const char *check_range(const struct percpu_pool *pool, const struct range *range,
                               unsigned char *seen)
{
    if (range->magic != RANGE_MAGIC || range->pool != pool)
        return "a range's header is damaged";
    if (((uintptr_t)range->base & (pool->stride - 1)) != 0 ||
        (const char *)range != range->base - pool->header_size)
        return "a range is not aligned to the stride";
    if (range->cut > pool->capacity)
        return "a range has handed out more items than it holds";
    if (range->free_count > range->cut)
        return "a range has more free items than it handed out";
    if (!range->available && (range->free_count > 0 || range->cut < pool->capacity))
        return "a range with free items is not in the list of those";
    if (range->number >= pool->range_count)
        return "a range's number is not below the count of ranges";
    for (uint32_t i = 0; i < range->free_count; i++) {
        uint32_t index = range->free_items[i] & ~FRESH_INDEX;
        if (index >= pool->capacity || !mark(pool, seen, (uintptr_t)range_item(pool, range, index)))
            return "an item is free twice in the ranges, or was never handed out";
    }
    return NULL;
}

static const char *check_cache(const struct percpu_pool *pool, unsigned cpu, unsigned char *seen)
{
    const struct cache *cache = percpu_ptr_cpu(pool->caches, cpu);
    if (cache->count > CACHE_CAPACITY)
        return "a CPU's cache holds more items than it has room for";
    for (uint64_t i = 0; i < cache->count; i++)
        if (!mark(pool, seen, cache->entries[i]))
            return "a CPU's cache holds an item that is free elsewhere, or no item";
    return NULL;
}

const char *percpu_pool_check(struct percpu_pool *pool)
{
    const char *broken = NULL;
    size_t ranges = 0;
    pthread_mutex_lock(&pool->lock);
    unsigned char *seen = calloc(pool->range_count * pool->capacity / 8 + 1, 1);
    if (seen == NULL)
        broken = "there is no memory to check the pool";
    for (struct range *range = pool->ranges; range != NULL && broken == NULL; range = range->next) {
        ranges++;
        broken = percpu_pool_owns(pool, range->base) ? check_range(pool, range, seen)
                                                     : "a range is not in the table of ranges";
    }
    if (broken == NULL && ranges != pool->range_count)
        broken = "the list and the count of ranges differ";
    for (unsigned cpu = 0; cpu < pool->cpus && broken == NULL; cpu++)
        broken = check_cache(pool, cpu, seen);
    free(seen);
    pthread_mutex_unlock(&pool->lock);
    return broken;
}
