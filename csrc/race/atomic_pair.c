/* SPDX-License-Identifier: MIT */
/*
 * atomic_pair.c - no scheme: what an acquire and a release cost that are one atomic instruction
 * each, and look at nothing.
 */
#include <stdlib.h>

#include "scheme.h"

typedef int64_t *handle;

static handle handle_of(void *state)
{
    return state;
}

/* The old values are asked for, as in percpu_scheme_fetch_add(). */
PERCPU_INLINE void add(handle h)
{
    int64_t before = __atomic_fetch_add(h, 1, __ATOMIC_RELAXED);
    int64_t after = __atomic_fetch_add(h, -1, __ATOMIC_RELAXED);
    __asm__ __volatile__("" : : "r"(before), "r"(after));
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

const struct percpu_scheme percpu_scheme_atomic_pair = {
    .name = "atomic-pair",
    .title = "add to a shared atomic word and subtract again",
    .promise = PERCPU_SCHEME_NO_SUM,
    .create = create,
    .destroy = free,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
