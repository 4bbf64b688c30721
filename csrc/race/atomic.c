/* SPDX-License-Identifier: MIT */
/* atomic.c - one shared word, added to with an atomic instruction. Exact. */
#include <stdlib.h>

#include "scheme.h"

typedef int64_t *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    percpu_scheme_fetch_add(h);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    return percpu_scheme_alloc(sizeof(int64_t));
}

static int64_t sum(void *state)
{
    return __atomic_load_n((int64_t *)state, __ATOMIC_RELAXED);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus, (void)threads;
    return sizeof(int64_t);
}

const struct percpu_scheme percpu_scheme_atomic = {
    .name = "atomic",
    .title = "one shared atomic word",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = free,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
