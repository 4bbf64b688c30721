/* SPDX-License-Identifier: MIT */
/*
 * var.h - the object behind PerCpuVar, and how its values go to and from Python.
 */
#ifndef PERCPU_PYTHON_VAR_H
#define PERCPU_PYTHON_VAR_H

#include "pool.h"
#include "var_ops.h"

struct percpu_py_var {
    PyObject_HEAD
    const uint8_t *closed; /* see module.h */
    const struct percpu_py_var_ops *ops;
    percpu_ptr ptr;              /* base NULL: not made yet */
    unsigned cpus;               /* copies */
    struct percpu_pool *memory;  /* what `ptr` is an item of, or lies in an item of */
    struct percpu_py_pool *pool; /* a reference, or NULL: a pool of the process */
    PyObject *item;              /* what `ptr` lies in: a reference; NULL: memory of its own */
    size_t exports;              /* buffers in use; SIZE_MAX: closed, so there will be none */
    Py_ssize_t shape, stride;
    PyObject *weakrefs;
};

/* PerCpuVar()'s parameters; make one of `values` in their order. NULL with an exception. */
extern const struct percpu_py_signature percpu_py_var_signature;
PyObject *percpu_py_var_make(PyTypeObject *type, PyObject *const *values);

/* What PerCpuItem.var() returns; `offset` may be NULL. NULL with an exception. */
PyObject *percpu_py_var_of_item(PyObject *item, PyObject *code, PyObject *offset);

/* Give its memory back, if it came that far. */
void percpu_py_var_give_back(struct percpu_py_var *self);

/* A Python number of 64 bits, see var_ops.h; and back, which may raise TypeError or OverflowError
 * about the argument `name`. */
PyObject *percpu_py_box(const struct percpu_py_var_ops *ops, uint64_t bits);
int percpu_py_unbox(const struct percpu_py_var_ops *ops, const char *name, PyObject *obj,
                    uint64_t *bits);

static inline struct percpu_py_var *percpu_py_as_var(PyObject *op)
{
    return (struct percpu_py_var *)op;
}

/* Whether the variable can be used; otherwise ClosedError is set. */
static inline bool percpu_py_var_usable(struct percpu_py_var *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* An argument of a method of a variable that is still open once its __index__ has run. */
static inline bool percpu_py_var_argument(struct percpu_py_var *self, const char *name,
                                          PyObject *obj, uint64_t *bits)
{
    return percpu_py_unbox(self->ops, name, obj, bits) == 0 && percpu_py_var_usable(self);
}

/* The sum of all copies of an open variable. */
uint64_t percpu_py_var_total(struct percpu_py_var *self);

/* The least or the greatest copy of an open variable; of doubles, a NaN if there is one. */
uint64_t percpu_py_var_extreme(struct percpu_py_var *self, bool least);

/* The slots of the sequence of all copies, and of the buffer protocol. */
Py_ssize_t percpu_py_var_length(PyObject *op);
PyObject *percpu_py_var_subscript(PyObject *op, PyObject *key);
int percpu_py_var_assign(PyObject *op, PyObject *key, PyObject *x);
PyObject *percpu_py_var_at(PyObject *op, Py_ssize_t position);
int percpu_py_var_getbuffer(PyObject *op, Py_buffer *view, int flags);
void percpu_py_var_releasebuffer(PyObject *op, Py_buffer *view);

#endif
