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
PyDoc_STRVAR(
    corruption_doc,
    "An invariant of a pool or another object does not hold.\n\n"
    "Something wrote where it had no business. What a pool finds has attributes that say more:\n"
    "`kind` is 'double free', 'foreign free', 'interior free', 'wrong pool', 'use after free',\n"
    "'overflow', 'bad free list', 'leak' or 'not constructed'; `pool` the :class:`PerCpuPool`,\n"
    "`item` the address of the item, or what was to be freed; `offset` that of the first wrong\n"
    "byte from the copy's start, and `cpu` whose copy it is; `expected` and `found` are that byte;\n"
    "`count` is how many items were leaked; `site` where the item was allocated last, as in\n"
    "``'file.py:12 in function'``. What is not known is None.");
PyDoc_STRVAR(closed_doc, "The object was closed or freed, or the pool that it is in was closed.");

/* Nothing is known, unless the exception itself says so: percpu_py_raise_report(). */
static int add_attributes(PyObject *corruption_error)
{
    static const char *const names[] = {"kind",  "pool",     "item",  "offset", "cpu",
                                        "count", "expected", "found", "site"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (PyObject_SetAttrString(corruption_error, names[i], Py_None) != 0)
            return -1;
    return 0;
}

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
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        *errors[i].place = PyErr_NewExceptionWithDoc(errors[i].name, errors[i].doc, errors[i].base,
                                                     NULL);
        if (*errors[i].place == NULL || PyModule_AddType(module, (PyTypeObject *)*errors[i].place))
            return -1;
    }
    return add_attributes(state->corruption_error);
}

PyObject *percpu_py_error_class(PyTypeObject *type, enum percpu_py_error which)
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
    PyErr_FormatV(percpu_py_error_class(type, which), format, arguments);
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
        PyErr_SetObject(percpu_py_error_class(type, PERCPU_PY_EXHAUSTED), message);
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

PyObject *percpu_py_exit(PyObject *const *args, Py_ssize_t nargs, bool closed)
{
    if (closed)
        Py_RETURN_NONE;
    if (nargs < 2 || !PyExceptionInstance_Check(args[1]))
        return NULL;
    PyObject *ours = PyErr_GetRaisedException();
    PyObject *note = PyUnicode_FromFormat("at the end of the with block: %s: %S",
                                          percpu_py_type_name(ours), ours);
    PyObject *done = note != NULL ? PyObject_CallMethod(args[1], "add_note", "O", note) : NULL;
    Py_XDECREF(note);
    Py_DECREF(ours);
    return done;
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
