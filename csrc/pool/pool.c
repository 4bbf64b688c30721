/* SPDX-License-Identifier: MIT */
/* pool.c - attributes, creation and destruction. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include <percpu/pool_set.h>
#include <percpu/topology.h>

#define DEFAULT_STRIDE ((size_t)64 << 10)
#define DEFAULT_CACHE_BYTES ((size_t)64 << 10)
#define MAX_STRIDE ((size_t)1 << 30) /* an index fits beside the marks */
#define MAX_RANGE ((size_t)1 << 46)

enum { REDZONE = 8 }; /* bytes behind an item of a robust pool, at least */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* `n` at most MAX_STRIDE. */
static size_t power_of_two_from(size_t n)
{
    size_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

/* An item's size with the padding that keeps its neighbour aligned: see percpu_pool_alloc(). */
static size_t slot_size(size_t item_size, bool robust)
{
    size_t redzone = robust ? REDZONE : 0;
    if (item_size < 8)
        return robust ? 8 + REDZONE : power_of_two_from(item_size);
    size_t natural = item_size & -item_size; /* the largest power of two that divides it */
    return round_up(item_size + redzone, natural < 8 ? 8 : natural < 64 ? natural : 64);
}

/* attributes --------------------------------------------------------------------------------- */

static int invalid(void)
{
    errno = EINVAL;
    return -1;
}

static bool name_is_good(const char *name)
{
    if (name == NULL)
        return true;
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++)
        if (name[i] < ' ' || name[i] > '~' || strchr("[]\\$`", name[i]) != NULL)
            return false;
    return length <= 63;
}

/* The kernel's limits on a name are those of map.c's prctl(). */
static bool choices_are_good(const struct percpu_pool_attr *attr)
{
    return (attr->populate == PERCPU_POPULATE_ZERO || attr->populate == PERCPU_POPULATE_INIT) &&
           attr->init_size <= attr->item_size && (attr->init != NULL || attr->init_size == 0) &&
           (attr->constructed || (attr->ctor == NULL && attr->dtor == NULL)) &&
           !(attr->constructed && attr->poison_set) && name_is_good(attr->name);
}

static int complete_sizes(struct percpu_pool_attr *attr)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), guard = attr->guard ? page : 0;
    if (attr->item_size == 0 || attr->item_size > MAX_STRIDE || attr->slot_size > MAX_STRIDE)
        return invalid();
    if (attr->slot_size == 0)
        attr->slot_size = slot_size(attr->item_size, attr->robust);
    else if (attr->slot_size < attr->item_size || attr->slot_size % 8 != 0)
        return invalid();
    if (attr->stride == 0) {
        attr->stride = power_of_two_from(attr->slot_size + guard);
        if (attr->stride < DEFAULT_STRIDE)
            attr->stride = DEFAULT_STRIDE;
    }
    if (attr->stride < page || attr->stride > MAX_STRIDE ||
        (attr->stride & (attr->stride - 1)) != 0 || attr->slot_size + guard > attr->stride)
        return invalid();
    return 0;
}

int percpu_pool_complete(struct percpu_pool_attr *attr)
{
    unsigned least = attr->global ? 1 : percpu_nr_cpus();
    attr->cpus = attr->cpus != 0 ? attr->cpus : least;
    attr->index = attr->index != 0 ? attr->index : PERCPU_INDEX_CPU;
    attr->cache_bytes = attr->cache_bytes != 0 ? attr->cache_bytes : DEFAULT_CACHE_BYTES;
    if (percpu_index_check(attr->index) != 0)
        return -1;
    if (!choices_are_good(attr) || complete_sizes(attr) != 0 || attr->cpus < least ||
        attr->cpus > PERCPU_MAX_CPUS || attr->cpus > MAX_RANGE / attr->stride)
        return invalid();
    return 0;
}

/* creation ----------------------------------------------------------------------------------- */

/* Room for a whole item, that holds `size` bytes of `bytes`. 0, or -1. */
static int copy_image(struct image *image, const void *bytes, size_t size, size_t item_size)
{
    char *copy = calloc(1, item_size);
    if (copy == NULL)
        return -1;
    if (size > 0)
        memcpy(copy, bytes, size);
    *image = (struct image){copy, size};
    /* cppcheck-suppress memleak ; the pool frees its images */
    return 0;
}

static int make_poison(struct percpu_pool *pool, uint64_t poison)
{
    if (copy_image(&pool->poison, NULL, 0, pool->item_size) != 0)
        return -1;
    for (size_t i = 0; i < pool->item_size; i++)
        ((uint8_t *)(uintptr_t)pool->poison.bytes)[i] = ((const uint8_t *)&poison)[i % 8];
    pool->poison.size = pool->item_size;
    return 0;
}

static void set_head(struct percpu_pool *pool)
{
    bool looks = pool->robust || pool->poisoned;
    size_t nothing = offsetof(struct cache, nothing) - offsetof(struct cache, recycled_count);
    pool->head.recycled = pool->recycled.base + (looks ? nothing : 0);
    pool->head.index = pool->index;
    pool->head.capacity = looks ? 0 : pool->cache_items;
    pool->head.stride = pool->space->stride;
    pool->head.item_size = pool->item_size;
    pool->head.cpus = pool->space->copies;
    pool->head.global = pool->space->global;
}

static int fill_in(struct percpu_pool *pool, const struct percpu_pool_attr *attr)
{
    size_t items = attr->cache_bytes / attr->slot_size / 2; /* there are two stacks */
    pool->cache_items = items < 1 ? 1 : items > CACHE_ENTRIES ? CACHE_ENTRIES : items;
    pool->item_size = attr->item_size;
    pool->slot_size = attr->slot_size;
    pool->block_items = pool->block_units * pool->space->unit_size / pool->slot_size;
    pool->index = attr->index;
    pool->robust = attr->robust;
    pool->poisoned = attr->poison_set;
    pool->constructed = attr->constructed;
    pool->ctor = attr->ctor;
    pool->dtor = attr->dtor;
    pool->report = attr->report;
    pool->priv = attr->priv;
    if (copy_image(&pool->initial, attr->init, attr->init_size, pool->item_size) != 0 ||
        copy_image(&pool->prepared, attr->init, attr->init_size, pool->item_size) != 0 ||
        (pool->poisoned && make_poison(pool, attr->poison) != 0) || percpu_cache_create(pool) != 0)
        return -1;
    set_head(pool);
    percpu_quick_prepare(pool);
    return 0;
}

static void release(struct percpu_pool *pool)
{
    percpu_cache_destroy(pool);
    if (pool->space->units > 1)
        percpu_pool_leave(pool);
    percpu_space_release(pool->space);
    free((void *)(uintptr_t)pool->initial.bytes);
    free((void *)(uintptr_t)pool->prepared.bytes);
    free((void *)(uintptr_t)pool->poison.bytes);
    free(pool);
}

struct percpu_pool *percpu_pool_make(const struct percpu_pool_attr *attr, struct space *space,
                                     uint32_t block_units)
{
    struct percpu_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        percpu_space_release(space);
        errno = ENOMEM;
        return NULL;
    }
    pool->space = space;
    pool->block_units = block_units;
    if (fill_in(pool, attr) == 0)
        return pool;
    release(pool);
    errno = ENOMEM;
    return NULL;
}

struct percpu_pool *percpu_pool_create(const struct percpu_pool_attr *given)
{
    struct percpu_pool_attr attr = *given;
    if (percpu_pool_complete(&attr) != 0)
        return NULL;
    struct space *space = percpu_space_create(&attr, 0, attr.slot_size);
    if (space == NULL)
        return NULL;
    space->users = 1;
    struct percpu_pool *pool = percpu_pool_make(&attr, space, 1);
    if (pool == NULL || attr.lazy || percpu_pool_reserve(pool, 1) == 0)
        return pool;
    int error = errno;
    release(pool);
    errno = error;
    return NULL;
}

void percpu_pool_destroy(struct percpu_pool *pool)
{
    if (pool == NULL)
        return;
    if (pool->robust)
        percpu_robust_destroy(pool);
    if (pool->dtor != NULL) {
        percpu_pool_drain(pool);
        for (struct block *block = pool->blocks; block != NULL; block = block->next)
            percpu_block_destruct(pool, block);
    }
    release(pool);
}

/* The units of other classes' blocks stay; this pool's are free for them. A range is mapped
 * before other CPUs' caches are drained, so what they hold counts only where none can be mapped. */
int percpu_pool_reserve(struct percpu_pool *pool, size_t items)
{
    size_t found = 0;
    int result = 0;
    percpu_space_lock(pool->space);
    for (struct block *block = pool->blocks; block != NULL; block = block->next)
        found += block->free_count + (pool->block_items - block->cut);
    while (found < items && result == 0) {
        if (percpu_block_add(pool, FROM_ANY))
            found += pool->block_items;
        else
            result = percpu_space_grow(pool->space);
    }
    int error = errno;
    if (result != 0 && found + percpu_cache_drain(pool) >= items)
        result = 0;
    errno = error;
    percpu_space_unlock(pool->space);
    return result;
}

/* about a pool ------------------------------------------------------------------------------- */

bool percpu_pool_owns(const struct percpu_pool *pool, const void *item)
{
    percpu_space_lock(pool->space); /* no range goes meanwhile */
    const struct block *block = percpu_block_at(pool->space, item);
    size_t offset = block != NULL ? (size_t)((const char *)item - block->base) : 0;
    bool ours = block != NULL && block->pool == pool && offset % pool->slot_size == 0 &&
                offset / pool->slot_size < pool->block_items;
    percpu_space_unlock(pool->space);
    return ours;
}

struct percpu_pool *percpu_pool_of(const void *item, size_t stride)
{
    const struct range *range = percpu_range_of(item, stride);
    return percpu_block_of(range->space, item)->pool;
}

const char *percpu_pool_name(const struct percpu_pool *pool)
{
    return pool->space->name;
}

void percpu_pool_geometry(const struct percpu_pool *pool, struct percpu_pool_geometry *geometry)
{
    const struct space *space = pool->space;
    *geometry = (struct percpu_pool_geometry){
        .item_size = pool->item_size,
        .slot_size = pool->slot_size,
        .stride = space->stride,
        .capacity = pool->block_items,
        .max_ranges = space->max_ranges,
        .cache_items = 2 * pool->cache_items,
        .header_size = space->header_size,
        .cpus = space->copies,
        .index = pool->index,
        .populate = space->initial ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .global = space->global,
        .robust = pool->robust,
        .guard = space->guard,
        .constructed = pool->constructed,
    };
}
