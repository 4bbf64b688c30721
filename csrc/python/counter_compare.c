/* SPDX-License-Identifier: MIT */
/*
 * counter_compare.c - comparisons of a PerCpuCounter with ints and counters.
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

PyObject *percpu_py_counter_richcompare(PyObject *op, PyObject *other, int operator)
{
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
