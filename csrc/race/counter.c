/* SPDX-License-Identifier: MIT */
/*
 * counter.c - PerCpuCounter with two batches, and lazy: a word for each CPU as in var.c, and a shared total
 * that is at most a batch behind for each CPU, so that a rough value costs one load. Exact; read()
 * is not, and says how far it may be off.
 */
#include <stdlib.h>

#include "scheme.h"

typedef struct percpu_counter *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    percpu_counter_inc(h);
}

#include "add_loop.h"

static void *create(int64_t batch)
{
    struct percpu_counter *counter = percpu_scheme_alloc(sizeof *counter);
    if (counter != NULL && percpu_counter_init(counter, NULL, 0, batch) != 0) {
        free(counter);
        return NULL;
    }
    return counter;
}

static void *create_32(unsigned cpus)
{
    (void)cpus;
    return create(32);
}

static void *create_1024(unsigned cpus)
{
    (void)cpus;
    return create(1024);
}

static void *create_lazy(unsigned cpus)
{
    struct percpu_counter *counter = percpu_scheme_alloc(sizeof *counter);
    (void)cpus;
    if (counter != NULL && percpu_counter_init_lazy(counter, NULL, 0, 0) != 0) {
        free(counter);
        return NULL;
    }
    return counter;
}

static void *create_upgraded(unsigned cpus)
{
    struct percpu_counter *counter = create_lazy(cpus);
    if (counter != NULL && percpu_counter_upgrade(counter) != 0) {
        free(counter);
        return NULL;
    }
    return counter;
}

static void destroy(void *state)
{
    percpu_counter_destroy(state);
    free(state);
}

static int64_t sum(void *state)
{
    return percpu_counter_sum(state);
}

static int64_t read(void *state)
{
    return percpu_counter_read(state);
}

/*
 * What counter.h promises, plus the adds under way. Such an add is 1 off by itself. If it is
 * flushing it is off by what it flushes, too: less than a batch, and one for each other add that
 * was under way on its CPU when it looked; those may have returned, and be followed by as many.
 */
static int64_t read_error(const void *state, unsigned threads)
{
    const struct percpu_counter *counter = state;
    int64_t margin = (int64_t)counter->margin;
    int64_t others = margin > (int64_t)threads ? margin : (int64_t)threads;
    return percpu_counter_error(counter) + (int64_t)threads * (1 + margin + others);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)threads;
    return sizeof(struct percpu_counter) + cpus * PERCPU_COUNTER_ITEM;
}

static size_t lazy_bytes(unsigned cpus, unsigned threads)
{
    return threads > 1 ? bytes(cpus, threads) : sizeof(struct percpu_counter);
}

const struct percpu_scheme percpu_scheme_counter_32 = {
    .name = "counter-32",
    .title = "PerCpuCounter, batch 32",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create_32,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .read = read,
    .read_error = read_error,
    .bytes = bytes,
};

const struct percpu_scheme percpu_scheme_counter_1024 = {
    .name = "counter-1024",
    .title = "PerCpuCounter, batch 1024",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create_1024,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .read = read,
    .read_error = read_error,
    .bytes = bytes,
};

const struct percpu_scheme percpu_scheme_counter_lazy = {
    .name = "counter-lazy",
    .title = "PerCpuCounter, lazy at first",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create_lazy,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .read = read,
    .read_error = read_error,
    .bytes = lazy_bytes,
};

const struct percpu_scheme percpu_scheme_counter_upgraded = {
    .name = "counter-upgraded",
    .title = "PerCpuCounter, no longer lazy",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create_upgraded,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .read = read,
    .read_error = read_error,
    .bytes = bytes,
};
