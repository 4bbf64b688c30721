/* SPDX-License-Identifier: MIT */
/* packed.c - an atomic word for each CPU, side by side, so that CPUs share cache lines. Exact. */
#include "array.h"

static void *create(unsigned cpus)
{
    return array_create(cpus, sizeof(int64_t));
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return cpus * sizeof(int64_t);
}

const struct percpu_scheme percpu_scheme_packed = {
    .name = "packed",
    .title = "atomic word per CPU, side by side",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = array_destroy,
    .add = add_loop,
    .sum = array_sum,
    .bytes = bytes,
};
