/* SPDX-License-Identifier: MIT */
/*
 * racy.c - load, add 1, store, as if there were no other thread. Not exact: two threads that load
 * the same value both store it plus 1. `volatile` keeps every load and store; it orders nothing.
 */
#include <stdlib.h>

#include "scheme.h"

struct racy {
    volatile int64_t count;
};

typedef struct racy *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    h->count = h->count + 1;
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    return percpu_scheme_alloc(sizeof(struct racy));
}

static int64_t sum(void *state)
{
    return ((struct racy *)state)->count;
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus, (void)threads;
    return sizeof(struct racy);
}

const struct percpu_scheme percpu_scheme_racy = {
    .name = "racy",
    .title = "plain add to a shared word",
    .promise = PERCPU_SCHEME_RACY,
    .create = create,
    .destroy = free,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
