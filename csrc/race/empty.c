/* SPDX-License-Identifier: MIT */
/* empty.c - not a scheme: the loop itself, with nothing in it. What every other time contains. */
#include "scheme.h"

static char nothing;

typedef char *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    __asm__ __volatile__("" : : "r"(h)); /* keeps the compiler from dropping the loop */
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    return &nothing;
}

static void destroy(void *state)
{
    (void)state;
}

static int64_t sum(void *state)
{
    (void)state;
    return 0;
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus, (void)threads;
    return 0;
}

const struct percpu_scheme percpu_scheme_empty = {
    .name = "empty",
    .title = "the empty loop",
    .promise = PERCPU_SCHEME_NO_SUM,
    .create = create,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
