/* SPDX-License-Identifier: MIT */
/*
 * cache.c - what is free on each CPU, and what moves between there and the blocks.
 *
 * Each CPU has two stacks: of recycled entries, in whose copies anything may be, and of marked ones
 * (fresh, or clean). The fast path of pool.h is one section on the first; all else is here. An
 * empty stack is filled, a full one gives half of itself back, many entries at a time; meanwhile
 * the thread may change CPU, so each entry goes through a section of its own.
 *
 * Clean items are made here too: when none is left, this CPU's recycled entries, with more from the
 * blocks if they are few, are restored together, because the question which pages CPUs have written
 * costs as much for one item as for hundreds.
 *
 * When the blocks have nothing left, caches of CPUs that no thread of ours runs on are drained
 * before a range is mapped, and all caches before an allocation fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache.h"
#include <percpu/topology.h>

enum { ENOUGH_TO_RESTORE = 16 };

int percpu_cache_create(struct percpu_pool *pool)
{
    percpu_ptr p = {.stride = PERCPU_POOL_CACHE, .index = pool->index};
    p.base = percpu_map(percpu_nr_cpus() * p.stride, pool->space->name);
    if (p.base == NULL)
        return -1;
    pool->recycled = percpu_ptr_field(p, offsetof(struct cache, recycled_count));
    pool->marked = percpu_ptr_field(p, offsetof(struct cache, marked_count));
    return 0;
}

void percpu_cache_destroy(struct percpu_pool *pool)
{
    if (pool->recycled.base != NULL)
        munmap(pool->recycled.base, percpu_nr_cpus() * pool->recycled.stride);
}

/* draining ----------------------------------------------------------------------------------- */

static size_t drain_stack(struct percpu_pool *pool, percpu_ptr stack, unsigned cpu)
{
    uint64_t entries[CACHE_ENTRIES];
    if (__atomic_load_n((uint64_t *)percpu_ptr_cpu(stack, cpu), __ATOMIC_RELAXED) == 0)
        return 0; /* the gate costs microseconds */
    uint64_t count = percpu_stack_take_all_of(stack, cpu, entries);
    for (uint64_t i = 0; i < count; i++)
        if (!pool->robust || percpu_robust_entry(pool, entries[i]))
            percpu_block_put(pool, entries[i]);
    return count;
}

static size_t drain_cpu(struct percpu_pool *pool, unsigned cpu)
{
    return drain_stack(pool, pool->recycled, cpu) + drain_stack(pool, pool->marked, cpu);
}

size_t percpu_cache_drain(struct percpu_pool *pool)
{
    size_t drained = 0;
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        drained += drain_cpu(pool, cpu);
    return drained;
}

void percpu_pool_drain(struct percpu_pool *pool)
{
    percpu_space_lock(pool->space);
    percpu_cache_drain(pool);
    percpu_space_unlock(pool->space);
}

/* CPUs that are offline, or that neither this thread nor the process's first one may run on: what
 * they cached would stay there. The kernel's answer leaves out CPUs that are offline. */
static size_t drain_idle(struct percpu_pool *pool)
{
    unsigned long ours[PERCPU_MAX_CPUS / 64] = {0}, first[PERCPU_MAX_CPUS / 64] = {0};
    size_t drained = 0;
    if (pool->index != PERCPU_INDEX_CPU ||
        sched_getaffinity(0, sizeof ours, (cpu_set_t *)ours) != 0 ||
        sched_getaffinity(getpid(), sizeof first, (cpu_set_t *)first) != 0)
        return 0;
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        if (!((ours[cpu / 64] | first[cpu / 64]) >> cpu % 64 & 1))
            drained += drain_cpu(pool, cpu);
    return drained;
}

/* filling ------------------------------------------------------------------------------------ */

/* With the lock held: some entries, out of the blocks, a new range, or CPUs' caches. 0 with errno
 * if there is nothing. */
static size_t find_entries(struct percpu_pool *pool, uint64_t *entries, size_t wanted,
                           enum percpu_from from)
{
    size_t count = percpu_block_take(pool, entries, wanted, from);
    if (count == 0 && drain_idle(pool) > 0)
        count = percpu_block_take(pool, entries, wanted, from);
    if (count == 0 && from == FROM_UNFROZEN && percpu_pool_drop_frozen(pool) > 0)
        count = percpu_block_take(pool, entries, wanted, from);
    if (count == 0 && percpu_space_grow(pool->space) == 0)
        count = percpu_block_take(pool, entries, wanted, from);
    int error = errno;
    if (count == 0 && percpu_cache_drain(pool) > 0)
        count = percpu_block_take(pool, entries, wanted, from);
    errno = error;
    return count;
}

static percpu_ptr stack_for(const struct percpu_pool *pool, uint64_t entry)
{
    return entry & MARKS ? pool->marked : pool->recycled;
}

/* Put entries in this CPU's caches, the first on top; back to the blocks what finds no room. */
static void stash(struct percpu_pool *pool, const uint64_t *entries, size_t count)
{
    while (count > 0 && percpu_stack_push(stack_for(pool, entries[count - 1]), entries[count - 1],
                                          pool->cache_items))
        count--;
    if (count == 0)
        return;
    percpu_space_lock(pool->space);
    for (size_t i = 0; i < count; i++)
        percpu_block_put(pool, entries[i]);
    percpu_space_unlock(pool->space);
}

static void restore_all(struct percpu_pool *pool, uint64_t *entries, size_t count)
{
    percpu_copies_restore(pool, entries, count);
    __atomic_fetch_add(&pool->restores, count, __ATOMIC_RELAXED);
    for (size_t i = 0; i < count; i++)
        entries[i] |= CLEAN;
}

/* Restore those that are not clean, but leave what range_init wrote in fresh ones. The order
 * changes. */
static void make_clean(struct percpu_pool *pool, uint64_t *entries, size_t count)
{
    size_t clean = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(entries[i] & MARKS))
            continue;
        uint64_t entry = entries[clean];
        entries[clean++] = entries[i];
        entries[i] = entry;
    }
    if (clean < count)
        restore_all(pool, entries + clean, count - clean);
}

static size_t pop_many(struct percpu_pool *pool, percpu_ptr stack, uint64_t *entries)
{
    size_t count = 0;
    while (count < pool->cache_items && percpu_stack_pop(stack, &entries[count]))
        count++;
    return count;
}

/* With the lock held: see percpu_cache_learn(). */
static bool learn(struct percpu_pool *pool, struct image image)
{
    struct image *prepared = &pool->prepared;
    if (prepared->size == image.size &&
        (image.size == 0 || memcmp(prepared->bytes, image.bytes, image.size) == 0))
        return true;
    if (image.size > 0)
        memcpy((void *)(uintptr_t)prepared->bytes, image.bytes, image.size);
    prepared->size = image.size;
    return false;
}

bool percpu_cache_learn(struct percpu_pool *pool, struct image image)
{
    percpu_space_lock(pool->space);
    bool again = learn(pool, image);
    percpu_space_unlock(pool->space);
    return again;
}

/* Fill this CPU's caches and return one of what came; 0 with errno. */
static uint64_t refill(struct percpu_pool *pool, enum percpu_want want, const struct image *image)
{
    uint64_t entries[CACHE_ENTRIES + CACHE_ENTRIES / 2];
    size_t count = want == WANT_CLEAN ? pop_many(pool, pool->recycled, entries) : 0;
    if (count < ENOUGH_TO_RESTORE) {
        size_t batch = (pool->cache_items + 1) / 2;
        percpu_space_lock(pool->space);
        if (pool->space->initial && image != NULL && !pool->constructed)
            (void)learn(pool, *image);
        size_t found = count == 0 ? find_entries(pool, entries, batch, FROM_ANY)
                                  : percpu_block_take(pool, entries + count, batch, FROM_ANY);
        percpu_space_unlock(pool->space);
        __atomic_fetch_add(&pool->refills, found > 0, __ATOMIC_RELAXED);
        count += found;
    }
    if (count == 0)
        return 0;
    if (want == WANT_CLEAN)
        make_clean(pool, entries, count);
    stash(pool, entries + 1, count - 1);
    return entries[0];
}

uint64_t percpu_cache_take(struct percpu_pool *pool, enum percpu_want want,
                           const struct image *image)
{
    uint64_t entry;
    if (want == WANT_ANY && percpu_stack_pop(pool->recycled, &entry))
        return entry;
    if (percpu_stack_pop(pool->marked, &entry))
        return entry;
    return refill(pool, want, image);
}

uint64_t percpu_cache_trade(struct percpu_pool *pool, uint64_t frozen, struct image image)
{
    uint64_t entries[CACHE_ENTRIES], other;
    percpu_space_lock(pool->space);
    (void)learn(pool, image);
    percpu_block_put(pool, frozen);
    for (uint64_t i = 0; i < pool->cache_items && percpu_stack_pop(pool->marked, &other); i++)
        percpu_block_put(pool, other);
    size_t wanted = (pool->cache_items + 1) / 2;
    size_t count = percpu_block_take_like(pool, entries, wanted, image);
    if (count == 0)
        count = find_entries(pool, entries, wanted, FROM_UNFROZEN);
    if (count == 0) /* then one whose copies have to be written on every CPU */
        count = percpu_block_take(pool, entries, 1, FROM_ANY);
    percpu_space_unlock(pool->space);
    if (count == 0)
        return 0;
    make_clean(pool, entries, count);
    stash(pool, entries + 1, count - 1);
    return entries[0];
}

uint64_t percpu_cache_convert(struct percpu_pool *pool, uint64_t entry, struct image image)
{
    uint64_t entries[1 + CACHE_ENTRIES] = {entry};
    size_t count = 1, ours = 0;
    if (pool->space->range_init == NULL) /* what it wrote in fresh ones stays */
        count += pop_many(pool, pool->marked, entries + 1);
    percpu_copies_convert(pool, entries, count, image);
    while (entry_item(entries[ours]) != entry_item(entry))
        ours++;
    entry = entries[ours];
    entries[ours] = entries[0];
    stash(pool, entries + 1, count - 1);
    return entry;
}

/* emptying ----------------------------------------------------------------------------------- */

void percpu_cache_put(struct percpu_pool *pool, uint64_t entry)
{
    percpu_ptr stack = stack_for(pool, entry);
    if (percpu_stack_push(stack, entry, pool->cache_items))
        return;
    percpu_space_lock(pool->space);
    __atomic_fetch_add(&pool->overflows, 1, __ATOMIC_RELAXED);
    for (uint64_t moved = 0; moved < (pool->cache_items + 1) / 2; moved++) {
        uint64_t other;
        if (!percpu_stack_pop(stack, &other))
            break;
        percpu_block_put(pool, other);
    }
    if (!percpu_stack_push(stack, entry, pool->cache_items))
        percpu_block_put(pool, entry); /* a full stack again: we changed CPU */
    percpu_space_unlock(pool->space);
}
