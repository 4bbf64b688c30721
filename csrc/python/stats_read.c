/* SPDX-License-Identifier: MIT */
/* stats_read.c - what a PerCpuStats has counted: sums, CPU by CPU, and snapshots. */
#include "stats.h"

const char percpu_py_stats_sum_doc[] = PyDoc_STR(
    "sum($self, which, /)\n--\n\n"
    "Return the exact value of a count: every add that returned before the call is in it.\n\n"
    "``stats[which]`` is the same. Reads one word of each CPU.");

PyObject *percpu_py_stats_sum(PyObject *op, PyObject *which)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    size_t index = percpu_py_stats_find(self, which);
    if (index == PERCPU_PY_NO_STAT || !percpu_py_stats_usable(self))
        return NULL;
    return PyLong_FromLongLong(percpu_stats_sum(&self->stats, index));
}

const char percpu_py_stats_per_cpu_doc[] = PyDoc_STR(
    "per_cpu($self, which, /)\n--\n\n"
    "Return a tuple of what was added to a count on each CPU.");

PyObject *percpu_py_stats_per_cpu(PyObject *op, PyObject *which)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    size_t index = percpu_py_stats_find(self, which);
    if (index == PERCPU_PY_NO_STAT || !percpu_py_stats_usable(self))
        return NULL;
    PyObject *counts = PyTuple_New((Py_ssize_t)self->stats.cpus);
    percpu_ptr count = percpu_stats_count(&self->stats, index);
    for (unsigned cpu = 0; counts != NULL && cpu < self->stats.cpus; cpu++) {
        PyObject *number = PyLong_FromLongLong(percpu_cpu_read_i64(count, cpu));
        if (number == NULL)
            Py_CLEAR(counts);
        else
            PyTuple_SET_ITEM(counts, (Py_ssize_t)cpu, number);
    }
    return counts;
}

const char percpu_py_stats_snapshot_doc[] = PyDoc_STR(
    "snapshot($self, /, cpu=None)\n--\n\n"
    "Return all counts as they are now: a :class:`StatsSnapshot`.\n\n"
    "Each is exact as :meth:`sum` is; they are read CPU by CPU, so of two adds of one thread the\n"
    "later may be in it without the earlier. With `cpu`: what was added on that CPU.");

/* The counts of one CPU, or the sums; bytes. */
static PyObject *read_all(struct percpu_py_stats *self, bool one, unsigned cpu)
{
    int64_t *values = PyMem_Malloc(8 * self->stats.n);
    if (values == NULL)
        return PyErr_NoMemory();
    if (one)
        percpu_stats_read_cpu(&self->stats, cpu, values);
    else
        percpu_stats_sum_all(&self->stats, values);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)values,
                                                (Py_ssize_t)(8 * self->stats.n));
    PyMem_Free(values);
    return bytes;
}

PyObject *percpu_py_stats_snapshot(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "snapshot",
        .positional = 1,
        .parameters = {"cpu"},
    };
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    PyObject *value;
    unsigned cpu = 0;
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, &value) != 0)
        return NULL;
    bool one = value != NULL && value != Py_None;
    if (one && percpu_py_cpu(value, self->stats.cpus, &cpu) != 0)
        return NULL;
    PyObject *module = PyImport_ImportModule("percpu._stats_snapshot"), *snapshot = NULL;
    PyObject *bytes = module != NULL && percpu_py_stats_usable(self) ? read_all(self, one, cpu)
                                                                     : NULL;
    if (bytes != NULL)
        snapshot = PyObject_CallMethod(module, "take", "OO", self->names, bytes);
    Py_XDECREF(bytes);
    Py_XDECREF(module);
    return snapshot;
}

const char percpu_py_stats_repr_html_doc[] = PyDoc_STR(
    "_repr_html_($self, /)\n--\n\n"
    "For notebooks: a table of a snapshot; None if the stats are closed.");

PyObject *percpu_py_stats_repr_html(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (percpu_py_is_closed(&percpu_py_as_stats(op)->closed))
        Py_RETURN_NONE;
    PyObject *snapshot = percpu_py_stats_snapshot(op, NULL, 0, NULL);
    PyObject *html = snapshot != NULL ? PyObject_CallMethod(snapshot, "_repr_html_", NULL) : NULL;
    Py_XDECREF(snapshot);
    return html;
}
