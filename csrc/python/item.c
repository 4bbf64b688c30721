/* SPDX-License-Identifier: MIT */
/*
 * item.c - PerCpuItem, what PerCpuPool.alloc() returns: see item.h. item_copies.c has its buffers.
 */
#include "item.h"
#include "memory.h"
#include "var.h"

#include <string.h>

/* life --------------------------------------------------------------------------------------- */

PyObject *percpu_py_item_new(PyTypeObject *type, struct percpu_py_pool *pool)
{
    struct percpu_py_item *self = percpu_py_as_item(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->exports = PERCPU_PY_ITEM_FREED;
    self->pool = (struct percpu_py_pool *)Py_NewRef((PyObject *)pool);
    self->closed = &pool->closed;
    self->shape[0] = (Py_ssize_t)pool->geometry.cpus;
    self->shape[1] = (Py_ssize_t)pool->geometry.item_size;
    self->strides[0] = (Py_ssize_t)pool->geometry.stride;
    self->strides[1] = 1;
    return (PyObject *)self;
}

void percpu_py_item_adopt(PyObject *op, void *address)
{
    percpu_py_as_item(op)->address = address;
    /* Release: pairs with the acquire in percpu_py_item_is_freed(). */
    __atomic_store_n(&percpu_py_as_item(op)->exports, 0, __ATOMIC_RELEASE);
}

PyObject *percpu_py_item_lend(struct percpu_py_pool *pool, void *address)
{
    const struct percpu_pool_geometry *geometry = &pool->geometry;
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(pool));
    if (state == NULL || state->item_type == NULL)
        return percpu_py_raise_closed((PyObject *)pool);
    PyObject *copies = percpu_py_memory_new(Py_TYPE(pool), geometry->cpus * geometry->item_size);
    PyObject *item = copies != NULL ? percpu_py_item_new(state->item_type, pool) : NULL;
    if (item == NULL) {
        Py_XDECREF(copies);
        return NULL;
    }
    for (unsigned cpu = 0; cpu < geometry->cpus; cpu++)
        memcpy(percpu_py_memory_bytes(copies) + cpu * geometry->item_size,
               (const char *)address + cpu * geometry->stride, geometry->item_size);
    struct percpu_py_item *self = percpu_py_as_item(item);
    self->copies = copies;
    self->closed = &percpu_py_open;
    self->strides[0] = (Py_ssize_t)geometry->item_size;
    percpu_py_item_adopt(item, address);
    return item;
}

void percpu_py_item_end_loan(PyObject *op)
{
    percpu_py_point_closed(&percpu_py_as_item(op)->closed, &percpu_py_shut);
}

bool percpu_py_item_is_freed(const struct percpu_py_item *self)
{
    if (self->copies != NULL)
        return percpu_py_is_closed(&self->closed);
    return __atomic_load_n(&self->exports, __ATOMIC_ACQUIRE) == PERCPU_PY_ITEM_FREED;
}

static bool is_shut(const struct percpu_py_item *self)
{
    return __atomic_load_n(&self->exports, __ATOMIC_RELAXED) == PERCPU_PY_ITEM_SHUT;
}

bool percpu_py_item_is_usable(const struct percpu_py_item *self)
{
    return !percpu_py_item_is_freed(self) && !is_shut(self) && !percpu_py_is_closed(&self->closed);
}

int percpu_py_item_raise_unusable(PyObject *op)
{
    const struct percpu_py_item *self = percpu_py_as_item(op);
    percpu_py_raise(Py_TYPE(op), PERCPU_PY_CLOSED,
                    percpu_py_item_is_freed(self) ? "this item was freed"
                    : is_shut(self)               ? "the struct of this item is closed"
                                                  : "the pool of this item is closed");
    return -1;
}

enum freeing { DONE, UNUSABLE, IN_USE, LENT };

/* Whether it became free; then its memory is the caller's, to give back. */
static enum freeing become_free(struct percpu_py_item *self, size_t *exports)
{
    *exports = 0;
    if (!percpu_py_item_is_usable(self))
        return UNUSABLE;
    if (self->copies != NULL)
        return LENT;
    if (__atomic_compare_exchange_n(&self->exports, exports, PERCPU_PY_ITEM_FREED, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return DONE;
    return *exports >= PERCPU_PY_ITEM_SHUT ? UNUSABLE : IN_USE;
}

static void raise_in_use(const char *what, size_t exports)
{
    size_t variables = exports / PERCPU_PY_ITEM_VARIABLE;
    size_t buffers = exports % PERCPU_PY_ITEM_VARIABLE;
    if (buffers == 0)
        PyErr_Format(PyExc_BufferError, "cannot %s while %zu variables of it live: drop them first",
                     what, variables);
    else
        PyErr_Format(PyExc_BufferError,
                     "cannot %s while %zu memoryviews or arrays of it live: release them first",
                     what, buffers);
}

static int free_or_raise(PyObject *op, bool again)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    size_t exports;
    switch (become_free(self, &exports)) {
    case DONE:
        return percpu_py_pool_give_back(self->pool, self->address);
    case UNUSABLE:
        return again ? 0 : percpu_py_item_raise_unusable(op);
    case LENT:
        if (again)
            return 0;
        percpu_py_raise(Py_TYPE(op), PERCPU_PY_CLOSED, "this item is free: it is being destructed");
        return -1;
    default:
        raise_in_use("free an item", exports);
        return -1;
    }
}

int percpu_py_item_free(PyObject *op)
{
    return free_or_raise(op, false);
}

void percpu_py_item_abandon(PyObject *op)
{
    size_t exports;
    if (become_free(percpu_py_as_item(op), &exports) == DONE)
        percpu_py_pool_give_back_quietly(percpu_py_as_item(op)->pool,
                                         percpu_py_as_item(op)->address);
}

int percpu_py_item_shut(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports >= PERCPU_PY_ITEM_SHUT || self->copies != NULL)
            return percpu_py_item_raise_unusable(op);
        if (exports % PERCPU_PY_ITEM_VARIABLE != 0) {
            raise_in_use("close a struct", exports);
            return -1;
        }
    } while (!__atomic_compare_exchange_n(&self->exports, &exports, PERCPU_PY_ITEM_SHUT, true,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    percpu_py_sites_remove(self->pool, self->address); /* no leak of a robust pool */
    return 0;
}

static int item_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_item(op)->pool);
    return 0;
}

static void item_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct percpu_py_item *self = percpu_py_as_item(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    if (self->copies == NULL && !percpu_py_item_is_freed(self))
        percpu_py_pool_give_back_quietly(self->pool, self->address);
    Py_XDECREF(self->copies);
    Py_XDECREF(self->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* methods ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(address_doc,
             "address($self, /, cpu=0)\n--\n\n"
             "Return the address of a CPU's copy, as an int.\n\n"
             "CPU c's copy is ``c * pool.stride`` bytes after CPU 0's. The address is good for as\n"
             "long as the item is neither freed nor garbage.\n\n"
             "Raises :exc:`IndexError` for a CPU out of range; :exc:`ClosedError`.");

static const struct percpu_py_signature address_signature = {
    .callable = "address",
    .positional = 1,
    .parameters = {"cpu"},
};

static PyObject *item_address(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    PyObject *value;
    unsigned cpu = 0;
    if (percpu_py_match_vector(&address_signature, args, (size_t)nargs, kwnames, &value) != 0)
        return NULL;
    if (value != NULL && percpu_py_cpu(value, self->pool->geometry.cpus, &cpu) != 0)
        return NULL;
    if (!percpu_py_item_is_usable(self)) {
        percpu_py_item_raise_unusable(op);
        return NULL;
    }
    return PyLong_FromVoidPtr(self->address + cpu * self->pool->geometry.stride);
}

PyDoc_STRVAR(free_doc,
             "free($self, /)\n--\n\n"
             "Give the memory back to the pool.\n\n"
             "Raises :exc:`ClosedError` if that was done before or the pool is closed, and\n"
             ":exc:`BufferError` while a memoryview, array or variable of the item lives.");

static PyObject *item_free(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return percpu_py_item_free(op) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Do as :meth:`free` does, if the item is not freed or closed already.\n\n"
             "Raises :exc:`BufferError` while a memoryview, array or variable of the item\n"
             "lives.");

static PyObject *item_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return free_or_raise(op, true) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the item.");

static PyObject *item_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nFree the item.");

static PyObject *item_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return percpu_py_exit(args, nargs, free_or_raise(op, true) == 0);
}

static PyObject *item_repr(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    if (!percpu_py_item_is_usable(self))
        return PyUnicode_FromFormat("<%s %s>", percpu_py_type_name(op),
                                    percpu_py_item_is_freed(self) ? "freed"
                                                                  : "closed with its pool");
    return PyUnicode_FromFormat("<%s of %zd bytes x %zd CPUs at %p>", percpu_py_type_name(op),
                                self->shape[1], self->shape[0], self->address);
}

PyDoc_STRVAR(
    var_doc,
    "var($self, /, code, offset=0)\n--\n\n"
    "Return a :class:`PerCpuVar` for the number of type `code` that lies `offset` bytes into the\n"
    "item, in each CPU's copy, with whatever value it has.\n\n"
    "The item cannot be freed while a variable of it lives, open or closed: :exc:`BufferError`.\n"
    "Raises :exc:`ValueError` for a `code` that is none of PerCpuVar's, an `offset` with which the\n"
    "number would not be inside the item and aligned to its size, and for an item of a pool of\n"
    "scope 'global'; :exc:`ClosedError`.");

static PyObject *item_var(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "var",
        .required = 1,
        .positional = 2,
        .parameters = {"code", "offset"},
    };
    PyObject *values[2];
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, values) != 0)
        return NULL;
    return percpu_py_var_of_item(op, values[0], values[1]);
}

static PyMethodDef item_methods[] = {
    {"address", (PyCFunction)(void (*)(void))item_address, METH_FASTCALL | METH_KEYWORDS,
     address_doc},
    {"var", (PyCFunction)(void (*)(void))item_var, METH_FASTCALL | METH_KEYWORDS, var_doc},
    {"free", item_free, METH_NOARGS, free_doc},
    {"close", item_close, METH_NOARGS, close_doc},
    {"__enter__", item_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))item_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)percpu_py_as_item(op)->pool);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!percpu_py_item_is_usable(percpu_py_as_item(op)));
}

static PyGetSetDef item_attributes[] = {
    {"pool", get_pool, NULL, "The PerCpuPool that the item is of.", NULL},
    {"closed", get_closed, NULL, "Whether the item was freed, or its pool closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef item_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_item, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    item_doc,
    "An item of a :class:`PerCpuPool`: some bytes, of which each CPU has its own copy.\n\n"
    "``item[cpu]`` is a writable :class:`memoryview` of that CPU's copy, for any CPU. The item\n"
    "itself is a writable buffer of bytes, of shape ``(cpus, item_size)``. Both keep the item from\n"
    "being freed. They are plain memory: a thread that writes another CPU's copy through them\n"
    "races with that CPU. With NumPy, and copying nothing::\n\n"
    "    np.frombuffer(item[cpu], dtype)            # one CPU's copy\n"
    "    np.asarray(item).view(dtype)[:, 0]         # the first number of every CPU's copy\n\n"
    "(`item_size` must be a multiple of the size of `dtype`.)\n\n"
    ":func:`len` is the number of copies. An item that is garbage is freed; so is one at the end\n"
    "of its ``with`` block. :meth:`PerCpuPool.alloc` makes items.");

static PyType_Slot item_slots[] = {
    {Py_tp_doc, (void *)item_doc},
    PERCPU_PY_SLOT(Py_tp_dealloc, item_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, item_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, item_repr),
    PERCPU_PY_SLOT(Py_tp_iter, PySeqIter_New),
    {Py_tp_methods, item_methods},
    {Py_tp_getset, item_attributes},
    {Py_tp_members, item_members},
    PERCPU_PY_SLOT(Py_mp_length, percpu_py_item_length),
    PERCPU_PY_SLOT(Py_mp_subscript, percpu_py_item_subscript),
    PERCPU_PY_SLOT(Py_mp_ass_subscript, percpu_py_item_assign),
    PERCPU_PY_SLOT(Py_sq_item, percpu_py_item_at),
    PERCPU_PY_SLOT(Py_bf_getbuffer, percpu_py_item_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, percpu_py_item_releasebuffer),
    {0, NULL},
};

static PyType_Spec item_spec = {
    .name = "percpu.PerCpuItem",
    .basicsize = sizeof(struct percpu_py_item),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = item_slots,
};

int percpu_py_add_item(PyObject *module, struct percpu_py_state *state)
{
    state->item_type = percpu_py_make_type(module, &item_spec, NULL);
    return state->item_type != NULL ? PyModule_AddType(module, state->item_type) : -1;
}
