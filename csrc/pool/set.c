/* SPDX-License-Identifier: MIT */
/* set.c - several item sizes behind one allocator; size classes. See percpu/pool_set.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <percpu/pool_set.h>

#include "internal.h"

enum { MOST_POOLS = 128, UNITS = 1024, CLASS_CACHE_BYTES = 512 << 10 };
#define MAX_CLASS ((size_t)1 << 29)

/* Sorted by item size. Entries are only added, so that readers need the lock to look one up, and
 * not to use it. */
struct percpu_pool_set {
    pthread_mutex_t lock;
    unsigned count;
    size_t stride; /* of all its pools */
    bool robust;   /* all pools are */
    struct percpu_pool *pools[MOST_POOLS];
};

struct percpu_pool_set *percpu_pool_set_create(void)
{
    struct percpu_pool_set *set = calloc(1, sizeof *set);
    if (set == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    pthread_mutex_init(&set->lock, NULL);
    return set;
}

void percpu_pool_set_destroy(struct percpu_pool_set *set)
{
    if (set == NULL)
        return;
    for (unsigned i = 0; i < set->count; i++)
        percpu_pool_destroy(set->pools[i]);
    pthread_mutex_destroy(&set->lock);
    free(set);
}

static bool alike(const struct percpu_pool *a, const struct percpu_pool *b)
{
    return a->space->stride == b->space->stride && a->space->copies == b->space->copies &&
           a->space->global == b->space->global && a->index == b->index;
}

/* With the lock held. */
static int add(struct percpu_pool_set *set, struct percpu_pool *pool)
{
    unsigned at = set->count;
    while (at > 0 && set->pools[at - 1]->item_size > pool->item_size)
        at--;
    if (at > 0 && set->pools[at - 1]->item_size == pool->item_size)
        errno = EBUSY;
    else if (set->count > 0 && !alike(set->pools[0], pool))
        errno = EINVAL;
    else if (set->count == MOST_POOLS)
        errno = ENOSPC;
    else {
        for (unsigned i = set->count++; i > at; i--)
            set->pools[i] = set->pools[i - 1];
        set->pools[at] = pool;
        bool robust = pool->robust && (set->count == 1 || set->robust);
        __atomic_store_n(&set->robust, robust, __ATOMIC_RELAXED);
        __atomic_store_n(&set->stride, pool->space->stride, __ATOMIC_RELAXED);
        return 0;
    }
    return -1;
}

int percpu_pool_set_add(struct percpu_pool_set *set, struct percpu_pool *pool)
{
    pthread_mutex_lock(&set->lock);
    int result = add(set, pool);
    pthread_mutex_unlock(&set->lock);
    return result;
}

struct percpu_pool *percpu_pool_set_get(struct percpu_pool_set *set, unsigned number)
{
    pthread_mutex_lock(&set->lock);
    struct percpu_pool *pool = number < set->count ? set->pools[number] : NULL;
    pthread_mutex_unlock(&set->lock);
    return pool;
}

struct percpu_pool *percpu_pool_set_find(struct percpu_pool_set *set, const void *item)
{
    struct percpu_pool *pool;
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++)
        if (percpu_pool_owns(pool, item))
            return pool;
    return NULL;
}

/* size classes ------------------------------------------------------------------------------- */

size_t percpu_size_class(size_t size)
{
    if (size == 0 || size > MAX_CLASS)
        return 0;
    size_t step = 8;
    if (size > 64) /* four steps from one power of two to the next */
        step = (size_t)1 << (61 - __builtin_clzll(size - 1));
    return (size + step - 1) / step * step;
}

/* Units of a block: few, but enough that an eighth at most is left over behind the last item. */
static uint32_t block_units(const struct space *space, size_t slot)
{
    size_t units = (slot + space->unit_size - 1) / space->unit_size;
    while (units < space->units && units * space->unit_size % slot > units * space->unit_size / 8)
        units++;
    return (uint32_t)units;
}

static bool fit_for_classes(const struct percpu_pool_attr *attr)
{
    return attr->init == NULL && !attr->constructed && attr->slot_size == 0 &&
           attr->range_init == NULL && attr->item_size <= MAX_CLASS;
}

/* The largest class with its defaults, on which all others go by. 0, or -1 with errno. */
static int complete_classes(struct percpu_pool_attr *attr)
{
    if (!fit_for_classes(attr)) {
        errno = EINVAL;
        return -1;
    }
    attr->item_size = percpu_size_class(attr->item_size);
    attr->cache_bytes = attr->cache_bytes != 0 ? attr->cache_bytes : CLASS_CACHE_BYTES;
    return percpu_pool_complete(attr);
}

static unsigned count_classes(size_t largest)
{
    unsigned count = 0;
    for (size_t size = 0; size < largest; count++)
        size = percpu_size_class(size + 1);
    return count;
}

static struct space *make_space(const struct percpu_pool_attr *attr)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), unit = attr->stride / UNITS;
    return percpu_space_create(attr, unit > page ? unit : page, 8);
}

static struct percpu_pool *make_class(const struct percpu_pool_attr *common, struct space *space,
                                      size_t size)
{
    struct percpu_pool_attr attr = *common;
    attr.item_size = size;
    attr.slot_size = 0;
    if (percpu_pool_complete(&attr) != 0)
        return NULL;
    space->users++;
    return percpu_pool_make(&attr, space, block_units(space, attr.slot_size));
}

static int make_classes(const struct percpu_pool_attr *attr, struct space *space,
                        struct percpu_pool **pools)
{
    int made = 0;
    for (size_t size = 8; size <= attr->item_size; size = percpu_size_class(size + 1)) {
        pools[made] = make_class(attr, space, size);
        if (pools[made] == NULL)
            break;
        made++;
        if (size == attr->item_size)
            return made;
    }
    int error = errno;
    while (made > 0)
        percpu_pool_destroy(pools[--made]);
    errno = error;
    return -1;
}

int percpu_pool_create_classes(const struct percpu_pool_attr *given, struct percpu_pool **pools,
                               unsigned room)
{
    struct percpu_pool_attr attr = *given;
    if (complete_classes(&attr) != 0)
        return -1;
    unsigned count = count_classes(attr.item_size);
    if (count > room)
        return (int)count;
    attr.cache_bytes = attr.cache_bytes > count ? attr.cache_bytes / count : 1; /* not 0 */
    struct space *space = make_space(&attr);
    if (space == NULL)
        return -1;
    space->users = 1; /* ours, while pools are made */
    int made = make_classes(&attr, space, pools);
    int error = errno;
    if (made > 0 && !attr.lazy && percpu_pool_reserve(pools[0], 1) != 0) {
        error = errno;
        while (made > 0)
            percpu_pool_destroy(pools[--made]);
        made = -1;
    }
    percpu_space_release(space);
    errno = error;
    return made;
}

int percpu_pool_set_add_classes(struct percpu_pool_set *set, const struct percpu_pool_attr *attr)
{
    struct percpu_pool *pools[MOST_POOLS];
    int count = percpu_pool_create_classes(attr, pools, MOST_POOLS), added = 0;
    if (count < 0)
        return -1;
    while (added < count && percpu_pool_set_add(set, pools[added]) == 0)
        added++;
    if (added == count)
        return 0;
    int error = errno;
    while (count > added) /* those before are the set's, and of use */
        percpu_pool_destroy(pools[--count]);
    errno = error;
    return -1;
}

/* allocating --------------------------------------------------------------------------------- */

enum how { AS_IT_IS, ZEROS, BYTES };

static void *alloc_from(struct percpu_pool *pool, enum how how, const void *init, size_t size)
{
    if (how == AS_IT_IS)
        return percpu_pool_alloc(pool);
    return how == ZEROS ? percpu_pool_zalloc(pool) : percpu_pool_alloc_init(pool, init, size);
}

/* The pool of the smallest items of at least `size` bytes; NULL if there is none. */
static struct percpu_pool *smallest(struct percpu_pool_set *set, size_t size)
{
    pthread_mutex_lock(&set->lock);
    unsigned low = 0, high = set->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (set->pools[middle]->item_size < size)
            low = middle + 1;
        else
            high = middle;
    }
    struct percpu_pool *pool = low < set->count ? set->pools[low] : NULL;
    pthread_mutex_unlock(&set->lock);
    return pool;
}

/* NULL with errno ENOMEM if all pools that fit are full, or that of the one that failed. */
static void *try_pools(struct percpu_pool_set *set, enum how how, const void *init, size_t size)
{
    struct percpu_pool *pool;
    errno = ENOMEM;
    for (size_t least = size; (pool = smallest(set, least)) != NULL; least = pool->item_size + 1) {
        void *item = alloc_from(pool, how, init, size);
        if (item != NULL || errno != ENOMEM)
            return item;
    }
    return NULL;
}

/* What one class has freed another may need: give ranges and blocks back before it fails. */
static void *alloc(struct percpu_pool_set *set, enum how how, const void *init, size_t size)
{
    struct percpu_pool *pool;
    void *item = try_pools(set, how, init, size);
    if (item != NULL || errno != ENOMEM || smallest(set, size) == NULL)
        return item;
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++)
        percpu_pool_trim(pool);
    return try_pools(set, how, init, size);
}

void *percpu_pool_set_alloc(struct percpu_pool_set *set, size_t size)
{
    return alloc(set, AS_IT_IS, NULL, size);
}

void *percpu_pool_set_zalloc(struct percpu_pool_set *set, size_t size)
{
    return alloc(set, ZEROS, NULL, size);
}

void *percpu_pool_set_alloc_init(struct percpu_pool_set *set, const void *init, size_t size)
{
    return alloc(set, BYTES, init, size);
}

/* The pool of the set in whose block `address` lies; in CPU 0's copy, or in any. */
static struct percpu_pool *find_block(struct percpu_pool_set *set, const void *address, bool any)
{
    struct percpu_pool *pool;
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++) {
        const void *first = any ? percpu_space_first(pool->space, address) : address;
        const struct block *block = percpu_block_at(pool->space, first);
        if (block != NULL && block->pool == pool)
            return pool;
    }
    return NULL;
}

/* The pool to free an address to that may be no item; any pool will do to report a foreign one. */
static struct percpu_pool *owner(struct percpu_pool_set *set, const void *address)
{
    struct percpu_pool *pool = find_block(set, address, false);
    if (pool == NULL)
        pool = find_block(set, address, true);
    return pool != NULL ? pool : percpu_pool_set_get(set, 0);
}

void percpu_pool_set_free(struct percpu_pool_set *set, void *item)
{
    if (item == NULL)
        return;
    bool robust = __atomic_load_n(&set->robust, __ATOMIC_RELAXED);
    size_t stride = __atomic_load_n(&set->stride, __ATOMIC_RELAXED);
    percpu_pool_free(robust ? owner(set, item) : percpu_pool_of(item, stride), item);
}
