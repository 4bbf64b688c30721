/* SPDX-License-Identifier: MIT */
/* pool_pair.c - not a scheme: allocating an item and freeing it, for the benchmark. */
#include <stdlib.h>

#include "scheme.h"

struct pair {
    struct percpu_pool *pool;
    int64_t failed;
};

typedef struct pair *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    void *item = percpu_pool_alloc(h->pool);
    if (percpu_unlikely(item == NULL))
        __atomic_fetch_add(&h->failed, 1, __ATOMIC_RELAXED);
    percpu_pool_free(h->pool, item);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    struct percpu_pool_attr attr = {.item_size = sizeof(int64_t), .cpus = cpus};
    struct pair *pair = percpu_scheme_alloc(sizeof *pair);
    if (pair != NULL && (pair->pool = percpu_pool_create(&attr)) == NULL) {
        free(pair);
        return NULL;
    }
    return pair;
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
