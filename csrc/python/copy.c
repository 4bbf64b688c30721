/* SPDX-License-Identifier: MIT */
/*
 * copy.c - the private type _ItemCopy: one CPU's copy of an item, as an exporter of buffers. It is
 * what item[cpu], a memoryview, keeps alive:
 *
 *      memoryview -> _ItemCopy -> PerCpuItem -> PerCpuPool        (references)
 */
#include "item.h"

struct copy {
    PyObject_HEAD
    PyObject *item; /* a reference; constant */
    unsigned cpu;
};

static struct copy *as_copy(PyObject *op)
{
    return (struct copy *)op;
}

PyObject *percpu_py_view_copy(PyTypeObject *type, PyObject *item, unsigned cpu)
{
    PyObject *copy = type->tp_alloc(type, 0);
    if (copy == NULL)
        return NULL;
    as_copy(copy)->item = Py_NewRef(item);
    as_copy(copy)->cpu = cpu;
    PyObject *view = PyMemoryView_FromObject(copy);
    Py_DECREF(copy);
    return view;
}

static int copy_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    return percpu_py_item_get_copy(as_copy(op)->item, op, as_copy(op)->cpu, view, flags);
}

static void copy_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    percpu_py_item_release(as_copy(op)->item);
}

static int copy_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_copy(op)->item);
    return 0;
}

static void copy_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(as_copy(op)->item);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(copy_doc, "What a memoryview of one CPU's copy of an item refers to. Private.");

static PyType_Slot copy_slots[] = {
    {Py_tp_doc, (void *)copy_doc},
    PERCPU_PY_SLOT(Py_tp_dealloc, copy_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, copy_traverse),
    PERCPU_PY_SLOT(Py_bf_getbuffer, copy_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, copy_releasebuffer),
    {0, NULL},
};

static PyType_Spec copy_spec = {
    .name = "percpu._core._ItemCopy",
    .basicsize = sizeof(struct copy),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = copy_slots,
};

int percpu_py_add_copy(PyObject *module, struct percpu_py_state *state)
{
    state->copy_type = percpu_py_make_type(module, &copy_spec, NULL);
    return state->copy_type != NULL ? 0 : -1;
}
