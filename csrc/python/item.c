/* SPDX-License-Identifier: MIT */
/*
 * item.c - PerCpuItem, what PerCpuPool.alloc() returns.
 *
 * Threads agree on the item's life through one word, `exports`: how many buffers are in use, or
 * FREED. An item with buffers cannot become FREED, and a FREED one gets no buffer; whoever changes
 * it from 0 to FREED gives the memory back.
 */
#include "item.h"

#define FREED SIZE_MAX

struct item {
    PyObject_HEAD
    struct percpu_py_pool *pool; /* a reference; constant */
    char *address;               /* CPU 0's copy; constant since it was adopted */
    size_t exports;
    Py_ssize_t shape[2], strides[2]; /* constant */
    PyObject *weakrefs;
};

static struct item *as_item(PyObject *op)
{
    return (struct item *)op;
}

PyObject *percpu_py_item_new(PyTypeObject *type, struct percpu_py_pool *pool)
{
    struct item *self = as_item(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->exports = FREED;
    self->pool = (struct percpu_py_pool *)Py_NewRef((PyObject *)pool);
    self->shape[0] = (Py_ssize_t)pool->geometry.cpus;
    self->shape[1] = (Py_ssize_t)pool->geometry.item_size;
    self->strides[0] = (Py_ssize_t)pool->geometry.stride;
    self->strides[1] = 1;
    return (PyObject *)self;
}

void percpu_py_item_adopt(PyObject *op, void *address)
{
    as_item(op)->address = address;
    /* Release: pairs with the acquire in is_freed(). */
    __atomic_store_n(&as_item(op)->exports, 0, __ATOMIC_RELEASE);
}

struct percpu_py_pool *percpu_py_item_pool(PyObject *op)
{
    return as_item(op)->pool;
}

static bool is_freed(const struct item *self)
{
    return __atomic_load_n(&self->exports, __ATOMIC_ACQUIRE) == FREED;
}

/* May be out of date when it returns, unless the caller has a buffer. */
static bool is_usable(const struct item *self)
{
    return !is_freed(self) && __atomic_load_n(&self->pool->closed, __ATOMIC_RELAXED) == 0;
}

static void *raise_unusable(const struct item *self)
{
    return percpu_py_raise(Py_TYPE(self), PERCPU_PY_CLOSED,
                           is_freed(self) ? "this item was freed"
                                          : "the pool of this item is closed");
}

static void give_back(struct item *self)
{
    percpu_pool_free(self->pool->memory, self->address);
    percpu_py_pool_release(self->pool);
}

int percpu_py_item_free(PyObject *op)
{
    struct item *self = as_item(op);
    size_t exports = 0;
    if (is_usable(self) && __atomic_compare_exchange_n(&self->exports, &exports, FREED, false,
                                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        give_back(self);
        return 0;
    }
    if (exports == 0 || exports == FREED)
        raise_unusable(self);
    else
        PyErr_Format(PyExc_BufferError,
                     "cannot free an item while %zu memoryviews or arrays of it live: release them "
                     "first",
                     exports);
    return -1;
}

static int item_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_item(op)->pool);
    return 0;
}

static void item_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct item *self = as_item(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    if (!is_freed(self))
        give_back(self);
    Py_XDECREF(self->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* buffers ------------------------------------------------------------------------------------ */

/* 0 and a buffer in use, in the item and in its pool; -1: freed or closed. */
static int begin_export(struct item *self)
{
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports == FREED)
            return -1;
    } while (!__atomic_compare_exchange_n(&self->exports, &exports, exports + 1, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    if (percpu_py_pool_export(self->pool) == 0)
        return 0;
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
    return -1;
}

static void end_export(struct item *self)
{
    percpu_py_pool_end_export(self->pool);
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
}

static int export(struct item *self, PyObject *exporter, struct percpu_py_array *array,
                  unsigned cpu, Py_buffer *view, int flags)
{
    view->obj = NULL;
    if (begin_export(self) != 0) {
        raise_unusable(self);
        return -1;
    }
    array->address = self->address + cpu * self->pool->geometry.stride;
    array->itemsize = 1;
    array->format = "B";
    if (percpu_py_fill_view(view, exporter, array, flags) == 0)
        return 0;
    end_export(self);
    return -1;
}

static int item_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct item *self = as_item(op);
    struct percpu_py_array array = {.ndim = 2, .shape = self->shape, .strides = self->strides};
    return export(self, op, &array, 0, view, flags);
}

static void item_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    percpu_py_item_release(op);
}

int percpu_py_item_get_copy(PyObject *op, PyObject *exporter, unsigned cpu, Py_buffer *view,
                            int flags)
{
    struct item *self = as_item(op);
    struct percpu_py_array array = {
        .ndim = 1, .shape = self->shape + 1, .strides = self->strides + 1};
    return export(self, exporter, &array, cpu, view, flags);
}

void percpu_py_item_release(PyObject *op)
{
    end_export(as_item(op));
}

/* the copies, as a sequence ------------------------------------------------------------------- */

static PyObject *view_copy(struct item *self, unsigned cpu)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(self));
    if (!is_usable(self) || state == NULL || state->copy_type == NULL)
        return raise_unusable(self);
    return percpu_py_view_copy(state->copy_type, (PyObject *)self, cpu);
}

static PyObject *item_subscript(PyObject *op, PyObject *key)
{
    unsigned cpu;
    if (percpu_py_cpu(key, as_item(op)->pool->geometry.cpus, &cpu) != 0)
        return NULL;
    return view_copy(as_item(op), cpu);
}

/* An assignment to a whole copy would have to say what becomes of the bytes that it does not name. */
static int item_assign(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(key), PyObject *value)
{
    PyErr_SetString(PyExc_TypeError, value == NULL
                                         ? "a CPU's copy cannot be deleted"
                                         : "write into the copy: item[cpu][:n] = n bytes");
    return -1;
}

/* For iteration, which ends with IndexError. */
static PyObject *item_at(PyObject *op, Py_ssize_t position)
{
    if (position >= 0 && position < as_item(op)->shape[0])
        return view_copy(as_item(op), (unsigned)position);
    PyErr_SetString(PyExc_IndexError, "no such CPU");
    return NULL;
}

static Py_ssize_t item_length(PyObject *op)
{
    return as_item(op)->shape[0];
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
    struct item *self = as_item(op);
    PyObject *value;
    unsigned cpu = 0;
    if (percpu_py_match_vector(&address_signature, args, (size_t)nargs, kwnames, &value) != 0)
        return NULL;
    if (value != NULL && percpu_py_cpu(value, self->pool->geometry.cpus, &cpu) != 0)
        return NULL;
    if (!is_usable(self))
        return raise_unusable(self);
    return PyLong_FromVoidPtr(self->address + cpu * self->pool->geometry.stride);
}

PyDoc_STRVAR(free_doc,
             "free($self, /)\n--\n\n"
             "Give the memory back to the pool.\n\n"
             "Raises :exc:`ClosedError` if that was done before or the pool is closed, and\n"
             ":exc:`BufferError` while a memoryview or array of the item lives.");

static PyObject *item_free(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return percpu_py_item_free(op) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Do as :meth:`free` does, if the item is not freed or closed already.\n\n"
                        "Raises :exc:`BufferError` while a memoryview or array of the item lives.");

static PyObject *item_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (!is_usable(as_item(op)) || percpu_py_item_free(op) == 0)
        Py_RETURN_NONE;
    if (is_usable(as_item(op)))
        return NULL;
    PyErr_Clear(); /* another thread was faster */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the item.");

static PyObject *item_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nFree the item.");

static PyObject *item_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                           Py_ssize_t Py_UNUSED(nargs))
{
    return item_close(op, NULL);
}

static PyObject *item_repr(PyObject *op)
{
    struct item *self = as_item(op);
    if (!is_usable(self))
        return PyUnicode_FromFormat("<%s %s>", percpu_py_type_name(op),
                                    is_freed(self) ? "freed" : "closed with its pool");
    return PyUnicode_FromFormat("<%s of %zd bytes x %zd CPUs at %p>", percpu_py_type_name(op),
                                self->shape[1], self->shape[0], self->address);
}

static PyMethodDef item_methods[] = {
    {"address", (PyCFunction)(void (*)(void))item_address, METH_FASTCALL | METH_KEYWORDS,
     address_doc},
    {"free", item_free, METH_NOARGS, free_doc},
    {"close", item_close, METH_NOARGS, close_doc},
    {"__enter__", item_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))item_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)as_item(op)->pool);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!is_usable(as_item(op)));
}

static PyGetSetDef item_attributes[] = {
    {"pool", get_pool, NULL, "The PerCpuPool that the item is of.", NULL},
    {"closed", get_closed, NULL, "Whether the item was freed, or its pool closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef item_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct item, weakrefs), Py_READONLY, NULL},
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
    PERCPU_PY_SLOT(Py_mp_length, item_length),
    PERCPU_PY_SLOT(Py_mp_subscript, item_subscript),
    PERCPU_PY_SLOT(Py_mp_ass_subscript, item_assign),
    PERCPU_PY_SLOT(Py_sq_item, item_at),
    PERCPU_PY_SLOT(Py_bf_getbuffer, item_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, item_releasebuffer),
    {0, NULL},
};

static PyType_Spec item_spec = {
    .name = "percpu.PerCpuItem",
    .basicsize = sizeof(struct item),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = item_slots,
};

int percpu_py_add_item(PyObject *module, struct percpu_py_state *state)
{
    state->item_type = percpu_py_make_type(module, &item_spec, NULL);
    return state->item_type != NULL ? PyModule_AddType(module, state->item_type) : -1;
}
