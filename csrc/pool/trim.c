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
    char *pages = block->range->base + copy * space->stride + start;
    if (start < end && madvise(pages, end - start, MADV_DONTNEED) != 0)
        memset(pages, 0, end - start); /* memory is locked */
}

/* The units as they were before the block: the next one takes its items for fresh. False where a
 * frozen file keeps what was written. */
static bool scrub(struct block *block)
{
    struct range *range = block->range;
    const struct space *space = range->space;
    if (!percpu_pages_walk(range, drop_pages, block))
        for (unsigned copy = 0; copy < space->copies; copy++)
            drop_pages(block, copy, 0, space->stride);
    if (range->initial == NULL)
        return true;
    if (range->frozen)
        return false;
    memset(range->initial + (block->base - range->base), 0, block->units * space->unit_size);
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

/* With the lock held: give the block's units back. */
static void end_block(struct block *block, bool usable)
{
    percpu_block_withdraw(block);
    unlink_block(block->pool, block);
    percpu_space_end_block(block, usable);
}

/* Whether no item of any pool in the range is handed out, or in a cache. */
static bool idle(const struct range *range)
{
    const struct block *blocks = percpu_range_blocks(range);
    for (size_t unit = 0; unit < range->space->units; unit++) {
        const struct percpu_pool *pool = blocks[unit].pool;
        if (pool != NULL && pool != &percpu_pool_nobody &&
            blocks[unit].free_count < blocks[unit].cut)
            return false;
    }
    return true;
}

/* With the lock held: take the range out, with all its blocks. */
static void end_range(struct range *range)
{
    struct block *blocks = percpu_range_blocks(range);
    for (size_t unit = 0; unit < range->space->units; unit++) {
        struct percpu_pool *pool = blocks[unit].pool;
        if (pool == NULL || pool == &percpu_pool_nobody)
            continue;
        __atomic_store_n(&pool->seen_base, (uintptr_t)0, __ATOMIC_RELAXED);
        end_block(&blocks[unit], true);
    }
    percpu_space_unlink(range->space, range);
}

/* With the lock held: end a block that is free, or its range. Null, or a range to be unmapped. A
 * block in a frozen file stays, as long as the file has to: its items can still be handed out. */
static struct range *collect(struct block *block)
{
    struct range *range = block->range;
    if (idle(range)) {
        end_range(range);
        return range;
    }
    if (!range->frozen && scrub(block))
        end_block(block, true);
    return NULL;
}

size_t percpu_pool_trim(struct percpu_pool *pool)
{
    struct range *unused = NULL;
    size_t bytes = 0;
    percpu_space_lock(pool->space);
    percpu_cache_drain(pool);
    for (struct block *block = pool->blocks, *next; block != NULL; block = next) {
        struct block *other = block->next; /* in another range, so it does not go with this one */
        while (other != NULL && other->range == block->range)
            other = other->next;
        next = block->next;
        struct range *range = block->free_count == block->cut ? collect(block) : NULL;
        if (range == NULL)
            continue;
        range->next = unused;
        unused = range;
        next = other;
    }
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

size_t percpu_pool_drop_frozen(struct percpu_pool *pool)
{
    size_t drained = percpu_cache_drain(pool);
    for (struct range *range = pool->space->ranges, *next; range != NULL; range = next) {
        next = range->next;
        if (!range->frozen || !idle(range))
            continue;
        end_range(range);
        percpu_range_unmap(range);
    }
    return drained;
}

void percpu_pool_leave(struct percpu_pool *pool)
{
    percpu_space_lock(pool->space);
    while (pool->blocks != NULL) {
        struct range *range = pool->blocks->range;
        bool last = range->units_used == pool->blocks->units;
        end_block(pool->blocks, last || scrub(pool->blocks));
        if (!last)
            continue;
        percpu_space_unlink(pool->space, range);
        percpu_range_unmap(range);
    }
    percpu_space_unlock(pool->space);
}
