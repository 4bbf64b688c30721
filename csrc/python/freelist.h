/* SPDX-License-Identifier: MIT */
/*
 * freelist.h - the object behind PerCpuFreeList, for the files that share it.
 */
#ifndef PERCPU_PYTHON_FREELIST_H
#define PERCPU_PYTHON_FREELIST_H

#include "module.h"

#include <percpu/pool.h>
#include <percpu/sections.h>
#include <percpu/this_cpu.h>

struct percpu_py_freelist {
    PyObject_HEAD
    const uint8_t *closed;      /* see module.h */
    percpu_ptr stacks;          /* base NULL: not made yet */
    uint64_t capacity;          /* of each stack */
    unsigned cpus;              /* stacks */
    struct percpu_pool *memory; /* what `stacks` is an item of */
    PyObject *factory;          /* a callable or NULL; constant until the end */
    PyObject *weakrefs;
};

static inline struct percpu_py_freelist *percpu_py_as_freelist(PyObject *op)
{
    return (struct percpu_py_freelist *)op;
}

/* Whether the list can be used; otherwise ClosedError is set. */
static inline bool percpu_py_freelist_usable(struct percpu_py_freelist *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/*
 * Whether puts() are counted, so that a get() that looks at one CPU after another can tell that
 * nothing moved behind its back: see steal(). With the GIL nothing moves during a method.
 */
static inline bool percpu_py_freelist_counts_puts(const struct percpu_py_freelist *self)
{
#ifdef Py_GIL_DISABLED
    return self->factory == NULL;
#else
    (void)self;
    return false;
#endif
}

/* The word behind a stack of `capacity` objects: how many were put on that CPU. */
static inline percpu_ptr percpu_py_freelist_puts(const struct percpu_py_freelist *self)
{
    return percpu_ptr_field(self->stacks, (1 + self->capacity) * sizeof(uint64_t));
}

/* How many objects CPU `cpu`'s stack has at this instant. */
static inline uint64_t percpu_py_freelist_count(const struct percpu_py_freelist *self, unsigned cpu)
{
    return percpu_cpu_read_u64(self->stacks, cpu);
}

static inline PyObject *percpu_py_freelist_object(uint64_t value)
{
    return (PyObject *)(uintptr_t)value;
}

/* freelist_all.c: what goes over the stacks of all CPUs --------------------------------------- */

/* Give up all objects of a list that anybody may be using. 0; -1 with MemoryError. */
int percpu_py_freelist_drop(struct percpu_py_freelist *self);

/* The same for a list that nobody can reach any more, except what this runs, in this thread. */
void percpu_py_freelist_drop_unreachable(struct percpu_py_freelist *self);

/* Visit the references that the list owns. */
int percpu_py_freelist_visit(struct percpu_py_freelist *self, visitproc visit, void *arg);

/* len() and repr(); methods */
Py_ssize_t percpu_py_freelist_length(PyObject *op);
PyObject *percpu_py_freelist_repr(PyObject *op);
PyObject *percpu_py_freelist_clear(PyObject *op, PyObject *unused);
PyObject *percpu_py_freelist_drain(PyObject *op, PyObject *unused);
PyObject *percpu_py_freelist_per_cpu(PyObject *op, PyObject *unused);
extern const char percpu_py_freelist_clear_doc[], percpu_py_freelist_drain_doc[],
    percpu_py_freelist_per_cpu_doc[];

#endif
