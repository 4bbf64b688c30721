/* SPDX-License-Identifier: MIT */
/*
 * test_outputs.c - what a caller chooses instead of an output, when the gate turned the section
 * away, is what it gets. Fails where the compiler loses values on the exits of an asm goto with
 * outputs, as gcc 12.2 does unless each exit has a block of its own.
 */
#include "check.h"

#include <percpu/arch.h>

static char copies[2 * 4096] __attribute__((aligned(4096)));
static const percpu_ptr p = {.base = copies, .stride = 4096, .index = PERCPU_INDEX_CPU};

static __attribute__((noinline)) uint64_t old_or(percpu_ptr ptr, uint64_t other)
{
    uint64_t old;
    return percpu_cs_load_add_store_u64(ptr, 1, &old) == PERCPU_COMMITTED ? old : other;
}

static __attribute__((noinline)) uint64_t old_or_77(percpu_ptr ptr)
{
    uint64_t old;
    return percpu_cs_load_store_u64(ptr, 5, &old) == PERCPU_COMMITTED ? old : 77;
}

static inline bool add_at(percpu_ptr ptr, uint64_t *sum, void **copy)
{
    void *at;
    if (percpu_cs_load_add_store_at(ptr, 1, sum, &at) != PERCPU_COMMITTED) {
        *copy = NULL;
        *sum = 7;
        return false;
    }
    *copy = at;
    return true;
}

static __attribute__((noinline)) void *copy_or_null(percpu_ptr ptr)
{
    uint64_t sum;
    void *copy;
    (void)add_at(ptr, &sum, &copy);
    return copy;
}

static __attribute__((noinline)) uint64_t sum_or_7(percpu_ptr ptr)
{
    uint64_t sum;
    void *copy;
    (void)add_at(ptr, &sum, &copy);
    return sum;
}

/* No output, but one exit more. */
static __attribute__((noinline)) uint64_t within_or(percpu_ptr ptr, uint64_t inside,
                                                    uint64_t outside, uint64_t other)
{
    switch (percpu_cs_load_cbout_add_store(ptr, UINT64_MAX, 0, UINT64_MAX, 1)) {
    case PERCPU_COMMITTED:
        return inside;
    case PERCPU_UNEQUAL:
        return outside;
    default:
        return other;
    }
}

int main(void)
{
    uint32_t limit = percpu_runtime.limit;
    percpu_runtime.limit = 0; /* the gate is closed: no section commits */
    CHECK(old_or(p, 1234567) == 1234567);
    CHECK(old_or_77(p) == 77);
    CHECK(copy_or_null(p) == NULL);
    CHECK(sum_or_7(p) == 7);
    CHECK(within_or(p, 1, 2, 3) == 3);
    for (unsigned i = 0; i < sizeof copies; i++)
        CHECK(copies[i] == 0);
    percpu_runtime.limit = limit;
    return 0;
}
