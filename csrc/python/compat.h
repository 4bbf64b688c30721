/* SPDX-License-Identifier: MIT */
/*
 * compat.h - Python.h, and what differs between the Python versions we build for.
 *
 * Include it first: Python.h wants to be before any system header.
 */
#ifndef PERCPU_PYTHON_COMPAT_H
#define PERCPU_PYTHON_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#if PY_VERSION_HEX < 0x030C0000
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY

/* The exception that is set, as one object, and none is set any more; NULL if there was none. */
static inline PyObject *PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

/* Set it again; takes the reference. */
static inline void PyErr_SetRaisedException(PyObject *exception)
{
    if (exception == NULL)
        PyErr_Clear();
    else
        PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception,
                      PyException_GetTraceback(exception));
}
#endif

/*
 * Threads that share `op` need not write to its reference count any more; the garbage collector
 * frees it, not the last reference. Only before anyone else has seen `op`.
 */
static inline void percpu_py_defer_refcount(PyObject *op)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    PyUnstable_Object_EnableDeferredRefcount(op);
#else
    (void)op;
#endif
}

/*
 * Objects with deferred reference counts that nobody refers to may still hold items of the pools of
 * the process. Gives those back; returns whether there can have been any.
 */
static inline bool percpu_py_collect_deferred(void)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    PyGC_Collect();
    return true;
#else
    return false;
#endif
}

#endif
