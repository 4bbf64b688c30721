/* SPDX-License-Identifier: MIT */
/*
 * var.c - PerCpuVar: a word for each CPU, added to in a critical section that the kernel restarts
 * if the thread is moved or interrupted: no lock, no atomic instruction. Exact.
 */
#include <stdlib.h>

#include "scheme.h"

struct var {
    percpu_ptr p;
    struct percpu_pool *pool;
};

typedef percpu_ptr handle;

static handle handle_of(void *state)
{
    return ((struct var *)state)->p;
}

PERCPU_INLINE void add(handle h)
{
    percpu_this_add_i64(h, 1);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    struct percpu_pool *pool = percpu_pool_shared(sizeof(int64_t));
    struct var *var = pool != NULL ? percpu_scheme_alloc(sizeof *var) : NULL;
    void *item = var != NULL ? percpu_pool_zalloc(pool) : NULL;
    if (item == NULL) {
        free(var);
        return NULL;
    }
    *var = (struct var){.p = percpu_pool_ptr(pool, item), .pool = pool};
    return var;
}

static void destroy(void *state)
{
    struct var *var = state;
    percpu_pool_free(var->pool, var->p.base);
    free(var);
}

static int64_t sum(void *state)
{
    const struct var *var = state;
    int64_t sum = 0;
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        sum += percpu_cpu_read_i64(var->p, cpu);
    return sum;
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return sizeof(percpu_ptr) + cpus * sizeof(int64_t);
}

const struct percpu_scheme percpu_scheme_var = {
    .name = "var",
    .title = "PerCpuVar",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
