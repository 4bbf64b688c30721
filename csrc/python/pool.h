/* SPDX-License-Identifier: MIT */
/*
 * pool.h - PerCpuPool, as seen by what is made in one.
 *
 * What lives in a pool holds it: items, variables, counters, and calls that use its memory. All
 * that threads must agree on is in one word, `state`:
 *
 *      63 ............... 32 | 31 ................ 1 | 0
 *      how often it is held  | buffers in use        | closed
 *
 * Nothing holds a closed pool, and a pool with buffers in use is not closed. Whoever makes the word
 * "closed, not held" unmaps the memory: that happens once.
 */
#ifndef PERCPU_PYTHON_POOL_H
#define PERCPU_PYTHON_POOL_H

#include "module.h"

#include <percpu/pool.h>

struct percpu_py_pool {
    PyObject_HEAD
    struct percpu_pool *memory;           /* good while the pool is held */
    struct percpu_pool_geometry geometry; /* constant */
    uint64_t state;
    uint8_t closed; /* follows `state`: see module.h */
    PyObject *weakrefs;
};

/* The arguments of PerCpuPool(), and what they say. 0; -1 with TypeError or ValueError. */
extern const struct percpu_py_signature percpu_py_pool_signature;
int percpu_py_pool_parse(PyObject *const *values, struct percpu_pool_attr *attr);

#define PERCPU_PY_POOL_CLOSED UINT64_C(1)
#define PERCPU_PY_POOL_EXPORT (UINT64_C(1) << 1)
#define PERCPU_PY_POOL_HOLD (UINT64_C(1) << 32)

static inline uint64_t percpu_py_pool_state(const struct percpu_py_pool *self)
{
    return __atomic_load_n(&self->state, __ATOMIC_RELAXED);
}

static inline bool percpu_py_pool_is_closed(const struct percpu_py_pool *self)
{
    return (percpu_py_pool_state(self) & PERCPU_PY_POOL_CLOSED) != 0;
}

/* Unmap the memory of a closed pool that nothing holds. */
void percpu_py_pool_unmap(struct percpu_py_pool *self);

/* Close the pool, if it is not closed. 0; -1 with BufferError. */
int percpu_py_pool_close(struct percpu_py_pool *self);

/* Hold the pool, and let go of it. 0; -1 with ClosedError. */
int percpu_py_pool_hold(struct percpu_py_pool *pool);
void percpu_py_pool_release(struct percpu_py_pool *pool);

/* One more buffer in use in a pool that is held; one less. 0; -1, with no exception, if closed. */
int percpu_py_pool_export(struct percpu_py_pool *pool);
void percpu_py_pool_end_export(struct percpu_py_pool *pool);

/* 0 if variables and counters of `size` bytes that are aligned to `alignment` fit in `pool`'s
 * items; -1 with ValueError. */
int percpu_py_pool_fits(struct percpu_py_pool *pool, size_t size, size_t alignment,
                        const char *what);

/* The argument `pool` of a constructor: None or absent (*pool NULL) or a PerCpuPool. 0; -1 with
 * TypeError. `type` is the type that is being made. */
int percpu_py_pool_argument(PyTypeObject *type, PyObject *value, struct percpu_py_pool **pool);

#endif
