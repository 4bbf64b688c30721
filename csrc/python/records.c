/* SPDX-License-Identifier: MIT */
/*
 * records.c - the private type _Records: a PerCpuItem as a buffer with one record for each CPU. It is
 * what PerCpuStruct derives from, because only types written in C can be buffers before Python 3.12.
 *
 * Its end is its item's: see SHUT in item.h.
 */
#include "item.h"
#include "var.h"

struct records {
    PyObject_HEAD
    PyObject *item;   /* constant */
    PyObject *format; /* bytes; constant */
    Py_ssize_t size;  /* bytes of a record */
    Py_ssize_t shape, stride;
    PyObject *weakrefs;
};

static struct records *as_records(PyObject *op)
{
    return (struct records *)op;
}

/* life --------------------------------------------------------------------------------------- */

static const struct percpu_py_signature records_signature = {
    .callable = "_Records",
    .required = 3,
    .positional = 3,
    .parameters = {"item", "format", "size"},
};

static PyObject *records_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    struct percpu_py_state *state = percpu_py_state_of(type);
    uint64_t size;
    if (percpu_py_match_tuple(&records_signature, args, kwargs, values) != 0)
        return NULL;
    if (state == NULL || state->item_type == NULL || !Py_IS_TYPE(values[0], state->item_type)) {
        percpu_py_reject(PyExc_TypeError, "item", values[0], "a PerCpuItem");
        return NULL;
    }
    if (!PyBytes_Check(values[1])) {
        percpu_py_reject(PyExc_TypeError, "format", values[1], "bytes");
        return NULL;
    }
    if (percpu_py_as_item(values[0])->copies != NULL) { /* lent to dtor */
        percpu_py_raise(type, PERCPU_PY_CLOSED, "this item is free: it is being destructed");
        return NULL;
    }
    const struct percpu_pool_geometry *geometry = &percpu_py_as_item(values[0])->pool->geometry;
    if (percpu_py_size(values[2], "size", " bytes", 1, geometry->item_size, &size) != 0)
        return NULL;
    struct records *self = as_records(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->item = Py_NewRef(values[0]);
    self->format = Py_NewRef(values[1]);
    self->size = (Py_ssize_t)size;
    self->shape = (Py_ssize_t)geometry->cpus;
    self->stride = (Py_ssize_t)geometry->stride;
    return (PyObject *)self;
}

static int records_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_records(op)->item);
    return 0;
}

static void records_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (as_records(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    Py_XDECREF(as_records(op)->item);
    Py_XDECREF(as_records(op)->format);
    type->tp_free(op);
    Py_DECREF(type);
}

/* the buffer --------------------------------------------------------------------------------- */

static int records_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct records *self = as_records(op);
    struct percpu_py_array array = {
        .address = percpu_py_as_item(self->item)->address,
        .ndim = 1,
        .shape = &self->shape,
        .strides = &self->stride,
        .itemsize = self->size,
        .format = PyBytes_AS_STRING(self->format),
    };
    view->obj = NULL;
    if (percpu_py_item_begin_export(self->item) != 0) {
        percpu_py_raise_closed(op);
        return -1;
    }
    if (percpu_py_fill_view(view, op, &array, flags) == 0)
        return 0;
    percpu_py_item_release(self->item);
    return -1;
}

static void records_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    percpu_py_item_release(as_records(op)->item);
}

/* methods ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(var_doc, "_var($self, code, offset, /)\n--\n\nAs PerCpuItem.var() does.");

static PyObject *records_var(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    static const struct percpu_py_signature signature = {
        .callable = "_var",
        .required = 2,
        .positional = 2,
        .parameters = {"code", "offset"},
    };
    PyObject *values[2];
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, NULL, values) != 0)
        return NULL;
    return percpu_py_var_of_item(as_records(op)->item, values[0], values[1]);
}

PyDoc_STRVAR(shut_doc, "_shut($self, /)\n--\n\n"
                       "Let nobody have a new buffer or variable; the caller closes those there\n"
                       "are. Raises BufferError while a buffer is in use.");

static PyObject *records_shut(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return percpu_py_item_shut(as_records(op)->item) == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef records_methods[] = {
    {"_var", (PyCFunction)(void (*)(void))records_var, METH_FASTCALL, var_doc},
    {"_shut", records_shut, METH_NOARGS, shut_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!percpu_py_item_is_usable(percpu_py_as_item(as_records(op)->item)));
}

static PyGetSetDef records_attributes[] = {
    {"closed", get_closed, NULL, "Whether it or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef records_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct records, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(records_doc, "A PerCpuItem as a buffer with one record for each CPU. Private.");

static PyType_Slot records_slots[] = {
    {Py_tp_doc, (void *)records_doc},
    PERCPU_PY_SLOT(Py_tp_new, records_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, records_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, records_traverse),
    {Py_tp_methods, records_methods},
    {Py_tp_getset, records_attributes},
    {Py_tp_members, records_members},
    PERCPU_PY_SLOT(Py_bf_getbuffer, records_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, records_releasebuffer),
    {0, NULL},
};

static PyType_Spec records_spec = {
    .name = "percpu._core._Records",
    .basicsize = sizeof(struct records),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = records_slots,
};

int percpu_py_add_records(PyObject *module, struct percpu_py_state *state)
{
    state->records_type = percpu_py_make_type(module, &records_spec, NULL);
    return state->records_type != NULL ? PyModule_AddType(module, state->records_type) : -1;
}
