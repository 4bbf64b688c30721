/* SPDX-License-Identifier: MIT */
/*
 * ref.h - the object behind PerCpuRef, for the files that share it.
 */
#ifndef PERCPU_PYTHON_REF_H
#define PERCPU_PYTHON_REF_H

#include "module.h"

#include <percpu/ref.h>

struct percpu_py_ref {
    PyObject_HEAD
    const uint8_t *closed; /* see module.h */
    struct percpu_ref ref; /* cpus 0: not made yet */
    PyObject *release;     /* a callable or NULL; constant until the end */
    PyObject *weakrefs;
};

static inline struct percpu_py_ref *percpu_py_as_ref(PyObject *op)
{
    return (struct percpu_py_ref *)op;
}

/* Whether the ref can be used; otherwise ClosedError is set. */
static inline bool percpu_py_ref_usable(struct percpu_py_ref *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* ref_kill.c: methods that go between live and dying */
PyObject *percpu_py_ref_kill(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);
PyObject *percpu_py_ref_resurrect(PyObject *op, PyObject *unused);
PyObject *percpu_py_ref_reinit(PyObject *op, PyObject *unused);
extern const char percpu_py_ref_kill_doc[], percpu_py_ref_resurrect_doc[],
    percpu_py_ref_reinit_doc[];

#endif
