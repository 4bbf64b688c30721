/* SPDX-License-Identifier: MIT */
/* trim.c - giving memory back. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

void percpu_block_destruct(struct percpu_pool *pool, const struct block *block)
{
    for (uint32_t i = 0; pool->dtor != NULL && i < block->free_count; i++)
        if (!(block->free_items[i] & FRESH_INDEX))
            pool->dtor(pool->priv,
                       block->base + (block->free_items[i] & ~INDEX_MARKS) * pool->slot_size);
}

/* Drop the pages that a copy has of its own in the units of a block. */
static void drop_pages(void *context, unsigned copy, size_t start, size_t end)
{
    const struct block *block = context;
    const struct space *space = block->range->space;
    size_t first = (size_t)(block->base - block->range->base);
    size_t last = first + block->units * space->unit_size;
    start = start > first ? start : first;
    end = end < last ? end : last;
    if (start < end)
        madvise(block->range->base + copy * space->stride + start, end - start, MADV_DONTNEED);
}

/* The units as they were before the block: the next one takes its items for fresh. False where a
 * file keeps what was written. */
static bool scrub(struct block *block)
{
    struct range *range = block->range;
    const struct space *space = range->space;
    if (range->initial != NULL) {
        if (range->frozen)
            return false;
        memset(range->initial + (block->base - range->base), 0, block->units * space->unit_size);
    }
    if (!percpu_pages_walk(range, drop_pages, block))
        for (unsigned copy = 0; copy < space->copies; copy++)
            drop_pages(block, copy, 0, space->stride);
    return true;
}

static void unlink_block(struct percpu_pool *pool, struct block *block)
{
    if (block->previous != NULL)
        block->previous->next = block->next;
    else
        pool->blocks = block->next;
    if (block->next != NULL)
        block->next->previous = block->previous;
    pool->block_count--;
}

/* With the lock held: take the block out, and the range if that was its last one. Returns the range
 * then, to be unmapped. */
static struct range *end_block(struct percpu_pool *pool, struct block *block)
{
    struct range *range = block->range;
    bool last = range->units_used == block->units;
    if (!last && !scrub(block))
        return NULL;
    unlink_block(pool, block);
    percpu_space_end_block(block);
    if (!last)
        return NULL;
    percpu_space_unlink(pool->space, range);
    __atomic_store_n(&pool->seen_base, (uintptr_t)0, __ATOMIC_RELAXED);
    return range;
}

size_t percpu_pool_trim(struct percpu_pool *pool)
{
    struct range *unused = NULL;
    size_t bytes = 0;
    percpu_space_lock(pool->space);
    percpu_cache_drain(pool);
    for (struct block *block = pool->blocks, *next; block != NULL; block = next) {
        next = block->next;
        struct range *range = block->free_count == block->cut ? end_block(pool, block) : NULL;
        if (range == NULL)
            continue;
        range->next = unused;
        unused = range;
    }
    percpu_block_relist(pool);
    percpu_space_unlock(pool->space);
    for (struct range *next; unused != NULL; unused = next) {
        next = unused->next;
        if (pool->dtor != NULL) /* such a pool has its ranges alone: one block in each */
            percpu_block_destruct(pool, percpu_block_of(pool->space, unused->base));
        bytes += percpu_range_length(pool->space);
        percpu_range_unmap(unused);
    }
    return bytes;
}

/* Of a pool that ends before others in its space: where a file keeps what was written, nobody gets
 * the units again. */
void percpu_pool_leave(struct percpu_pool *pool)
{
    static struct percpu_pool nobody;
    percpu_space_lock(pool->space);
    for (struct block *block = pool->blocks, *next; block != NULL; block = next) {
        next = block->next;
        struct range *range = end_block(pool, block);
        if (range != NULL)
            percpu_range_unmap(range);
        else if (block->pool == pool)
            __atomic_store_n(&block->pool, &nobody, __ATOMIC_RELEASE);
    }
    percpu_space_unlock(pool->space);
}
