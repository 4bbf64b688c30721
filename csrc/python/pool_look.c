/* SPDX-License-Identifier: MIT */
/* pool_look.c - the methods of PerCpuPool that only look: stats(), map() and their like. */
#include "pool.h"

#include <unistd.h>

const char percpu_py_pool_stats_doc[] = PyDoc_STR(
    "stats($self, /)\n--\n\n"
    "Return a dict of numbers about the pool.\n\n"
    "``ranges``, and of items: ``live`` (handed out; variables and counters included), ``cached``\n"
    "(free, in the CPUs' caches), ``free`` (free, in the ranges). ``virtual_bytes`` of address\n"
    "space, of which ``resident_bytes`` are in memory; ``resident_per_cpu``, a tuple of bytes for\n"
    "each CPU's strides; ``padded_bytes``, what the live items would take as an array in which\n"
    "every copy has cache lines of its own. ``refills`` and ``overflows``: how often a cache was\n"
    "filled from the ranges, or gave part of itself back. ``restores``: items brought back to\n"
    "their initial bytes. ``aborts``: how often alloc or free had to try again. Size classes\n"
    "share their ranges, and so the bytes. Raises :exc:`ClosedError`.");

static PyObject *resident_per_cpu(struct percpu_py_pool *self)
{
    PyObject *per_cpu = PyTuple_New((Py_ssize_t)self->geometry.cpus);
    for (unsigned cpu = 0; per_cpu != NULL && cpu < self->geometry.cpus; cpu++) {
        PyObject *bytes = PyLong_FromSize_t(percpu_pool_resident(self->memory, cpu));
        if (bytes == NULL)
            Py_CLEAR(per_cpu);
        else
            PyTuple_SET_ITEM(per_cpu, (Py_ssize_t)cpu, bytes);
    }
    return per_cpu;
}

static size_t padded_bytes(const struct percpu_py_pool *self, size_t live)
{
    enum { LINE = 64 };
    return live * self->geometry.cpus * ((self->geometry.item_size + LINE - 1) / LINE * LINE);
}

static PyObject *stats_while_held(struct percpu_py_pool *self)
{
    struct percpu_pool_stats stats;
    percpu_pool_stats(self->memory, &stats);
    PyObject *per_cpu = resident_per_cpu(self);
    if (per_cpu == NULL)
        return NULL;
    return Py_BuildValue(
        "{s:n,s:n,s:n,s:n,s:n,s:n,s:N,s:n,s:K,s:K,s:K,s:K}", "ranges", (Py_ssize_t)stats.ranges,
        "live", (Py_ssize_t)stats.live, "cached", (Py_ssize_t)stats.cached, "free",
        (Py_ssize_t)stats.free, "virtual_bytes", (Py_ssize_t)stats.virtual_bytes, "resident_bytes",
        (Py_ssize_t)stats.resident_bytes, "resident_per_cpu", per_cpu, "padded_bytes",
        (Py_ssize_t)padded_bytes(self, stats.live), "refills", (unsigned long long)stats.refills,
        "overflows", (unsigned long long)stats.overflows, "restores",
        (unsigned long long)stats.restores, "aborts", (unsigned long long)stats.aborts);
}

PyObject *percpu_py_pool_stats(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    PyObject *stats = stats_while_held(self);
    percpu_py_pool_release(self);
    return stats;
}

const char percpu_py_pool_pages_doc[] = PyDoc_STR(
    "_pages($self, /)\n--\n\n"
    "Return which pages are in memory: a list for each range, oldest first, of bytes for\n"
    "each copy: 1 for each page of its stride that is its own. Of a pool populated by\n"
    "initial values, those come last. Raises ClosedError.");

/* The bytes of one copy; None if there is no such range. */
static PyObject *pages_of_copy(struct percpu_py_pool *self, size_t range, unsigned cpu)
{
    size_t pages = self->geometry.stride / (size_t)sysconf(_SC_PAGESIZE);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)pages);
    if (bytes == NULL)
        return NULL;
    unsigned char *own = (unsigned char *)PyBytes_AS_STRING(bytes);
    if (percpu_pool_pages(self->memory, range, cpu, own, pages) != 0)
        return bytes;
    Py_DECREF(bytes);
    return Py_NewRef(Py_None);
}

/* The list of one range; None if there is no such range. */
static PyObject *pages_of_range(struct percpu_py_pool *self, size_t range)
{
    unsigned initial = self->geometry.populate == PERCPU_POPULATE_INIT;
    PyObject *copies = PyList_New(0);
    for (unsigned cpu = 0; copies != NULL && cpu < self->geometry.cpus + initial; cpu++) {
        PyObject *bytes = pages_of_copy(self, range, cpu);
        if (bytes == Py_None) {
            Py_DECREF(copies);
            return bytes;
        }
        if (bytes == NULL || PyList_Append(copies, bytes) != 0)
            Py_CLEAR(copies);
        Py_XDECREF(bytes);
    }
    return copies;
}

static PyObject *pages_while_held(struct percpu_py_pool *self)
{
    PyObject *ranges = PyList_New(0), *copies = NULL;
    for (size_t range = 0; ranges != NULL && copies != Py_None; range++) {
        Py_XSETREF(copies, pages_of_range(self, range));
        if (copies == NULL || (copies != Py_None && PyList_Append(ranges, copies) != 0))
            Py_CLEAR(ranges);
    }
    Py_XDECREF(copies);
    return ranges;
}

PyObject *percpu_py_pool_pages(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    PyObject *ranges = pages_while_held(self);
    percpu_py_pool_release(self);
    return ranges;
}

const char percpu_py_pool_map_doc[] = PyDoc_STR(
    "map($self, /)\n--\n\n"
    "Return a picture of which pages of which CPU are in memory: a :class:`PoolMap`.\n\n"
    "Prints as text, and shows as a drawing in a notebook. Raises :exc:`ClosedError`.");

PyObject *percpu_py_pool_map(PyObject *op, PyObject *Py_UNUSED(unused))
{
    PyObject *module = PyImport_ImportModule("percpu._map");
    PyObject *map = module != NULL ? PyObject_CallMethod(module, "pool_map", "O", op) : NULL;
    Py_XDECREF(module);
    return map;
}

const char percpu_py_pool_repr_html_doc[] = PyDoc_STR(
    "_repr_html_($self, /)\n--\n\n"
    "For notebooks: the drawing of :meth:`map`; None if the pool is closed.");

PyObject *percpu_py_pool_repr_html(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (percpu_py_pool_is_closed(percpu_py_as_pool(op)))
        Py_RETURN_NONE;
    PyObject *map = percpu_py_pool_map(op, NULL);
    PyObject *html = map != NULL ? PyObject_CallMethod(map, "_repr_svg_", NULL) : NULL;
    Py_XDECREF(map);
    return html;
}
