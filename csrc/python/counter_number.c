/* SPDX-License-Identifier: MIT */
/*
 * counter_number.c - a PerCpuCounter as a number: comparisons, conversions, formats.
 */
#include "counter.h"

static enum percpu_py_comparison compare_with_int(struct percpu_py_counter *self, PyObject *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow != 0)
        return overflow > 0 ? PERCPU_PY_BELOW : PERCPU_PY_ABOVE;
    if (value == -1 && PyErr_Occurred())
        return PERCPU_PY_RAISED;
    return (enum percpu_py_comparison)percpu_counter_compare(&self->counter, value);
}

static enum percpu_py_comparison compare_with_counter(struct percpu_py_counter *self,
                                                      struct percpu_py_counter *other)
{
    if (self == other)
        return PERCPU_PY_EQUAL;
    if (!percpu_py_counter_usable(other))
        return PERCPU_PY_RAISED;
    return (enum percpu_py_comparison)percpu_counter_compare(&self->counter,
                                                             percpu_counter_sum(&other->counter));
}

enum percpu_py_comparison percpu_py_counter_compare(struct percpu_py_counter *self, PyObject *other)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(self));
    bool both = state != NULL && state->counter_type != NULL &&
                PyObject_TypeCheck(other, state->counter_type);
    if (!both && !PyLong_Check(other))
        return PERCPU_PY_NOT_COMPARABLE;
    if (!percpu_py_counter_usable(self))
        return PERCPU_PY_RAISED;
    return both ? compare_with_counter(self, percpu_py_as_counter(other))
                : compare_with_int(self, other);
}

/* The exact sum as an int, so that Python's comparison of ints with floats loses no digit. */
static PyObject *compare_with_float(PyObject *op, PyObject *other, int operator)
{
    PyObject *sum = percpu_py_counter_int(op);
    PyObject *result = sum != NULL ? PyObject_RichCompare(sum, other, operator) : NULL;
    Py_XDECREF(sum);
    return result;
}

PyObject *percpu_py_counter_richcompare(PyObject *op, PyObject *other, int operator)
{
    if (PyFloat_Check(other))
        return compare_with_float(op, other, operator);
    enum percpu_py_comparison result = percpu_py_counter_compare(percpu_py_as_counter(op), other);
    if (result == PERCPU_PY_RAISED)
        return NULL;
    if (result == PERCPU_PY_NOT_COMPARABLE)
        Py_RETURN_NOTIMPLEMENTED;
    Py_RETURN_RICHCOMPARE((int)result, 0, operator);
}

int percpu_py_counter_bool(PyObject *op)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self) ? percpu_counter_compare(&self->counter, 0) != 0 : -1;
}

PyObject *percpu_py_counter_int(PyObject *op)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self) ? PyLong_FromLongLong(percpu_counter_sum(&self->counter))
                                          : NULL;
}

PyObject *percpu_py_counter_float(PyObject *op)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self)
               ? PyFloat_FromDouble((double)percpu_counter_sum(&self->counter))
               : NULL;
}

const char percpu_py_counter_format_doc[] =
    "__format__($self, spec, /)\n--\n\n"
    "Format the sum as an int is formatted; without a `spec`, do as :func:`str` does.";

PyObject *percpu_py_counter_format(PyObject *op, PyObject *spec)
{
    if (!PyUnicode_Check(spec)) {
        percpu_py_reject(PyExc_TypeError, "spec", spec, "a str");
        return NULL;
    }
    if (PyUnicode_GET_LENGTH(spec) == 0)
        return PyObject_Str(op);
    PyObject *sum = percpu_py_counter_int(op);
    PyObject *text = sum != NULL ? PyObject_Format(sum, spec) : NULL;
    Py_XDECREF(sum);
    return text;
}
