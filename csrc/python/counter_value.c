/* SPDX-License-Identifier: MIT */
/*
 * counter_value.c - what a PerCpuCounter says of its value, and what sets it: reading, comparing,
 * exchanging, limits.
 */
#include "counter.h"
#include "numbers.h"

/* reading ------------------------------------------------------------------------------------ */

const char percpu_py_counter_sum_doc[] =
    "sum($self, /)\n--\n\n"
    "Return the exact value: every add that returned before the call is in it.\n\n"
    "Reads one word of each CPU.";

PyObject *percpu_py_counter_sum_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self) ? PyLong_FromLongLong(percpu_counter_sum(&self->counter))
                                          : NULL;
}

const char percpu_py_counter_read_doc[] =
    "read($self, /)\n--\n\n"
    "Return the approximate value: at most :attr:`error` away from :meth:`sum`\n"
    "when no add is under way.\n\n"
    "What it costs does not grow with the number of CPUs.";

PyObject *percpu_py_counter_read_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self) ? PyLong_FromLongLong(percpu_counter_read(&self->counter))
                                          : NULL;
}

const char percpu_py_counter_read_bounds_doc[] =
    "read_bounds($self, /)\n--\n\n"
    "Return ``(value, low, high)``: what :meth:`read` says, and the bounds between which\n"
    ":meth:`sum` is when no add is under way.";

PyObject *percpu_py_counter_read_bounds_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (!percpu_py_counter_usable(self))
        return NULL;
    int64_t low, high, value = percpu_counter_read_bounds(&self->counter, &low, &high);
    return Py_BuildValue("(LLL)", (long long)value, (long long)low, (long long)high);
}

const char percpu_py_counter_per_cpu_doc[] =
    "per_cpu($self, /)\n--\n\n"
    "Return a tuple of what was added on each CPU since the counter was made.\n\n"
    "What the counter started with, what :meth:`set`, :meth:`exchange`, :meth:`try_add` and\n"
    ":meth:`try_sub` moved, and what was added while the counter was lazy, is on no CPU.";

PyObject *percpu_py_counter_per_cpu_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (!percpu_py_counter_usable(self))
        return NULL;
    const struct percpu_counter *counter = &self->counter;
    PyObject *counts = PyTuple_New((Py_ssize_t)counter->cpus);
    for (unsigned cpu = 0; counts != NULL && cpu < counter->cpus; cpu++) {
        PyObject *number = PyLong_FromLongLong(percpu_counter_on(counter, cpu));
        if (number == NULL)
            Py_CLEAR(counts);
        else
            PyTuple_SET_ITEM(counts, (Py_ssize_t)cpu, number);
    }
    return counts;
}

/* comparing and setting ------------------------------------------------------------------------ */

const char percpu_py_counter_compare_doc[] =
    "compare($self, rhs, /)\n--\n\n"
    "Return -1, 0 or 1 as the value is below, equal to or above `rhs`.\n\n"
    "`rhs` is an int of any size, what has ``__index__``, or a counter. Sums only if\n"
    ":meth:`read` is too close to `rhs` to tell. The operators ``<``, ``==`` and so on do\n"
    "the same, and compare the sum with floats too.";

PyObject *percpu_py_counter_compare_method(PyObject *op, PyObject *rhs)
{
    PyObject *number = PyIndex_Check(rhs) ? PyNumber_Index(rhs) : Py_NewRef(rhs);
    if (number == NULL)
        return NULL;
    enum percpu_py_comparison result = percpu_py_counter_compare(percpu_py_as_counter(op), number);
    Py_DECREF(number);
    if (result == PERCPU_PY_NOT_COMPARABLE)
        percpu_py_reject(PyExc_TypeError, "rhs", rhs, "an int or a PerCpuCounter");
    return result == PERCPU_PY_RAISED || result == PERCPU_PY_NOT_COMPARABLE
               ? NULL
               : PyLong_FromLong(result);
}

const char percpu_py_counter_exchange_doc[] =
    "exchange($self, value, /)\n--\n\n"
    "Make the value `value`, and return what it was.\n\n"
    "An add that races with it is not lost: it counts before or after. `value` is an int\n"
    "from -2**63 to 2**63 - 1 (:exc:`OverflowError`).";

PyObject *percpu_py_counter_exchange_method(PyObject *op, PyObject *value)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    int64_t number;
    if (percpu_py_int64(value, "value", &number) != 0 || !percpu_py_counter_usable(self))
        return NULL;
    return PyLong_FromLongLong(percpu_counter_exchange(&self->counter, number));
}

const char percpu_py_counter_set_doc[] = "set($self, value, /)\n--\n\n"
                                         "Make the value `value`, as :meth:`exchange` does.";

PyObject *percpu_py_counter_set_method(PyObject *op, PyObject *value)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    int64_t number;
    if (percpu_py_int64(value, "value", &number) != 0 || !percpu_py_counter_usable(self))
        return NULL;
    percpu_counter_set(&self->counter, number);
    Py_RETURN_NONE;
}

const char percpu_py_counter_delta_doc[] =
    "delta($self, /)\n--\n\n"
    "Return by how much the value has changed since the last call, or since the counter was\n"
    "made: what an exporter adds to what it exported before.\n\n"
    "However many threads call it, each change is in the result of one of them.";

PyObject *percpu_py_counter_delta_method(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    return percpu_py_counter_usable(self)
               ? PyLong_FromLongLong(percpu_counter_delta(&self->counter))
               : NULL;
}

/* adding many -------------------------------------------------------------------------------- */

static int64_t sum_of(const struct percpu_py_numbers *numbers)
{
    uint64_t block[PERCPU_PY_BLOCK], sum = 0;
    for (size_t done = 0; done < numbers->count; done += percpu_py_block(numbers, done)) {
        size_t count = percpu_py_block(numbers, done);
        percpu_py_numbers_integers(numbers, done, count, block);
        for (size_t i = 0; i < count; i++)
            sum += block[i];
    }
    return (int64_t)sum;
}

const char percpu_py_counter_add_many_doc[] =
    "add_many($self, values, /)\n--\n\n"
    "Add the sum of `values`: an array, or any other buffer of one dimension, of ints.\n\n"
    "A NumPy array is read where it is, whatever its strides and byte order; other threads may\n"
    "run meanwhile. Raises :exc:`TypeError` for other objects, and for floats.";

PyObject *percpu_py_counter_add_many_method(PyObject *op, PyObject *values)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    struct percpu_py_numbers numbers;
    int64_t sum;
    if (!percpu_py_counter_usable(self) ||
        percpu_py_numbers_open(&numbers, values, "values", false) != 0)
        return NULL;
    if (numbers.count < PERCPU_PY_MANY_NUMBERS) {
        sum = sum_of(&numbers);
    } else {
        Py_BEGIN_ALLOW_THREADS
        sum = sum_of(&numbers);
        Py_END_ALLOW_THREADS
    }
    percpu_py_numbers_close(&numbers);
    if (!percpu_py_counter_usable(self)) /* somebody may have closed it meanwhile */
        return NULL;
    percpu_counter_add(&self->counter, sum);
    Py_RETURN_NONE;
}

/* limits ------------------------------------------------------------------------------------- */

static PyObject *try_move(struct percpu_py_counter *self,
                          const struct percpu_py_signature *signature, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames,
                          bool (*move)(struct percpu_counter *, int64_t, int64_t))
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    int64_t n, limit;
    if (percpu_py_match_vector(signature, args, (size_t)nargs, kwnames, values) != 0 ||
        percpu_py_int64(values[0], signature->parameters[0], &n) != 0 ||
        percpu_py_int64(values[1], signature->parameters[1], &limit) != 0 ||
        !percpu_py_counter_usable(self)) /* __index__ may have closed it */
        return NULL;
    return PyBool_FromLong(move(&self->counter, n, limit));
}

const char percpu_py_counter_try_add_doc[] =
    "try_add($self, /, n, limit)\n--\n\n"
    "Add `n` if the value is then not above `limit`; return whether it was added.\n\n"
    "However :meth:`try_add`, :meth:`try_sub`, :meth:`set` and :meth:`exchange` of all threads\n"
    "interleave, this never takes the value past `limit`, and it fails only if `limit` was in\n"
    "the way at an instant of the call. :meth:`add` and its like do not ask: beside them, what\n"
    "decides is a :meth:`sum` taken during the call.\n\n"
    "It reads one word of each CPU and does one atomic operation on a shared one: for a limit\n"
    "that all threads work against all the time, take a :class:`PerCpuLimiter`. `n` and `limit`\n"
    "are ints from -2**63 to 2**63 - 1 (:exc:`OverflowError`).";

PyObject *percpu_py_counter_try_add_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                           PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "try_add",
        .required = 2,
        .positional = 2,
        .parameters = {"n", "limit"},
    };
    return try_move(percpu_py_as_counter(op), &signature, args, nargs, kwnames,
                    percpu_counter_try_add);
}

const char percpu_py_counter_try_sub_doc[] =
    "try_sub($self, /, n, floor)\n--\n\n"
    "Subtract `n` if the value is then not below `floor`; return whether it was subtracted.\n\n"
    "Everything else is as with :meth:`try_add`.";

PyObject *percpu_py_counter_try_sub_method(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                           PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "try_sub",
        .required = 2,
        .positional = 2,
        .parameters = {"n", "floor"},
    };
    return try_move(percpu_py_as_counter(op), &signature, args, nargs, kwnames,
                    percpu_counter_try_sub);
}
