/* SPDX-License-Identifier: MIT */
/*
 * pool.c - attributes, creation and destruction; the pools that the process shares; fork.
 *
 * fork() takes the lock of every pool (after the registry's, before the gate's), so that the child
 * finds each pool in one piece. Items that another thread was just allocating or freeing at that
 * moment are lost to the child: it holds them in no hand.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include <percpu/topology.h>

#define DEFAULT_STRIDE ((size_t)64 << 10)
#define MAX_STRIDE ((size_t)1 << 30) /* an index fits the 31 bits beside FRESH_INDEX */
#define MAX_RANGE ((size_t)1 << 46)

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct percpu_pool *pools;
static pthread_once_t handlers = PTHREAD_ONCE_INIT;
static int handlers_error;

static void before_fork(void)
{
    pthread_mutex_lock(&registry);
    for (struct percpu_pool *pool = pools; pool != NULL; pool = pool->next)
        pthread_mutex_lock(&pool->lock);
}

static void after_fork(void)
{
    for (struct percpu_pool *pool = pools; pool != NULL; pool = pool->next)
        pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&registry);
}

static void install_handlers(void)
{
    handlers_error = pthread_atfork(before_fork, after_fork, after_fork);
}

static void enlist(struct percpu_pool *pool)
{
    pthread_mutex_lock(&registry);
    pool->next = pools;
    pool->link = &pools;
    if (pools != NULL)
        pools->link = &pool->next;
    pools = pool;
    pthread_mutex_unlock(&registry);
}

static void delist(struct percpu_pool *pool)
{
    pthread_mutex_lock(&registry);
    *pool->link = pool->next;
    if (pool->next != NULL)
        pool->next->link = pool->link;
    pthread_mutex_unlock(&registry);
}

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
static size_t slot_size(size_t item_size)
{
    if (item_size < 8)
        return power_of_two_from(item_size);
    size_t natural = item_size & -item_size; /* the largest power of two that divides it */
    return round_up(item_size, natural < 8 ? 8 : natural < 64 ? natural : 64);
}

static int fill_in(struct percpu_pool *pool, const struct percpu_pool_attr *attr)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    pool->item_size = attr->item_size;
    pool->max_ranges = attr->max_ranges;
    pool->cpus = attr->cpus != 0 ? attr->cpus : percpu_nr_cpus();
    pool->index = attr->index != 0 ? attr->index : PERCPU_INDEX_CPU;
    if (percpu_index_check(pool->index) != 0)
        return -1;
    if (attr->item_size == 0 || attr->item_size > MAX_STRIDE)
        goto invalid;
    pool->slot_size = slot_size(attr->item_size);
    pool->stride = attr->stride;
    if (pool->stride == 0) {
        pool->stride = power_of_two_from(pool->slot_size);
        if (pool->stride < DEFAULT_STRIDE)
            pool->stride = DEFAULT_STRIDE;
    }
    if (pool->stride < page || pool->stride > MAX_STRIDE ||
        (pool->stride & (pool->stride - 1)) != 0 || pool->slot_size > pool->stride)
        goto invalid;
    if (pool->cpus < percpu_nr_cpus() || pool->cpus > PERCPU_MAX_CPUS ||
        pool->cpus > MAX_RANGE / pool->stride)
        goto invalid;
    pool->capacity = pool->stride / pool->slot_size;
    pool->header_size = round_up(sizeof(struct range) + pool->capacity * sizeof(uint32_t), page);
    pool->stride_shift = (unsigned)__builtin_ctzll(pool->stride);
    return 0;
invalid:
    errno = EINVAL;
    return -1;
}

static void release(struct percpu_pool *pool)
{
    for (struct range *range = pool->ranges, *next; range != NULL; range = next) {
        next = range->next;
        percpu_range_unmap(pool, range);
    }
    for (struct range_table *table = pool->table, *outgrown; table != NULL; table = outgrown) {
        outgrown = table->outgrown;
        free(table);
    }
    if (pool->caches.base != NULL)
        munmap(pool->caches.base, pool->caches_length);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

struct percpu_pool *percpu_pool_create(const struct percpu_pool_attr *attr)
{
    pthread_once(&handlers, install_handlers);
    struct percpu_pool *pool = handlers_error == 0 ? calloc(1, sizeof *pool) : NULL;
    if (pool == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    if (fill_in(pool, attr) != 0)
        goto failed;
    size_t cache_stride = round_up(sizeof(struct cache), (size_t)sysconf(_SC_PAGESIZE));
    pool->caches_length = pool->cpus * cache_stride;
    pool->caches.stride = cache_stride;
    pool->caches.index = pool->index;
    pool->caches.base = percpu_map(pool->caches_length);
    if (pool->caches.base == NULL || percpu_range_add(pool) != 0)
        goto failed;
    enlist(pool);
    return pool;
failed:;
    int error = errno;
    release(pool);
    errno = error;
    return NULL;
}

void percpu_pool_destroy(struct percpu_pool *pool)
{
    if (pool == NULL)
        return;
    delist(pool);
    release(pool);
}

percpu_ptr percpu_pool_ptr(const struct percpu_pool *pool, void *item)
{
    return (percpu_ptr){.base = item, .stride = pool->stride, .index = pool->index};
}

void percpu_pool_geometry(const struct percpu_pool *pool, struct percpu_pool_geometry *geometry)
{
    *geometry = (struct percpu_pool_geometry){
        .item_size = pool->item_size,
        .slot_size = pool->slot_size,
        .stride = pool->stride,
        .capacity = pool->capacity,
        .max_ranges = pool->max_ranges,
        .cpus = pool->cpus,
        .index = pool->index,
    };
}

struct percpu_pool *percpu_pool_shared(size_t item_size)
{
    static struct percpu_pool *shared[5]; /* of 1, 2, 4, 8 and 16 bytes */
    if (item_size == 0 || item_size > 16 || (item_size & (item_size - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    struct percpu_pool **place = &shared[__builtin_ctzll(item_size)];
    /* Acquire: pairs with the release of whoever published the pool. */
    struct percpu_pool *pool = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (pool != NULL)
        return pool;
    struct percpu_pool_attr attr = {.item_size = item_size};
    struct percpu_pool *ours = percpu_pool_create(&attr);
    if (ours == NULL)
        return NULL;
    if (__atomic_compare_exchange_n(place, &pool, ours, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return ours;
    percpu_pool_destroy(ours); /* another thread was faster */
    return pool;
}
