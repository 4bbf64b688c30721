/* SPDX-License-Identifier: MIT */
/*
 * pool.h - PerCpuPool, as seen by what is made in one.
 *
 * Its lock is the critical section of the object (before 3.13, and with the GIL: the GIL). What
 * ends in _lock_held wants it taken. Live items, variables and counters each hold a reference to
 * the pool and are counted in `live`; a closed pool is unmapped when none is left.
 */
#ifndef PERCPU_PYTHON_POOL_H
#define PERCPU_PYTHON_POOL_H

#include "module.h"

#include <percpu/pool.h>

struct percpu_py_pool {
    PyObject_HEAD
    struct percpu_pool *memory;           /* NULL: not made yet, or unmapped */
    struct percpu_pool_geometry geometry; /* constant */
    uint8_t closed;                       /* atomic; 0 -> 1, under the lock */
    size_t live;                          /* under the lock, as is `exports` */
    size_t exports;                       /* buffers of items and variables that are in use */
    PyObject *weakrefs;
};

/* The arguments of PerCpuPool(), and what they say. 0; -1 with TypeError or ValueError. */
extern const struct percpu_py_signature percpu_py_pool_signature;
int percpu_py_pool_parse(PyObject *const *values, struct percpu_pool_attr *attr);

/* 0 and one more thing that lives in the pool; -1 with ClosedError. */
int percpu_py_pool_hold_lock_held(struct percpu_py_pool *pool);
void percpu_py_pool_release_lock_held(struct percpu_py_pool *pool);

/* 0 if variables and counters of `size` bytes that are aligned to `alignment` fit in `pool`'s
 * items; -1 with ValueError. */
int percpu_py_pool_fits(struct percpu_py_pool *pool, size_t size, size_t alignment,
                        const char *what);

/* The argument `pool` of a constructor: None or absent (*pool NULL) or a PerCpuPool. 0; -1 with
 * TypeError. `type` is the type that is being made. */
int percpu_py_pool_argument(PyTypeObject *type, PyObject *value, struct percpu_py_pool **pool);

#endif
