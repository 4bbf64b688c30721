/* SPDX-License-Identifier: MIT */
/* stats.c - what a pool holds, in numbers. */
#include "internal.h"
#include <percpu/topology.h>

static size_t stack_count(percpu_ptr stack, unsigned cpu)
{
    return __atomic_load_n((uint64_t *)percpu_ptr_cpu(stack, cpu), __ATOMIC_RELAXED);
}

static uint64_t counted(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void count_items(const struct percpu_pool *pool, struct percpu_pool_stats *stats)
{
    for (const struct block *block = pool->blocks; block != NULL; block = block->next)
        stats->free += block->free_count + (pool->block_items - block->cut);
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        stats->cached += stack_count(pool->recycled, cpu) + stack_count(pool->marked, cpu);
    /* Beside other threads the caches change while they are counted. */
    size_t known = stats->free + stats->cached, all = pool->block_count * pool->block_items;
    stats->live = all > known ? all - known : 0;
}

static void count_bytes(const struct percpu_pool *pool, struct percpu_pool_stats *stats)
{
    const struct space *space = pool->space;
    size_t length = percpu_range_length(space), caches = percpu_nr_cpus() * pool->recycled.stride;
    size_t copies = percpu_copies_length(space);
    for (const struct range *range = space->ranges; range != NULL; range = range->next) {
        const char *header = range->base - space->header_size;
        stats->resident_bytes += percpu_resident(header, space->header_size, false) +
                                 percpu_resident(range->base, copies, space->initial);
        if (space->initial)
            stats->resident_bytes += percpu_resident(range->initial, space->stride, false);
    }
    stats->virtual_bytes = space->range_count * length + caches;
    stats->resident_bytes += percpu_resident(pool->recycled.base, caches, false);
}

void percpu_pool_stats(struct percpu_pool *pool, struct percpu_pool_stats *stats)
{
    *stats = (struct percpu_pool_stats){
        .refills = counted(&pool->refills),
        .overflows = counted(&pool->overflows),
        .restores = counted(&pool->restores),
        .aborts = counted(&pool->aborts),
    };
    percpu_space_lock(pool->space);
    stats->ranges = pool->space->range_count;
    count_items(pool, stats);
    count_bytes(pool, stats);
    percpu_space_unlock(pool->space);
}

size_t percpu_pool_resident(struct percpu_pool *pool, unsigned cpu)
{
    const struct space *space = pool->space;
    size_t bytes = 0;
    percpu_space_lock(pool->space);
    for (const struct range *range = space->ranges; range != NULL; range = range->next)
        bytes += percpu_resident(range->base + cpu * space->stride, space->stride, space->initial);
    percpu_space_unlock(pool->space);
    return bytes;
}

size_t percpu_pool_pages(struct percpu_pool *pool, size_t number, unsigned cpu, unsigned char *own,
                         size_t pages)
{
    struct space *space = pool->space;
    size_t result = 0;
    percpu_space_lock(space);
    const struct range *range = number < space->range_count ? space->ranges : NULL;
    for (size_t newer = space->range_count - number; range != NULL && newer > 1; newer--)
        range = range->next; /* the list is newest first */
    bool initial = space->initial && cpu == space->copies;
    if (range != NULL && (cpu < space->copies || initial))
        result = percpu_resident_pages(range->base + cpu * space->stride, space->stride,
                                       space->initial && !initial, own, pages);
    percpu_space_unlock(space);
    return result;
}
