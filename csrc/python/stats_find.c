/* SPDX-License-Identifier: MIT */
/*
 * stats_find.c - which count of a PerCpuStats is meant, and what to say where none is.
 */
#include "stats.h"

#include <string.h>

/* names -------------------------------------------------------------------------------------- */

/* Whether two exact str are equal. Each str has the narrowest kind that it fits in. */
static bool equal(PyObject *a, PyObject *b)
{
    if (a == b)
        return true;
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
           memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * PyUnicode_KIND(a)) == 0;
}

/* The place of `name`, or the empty one where it would be. At most half of the places are taken. */
static uint32_t *place_of(const struct percpu_py_stats *self, PyObject *name)
{
    size_t at = (size_t)PyObject_Hash(name) & self->mask; /* of an exact str: cannot fail */
    while (self->places[at] != 0 &&
           !equal(PyTuple_GET_ITEM(self->names, self->places[at] - 1), name))
        at = (at + 1) & self->mask;
    return &self->places[at];
}

size_t percpu_py_stats_find_name(const struct percpu_py_stats *self, PyObject *name)
{
    uint32_t place = *place_of(self, name);
    return place != 0 ? place - 1 : PERCPU_PY_NO_STAT;
}

static int raise_twice(PyObject *name)
{
    PyObject *shown = percpu_py_show(name);
    if (shown != NULL)
        PyErr_Format(PyExc_ValueError, "names must be different, but %U is there twice", shown);
    Py_XDECREF(shown);
    return -1;
}

int percpu_py_stats_index_names(struct percpu_py_stats *self)
{
    size_t count = (size_t)PyTuple_GET_SIZE(self->names), places = 8;
    while (places < 2 * count)
        places *= 2;
    self->places = PyMem_RawCalloc(places, sizeof *self->places);
    if (self->places == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->mask = places - 1;
    for (size_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(self->names, (Py_ssize_t)i);
        uint32_t *place = place_of(self, name);
        if (*place != 0)
            return raise_twice(name);
        *place = (uint32_t)i + 1;
    }
    return 0;
}

/* what is not found -------------------------------------------------------------------------- */

/* Looking for names that are like another takes some 20 us for each that there is. */
#define MOST_TO_SUGGEST 1000

/* Names that look like `name`, as ": did you mean 'a' or 'b'?"; "" if there are none. NULL with an
 * exception. */
static PyObject *suggest(struct percpu_py_stats *self, PyObject *name)
{
    if (self->stats.n > MOST_TO_SUGGEST)
        return PyUnicode_FromString("");
    PyObject *difflib = PyImport_ImportModule("difflib");
    PyObject *near = difflib != NULL ? PyObject_CallMethod(difflib, "get_close_matches", "OO", name,
                                                           self->names)
                                     : NULL;
    PyObject *text = NULL;
    if (near != NULL && PyList_Check(near)) {
        text = PyUnicode_FromString("");
        Py_ssize_t count = PyList_GET_SIZE(near);
        for (Py_ssize_t i = 0; text != NULL && i < count; i++)
            Py_SETREF(text, PyUnicode_FromFormat("%U%s%R", text,
                                                 i == 0           ? ": did you mean "
                                                 : i + 1 == count ? " or "
                                                                  : ", ",
                                                 PyList_GET_ITEM(near, i)));
        if (text != NULL && count > 0)
            Py_SETREF(text, PyUnicode_FromFormat("%U?", text));
    }
    Py_XDECREF(near);
    Py_XDECREF(difflib);
    return text;
}

static size_t raise_unknown(struct percpu_py_stats *self, PyObject *name)
{
    PyObject *shown = percpu_py_show(name);
    PyObject *near = shown != NULL ? suggest(self, name) : NULL;
    if (near != NULL)
        PyErr_Format(PyExc_KeyError, "no name of this %s is %U%U",
                     percpu_py_type_name((PyObject *)self), shown, near);
    Py_XDECREF(near);
    Py_XDECREF(shown);
    return PERCPU_PY_NO_STAT;
}

/* `which` is a str, whose class may be a subclass: what counts are its characters. */
static size_t find_str(struct percpu_py_stats *self, PyObject *which)
{
    PyObject *name = PyUnicode_FromObject(which);
    if (name == NULL)
        return PERCPU_PY_NO_STAT;
    size_t index = percpu_py_stats_find_name(self, name);
    if (index == PERCPU_PY_NO_STAT)
        raise_unknown(self, name);
    Py_DECREF(name);
    return index;
}

static size_t find_index(struct percpu_py_stats *self, PyObject *which)
{
    PyObject *number = PyNumber_Index(which);
    if (number == NULL)
        return PERCPU_PY_NO_STAT;
    int overflow;
    long long index = PyLong_AsLongLongAndOverflow(number, &overflow);
    bool failed = index == -1 && overflow == 0 && PyErr_Occurred();
    Py_DECREF(number);
    if (!failed && overflow == 0 && index >= 0 && (uint64_t)index < self->stats.n)
        return (size_t)index;
    if (!failed)
        percpu_py_reject(PyExc_IndexError, "which", which, "an index from 0 to %zu",
                         self->stats.n - 1);
    return PERCPU_PY_NO_STAT;
}

size_t percpu_py_stats_find_slowly(struct percpu_py_stats *self, PyObject *which)
{
    if (PyUnicode_Check(which))
        return find_str(self, which);
    if (PyIndex_Check(which))
        return find_index(self, which);
    if (Py_TYPE(which) == self->stat_type)
        percpu_py_reject(PyExc_ValueError, "which", which, "a handle of these stats");
    else
        percpu_py_reject(PyExc_TypeError, "which", which, "a name, an index or a handle");
    return PERCPU_PY_NO_STAT;
}
