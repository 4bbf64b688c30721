/* SPDX-License-Identifier: MIT */
/* padded.c - an atomic word for each CPU, each in a cache line of its own. Exact. */
#include "array.h"

static void *create(unsigned cpus)
{
    return array_create(cpus, PERCPU_CACHE_LINE);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return (size_t)cpus * PERCPU_CACHE_LINE;
}

const struct percpu_scheme percpu_scheme_padded = {
    .name = "padded",
    .title = "atomic word per CPU, a cache line each",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = array_destroy,
    .add = add_loop,
    .sum = array_sum,
    .bytes = bytes,
};
