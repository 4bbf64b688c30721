/* SPDX-License-Identifier: MIT */
/*
 * item.h - PerCpuItem, as seen by its pool and by the views of its copies.
 */
#ifndef PERCPU_PYTHON_ITEM_H
#define PERCPU_PYTHON_ITEM_H

#include "pool.h"

/* An item that holds no memory yet. NULL with an exception. */
PyObject *percpu_py_item_new(PyTypeObject *type, struct percpu_py_pool *pool);

/* Give `item`, made with percpu_py_item_new(), the memory at `address`, and the hold of its pool
 * that goes with it. */
void percpu_py_item_adopt(PyObject *item, void *address);

/* Which pool `item` is of: a borrowed reference. */
struct percpu_py_pool *percpu_py_item_pool(PyObject *item);

/* Give its memory back. 0; -1 with ClosedError or BufferError. */
int percpu_py_item_free(PyObject *item);

/* Export CPU `cpu`'s copy in the name of `exporter`, and end such an export. 0; -1 with
 * ClosedError or BufferError. */
int percpu_py_item_get_copy(PyObject *item, PyObject *exporter, unsigned cpu, Py_buffer *view,
                            int flags);
void percpu_py_item_release(PyObject *item);

/* A memoryview of that copy; `type` is _ItemCopy. NULL with an exception. */
PyObject *percpu_py_view_copy(PyTypeObject *type, PyObject *item, unsigned cpu);

#endif
