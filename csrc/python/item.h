/* SPDX-License-Identifier: MIT */
/*
 * item.h - PerCpuItem, as seen by its pool and by the views of its copies.
 *
 * Threads agree on an item's life through one word, `exports`: how many buffers are in use, how many
 * variables of it there are, or FREED, or SHUT.
 *
 *      63 ............................... 32 | 31 .............................. 0
 *      variables: they live, open or closed  | buffers in use
 *
 * An item with buffers or variables cannot become FREED, and a FREED one gets none; whoever changes
 * it from 0 to FREED gives the memory back. A PerCpuStruct is closed by making the word of its item
 * SHUT, which only buffers stand against: there will be no more of anything, its variables are
 * closed next, and the memory is given back in dealloc, because an operation may be under way.
 *
 * An item that is lent to dtor is different: the memory is not its own, and is gone when dtor
 * returns, although views of it may not be. So views show `copies`, made before, and the item
 * never is FREED; `closed` says when the loan has ended.
 */
#ifndef PERCPU_PYTHON_ITEM_H
#define PERCPU_PYTHON_ITEM_H

#include "pool.h"

#define PERCPU_PY_ITEM_VARIABLE ((size_t)1 << 32)
#define PERCPU_PY_ITEM_SHUT (SIZE_MAX - 1)
#define PERCPU_PY_ITEM_FREED SIZE_MAX

struct percpu_py_item {
    PyObject_HEAD
    struct percpu_py_pool *pool; /* a reference; constant */
    const uint8_t *closed;       /* the pool's flag; lent: open, then shut */
    char *address;               /* CPU 0's copy; constant since it was adopted */
    size_t exports;
    PyObject *copies;                /* lent: a _Memory; constant */
    Py_ssize_t shape[2], strides[2]; /* constant */
    PyObject *weakrefs;
};

static inline struct percpu_py_item *percpu_py_as_item(PyObject *op)
{
    return (struct percpu_py_item *)op;
}

/* An item that holds no memory yet. NULL with an exception. */
PyObject *percpu_py_item_new(PyTypeObject *type, struct percpu_py_pool *pool);

/* Give `item`, made with percpu_py_item_new(), the memory at `address`, and the hold of its pool
 * that goes with it. */
void percpu_py_item_adopt(PyObject *item, void *address);

/* A lent item; NULL with an exception. And its end. */
PyObject *percpu_py_item_lend(struct percpu_py_pool *pool, void *address);
void percpu_py_item_end_loan(PyObject *item);

/* Give its memory back. 0; -1 with ClosedError or BufferError; -1 with CorruptionError, and the
 * item is free. */
int percpu_py_item_free(PyObject *item);

/* The same if nobody has a view of it. An exception that is set stays. */
void percpu_py_item_abandon(PyObject *item);

/* Make it SHUT. 0; -1 with ClosedError or BufferError. */
int percpu_py_item_shut(PyObject *item);

/* Whether it was freed; and whether it can be used: neither freed nor shut, nor closed with its pool.
 * The answers may be out of date, unless the caller has a buffer. */
bool percpu_py_item_is_freed(const struct percpu_py_item *item);
bool percpu_py_item_is_usable(const struct percpu_py_item *item);

/* ClosedError. Returns -1. */
int percpu_py_item_raise_unusable(PyObject *item);

/* One more buffer in use; one less. 0; -1, with no exception: freed or closed. */
int percpu_py_item_begin_export(PyObject *item);
void percpu_py_item_release(PyObject *item);

/* One more variable; one less. 0; -1 with ClosedError. */
int percpu_py_item_begin_variable(PyObject *item);
void percpu_py_item_end_variable(PyObject *item);

/* Export CPU `cpu`'s copy in the name of `exporter`. 0; -1 with ClosedError or BufferError. */
int percpu_py_item_get_copy(PyObject *item, PyObject *exporter, unsigned cpu, Py_buffer *view,
                            int flags);

/* A memoryview of that copy; `type` is _ItemCopy. NULL with an exception. */
PyObject *percpu_py_view_copy(PyTypeObject *type, PyObject *item, unsigned cpu);

/* The slots of the sequence of all copies, and of the buffer protocol. */
Py_ssize_t percpu_py_item_length(PyObject *op);
PyObject *percpu_py_item_subscript(PyObject *op, PyObject *key);
int percpu_py_item_assign(PyObject *op, PyObject *key, PyObject *value);
PyObject *percpu_py_item_at(PyObject *op, Py_ssize_t position);
int percpu_py_item_getbuffer(PyObject *op, Py_buffer *view, int flags);
void percpu_py_item_releasebuffer(PyObject *op, Py_buffer *view);

#endif
