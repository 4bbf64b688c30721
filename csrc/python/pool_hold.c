/* SPDX-License-Identifier: MIT */
/*
 * pool_hold.c - the one word that says how long a PerCpuPool's memory lives (see pool.h), and its
 * end: closing.
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

int percpu_py_pool_hold(struct percpu_py_pool *self)
{
    if (add_if_open(self, PERCPU_PY_POOL_HOLD))
        return 0;
    percpu_py_raise_closed((PyObject *)self);
    return -1;
}

bool percpu_py_pool_hold_mapped(struct percpu_py_pool *self)
{
    uint64_t state = percpu_py_pool_state(self);
    do {
        if (state == PERCPU_PY_POOL_CLOSED)
            return false;
    } while (!__atomic_compare_exchange_n(&self->state, &state, state + PERCPU_PY_POOL_HOLD, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    return true;
}

/* Whether that was the last hold of a closed pool: then the memory is the caller's, to unmap. */
static bool let_go(struct percpu_py_pool *self)
{
    /* Release, and acquire for the last: all uses of the memory come before its end. */
    return __atomic_sub_fetch(&self->state, PERCPU_PY_POOL_HOLD, __ATOMIC_ACQ_REL) ==
           PERCPU_PY_POOL_CLOSED;
}

void percpu_py_pool_release(struct percpu_py_pool *self)
{
    if (let_go(self))
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

/* the end ------------------------------------------------------------------------------------ */

/* 0; -1 with CorruptionError. */
static int unmap(struct percpu_py_pool *self)
{
    struct percpu_py_call call;
    percpu_py_call_enter(&call, self);
    percpu_pool_destroy(self->memory);
    self->memory = NULL;
    return percpu_py_call_leave(&call, 0);
}

void percpu_py_pool_unmap(struct percpu_py_pool *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (unmap(self) != 0) {
        if (self->told)
            PyErr_Clear();
        else
            percpu_py_pool_unraisable(self);
    }
    PyErr_SetRaisedException(raised);
}

/* Close the word, and hold the pool. 1; 0: it is closed; -1 with BufferError. */
static int close_and_hold(struct percpu_py_pool *self)
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
    } while (!__atomic_compare_exchange_n(&self->state, &state,
                                          (state | PERCPU_PY_POOL_CLOSED) + PERCPU_PY_POOL_HOLD,
                                          true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    __atomic_store_n(&self->closed, 1, __ATOMIC_RELAXED);
    return 1;
}

int percpu_py_pool_close(struct percpu_py_pool *self, bool leaks)
{
    int closing = close_and_hold(self);
    if (closing <= 0)
        return closing;
    int found = 0;
    if (self->geometry.robust) {
        found = percpu_py_pool_inspect(self);
        if (found == 0 && leaks)
            found = percpu_py_pool_find_leaks(self);
        self->told = found != 0;
    }
    if (!let_go(self))
        return found;
    if (found == 0)
        return unmap(self);
    percpu_py_pool_unmap(self);
    return -1;
}
