/* SPDX-License-Identifier: MIT */
/*
 * range.c - ranges: mapping them, telling which range an address belongs to, and their free items.
 *
 *      mapping                 base (aligned to the stride)
 *      v                       v
 *      [range | free_items[]]  [CPU 0: item 0, item 1, ...] [CPU 1: ...] ... [CPU cpus-1: ...]
 *      <---- header_size ----> <---------- stride --------->
 *
 * Memory is left untouched until it is needed: the stack of free items grows with what is freed,
 * and a stride's pages come to exist when a CPU first writes them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "internal.h"

static int fail_after = -1; /* percpu_pool_fail_maps() */

void percpu_pool_fail_maps(int after)
{
    __atomic_store_n(&fail_after, after, __ATOMIC_RELAXED);
}

static bool told_to_fail(void)
{
    int after = __atomic_load_n(&fail_after, __ATOMIC_RELAXED);
    if (after > 0)
        __atomic_store_n(&fail_after, after - 1, __ATOMIC_RELAXED);
    return after == 0;
}

void *percpu_map(size_t length)
{
    void *memory = told_to_fail() ? MAP_FAILED
                                  : mmap(NULL, length, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        errno = ENOMEM;
        return NULL;
    }
    /* A huge page would give memory to CPUs that never wrote. Kernels without them say EINVAL. */
    madvise(memory, length, MADV_NOHUGEPAGE);
    return memory;
}

/* `length` bytes of which the one at `header` is aligned to the stride. */
static char *map_aligned(size_t length, size_t header, size_t stride)
{
    size_t slack = stride;
    char *memory = percpu_map(length + slack);
    if (memory == NULL)
        return NULL;
    uintptr_t base = ((uintptr_t)memory + header + stride - 1) & ~(uintptr_t)(stride - 1);
    size_t before = base - header - (uintptr_t)memory;
    if (before > 0)
        munmap(memory, before);
    if (slack > before)
        munmap(memory + before + length, slack - before);
    return memory + before;
}

static void insert(struct range_table *table, unsigned shift, uintptr_t base)
{
    size_t at = (base >> shift) & table->mask;
    while (table->bases[at] != 0)
        at = (at + 1) & table->mask;
    /* Release: pairs with the load in percpu_pool_owns(). */
    __atomic_store_n(&table->bases[at], base, __ATOMIC_RELEASE);
}

/* Room for one more range, at most half full. 0, or -1 with errno ENOMEM. */
static int grow_table(struct percpu_pool *pool)
{
    struct range_table *old = pool->table;
    if (old != NULL && 2 * (pool->range_count + 1) <= old->mask + 1)
        return 0;
    size_t slots = old == NULL ? 16 : 2 * (old->mask + 1);
    struct range_table *table = calloc(1, sizeof *table + slots * sizeof table->bases[0]);
    if (table == NULL) {
        errno = ENOMEM;
        return -1;
    }
    table->mask = slots - 1;
    table->outgrown = old;
    for (struct range *range = pool->ranges; range != NULL; range = range->next)
        insert(table, pool->stride_shift, (uintptr_t)range->base);
    /* Release: pairs with the load in percpu_pool_owns(). */
    __atomic_store_n(&pool->table, table, __ATOMIC_RELEASE);
    return 0;
}

static size_t mapping_length(const struct percpu_pool *pool)
{
    return pool->header_size + pool->cpus * pool->stride;
}

static void make_available(struct percpu_pool *pool, struct range *range)
{
    if (range->available)
        return;
    range->available = true;
    range->next_available = pool->available;
    pool->available = range;
}

int percpu_range_add(struct percpu_pool *pool)
{
    if (pool->max_ranges != 0 && pool->range_count >= pool->max_ranges) {
        errno = ENOMEM;
        return -1;
    }
    if (grow_table(pool) != 0)
        return -1;
    char *mapping = map_aligned(mapping_length(pool), pool->header_size, pool->stride);
    if (mapping == NULL)
        return -1;
    struct range *range = (struct range *)mapping;
    range->magic = RANGE_MAGIC;
    range->pool = pool;
    range->base = mapping + pool->header_size;
    range->next = pool->ranges;
    range->number = pool->range_count++;
    pool->ranges = range;
    make_available(pool, range);
    insert(pool->table, pool->stride_shift, (uintptr_t)range->base);
    return 0;
}

void percpu_range_unmap(struct percpu_pool *pool, struct range *range)
{
    munmap(range, mapping_length(pool));
}

static size_t take_from(struct percpu_pool *pool, struct range *range, uint64_t *entries,
                        size_t wanted)
{
    size_t taken = 0;
    while (taken < wanted && range->free_count > 0) {
        uint32_t index = range->free_items[--range->free_count];
        uint64_t fresh = index & FRESH_INDEX ? FRESH : 0;
        entries[taken++] = (uintptr_t)range_item(pool, range, index & ~FRESH_INDEX) | fresh;
    }
    uint32_t cut = range->cut;
    while (taken < wanted && cut < pool->capacity)
        entries[taken++] = (uintptr_t)range_item(pool, range, cut++) | FRESH;
    __atomic_store_n(&range->cut, cut, __ATOMIC_RELAXED);
    return taken;
}

size_t percpu_range_take(struct percpu_pool *pool, uint64_t *entries, size_t wanted)
{
    struct range *range;
    while ((range = pool->available) != NULL) {
        size_t taken = take_from(pool, range, entries, wanted);
        if (taken > 0)
            return taken;
        range->available = false;
        pool->available = range->next_available;
    }
    return 0;
}

bool percpu_pool_owns(const struct percpu_pool *pool, const void *item)
{
    const struct range_table *table = __atomic_load_n(&pool->table, __ATOMIC_ACQUIRE);
    size_t offset = (uintptr_t)item & (pool->stride - 1);
    uintptr_t base = (uintptr_t)item - offset, found;
    size_t at = base >> pool->stride_shift;
    do {
        found = __atomic_load_n(&table->bases[at++ & table->mask], __ATOMIC_ACQUIRE);
    } while (found != base && found != 0);
    return found != 0 && offset % pool->slot_size == 0 && offset / pool->slot_size < pool->capacity;
}

struct range *percpu_range_of(const struct percpu_pool *pool, uintptr_t item)
{
    return (struct range *)((item & ~(uintptr_t)(pool->stride - 1)) - pool->header_size);
}

void percpu_range_put(struct percpu_pool *pool, uint64_t entry)
{
    uintptr_t item = entry & ~FRESH;
    struct range *range = percpu_range_of(pool, item);
    uint32_t index = (uint32_t)((item - (uintptr_t)range->base) / pool->slot_size);
    range->free_items[range->free_count++] = index | (entry & FRESH ? FRESH_INDEX : 0);
    make_available(pool, range);
}
