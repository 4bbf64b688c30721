/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - the object behind PerCpuHistogram, for the files that share it.
 */
#ifndef PERCPU_PYTHON_HISTOGRAM_H
#define PERCPU_PYTHON_HISTOGRAM_H

#include "pool.h"

#include <percpu/histogram.h>

struct percpu_py_histogram {
    PyObject_HEAD
    const uint8_t *closed;             /* see module.h */
    struct percpu_histogram histogram; /* cpus 0: not made yet */
    struct percpu_py_pool *pool;       /* a reference, or NULL: a pool of the process */
    PyObject *weakrefs;
};

static inline struct percpu_py_histogram *percpu_py_as_histogram(PyObject *op)
{
    return (struct percpu_py_histogram *)op;
}

/* Whether the histogram can be used; otherwise ClosedError is set. */
static inline bool percpu_py_histogram_usable(struct percpu_py_histogram *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* PerCpuHistogram()'s parameters; make one of `values` in their order. NULL with an exception. */
extern const struct percpu_py_signature percpu_py_histogram_signature;
PyObject *percpu_py_histogram_make(PyTypeObject *type, PyObject *const *values);

/* Give its memory back, if it came that far. */
void percpu_py_histogram_give_back(struct percpu_py_histogram *self);

/* histogram_many.c: methods that take many numbers */
PyObject *percpu_py_histogram_observe_many(PyObject *op, PyObject *values);
PyObject *percpu_py_histogram_merge(PyObject *op, PyObject *other);
extern const char percpu_py_histogram_observe_many_doc[], percpu_py_histogram_merge_doc[];

/* histogram_look.c: methods and attributes that only look */
extern PyGetSetDef percpu_py_histogram_attributes[];
PyObject *percpu_py_histogram_bounds(PyObject *op, void *closure);
PyObject *percpu_py_histogram_quantile(PyObject *op, PyObject *q);
PyObject *percpu_py_histogram_quantiles(PyObject *op, PyObject *qs);
PyObject *percpu_py_histogram_snapshot(PyObject *op, PyObject *unused);
PyObject *percpu_py_histogram_per_cpu(PyObject *op, PyObject *unused);
PyObject *percpu_py_histogram_repr(PyObject *op);
PyObject *percpu_py_histogram_repr_html(PyObject *op, PyObject *unused);
extern const char percpu_py_histogram_quantile_doc[], percpu_py_histogram_quantiles_doc[],
    percpu_py_histogram_snapshot_doc[], percpu_py_histogram_per_cpu_doc[],
    percpu_py_histogram_repr_html_doc[];

#endif
