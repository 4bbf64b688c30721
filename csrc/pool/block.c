/* SPDX-License-Identifier: MIT */
/* block.c - the items of one pool in one range: handing out, taking back. */
#include "internal.h"

#include <string.h>
#include <unistd.h>

/* At most so much of a file is prepared at once. */
#define PREPARE_AT_ONCE ((size_t)256 << 10)

/* How far the search for an item with the right bytes in a frozen file goes. */
enum { LOOKS_AT_BLOCKS = 16, LOOKS_IN_BLOCK = 512 };

static void make_available(struct percpu_pool *pool, struct block *block)
{
    if (block->available)
        return;
    block->available = true;
    block->previous_available = NULL;
    block->next_available = pool->available;
    if (pool->available != NULL)
        pool->available->previous_available = block;
    pool->available = block;
}

void percpu_block_withdraw(struct block *block)
{
    if (!block->available)
        return;
    if (block->previous_available != NULL)
        block->previous_available->next_available = block->next_available;
    else
        block->pool->available = block->next_available;
    if (block->next_available != NULL)
        block->next_available->previous_available = block->previous_available;
    block->available = false;
}

/* A part of the file from `start` to `end`, and the range. */
struct part {
    const struct range *range;
    size_t start, end;
};

static void copy_from_file(void *context, unsigned copy, size_t start, size_t end)
{
    const struct part *part = context;
    const struct range *range = part->range;
    start = start > part->start ? start : part->start;
    end = end < part->end ? end : part->end;
    char *copied = range->base + copy * range->space->stride + start;
    if (start < end && memcmp(copied, range->initial + start, end - start) != 0)
        memcpy(copied, range->initial + start, end - start);
}

/*
 * Before fresh item `index` is handed out, nobody has written the pages that lie at or above
 * `prepared`, so what is stored in the file now is what every CPU will see. The items that start
 * below the new end get the bytes that were last asked for. Only where memory is locked (mlockall)
 * have CPUs pages of their own by now: those are brought up to date.
 */
static void prepare(struct block *block, size_t index)
{
    const struct percpu_pool *pool = block->pool;
    struct range *range = block->range;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), slot = pool->slot_size;
    size_t items_end = pool->block_items * slot, end = (index + 1) * slot;
    if (range->initial == NULL || range->space->range_init != NULL || end <= block->prepared)
        return;
    size_t from = (block->prepared + slot - 1) / slot, at = from * slot;
    size_t ahead = pool->prepared.size > 0 ? PREPARE_AT_ONCE : 0;
    block->prepared = (end + ahead + page - 1) / page * page;
    if (range->frozen || pool->prepared.size == 0)
        return;
    size_t first = (size_t)(block->base - range->base);
    struct part part = {range, first + at, first + items_end};
    for (; at < block->prepared && at < items_end; at += slot)
        memcpy(range->initial + first + at, pool->prepared.bytes, pool->prepared.size);
    if (!percpu_pages_walk(range, copy_from_file, &part))
        for (unsigned copy = 0; copy < range->space->copies; copy++)
            copy_from_file(&part, copy, 0, range->space->stride);
}

static uint64_t entry_of(const struct block *block, uint32_t marked)
{
    uint64_t entry = (uintptr_t)block_item(block, marked & ~INDEX_MARKS);
    return entry | (marked & FRESH_INDEX ? FRESH : 0) | (marked & CLEAN_INDEX ? CLEAN : 0);
}

static size_t take_from(struct block *block, uint64_t *entries, size_t wanted)
{
    const struct percpu_pool *pool = block->pool;
    size_t taken = 0;
    while (taken < wanted && block->free_count > 0)
        entries[taken++] = entry_of(block, block->free_items[--block->free_count]);
    uint32_t cut = block->cut;
    bool unknown = block->range->space->range_init != NULL;
    uint64_t fresh = unknown ? FRESH : FRESH | CLEAN;
    for (; taken < wanted && cut < pool->block_items; cut++) {
        prepare(block, cut);
        if (unknown && pool->robust)
            percpu_copies_tidy(pool, block_item(block, cut));
        entries[taken++] = (uintptr_t)block_item(block, cut) | fresh;
    }
    __atomic_store_n(&block->cut, cut, __ATOMIC_RELAXED);
    return taken;
}

static size_t take_available(struct percpu_pool *pool, uint64_t *entries, size_t wanted)
{
    struct block *block;
    while ((block = pool->available) != NULL) {
        size_t taken = take_from(block, entries, wanted);
        if (taken > 0)
            return taken;
        percpu_block_withdraw(block);
    }
    return 0;
}

static size_t take_unfrozen(struct percpu_pool *pool, uint64_t *entries, size_t wanted)
{
    for (struct block *block = pool->available; block != NULL; block = block->next_available) {
        size_t taken = block->range->frozen ? 0 : take_from(block, entries, wanted);
        if (taken > 0)
            return taken;
    }
    return 0;
}

bool percpu_block_add(struct percpu_pool *pool, enum percpu_from from)
{
    struct block *block = percpu_space_block(pool->space, pool, from);
    if (block == NULL)
        return false;
    block->next = pool->blocks;
    if (pool->blocks != NULL)
        pool->blocks->previous = block;
    pool->blocks = block;
    pool->block_count++;
    make_available(pool, block);
    return true;
}

size_t percpu_block_take(struct percpu_pool *pool, uint64_t *entries, size_t wanted,
                         enum percpu_from from)
{
    size_t taken;
    do {
        taken = from == FROM_ANY ? take_available(pool, entries, wanted)
                                 : take_unfrozen(pool, entries, wanted);
    } while (taken == 0 && percpu_block_add(pool, from));
    return taken;
}

static size_t take_like(struct block *block, uint64_t *entries, size_t wanted, struct image image)
{
    const struct percpu_pool *pool = block->pool;
    size_t taken = 0, looks = LOOKS_IN_BLOCK;
    for (uint32_t i = block->free_count; i > 0 && taken < wanted && looks > 0; i--, looks--) {
        uint32_t marked = block->free_items[i - 1];
        if (!percpu_copies_refer(pool, block_item(block, marked & ~INDEX_MARKS), image))
            continue;
        entries[taken++] = entry_of(block, marked);
        block->free_items[i - 1] = block->free_items[--block->free_count];
    }
    return taken;
}

size_t percpu_block_take_like(struct percpu_pool *pool, uint64_t *entries, size_t wanted,
                              struct image image)
{
    size_t taken = 0, looks = LOOKS_AT_BLOCKS;
    for (struct block *block = pool->available; block != NULL && taken < wanted && looks > 0;
         block = block->next_available, looks--)
        if (block->range->frozen)
            taken += take_like(block, entries + taken, wanted - taken, image);
    return taken;
}

void percpu_block_put(struct percpu_pool *pool, uint64_t entry)
{
    struct block *block = percpu_block_of(pool->space, entry_item(entry));
    uint32_t index = (uint32_t)block_index(block, entry_item(entry));
    if (block->free_count >= block->cut) {
        percpu_report(pool, &(struct percpu_report){
                                .finding = PERCPU_BAD_FREE_LIST,
                                .item = entry_item(entry),
                                .cpu = -1,
                                .detail = "more items were freed than were handed out",
                            });
        return;
    }
    block->free_items[block->free_count++] = index | (entry & FRESH ? FRESH_INDEX : 0) |
                                             (entry & CLEAN ? CLEAN_INDEX : 0);
    make_available(pool, block);
}
