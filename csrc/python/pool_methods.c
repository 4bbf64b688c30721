/* SPDX-License-Identifier: MIT */
/*
 * pool_methods.c - the methods of PerCpuPool.
 */
#include "item.h"

#include <errno.h>
#include <string.h>

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

/* Bytes that come after what ctor wrote. */
static void write_copies(struct percpu_py_pool *self, char *item, const Py_buffer *init)
{
    const struct percpu_pool_geometry *geometry = &self->geometry;
    size_t size = (size_t)init->len;
    for (unsigned cpu = 0; cpu < geometry->cpus; cpu++, item += geometry->stride) {
        memcpy(item, init->buf, size);
        memset(item + size, 0, geometry->item_size - size);
    }
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
    bool fresh, after_ctor = init != NULL && self->ctor != NULL;
    percpu_py_source *source = init != NULL && !after_ctor ? source_bytes
                               : self->init != NULL        ? source_any
                                                           : source_initial;
    int error = percpu_py_pool_take(self, source, init, &address, &fresh);
    if (error == 0) {
        percpu_py_item_adopt(item, address);
        if (percpu_py_pool_construct(self, item, fresh) == 0) {
            if (after_ctor)
                write_copies(self, address, init);
            return item;
        }
        percpu_py_item_abandon(item);
    } else if (error > 0) {
        percpu_py_pool_raise_not_allocated(self, error);
    }
    Py_DECREF(item);
    return NULL;
}

/* The core looks at the bytes several times: another thread must not change them meanwhile. */
static int fix_bytes(PyObject *init, Py_buffer *view)
{
    if (PyBytes_CheckExact(init))
        return 0;
    PyObject *bytes = PyBytes_FromStringAndSize(view->buf, view->len);
    if (bytes == NULL)
        return -1;
    PyBuffer_Release(view);
    int result = PyObject_GetBuffer(bytes, view, PyBUF_SIMPLE);
    Py_DECREF(bytes);
    return result;
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
    else if (fix_bytes(init, &view) == 0)
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
        percpu_py_pool_raise_not_allocated(self, error);
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

PyMethodDef percpu_py_pool_methods[] = {
    {"alloc", (PyCFunction)(void (*)(void))pool_alloc, METH_FASTCALL | METH_KEYWORDS, alloc_doc},
    {"free", pool_free, METH_O, free_doc},
    {"reserve", pool_reserve, METH_O, reserve_doc},
    {"close", pool_close, METH_NOARGS, close_doc},
    {"check", pool_check, METH_NOARGS, check_doc},
    {"drain", pool_drain, METH_NOARGS, drain_doc},
    {"trim", pool_trim, METH_NOARGS, trim_doc},
    {"stats", percpu_py_pool_stats, METH_NOARGS, percpu_py_pool_stats_doc},
    {"map", percpu_py_pool_map, METH_NOARGS, percpu_py_pool_map_doc},
    {"_pages", percpu_py_pool_pages, METH_NOARGS, percpu_py_pool_pages_doc},
    {"_repr_html_", percpu_py_pool_repr_html, METH_NOARGS, percpu_py_pool_repr_html_doc},
    {"__enter__", pool_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))pool_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};
