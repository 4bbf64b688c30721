/* SPDX-License-Identifier: MIT */
/* pool_attributes.c - the attributes of PerCpuPool. All but `closed` are constant. */
#include "pool.h"

#include <string.h>

static PyObject *get_size(PyObject *op, void *offset)
{
    size_t size;
    memcpy(&size, (const char *)op + (uintptr_t)offset, sizeof size);
    return PyLong_FromSize_t(size);
}

static PyObject *get_flag(PyObject *op, void *offset)
{
    bool flag;
    memcpy(&flag, (const char *)op + (uintptr_t)offset, sizeof flag);
    return PyBool_FromLong(flag);
}

static PyObject *get_cpus(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(percpu_py_as_pool(op)->geometry.cpus);
}

static PyObject *get_index(PyObject *op, void *Py_UNUSED(closure))
{
    bool cid = percpu_py_as_pool(op)->geometry.index == PERCPU_INDEX_CID;
    return PyUnicode_FromString(cid ? "cid" : "cpu");
}

static PyObject *get_populate(PyObject *op, void *Py_UNUSED(closure))
{
    bool init = percpu_py_as_pool(op)->geometry.populate == PERCPU_POPULATE_INIT;
    return PyUnicode_FromString(init ? "init" : "zero");
}

static PyObject *get_scope(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(percpu_py_as_pool(op)->geometry.global ? "global" : "percpu");
}

static PyObject *get_name(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(percpu_py_as_pool(op)->name);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_pool_is_closed(percpu_py_as_pool(op)));
}

#define GEOMETRY(field) ((void *)offsetof(struct percpu_py_pool, geometry.field))

PyGetSetDef percpu_py_pool_attributes[] = {
    {"item_size", get_size, NULL, "Bytes that an item has on each CPU.", GEOMETRY(item_size)},
    {"slot_size", get_size, NULL, "Bytes from one item to the next.", GEOMETRY(slot_size)},
    {"stride", get_size, NULL, "Bytes from one CPU's copy of an item to the next CPU's.",
     GEOMETRY(stride)},
    {"cpus", get_cpus, NULL, "Copies of each item.", NULL},
    {"max_ranges", get_size, NULL, "How many ranges the pool may have; 0: no limit.",
     GEOMETRY(max_ranges)},
    {"index", get_index, NULL,
     "What chooses a thread's copy: 'cpu', the CPU that it is on, or 'cid', its concurrency id.",
     NULL},
    {"populate", get_populate, NULL,
     "What pages that no CPU has written hold: 'zero', or 'init', initial values.", NULL},
    {"scope", get_scope, NULL, "'percpu', or 'global': items are not per CPU.", NULL},
    {"capacity", get_size, NULL, "Items in one range (of a size class: in one block).",
     GEOMETRY(capacity)},
    {"cache_items", get_size, NULL, "The most free items that one CPU's caches hold.",
     GEOMETRY(cache_items)},
    {"header_size", get_size, NULL, "Bytes of a range before the first stride.",
     GEOMETRY(header_size)},
    {"constructed", get_flag, NULL, "Whether freed items keep their constructed state.",
     GEOMETRY(constructed)},
    {"robust", get_flag, NULL, "Whether the pool looks for corruption.", GEOMETRY(robust)},
    {"guard", get_flag, NULL, "Whether each CPU's stride ends in a page that is no memory.",
     GEOMETRY(guard)},
    {"name", get_name, NULL, "The name that was given, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
