/* SPDX-License-Identifier: MIT */
/*
 * array.h - an array of atomic words, one for each CPU, `stride` bytes apart: what packed.c and
 * padded.c share. The thread adds to the word of the CPU it runs on. It may be moved between
 * looking that up and adding, so the add must be atomic all the same. Exact.
 */
#ifndef PERCPU_RACE_ARRAY_H
#define PERCPU_RACE_ARRAY_H

#include <stdlib.h>

#include "scheme.h"

struct array {
    percpu_ptr words; /* for its arithmetic only: nobody runs a critical section on them */
    unsigned cpus;
};

typedef percpu_ptr handle;

static handle handle_of(void *state)
{
    return ((struct array *)state)->words;
}

PERCPU_INLINE void add(handle h)
{
    percpu_scheme_fetch_add(percpu_this_copy(h));
}

#include "add_loop.h"

static void *array_create(unsigned cpus, size_t stride)
{
    struct array *array = percpu_scheme_alloc(sizeof *array);
    char *base = percpu_scheme_alloc(cpus * stride);
    if (array == NULL || base == NULL) {
        free(array);
        free(base);
        return NULL;
    }
    array->words = (percpu_ptr){.base = base, .stride = stride, .index = PERCPU_INDEX_CPU};
    array->cpus = cpus;
    return array;
}

static void array_destroy(void *state)
{
    struct array *array = state;
    free(array->words.base);
    free(array);
}

static int64_t array_sum(void *state)
{
    const struct array *array = state;
    int64_t sum = 0;
    for (unsigned cpu = 0; cpu < array->cpus; cpu++)
        sum += percpu_cpu_read_i64(array->words, cpu);
    return sum;
}

#endif
