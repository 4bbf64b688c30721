/* SPDX-License-Identifier: MIT */
/*
 * pool.c - PerCpuPool: a pool of items of equal size, and what allocates and frees them.
 */
#include "item.h"

#include <errno.h>
#include <string.h>

#include <percpu/report.h>

static struct percpu_py_pool *as_pool(PyObject *op)
{
    return (struct percpu_py_pool *)op;
}

/* making a pool ------------------------------------------------------------------------------ */

/* percpu_pool_create() failed: what percpu_py_pool_parse() lets through may be too much for the
 * kernel, and may ask for ids that it does not have. */
static void raise_not_made(PyTypeObject *type, const struct percpu_pool_attr *attr, int error)
{
    size_t stride = attr->stride;
    if (stride == 0) /* the core's choice */
        for (stride = (size_t)64 << 10; stride < attr->item_size;)
            stride *= 2;
    if (error == ENOTSUP)
        percpu_py_raise_errno(type, error, "index 'cid' needs mm_cid in the rseq area (Linux 6.3)");
    else
        percpu_py_raise_errno(type, error,
                              "cannot map %zu bytes of address space for a pool of %zu-byte items: "
                              "strides of %zu bytes for %u CPUs: %s",
                              stride * attr->cpus, attr->item_size, stride, attr->cpus,
                              strerror(error));
}

static PyObject *pool_make(PyTypeObject *type, PyObject *const *values)
{
    struct percpu_pool_attr attr = {0};
    if (percpu_py_pool_parse(values, &attr) != 0)
        return NULL;
    struct percpu_py_pool *self = as_pool(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->state =
        PERCPU_PY_POOL_CLOSED; /* while the garbage collector can see it, but nobody should */
    self->closed = 1;
    self->memory = percpu_pool_create(&attr);
    if (self->memory == NULL) {
        raise_not_made(type, &attr, errno);
        Py_DECREF(self);
        return NULL;
    }
    percpu_pool_geometry(self->memory, &self->geometry);
    __atomic_store_n(&self->closed, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&self->state, 0, __ATOMIC_RELEASE); /* pairs with add_if_open() */
    return (PyObject *)self;
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&percpu_py_pool_signature, args, kwargs, values) != 0)
        return NULL;
    return pool_make(type, values);
}

static PyObject *pool_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                 PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&percpu_py_pool_signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return pool_make((PyTypeObject *)type, values);
}

static int pool_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void pool_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (as_pool(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_pool_unmap(as_pool(op)); /* nobody else can have it, and nothing holds it */
    type->tp_free(op);
    Py_DECREF(type);
}

/* methods ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(alloc_doc,
             "alloc($self, /, init=None)\n--\n\n"
             "Allocate an item: a :class:`PerCpuItem`, whose copies are zeros.\n\n"
             "With `init`, an object with the buffer protocol of at most :attr:`item_size` bytes,\n"
             "each CPU's copy starts with those bytes, and zeros follow.\n\n"
             "Raises :exc:`PoolExhausted` where there is no memory, or :attr:`max_ranges` ranges\n"
             "are full; :exc:`ValueError` if `init` is too long; :exc:`ClosedError`.");

static const struct percpu_py_signature alloc_signature = {
    .callable = "alloc",
    .positional = 1,
    .parameters = {"init"},
};

/* 0; the errno of the core; or -1 with an exception. */
static int allocate(struct percpu_py_pool *self, const Py_buffer *init, PyObject *item)
{
    if (percpu_py_pool_hold(self) != 0)
        return -1;
    void *address = init != NULL
                        ? percpu_pool_alloc_init(self->memory, init->buf, (size_t)init->len)
                        : percpu_pool_zalloc(self->memory);
    if (address == NULL) {
        int error = errno;
        percpu_py_pool_release(self);
        return error;
    }
    percpu_py_item_adopt(item, address);
    return 0;
}

static PyObject *alloc_item(struct percpu_py_pool *self, const Py_buffer *init)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(self));
    if (state == NULL || state->item_type == NULL)
        return percpu_py_raise_closed((PyObject *)self);
    PyObject *item = percpu_py_item_new(state->item_type, self);
    if (item == NULL)
        return NULL;
    int error = allocate(self, init, item);
    if (error == 0)
        return item;
    Py_DECREF(item);
    if (error > 0)
        percpu_py_raise_errno(Py_TYPE(self), error,
                              "no free item of %zu bytes, and no new range (max_ranges is %zu)",
                              self->geometry.item_size, self->geometry.max_ranges);
    return NULL;
}

static PyObject *pool_alloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    struct percpu_py_pool *self = as_pool(op);
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
             "was freed before, and :exc:`BufferError` while a memoryview or array of it lives.");

static PyObject *pool_free(PyObject *op, PyObject *item)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (state == NULL || state->item_type == NULL || !Py_IS_TYPE(item, state->item_type)) {
        percpu_py_reject(PyExc_TypeError, "item", item, "a PerCpuItem");
        return NULL;
    }
    if (percpu_py_item_pool(item) != as_pool(op)) {
        percpu_py_reject(PyExc_ValueError, "item", item, "an item of this pool");
        return NULL;
    }
    return percpu_py_item_free(item) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the pool, and with it every item, variable and counter made in it.\n\n"
             "They raise :exc:`ClosedError` from now on. The memory is unmapped when the last of\n"
             "them is gone. Raises :exc:`BufferError`, and does nothing, while a memoryview or\n"
             "array of one lives. Closing a closed pool does nothing.");

static PyObject *pool_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return percpu_py_pool_close(as_pool(op)) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(check_doc,
             "check($self, /)\n--\n\n"
             "Test every invariant of the pool's memory. Without the GIL, no other\n"
             "thread may use the pool meanwhile.\n\n"
             "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, with a sentence about\n"
             "the first one that does not hold; :exc:`ClosedError`.");

static PyObject *pool_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    struct percpu_report report;
    int result = percpu_pool_check(self->memory, &report);
    percpu_py_pool_release(self);
    if (result != 0)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", report.detail);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(drain_doc, "drain($self, /)\n--\n\n"
                        "Move the free items in the caches of all CPUs back to the ranges.\n\n"
                        "Raises :exc:`ClosedError`.");

static PyObject *pool_drain(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    percpu_pool_drain(self->memory);
    percpu_py_pool_release(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    stats_doc,
    "stats($self, /)\n--\n\n"
    "Return a dict of numbers about the pool.\n\n"
    "``ranges``, and of items: ``live`` (handed out; variables and counters included), ``cached``\n"
    "(free, in the CPUs' caches), ``free`` (free, in the ranges). ``virtual_bytes`` of address\n"
    "space, of which ``resident_bytes`` are in memory; ``resident_per_cpu``, a tuple of bytes for\n"
    "each CPU's strides. ``refills`` and ``overflows``: how often a cache was filled from the\n"
    "ranges, or gave half of itself back. Raises :exc:`ClosedError`.");

static PyObject *stats_while_held(struct percpu_py_pool *self)
{
    struct percpu_pool_stats stats;
    percpu_pool_stats(self->memory, &stats);
    PyObject *per_cpu = PyTuple_New((Py_ssize_t)self->geometry.cpus);
    for (unsigned cpu = 0; per_cpu != NULL && cpu < self->geometry.cpus; cpu++) {
        PyObject *bytes = PyLong_FromSize_t(percpu_pool_resident(self->memory, cpu));
        if (bytes == NULL)
            Py_CLEAR(per_cpu);
        else
            PyTuple_SET_ITEM(per_cpu, (Py_ssize_t)cpu, bytes);
    }
    if (per_cpu == NULL)
        return NULL;
    return Py_BuildValue(
        "{s:n,s:n,s:n,s:n,s:n,s:n,s:K,s:K,s:N}", "ranges", (Py_ssize_t)stats.ranges, "live",
        (Py_ssize_t)stats.live, "cached", (Py_ssize_t)stats.cached, "free", (Py_ssize_t)stats.free,
        "virtual_bytes", (Py_ssize_t)stats.virtual_bytes, "resident_bytes",
        (Py_ssize_t)stats.resident_bytes, "refills", (unsigned long long)stats.refills, "overflows",
        (unsigned long long)stats.overflows, "resident_per_cpu", per_cpu);
}

static PyObject *pool_stats(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_pool *self = as_pool(op);
    if (percpu_py_pool_hold(self) != 0)
        return NULL;
    PyObject *stats = stats_while_held(self);
    percpu_py_pool_release(self);
    return stats;
}

static Py_ssize_t pool_length(PyObject *op)
{
    uint64_t state = percpu_py_pool_state(as_pool(op));
    if ((state & PERCPU_PY_POOL_CLOSED) == 0)
        return (Py_ssize_t)(state / PERCPU_PY_POOL_HOLD);
    percpu_py_raise_closed(op);
    return -1;
}

/* An empty pool is a pool: only None is the absence of one. */
static int pool_bool(PyObject *Py_UNUSED(op))
{
    return 1;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the pool.");

static PyObject *pool_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the pool.");

static PyObject *pool_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                           Py_ssize_t Py_UNUSED(nargs))
{
    return pool_close(op, NULL);
}

static PyObject *pool_repr(PyObject *op)
{
    struct percpu_py_pool *self = as_pool(op);
    const char *name = percpu_py_type_name(op);
    uint64_t state = percpu_py_pool_state(self);
    if (state & PERCPU_PY_POOL_CLOSED)
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s of %zu bytes x %u CPUs, %u live>", name,
                                self->geometry.item_size, self->geometry.cpus,
                                (unsigned)(state / PERCPU_PY_POOL_HOLD));
}

static PyMethodDef pool_methods[] = {
    {"alloc", (PyCFunction)(void (*)(void))pool_alloc, METH_FASTCALL | METH_KEYWORDS, alloc_doc},
    {"free", pool_free, METH_O, free_doc},
    {"close", pool_close, METH_NOARGS, close_doc},
    {"check", pool_check, METH_NOARGS, check_doc},
    {"drain", pool_drain, METH_NOARGS, drain_doc},
    {"stats", pool_stats, METH_NOARGS, stats_doc},
    {"__enter__", pool_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))pool_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

/* attributes --------------------------------------------------------------------------------- */

static PyObject *get_size(PyObject *op, void *offset)
{
    size_t size;
    memcpy(&size, (const char *)op + (uintptr_t)offset, sizeof size);
    return PyLong_FromSize_t(size);
}

static PyObject *get_cpus(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(as_pool(op)->geometry.cpus);
}

static PyObject *get_index(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(as_pool(op)->geometry.index == PERCPU_INDEX_CID ? "cid" : "cpu");
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_pool_is_closed(as_pool(op)));
}

#define GEOMETRY(field) ((void *)offsetof(struct percpu_py_pool, geometry.field))

static PyGetSetDef pool_attributes[] = {
    {"item_size", get_size, NULL, "Bytes that an item has on each CPU.", GEOMETRY(item_size)},
    {"stride", get_size, NULL, "Bytes from one CPU's copy of an item to the next CPU's.",
     GEOMETRY(stride)},
    {"cpus", get_cpus, NULL, "Copies of each item.", NULL},
    {"max_ranges", get_size, NULL, "How many ranges the pool may have; 0: no limit.",
     GEOMETRY(max_ranges)},
    {"index", get_index, NULL,
     "What chooses a thread's copy: 'cpu', the CPU that it is on, or 'cid', its concurrency id.",
     NULL},
    {"capacity", get_size, NULL, "Items in one range.", GEOMETRY(capacity)},
    {"closed", get_closed, NULL, "Whether the pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef pool_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_pool, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    pool_doc,
    "PerCpuPool(item_size, *, stride=None, cpus=None, max_ranges=0, index='cpu')\n--\n\n"
    "A pool of items of `item_size` bytes, each with one copy per CPU.\n\n"
    "`stride` is how far apart an item's copies are, in bytes: a power of two, at least a page;\n"
    "by default 64 KiB or what holds an item. `cpus` is how many copies an item has: by default,\n"
    "and at least, one for each possible CPU. The pool grows by ranges, of which it may have\n"
    "`max_ranges` (0: no limit). `index` is 'cpu', or 'cid' to choose a thread's copy by its\n"
    "concurrency id: see :func:`current_cid`.\n\n"
    "Memory costs nothing until a CPU writes it. :func:`len` counts what lives in the pool:\n"
    "items, variables and counters. Leaving a ``with`` block closes the pool.\n\n"
    "Raises :exc:`ValueError` for sizes that are not sane, :exc:`PoolExhausted` where there is\n"
    "no memory, and :exc:`OSError` for 'cid' where the kernel has no concurrency ids.");

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (void *)pool_doc},
    PERCPU_PY_SLOT(Py_tp_new, pool_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, pool_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, pool_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, pool_repr),
    {Py_tp_methods, pool_methods},
    {Py_tp_getset, pool_attributes},
    {Py_tp_members, pool_members},
    PERCPU_PY_SLOT(Py_sq_length, pool_length),
    PERCPU_PY_SLOT(Py_nb_bool, pool_bool),
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "percpu.PerCpuPool",
    .basicsize = sizeof(struct percpu_py_pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

int percpu_py_add_pool(PyObject *module, struct percpu_py_state *state)
{
    state->pool_type = percpu_py_make_type(module, &pool_spec, pool_vectorcall);
    return state->pool_type != NULL ? PyModule_AddType(module, state->pool_type) : -1;
}
