/* SPDX-License-Identifier: MIT */
/* schemes.c - the list of all schemes, and the memory of one. */
#include <stdlib.h>
#include <string.h>

#include "scheme.h"

const struct percpu_scheme *const percpu_schemes[] = {
    &percpu_scheme_empty,
    &percpu_scheme_racy,
    &percpu_scheme_mutex,
    &percpu_scheme_atomic,
    &percpu_scheme_packed,
    &percpu_scheme_padded,
    &percpu_scheme_tls,
    &percpu_scheme_var,
    &percpu_scheme_counter_32,
    &percpu_scheme_counter_1024,
    &percpu_scheme_counter_lazy,
    &percpu_scheme_counter_upgraded,
    &percpu_scheme_pool,
    &percpu_scheme_robust,
    &percpu_scheme_handover,
    &percpu_scheme_ring,
    &percpu_scheme_limiter,
    &percpu_scheme_atomic_pair,
    NULL,
};

void *percpu_scheme_alloc(size_t size)
{
    size_t whole = (size + PERCPU_CACHE_LINE - 1) / PERCPU_CACHE_LINE * PERCPU_CACHE_LINE;
    void *memory = aligned_alloc(PERCPU_CACHE_LINE, whole);
    if (memory != NULL)
        memset(memory, 0, whole);
    return memory;
}

const struct percpu_scheme *percpu_scheme_find(const char *name)
{
    for (const struct percpu_scheme *const *scheme = percpu_schemes; *scheme != NULL; scheme++)
        if (strcmp((*scheme)->name, name) == 0)
            return *scheme;
    return NULL;
}
