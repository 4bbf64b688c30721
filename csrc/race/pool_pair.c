/* SPDX-License-Identifier: MIT */
/* pool_pair.c - no schemes: allocating an item and freeing it, in two kinds of pools. */
#include <stdlib.h>

#include "scheme.h"

struct pair {
    struct percpu_pool *pool;
    int64_t failed;
};

/* The pool is in the caller's hand, as in any program that uses one. */
typedef struct {
    struct percpu_pool *pool;
    int64_t *failed;
} handle;

static handle handle_of(void *state)
{
    struct pair *pair = state;
    return (handle){pair->pool, &pair->failed};
}

PERCPU_INLINE void add(handle h)
{
    void *item = percpu_pool_alloc(h.pool);
    if (percpu_unlikely(item == NULL))
        __atomic_fetch_add(h.failed, 1, __ATOMIC_RELAXED);
    percpu_pool_free(h.pool, item);
}

#include "add_loop.h"

static void *create_with(unsigned cpus, bool robust)
{
    struct percpu_pool_attr attr = {
        .item_size = sizeof(int64_t),
        .cpus = cpus,
        .robust = robust,
    };
    struct pair *pair = percpu_scheme_alloc(sizeof *pair);
    if (pair != NULL && (pair->pool = percpu_pool_create(&attr)) == NULL) {
        free(pair);
        return NULL;
    }
    return pair;
}

static void *create(unsigned cpus)
{
    return create_with(cpus, false);
}

static void *create_robust(unsigned cpus)
{
    return create_with(cpus, true);
}

static void destroy(void *state)
{
    struct pair *pair = state;
    percpu_pool_destroy(pair->pool);
    free(pair);
}

static int64_t sum(void *state)
{
    return __atomic_load_n(&((struct pair *)state)->failed, __ATOMIC_RELAXED);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return cpus * sizeof(int64_t);
}

const struct percpu_scheme percpu_scheme_pool = {
    .name = "pool",
    .title = "allocate an item and free it",
    .promise = PERCPU_SCHEME_NO_SUM,
    .create = create,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};

const struct percpu_scheme percpu_scheme_robust = {
    .name = "robust",
    .title = "allocate an item of a robust pool and free it",
    .promise = PERCPU_SCHEME_NO_SUM,
    .create = create_robust,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
