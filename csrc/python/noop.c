/* SPDX-License-Identifier: MIT */
/*
 * noop.c - the private type _noop: methods that do nothing, which benchmarks compare others with.
 */
#include "module.h"

PyDoc_STRVAR(noargs_doc,
             "noargs($self, /)\n--\n\nDo nothing: what a call without arguments costs.");

static PyObject *noop_noargs(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_NONE;
}

PyDoc_STRVAR(o_doc, "o($self, x, /)\n--\n\nDo nothing: what a call with one argument costs.");

static PyObject *noop_o(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(x))
{
    Py_RETURN_NONE;
}

static PyMethodDef noop_methods[] = {
    {"noargs", noop_noargs, METH_NOARGS, noargs_doc},
    {"o", noop_o, METH_O, o_doc},
    {NULL, NULL, 0, NULL},
};

static int noop_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void noop_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(noop_doc, "_noop()\n--\n\nMethods that do nothing, to compare others with. Private.");

static PyType_Slot noop_slots[] = {
    {Py_tp_doc, (void *)noop_doc},
    PERCPU_PY_SLOT(Py_tp_new, PyType_GenericNew),
    PERCPU_PY_SLOT(Py_tp_dealloc, noop_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, noop_traverse),
    {Py_tp_methods, noop_methods},
    {0, NULL},
};

static PyType_Spec noop_spec = {
    .name = "percpu._core._noop",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = noop_slots,
};

int percpu_py_add_noop(PyObject *module)
{
    PyTypeObject *type = percpu_py_make_type(module, &noop_spec, NULL);
    int result = type != NULL ? PyModule_AddType(module, type) : -1;
    Py_XDECREF(type);
    return result;
}
