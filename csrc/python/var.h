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
    struct percpu_pool *memory;  /* what `ptr` is an item of */
    struct percpu_py_pool *pool; /* a reference, or NULL: a pool of the process */
    size_t exports;              /* buffers in use; SIZE_MAX: closed, so there will be none */
    Py_ssize_t shape, stride;
    PyObject *weakrefs;
};

/* PerCpuVar()'s parameters; make one of `values` in their order. NULL with an exception. */
extern const struct percpu_py_signature percpu_py_var_signature;
PyObject *percpu_py_var_make(PyTypeObject *type, PyObject *const *values);

/* Give its memory back, if it came that far. */
void percpu_py_var_give_back(struct percpu_py_var *self);

/* A Python number of 64 bits, see var_ops.h; and back, which may raise TypeError or OverflowError
 * about the argument `name`. */
PyObject *percpu_py_box(const struct percpu_py_var_ops *ops, uint64_t bits);
int percpu_py_unbox(const struct percpu_py_var_ops *ops, const char *name, PyObject *obj,
                    uint64_t *bits);

#endif
