/* SPDX-License-Identifier: MIT */
/* check.c - the walker that tests everything. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* The first thing found ends the walk. */
static bool broken(struct percpu_report *report, const struct percpu_pool *pool, const void *item,
                   const char *detail)
{
    *report = (struct percpu_report){
        .finding = PERCPU_BAD_FREE_LIST,
        .pool = pool,
        .item = item,
        .cpu = -1,
        .detail = detail,
    };
    return false;
}

static bool check_header(const struct percpu_pool *pool, const struct block *block,
                         struct percpu_report *report)
{
    const struct space *space = pool->space;
    const struct range *range = block->range;
    if (range->magic != RANGE_MAGIC || range->space != space || block->pool != pool)
        return broken(report, pool, range, "a range's header is damaged");
    if (((uintptr_t)range->base & (space->stride - 1)) != 0 ||
        percpu_block_at(space, block->base) != block)
        return broken(report, pool, range, "a range is not where the table says");
    if (block->cut > pool->block_items)
        return broken(report, pool, block->base, "more items were handed out than there are");
    if (block->free_count > block->cut)
        return broken(report, pool, block->base, "more items are free than were handed out");
    if (!block->available && (block->free_count > 0 || block->cut < pool->block_items))
        return broken(report, pool, block->base, "a block with free items is in no list of those");
    return true;
}

static bool check_free(struct percpu_pool *pool, const struct block *block, unsigned char *seen,
                       struct percpu_report *report)
{
    for (uint32_t i = 0; i < block->free_count; i++) {
        uint32_t index = block->free_items[i] & ~INDEX_MARKS;
        if (index >= block->cut)
            return broken(report, pool, block->base, "a free item was never handed out");
        void *item = block_item(block, index);
        if (seen[index / 8] >> index % 8 & 1)
            return broken(report, pool, item, "an item is free twice");
        seen[index / 8] |= (unsigned char)(1 << index % 8);
        if (!pool->robust)
            continue;
        if (block->sites[index] != NULL)
            return broken(report, pool, item, "an item is free and handed out");
        uint64_t entry = (uintptr_t)item;
        entry |= block->free_items[i] & FRESH_INDEX ? FRESH : 0;
        entry |= block->free_items[i] & CLEAN_INDEX ? CLEAN : 0;
        if (!percpu_robust_free_item(pool, entry, report))
            return false;
    }
    return true;
}

static bool check_live(struct percpu_pool *pool, const struct block *block,
                       struct percpu_report *report)
{
    for (uint32_t i = 0; pool->robust && i < block->cut; i++) {
        const void *site = __atomic_load_n(&block->sites[i], __ATOMIC_RELAXED);
        if (site == NULL || percpu_robust_live_item(pool, block_item(block, i), report))
            continue;
        report->site = site;
        return false;
    }
    return true;
}

static bool check_blocks(struct percpu_pool *pool, unsigned char *seen,
                         struct percpu_report *report)
{
    size_t blocks = 0, ranges = 0;
    for (struct range *range = pool->space->ranges; range != NULL; range = range->next)
        ranges++;
    if (ranges != pool->space->range_count)
        return broken(report, pool, NULL, "the list and the count of ranges differ");
    for (const struct block *block = pool->blocks; block != NULL; block = block->next) {
        blocks++;
        memset(seen, 0, pool->block_items / 8 + 1);
        if (!check_header(pool, block, report) || !check_free(pool, block, seen, report) ||
            !check_live(pool, block, report))
            return false;
    }
    return blocks == pool->block_count ||
           broken(report, pool, NULL, "the list and the count of blocks differ");
}

int percpu_pool_check(struct percpu_pool *pool, struct percpu_report *report)
{
    unsigned char *seen = malloc(pool->block_items / 8 + 1);
    *report = (struct percpu_report){.pool = pool, .cpu = -1, .detail = ""};
    if (seen == NULL) {
        errno = ENOMEM;
        return -1;
    }
    percpu_space_lock(pool->space);
    percpu_report_catch(report);
    percpu_cache_drain(pool);
    percpu_report_catch(NULL);
    bool whole = report->finding == PERCPU_NO_FINDING && check_blocks(pool, seen, report);
    percpu_space_unlock(pool->space);
    free(seen);
    return whole ? 0 : -1;
}
