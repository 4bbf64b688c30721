/* SPDX-License-Identifier: MIT */
/*
 * errors.c - the exceptions of the package, and the table from errno to exception.
 */
#include "module.h"

#include <errno.h>
#include <string.h>

PyDoc_STRVAR(exhausted_doc,
             "No memory, or no room in a pool that may not grow.\n\n"
             "The pool still works: free an item, and the next allocation succeeds.");
PyDoc_STRVAR(corruption_doc, "An invariant of a pool or counter does not hold.\n\n"
                             "Something wrote where it had no business.");
PyDoc_STRVAR(closed_doc, "The object was closed or freed, or the pool that it is in was closed.");

int percpu_py_add_errors(PyObject *module, struct percpu_py_state *state)
{
    const struct {
        PyObject **place, *base;
        const char *name, *doc;
    } errors[] = {
        {&state->pool_exhausted, PyExc_MemoryError, "percpu.PoolExhausted", exhausted_doc},
        {&state->corruption_error, PyExc_RuntimeError, "percpu.CorruptionError", corruption_doc},
        {&state->closed_error, PyExc_ValueError, "percpu.ClosedError", closed_doc},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(errors); i++) {
        *errors[i].place = PyErr_NewExceptionWithDoc(errors[i].name, errors[i].doc, errors[i].base,
                                                     NULL);
        if (*errors[i].place == NULL || PyModule_AddType(module, (PyTypeObject *)*errors[i].place))
            return -1;
    }
    return 0;
}

/* A type that is being torn down has no state any more: its objects raise the base class. */
static PyObject *exception_of(PyTypeObject *type, enum percpu_py_error which)
{
    struct percpu_py_state *state = percpu_py_state_of(type);
    PyObject *ours, *base;
    switch (which) {
    case PERCPU_PY_CLOSED:
        ours = state != NULL ? state->closed_error : NULL;
        base = PyExc_ValueError;
        break;
    case PERCPU_PY_EXHAUSTED:
        ours = state != NULL ? state->pool_exhausted : NULL;
        base = PyExc_MemoryError;
        break;
    default:
        ours = state != NULL ? state->corruption_error : NULL;
        base = PyExc_RuntimeError;
    }
    return ours != NULL ? ours : base;
}

void *percpu_py_raise(PyTypeObject *type, enum percpu_py_error which, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyErr_FormatV(exception_of(type, which), format, arguments);
    va_end(arguments);
    return NULL;
}

void *percpu_py_raise_errno(PyTypeObject *type, int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *message = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (message == NULL)
        return NULL;
    switch (error) {
    case EINVAL:
        PyErr_SetObject(PyExc_ValueError, message);
        break;
    case ENOMEM:
        PyErr_SetObject(exception_of(type, PERCPU_PY_EXHAUSTED), message);
        break;
    default: {
        PyObject *pair = Py_BuildValue("(iO)", error, message);
        if (pair != NULL)
            PyErr_SetObject(PyExc_OSError, pair);
        Py_XDECREF(pair);
    }
    }
    Py_DECREF(message);
    return NULL;
}

PyObject *percpu_py_show(PyObject *obj)
{
    enum { LONGEST = 60 };
    PyObject *text = PyObject_Repr(obj);
    if (text == NULL) { /* an int of too many digits, for instance */
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL; /* KeyboardInterrupt */
        PyErr_Clear();
        return PyUnicode_FromFormat("an object of type %s", Py_TYPE(obj)->tp_name);
    }
    if (PyUnicode_GET_LENGTH(text) <= LONGEST)
        return text;
    PyObject *start = PyUnicode_Substring(text, 0, LONGEST - 3);
    Py_DECREF(text);
    if (start == NULL)
        return NULL;
    PyObject *shortened = PyUnicode_FromFormat("%U...", start);
    Py_DECREF(start);
    return shortened;
}

int percpu_py_reject(PyObject *exception, const char *name, PyObject *value, const char *right, ...)
{
    va_list arguments;
    va_start(arguments, right);
    PyObject *wanted = PyUnicode_FromFormatV(right, arguments);
    va_end(arguments);
    PyObject *shown = percpu_py_show(value);
    if (wanted != NULL && shown != NULL) {
        if (exception == PyExc_TypeError)
            PyErr_Format(exception, "%s must be %U, not %s %U", name, wanted,
                         Py_TYPE(value)->tp_name, shown);
        else
            PyErr_Format(exception, "%s must be %U, not %U", name, wanted, shown);
    }
    Py_XDECREF(wanted);
    Py_XDECREF(shown);
    return -1;
}

const char *percpu_py_type_name(PyObject *op)
{
    const char *name = Py_TYPE(op)->tp_name, *dot = strrchr(name, '.');
    return dot != NULL ? dot + 1 : name;
}

void *percpu_py_raise_closed(PyObject *op)
{
    return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CLOSED, "this %s is closed",
                           percpu_py_type_name(op));
}
