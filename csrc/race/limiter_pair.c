/* SPDX-License-Identifier: MIT */
/* limiter_pair.c - no scheme: acquiring a token of a limiter and releasing it, while tokens last. */
#include <stdlib.h>

#include "scheme.h"

enum { TOKENS = 1 << 20 };

struct pair {
    struct percpu_limiter limiter;
    int64_t failed;
};

typedef struct pair *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    if (percpu_unlikely(!percpu_limiter_acquire(&h->limiter, 1)) ||
        percpu_unlikely(percpu_limiter_release(&h->limiter, 1) != 0))
        __atomic_fetch_add(&h->failed, 1, __ATOMIC_RELAXED);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    struct pair *pair = percpu_scheme_alloc(sizeof *pair);
    if (pair != NULL && percpu_limiter_init(&pair->limiter, NULL, TOKENS) != 0) {
        free(pair);
        return NULL;
    }
    return pair;
}

static void destroy(void *state)
{
    struct pair *pair = state;
    percpu_limiter_destroy(&pair->limiter);
    free(pair);
}

static int64_t sum(void *state)
{
    return __atomic_load_n(&((struct pair *)state)->failed, __ATOMIC_RELAXED);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return sizeof(struct percpu_limiter) + cpus * PERCPU_LIMITER_ITEM;
}

const struct percpu_scheme percpu_scheme_limiter = {
    .name = "limiter",
    .title = "acquire a token of a limiter and release it",
    .promise = PERCPU_SCHEME_NO_SUM,
    .create = create,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
