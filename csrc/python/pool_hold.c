/* SPDX-License-Identifier: MIT */
/*
 * pool_hold.c - the one word that says how long a PerCpuPool's memory lives: see pool.h.
 */
#include "pool.h"

/* Add to the state of a pool that is not closed. Acquire: pairs with the release in pool_make(). */
static bool add_if_open(struct percpu_py_pool *self, uint64_t what)
{
    uint64_t state = percpu_py_pool_state(self);
    do {
        if (state & PERCPU_PY_POOL_CLOSED)
            return false;
    } while (!__atomic_compare_exchange_n(&self->state, &state, state + what, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    return true;
}

void percpu_py_pool_unmap(struct percpu_py_pool *self)
{
    percpu_pool_destroy(self->memory);
    self->memory = NULL;
}

int percpu_py_pool_hold(struct percpu_py_pool *self)
{
    if (add_if_open(self, PERCPU_PY_POOL_HOLD))
        return 0;
    percpu_py_raise_closed((PyObject *)self);
    return -1;
}

void percpu_py_pool_release(struct percpu_py_pool *self)
{
    /* Release, and acquire for the last: all uses of the memory come before its end. */
    if (__atomic_sub_fetch(&self->state, PERCPU_PY_POOL_HOLD, __ATOMIC_ACQ_REL) ==
        PERCPU_PY_POOL_CLOSED)
        percpu_py_pool_unmap(self);
}

int percpu_py_pool_export(struct percpu_py_pool *self)
{
    return add_if_open(self, PERCPU_PY_POOL_EXPORT) ? 0 : -1;
}

void percpu_py_pool_end_export(struct percpu_py_pool *self)
{
    __atomic_sub_fetch(&self->state, PERCPU_PY_POOL_EXPORT, __ATOMIC_RELEASE);
}

int percpu_py_pool_close(struct percpu_py_pool *self)
{
    uint64_t state = percpu_py_pool_state(self);
    do {
        uint64_t exports = (state % PERCPU_PY_POOL_HOLD) / PERCPU_PY_POOL_EXPORT;
        if (state & PERCPU_PY_POOL_CLOSED)
            return 0;
        if (exports > 0) {
            PyErr_Format(PyExc_BufferError,
                         "cannot close a pool while %llu memoryviews or arrays of its items live: "
                         "release them first",
                         (unsigned long long)exports);
            return -1;
        }
    } while (!__atomic_compare_exchange_n(&self->state, &state, state | PERCPU_PY_POOL_CLOSED, true,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    __atomic_store_n(&self->closed, 1, __ATOMIC_RELAXED);
    if (state / PERCPU_PY_POOL_HOLD == 0)
        percpu_py_pool_unmap(self);
    return 0;
}
