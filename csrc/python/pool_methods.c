/* SPDX-License-Identifier: MIT */
/*
 * pool_methods.c - the methods of PerCpuPool.
 */
#include "item.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* items -------------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    alloc_doc,
    "alloc($self, /, init=None)\n--\n\n"
    "Allocate an item: a :class:`PerCpuItem`, whose copies are initial: what the pool was made\n"
    "with, or zeros.\n\n"
    "With `init`, an object with the buffer protocol of at most :attr:`item_size` bytes,\n"
    "each CPU's copy starts with those bytes, and zeros follow. Without it, an item of a pool\n"
    "with a callable `init` is as that, or whoever freed it, has left it; and one of constructed\n"
    "items as its `ctor`, or whoever freed it, has.\n\n"
    "Raises :exc:`PoolExhausted` where there is no memory, or :attr:`max_ranges` ranges\n"
    "are full; :exc:`ValueError` if `init` is too long; :exc:`ClosedError`; the exceptions of the\n"
    "pool's `init` and `ctor`; :exc:`CorruptionError`.");

static const struct percpu_py_signature alloc_signature = {
    .callable = "alloc",
    .positional = 1,
    .parameters = {"init"},
};

static void *source_any(struct percpu_pool *memory, void *Py_UNUSED(what))
{
    return percpu_pool_alloc(memory);
}

static void *source_initial(struct percpu_pool *memory, void *Py_UNUSED(what))
{
    return percpu_pool_alloc_initial(memory);
}

static void *source_bytes(struct percpu_pool *memory, void *what)
{
    const Py_buffer *init = what;
    return percpu_pool_alloc_init(memory, init->buf, (size_t)init->len);
}

/* An errno of the core. */
static void raise_not_allocated(struct percpu_py_pool *self, int error)
{
    if (error == ENOMEM)
        percpu_py_raise_errno(Py_TYPE(self), error,
                              "no free item of %zu bytes, and no new range (max_ranges is %zu)",
                              self->geometry.item_size, self->geometry.max_ranges);
    else
        percpu_py_raise_errno(Py_TYPE(self), error, "no new range for items of %zu bytes: %s",
                              self->geometry.item_size, strerror(error));
}

static PyObject *alloc_item(struct percpu_py_pool *self, Py_buffer *init)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(self));
    if (state == NULL || state->item_type == NULL)
        return percpu_py_raise_closed((PyObject *)self);
    PyObject *item = percpu_py_item_new(state->item_type, self);
    if (item == NULL)
        return NULL;
    void *address;
    percpu_py_source *source = init != NULL         ? source_bytes
                               : self->init != NULL ? source_any
                                                    : source_initial;
    int error = percpu_py_pool_take(self, source, init, &address);
    if (error == 0) {
        percpu_py_item_adopt(item, address);
        if (percpu_py_pool_construct(self, item) == 0)
            return item;
        percpu_py_item_abandon(item);
    } else if (error > 0) {
        raise_not_allocated(self, error);
    }
    Py_DECREF(item);
    return NULL;
}

static PyObject *pool_alloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    PyObject *init;
    if (percpu_py_match_vector(&alloc_signature, args, (size_t)nargs, kwnames, &init) != 0)
        return NULL;
    if (init == NULL || init == Py_None)
        return alloc_item(self, NULL);
    if (!PyObject_CheckBuffer(init)) {
        percpu_py_reject(PyExc_TypeError, "init", init, "a bytes-like object or None");
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(init, &view, PyBUF_SIMPLE) != 0)
        return NULL;
    PyObject *item = NULL;
    if ((size_t)view.len > self->geometry.item_size)
        PyErr_Format(PyExc_ValueError,
                     "init must have at most item_size bytes, which is %zu, not "
                     "%zd",
                     self->geometry.item_size, view.len);
    else
        item = alloc_item(self, &view);
    PyBuffer_Release(&view);
    return item;
}

PyDoc_STRVAR(free_doc,
             "free($self, item, /)\n--\n\n"
             "Give the memory of `item` back to the pool; `item.free()` does the same.\n\n"
             "Raises :exc:`ValueError` if it is an item of another pool, :exc:`ClosedError` if it\n"
             "was freed before, and :exc:`BufferError` while a memoryview or array of it lives;\n"
             ":exc:`CorruptionError`.");

static PyObject *pool_free(PyObject *op, PyObject *item)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (state == NULL || state->item_type == NULL || !Py_IS_TYPE(item, state->item_type)) {
        percpu_py_reject(PyExc_TypeError, "item", item, "a PerCpuItem");
        return NULL;
    }
    if (percpu_py_as_item(item)->pool != percpu_py_as_pool(op)) {
        percpu_py_reject(PyExc_ValueError, "item", item, "an item of this pool");
        return NULL;
    }
    return percpu_py_item_free(item) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(reserve_doc,
             "reserve($self, items, /)\n--\n\n"
             "Map ranges until as many more items can be allocated without.\n\n"
             "Raises :exc:`PoolExhausted`, also where :attr:`max_ranges` does not allow as many;\n"
             ":exc:`ValueError`; :exc:`ClosedError`; the exception of the pool's `init`.");

static PyObject *pool_reserve(PyObject *op, PyObject *items)
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    struct percpu_py_call call;
    size_t count;
    if (percpu_py_size(items, "items", "", 0, SIZE_MAX / 2, &count) != 0 ||
        percpu_py_pool_hold(self) != 0)
        return NULL;
    percpu_py_call_enter(&call, self);
    int failed = percpu_pool_reserve(self->memory, count);
    int error = percpu_py_call_leave(&call, failed ? errno : 0);
    percpu_py_pool_release(self);
    if (error > 0)
        raise_not_allocated(self, error);
    return error == 0 ? Py_NewRef(Py_None) : NULL;
}

/* closing ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(
    close_doc,
    "close($self, /)\n--\n\n"
    "Close the pool, and with it every item, variable and counter made in it.\n\n"
    "They raise :exc:`ClosedError` from now on. The memory is unmapped when the last of\n"
    "them is gone. Raises :exc:`BufferError`, and does nothing, while a memoryview or\n"
    "array of one lives. A robust pool raises :exc:`CorruptionError` when it finds something,\n"
    "of the kind 'leak' where something lives that was neither freed nor closed; it is closed\n"
    "then. Closing a closed pool does nothing.");

static PyObject *pool_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return percpu_py_pool_close(percpu_py_as_pool(op), true) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the pool.");

static PyObject *pool_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(
    exit_doc,
    "__exit__($self, /, *exception)\n--\n\n"
    "Close the pool.\n\n"
    "If the block ends with an exception, what closing would raise becomes a note of that,\n"
    "and what lives in the pool is no leak: the traceback refers to it.");

static PyObject *pool_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    bool leaks = nargs == 0 || args[0] == Py_None;
    return percpu_py_exit(args, nargs, percpu_py_pool_close(percpu_py_as_pool(op), leaks) == 0);
}

/* upkeep ------------------------------------------------------------------------------------- */

PyDoc_STRVAR(check_doc,
             "check($self, /)\n--\n\n"
             "Test every invariant of the pool's memory, and in a robust pool the bytes of every\n"
             "free item and those behind every item. Other threads may use the pool meanwhile.\n\n"
             "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, for the first finding;\n"
             ":exc:`ClosedError`.");

static PyObject *pool_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    int found = percpu_py_pool_inspect(self);
    percpu_py_pool_release(self);
    return found == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(drain_doc, "drain($self, /)\n--\n\n"
                        "Move the free items in the caches of all CPUs back to the ranges.\n\n"
                        "Raises :exc:`ClosedError`.");

static PyObject *pool_drain(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    struct percpu_py_call call;
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    percpu_py_call_enter(&call, self);
    percpu_pool_drain(self->memory);
    int found = percpu_py_call_leave(&call, 0);
    percpu_py_pool_release(self);
    return found == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(
    trim_doc,
    "trim($self, /)\n--\n\n"
    "Drain the caches, and give ranges in which no item is handed out back to the kernel.\n\n"
    "Returns the bytes of address space that were unmapped. Raises :exc:`ClosedError`.");

static PyObject *pool_trim(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    struct percpu_py_call call;
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    percpu_py_call_enter(&call, self);
    size_t bytes = percpu_pool_trim(self->memory);
    int found = percpu_py_call_leave(&call, 0);
    percpu_py_pool_release(self);
    return found == 0 ? PyLong_FromSize_t(bytes) : NULL;
}

/* looking ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(
    stats_doc,
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

static PyObject *pool_stats(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    PyObject *stats = stats_while_held(self);
    percpu_py_pool_release(self);
    return stats;
}

PyDoc_STRVAR(pages_doc,
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

static PyObject *pool_pages(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    PyObject *ranges = pages_while_held(self);
    percpu_py_pool_release(self);
    return ranges;
}

PyDoc_STRVAR(map_doc,
             "map($self, /)\n--\n\n"
             "Return a picture of which pages of which CPU are in memory: a :class:`PoolMap`.\n\n"
             "Prints as text, and shows as a drawing in a notebook. Raises :exc:`ClosedError`.");

static PyObject *pool_map(PyObject *op, PyObject *Py_UNUSED(unused))
{
    PyObject *module = PyImport_ImportModule("percpu._map");
    PyObject *map = module != NULL ? PyObject_CallMethod(module, "pool_map", "O", op) : NULL;
    Py_XDECREF(module);
    return map;
}

PyDoc_STRVAR(repr_html_doc,
             "_repr_html_($self, /)\n--\n\n"
             "For notebooks: the drawing of :meth:`map`; None if the pool is closed.");

static PyObject *pool_repr_html(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (percpu_py_pool_is_closed(percpu_py_as_pool(op)))
        Py_RETURN_NONE;
    PyObject *map = pool_map(op, NULL);
    PyObject *html = map != NULL ? PyObject_CallMethod(map, "_repr_svg_", NULL) : NULL;
    Py_XDECREF(map);
    return html;
}

PyMethodDef percpu_py_pool_methods[] = {
    {"alloc", (PyCFunction)(void (*)(void))pool_alloc, METH_FASTCALL | METH_KEYWORDS, alloc_doc},
    {"free", pool_free, METH_O, free_doc},
    {"reserve", pool_reserve, METH_O, reserve_doc},
    {"close", pool_close, METH_NOARGS, close_doc},
    {"check", pool_check, METH_NOARGS, check_doc},
    {"drain", pool_drain, METH_NOARGS, drain_doc},
    {"trim", pool_trim, METH_NOARGS, trim_doc},
    {"stats", pool_stats, METH_NOARGS, stats_doc},
    {"map", pool_map, METH_NOARGS, map_doc},
    {"_pages", pool_pages, METH_NOARGS, pages_doc},
    {"_repr_html_", pool_repr_html, METH_NOARGS, repr_html_doc},
    {"__enter__", pool_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))pool_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};
