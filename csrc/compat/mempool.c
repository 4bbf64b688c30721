/* SPDX-License-Identifier: MIT */
/*
 * mempool.c - librseq's memory pools, made of ours: see percpu/compat/rseq/mempool.h.
 *
 * A pool of librseq's is one of ours whose items lie a power of two apart, so that a stride holds
 * as many as there. A pool with fewer copies than the machine has CPUs is a global one to us: its
 * callers choose among the copies themselves. free() is told a stride and no pool, and finds ours
 * by mask.
 *
 * The functions that allocate end in a call of ours, so that a robust pool sees their caller as the
 * place that the item was allocated at.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <percpu/compat/rseq/mempool.h>
#include <percpu/pool.h>
#include <percpu/pool_set.h>
#include <percpu/topology.h>

enum {
    MIN_ITEM = sizeof(void *),
    MAX_NAME = 63,
    ORDERS = 64, /* of two: one pool of a set for each */
};

/* What a robust pool of COW_INIT overwrites freed items with. In COW_ZERO that would give memory to
 * every CPU: there it is zeros, which are what items hold without being told. */
#define INIT_POISON UINT64_C(0x5555555555555555)

typedef int init_func(void *priv, void *addr, size_t len, int cpu);

struct rseq_mempool_attr {
    init_func *init;
    void *init_priv;
    size_t stride; /* 0: the default */
    int max_nr_cpus;
    unsigned long max_nr_ranges;
    uintptr_t poison;
    enum rseq_mempool_populate_policy policy;
    bool global, robust, poison_set;
};

struct rseq_mempool {
    struct percpu_pool *pool;
    size_t item_len, stride;
    int max_nr_cpus; /* -1: a global pool */
    init_func *init;
    void *init_priv;
};

struct rseq_mempool_set {
    struct rseq_mempool *pools[ORDERS]; /* by the logarithm of item_len; atomics */
};

static int invalid(void)
{
    errno = EINVAL;
    return -1;
}

/* attributes --------------------------------------------------------------------------------- */

struct rseq_mempool_attr *rseq_mempool_attr_create(void)
{
    return calloc(1, sizeof(struct rseq_mempool_attr));
}

void rseq_mempool_attr_destroy(struct rseq_mempool_attr *attr)
{
    free(attr);
}

int rseq_mempool_attr_set_init(struct rseq_mempool_attr *attr, init_func *init, void *init_priv)
{
    if (attr == NULL || init == NULL)
        return invalid();
    attr->init = init;
    attr->init_priv = init_priv;
    attr->policy = RSEQ_MEMPOOL_POPULATE_COW_INIT;
    return 0;
}

int rseq_mempool_attr_set_robust(struct rseq_mempool_attr *attr)
{
    if (attr == NULL)
        return invalid();
    attr->robust = true;
    return 0;
}

int rseq_mempool_attr_set_percpu(struct rseq_mempool_attr *attr, size_t stride, int max_nr_cpus)
{
    if (attr == NULL)
        return invalid();
    attr->global = false;
    attr->stride = stride;
    attr->max_nr_cpus = max_nr_cpus;
    return 0;
}

int rseq_mempool_attr_set_global(struct rseq_mempool_attr *attr, size_t stride)
{
    if (attr == NULL)
        return invalid();
    attr->global = true;
    attr->stride = stride;
    return 0;
}

int rseq_mempool_attr_set_max_nr_ranges(struct rseq_mempool_attr *attr, unsigned long max_nr_ranges)
{
    if (attr == NULL)
        return invalid();
    attr->max_nr_ranges = max_nr_ranges;
    return 0;
}

int rseq_mempool_attr_set_poison(struct rseq_mempool_attr *attr, uintptr_t poison)
{
    if (attr == NULL)
        return invalid();
    attr->poison_set = true;
    attr->poison = poison;
    return 0;
}

int rseq_mempool_attr_set_populate_policy(struct rseq_mempool_attr *attr,
                                          enum rseq_mempool_populate_policy policy)
{
    if (attr == NULL)
        return invalid();
    attr->policy = policy;
    return 0;
}

/* pools -------------------------------------------------------------------------------------- */

/* To us a single copy has no CPU. */
static int init_range(void *priv, void *memory, size_t length, int cpu)
{
    struct rseq_mempool *pool = priv;
    if (pool->init(pool->init_priv, memory, length, cpu < 0 && pool->max_nr_cpus > 0 ? 0 : cpu) ==
        0)
        return 0;
    errno = ENOMEM;
    return -1;
}

/* A name that our pools allow. */
static void copy_name(char to[MAX_NAME + 1], const char *name)
{
    size_t length = 0;
    for (; name != NULL && name[length] != '\0' && length < MAX_NAME; length++) {
        bool allowed = name[length] >= ' ' && name[length] <= '~' &&
                       strchr("[]\\$`", name[length]) == NULL;
        to[length] = allowed ? name[length] : '_';
    }
    to[length] = '\0';
}

/* Fill in the defaults. 0; -1 with errno for what our pools do not look at, or would understand
 * differently. */
static int check(struct rseq_mempool_attr *attr, size_t item_len)
{
    if (attr->policy != RSEQ_MEMPOOL_POPULATE_COW_INIT &&
        attr->policy != RSEQ_MEMPOOL_POPULATE_COW_ZERO)
        return invalid();
    if (attr->stride == 0)
        attr->stride = RSEQ_MEMPOOL_STRIDE;
    if ((attr->stride & (attr->stride - 1)) != 0 || item_len > attr->stride)
        return invalid();
    if (attr->global) {
        attr->policy = RSEQ_MEMPOOL_POPULATE_COW_ZERO;
        return 0;
    }
    if (attr->max_nr_cpus < 0)
        return invalid();
    if (attr->max_nr_cpus == 0)
        attr->max_nr_cpus = (int)percpu_nr_cpus();
    return 0;
}

static struct percpu_pool *create(struct rseq_mempool *pool, const struct rseq_mempool_attr *attr,
                                  const char *name)
{
    bool zero = attr->policy == RSEQ_MEMPOOL_POPULATE_COW_ZERO;
    struct percpu_pool_attr ours = {
        .item_size = pool->item_len,
        .slot_size = pool->item_len,
        .stride = pool->stride,
        .cpus = attr->global ? 1 : (unsigned)attr->max_nr_cpus,
        .max_ranges = attr->max_nr_ranges,
        .populate = zero ? PERCPU_POPULATE_ZERO : PERCPU_POPULATE_INIT,
        .range_init = attr->init != NULL ? init_range : NULL,
        .robust = attr->robust,
        .poison_set = attr->poison_set || (attr->robust && !zero),
        .poison = attr->poison_set ? attr->poison : INIT_POISON,
        .name = name,
        .priv = pool,
    };
    ours.global = attr->global || ours.cpus < percpu_nr_cpus();
    return percpu_pool_create(&ours);
}

struct rseq_mempool *rseq_mempool_create(const char *pool_name, size_t item_len,
                                         const struct rseq_mempool_attr *attr)
{
    struct rseq_mempool_attr wanted = {0};
    char name[MAX_NAME + 1];
    if (attr != NULL)
        wanted = *attr;
    if (check(&wanted, item_len) != 0)
        return NULL;
    struct rseq_mempool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    pool->item_len = MIN_ITEM;
    while (pool->item_len < item_len)
        pool->item_len *= 2;
    pool->stride = wanted.stride;
    pool->max_nr_cpus = wanted.global ? -1 : wanted.max_nr_cpus;
    pool->init = wanted.init;
    pool->init_priv = wanted.init_priv;
    copy_name(name, pool_name);
    pool->pool = create(pool, &wanted, name);
    if (pool->pool == NULL) {
        int error = errno;
        free(pool);
        errno = error;
        return NULL;
    }
    return pool;
}

int rseq_mempool_destroy(struct rseq_mempool *pool)
{
    if (pool == NULL)
        return 0;
    percpu_pool_destroy(pool->pool);
    free(pool);
    return 0;
}

int rseq_mempool_get_max_nr_cpus(struct rseq_mempool *pool)
{
    if (pool == NULL || pool->max_nr_cpus < 0)
        return invalid();
    return pool->max_nr_cpus;
}

void *rseq_mempool_percpu_malloc(struct rseq_mempool *pool)
{
    return percpu_pool_alloc(pool->pool);
}

void *rseq_mempool_percpu_zmalloc(struct rseq_mempool *pool)
{
    return percpu_pool_zalloc(pool->pool);
}

void *rseq_mempool_percpu_malloc_init(struct rseq_mempool *pool, void *init_ptr, size_t init_len)
{
    if (init_ptr == NULL && init_len <= pool->item_len)
        return percpu_pool_alloc(pool->pool);
    return percpu_pool_alloc_init(pool->pool, init_ptr, init_len);
}

void librseq_mempool_percpu_free(void *ptr, size_t stride)
{
    if (ptr != NULL)
        percpu_pool_free(percpu_pool_of(ptr, stride), ptr);
}

/* sets --------------------------------------------------------------------------------------- */

/* The logarithm of the smallest item_len that holds `len` bytes; ORDERS if none does. */
static unsigned order_of(size_t len)
{
    return len <= MIN_ITEM ? (unsigned)__builtin_ctzl(MIN_ITEM)
                           : ORDERS - (unsigned)__builtin_clzl(len - 1);
}

struct rseq_mempool_set *rseq_mempool_set_create(void)
{
    return calloc(1, sizeof(struct rseq_mempool_set));
}

int rseq_mempool_set_destroy(struct rseq_mempool_set *set)
{
    for (unsigned order = 0; set != NULL && order < ORDERS; order++)
        rseq_mempool_destroy(set->pools[order]);
    free(set);
    return 0;
}

int rseq_mempool_set_add_pool(struct rseq_mempool_set *set, struct rseq_mempool *pool)
{
    struct rseq_mempool *nobody = NULL;
    /* Release: pairs with the acquire of allocate(). */
    if (!__atomic_compare_exchange_n(&set->pools[order_of(pool->item_len)], &nobody, pool, false,
                                     __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
        errno = EBUSY;
        return -1;
    }
    return 0;
}

typedef void *allocate_one(struct rseq_mempool *pool, void *init_ptr, size_t len);

/* Try the pools from the smallest that fits; one that has no item left, or gets no memory, is passed
 * over. */
static void *allocate(struct rseq_mempool_set *set, allocate_one *one, void *init_ptr, size_t len)
{
    for (unsigned order = order_of(len); order < ORDERS; order++) {
        struct rseq_mempool *pool = __atomic_load_n(&set->pools[order], __ATOMIC_ACQUIRE);
        void *item = pool != NULL ? one(pool, init_ptr, len) : NULL;
        if (item != NULL)
            return item;
    }
    errno = ENOMEM;
    return NULL;
}

static void *one_malloc(struct rseq_mempool *pool, void *init_ptr, size_t len)
{
    (void)init_ptr;
    (void)len;
    return rseq_mempool_percpu_malloc(pool);
}

static void *one_zmalloc(struct rseq_mempool *pool, void *init_ptr, size_t len)
{
    (void)init_ptr;
    (void)len;
    return rseq_mempool_percpu_zmalloc(pool);
}

void *rseq_mempool_set_percpu_malloc(struct rseq_mempool_set *set, size_t len)
{
    return allocate(set, one_malloc, NULL, len);
}

void *rseq_mempool_set_percpu_zmalloc(struct rseq_mempool_set *set, size_t len)
{
    return allocate(set, one_zmalloc, NULL, len);
}

void *rseq_mempool_set_percpu_malloc_init(struct rseq_mempool_set *set, void *init_ptr, size_t len)
{
    return allocate(set, rseq_mempool_percpu_malloc_init, init_ptr, len);
}
