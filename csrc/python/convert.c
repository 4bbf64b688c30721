/* SPDX-License-Identifier: MIT */
/*
 * convert.c - numbers from Python, each checked against its range.
 */
#include "module.h"

enum fit { FITS, OUTSIDE, NOT_AN_INT, RAISED };

/* `number` is an int. */
static enum fit fit_exact(PyObject *number, int64_t min, uint64_t max, uint64_t *bits)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow == 0) {
        *bits = (uint64_t)value;
        return value >= min && (value < 0 || (uint64_t)value <= max) ? FITS : OUTSIDE;
    }
    if (overflow < 0 || max <= INT64_MAX)
        return OUTSIDE;
    unsigned long long large = PyLong_AsUnsignedLongLong(number);
    if (large == (unsigned long long)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return RAISED;
        PyErr_Clear();
        return OUTSIDE;
    }
    *bits = large;
    return large <= max ? FITS : OUTSIDE;
}

static enum fit fit(PyObject *obj, int64_t min, uint64_t max, uint64_t *bits)
{
    if (PyLong_Check(obj))
        return fit_exact(obj, min, max, bits);
    if (!PyIndex_Check(obj))
        return NOT_AN_INT;
    PyObject *number = PyNumber_Index(obj);
    if (number == NULL)
        return RAISED;
    enum fit result = fit_exact(number, min, max, bits);
    Py_DECREF(number);
    return result;
}

int percpu_py_bits(PyObject *obj, const char *name, const char *of, int64_t min, uint64_t max,
                   uint64_t *bits)
{
    switch (fit(obj, min, max, bits)) {
    case FITS:
        return 0;
    case OUTSIDE:
        return percpu_py_reject(PyExc_OverflowError, name, obj, "from %lld to %llu%s",
                                (long long)min, (unsigned long long)max, of);
    case NOT_AN_INT:
        return percpu_py_reject(PyExc_TypeError, name, obj, "an int%s", of);
    default:
        return -1;
    }
}

int percpu_py_int64(PyObject *obj, const char *name, int64_t *value)
{
    uint64_t bits;
    if (percpu_py_bits(obj, name, "", INT64_MIN, INT64_MAX, &bits) != 0)
        return -1;
    *value = (int64_t)bits;
    return 0;
}

int percpu_py_size(PyObject *obj, const char *name, const char *unit, uint64_t min, uint64_t max,
                   uint64_t *size)
{
    switch (fit(obj, 0, max, size)) {
    case FITS:
        if (*size >= min)
            return 0;
        /* fall through */
    case OUTSIDE:
        return percpu_py_reject(PyExc_ValueError, name, obj, "from %llu to %llu%s",
                                (unsigned long long)min, (unsigned long long)max, unit);
    case NOT_AN_INT:
        return percpu_py_reject(PyExc_TypeError, name, obj, "an int");
    default:
        return -1;
    }
}

int percpu_py_power_of_two(PyObject *obj, const char *name, const char *unit, uint64_t min,
                           uint64_t max, uint64_t *size)
{
    switch (fit(obj, 0, max, size)) {
    case FITS:
        if (*size >= min && (*size & (*size - 1)) == 0)
            return 0;
        /* fall through */
    case OUTSIDE:
        return percpu_py_reject(PyExc_ValueError, name, obj, "a power of two from %llu to 2**%d%s",
                                (unsigned long long)min, __builtin_ctzll(max), unit);
    case NOT_AN_INT:
        return percpu_py_reject(PyExc_TypeError, name, obj, "an int");
    default:
        return -1;
    }
}

int percpu_py_cpu(PyObject *obj, unsigned cpus, unsigned *cpu)
{
    uint64_t id = 0;
    switch (fit(obj, 0, cpus - 1, &id)) {
    case FITS:
        *cpu = (unsigned)id;
        return 0;
    case OUTSIDE:
        return percpu_py_reject(PyExc_IndexError, "cpu", obj, "from 0 to %u", cpus - 1);
    case NOT_AN_INT:
        return percpu_py_reject(PyExc_TypeError, "cpu", obj, "an int");
    default:
        return -1;
    }
}

int percpu_py_double(PyObject *obj, const char *name, double *value)
{
    if (!PyFloat_Check(obj) && !PyIndex_Check(obj))
        return percpu_py_reject(PyExc_TypeError, name, obj, "an int or a float");
    *value = PyFloat_AsDouble(obj);
    if (*value != -1.0 || !PyErr_Occurred())
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    PyErr_Clear();
    return percpu_py_reject(PyExc_OverflowError, name, obj, "in the range of a float");
}
