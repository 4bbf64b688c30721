/* SPDX-License-Identifier: MIT */
/*
 * ptr.h - the address of a per-CPU object.
 *
 *      base                 base + stride        base + 2 * stride
 *      |                    |                    |
 *      v                    v                    v
 *      [CPU 0's copy] ..... [CPU 1's copy] ..... [CPU 2's copy] .....   percpu_nr_cpus() copies
 *
 * Passed by value and taken apart by the inlined operations, so it costs registers, not memory.
 */
#ifndef PERCPU_PTR_H
#define PERCPU_PTR_H

#include "platform.h"
#include "rseq.h"

typedef struct percpu_ptr {
    char *base;    /* the first copy */
    size_t stride; /* bytes from one copy to the next */
    size_t index;  /* enum percpu_index: which of the thread's ids chooses the copy */
} percpu_ptr;

/* The address of copy `cpu`. */
PERCPU_INLINE void *percpu_ptr_cpu(percpu_ptr p, unsigned cpu)
{
    return p.base + cpu * p.stride;
}

/* The field that lies `offset` bytes into the object that `p` points to. */
PERCPU_INLINE percpu_ptr percpu_ptr_field(percpu_ptr p, size_t offset)
{
    p.base += offset;
    return p;
}

/* Which CPU's copy `copy` is. */
PERCPU_INLINE unsigned percpu_ptr_which(percpu_ptr p, const void *copy)
{
    return (unsigned)((size_t)((const char *)copy - p.base) / p.stride);
}

#endif
