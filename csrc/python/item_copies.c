/* SPDX-License-Identifier: MIT */
/*
 * item_copies.c - the copies of a PerCpuItem: as buffers, and as a sequence of memoryviews.
 */
#include "item.h"
#include "memory.h"

int percpu_py_item_begin_export(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    if (self->copies != NULL) /* views keep the item, and it the copies */
        return percpu_py_item_is_usable(self) ? 0 : -1;
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports >= PERCPU_PY_ITEM_SHUT)
            return -1;
    } while (!__atomic_compare_exchange_n(&self->exports, &exports, exports + 1, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    if (percpu_py_pool_export(self->pool) == 0)
        return 0;
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
    return -1;
}

void percpu_py_item_release(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    if (self->copies != NULL)
        return;
    percpu_py_pool_end_export(self->pool);
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
}

int percpu_py_item_begin_variable(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports >= PERCPU_PY_ITEM_SHUT || !percpu_py_item_is_usable(self))
            return percpu_py_item_raise_unusable(op);
        if (self->copies != NULL) {
            percpu_py_raise(Py_TYPE(op), PERCPU_PY_CLOSED,
                            "this item is free: it is being destructed");
            return -1;
        }
    } while (!__atomic_compare_exchange_n(&self->exports, &exports,
                                          exports + PERCPU_PY_ITEM_VARIABLE, true, __ATOMIC_ACQUIRE,
                                          __ATOMIC_RELAXED));
    return 0;
}

/* Release: what was done to the memory comes before it is given back. */
void percpu_py_item_end_variable(PyObject *op)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports == PERCPU_PY_ITEM_SHUT)
            return;
    } while (!__atomic_compare_exchange_n(&self->exports, &exports,
                                          exports - PERCPU_PY_ITEM_VARIABLE, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
}

static int export(struct percpu_py_item *self, PyObject *exporter, struct percpu_py_array *array,
                  unsigned cpu, Py_buffer *view, int flags)
{
    view->obj = NULL;
    if (percpu_py_item_begin_export((PyObject *)self) != 0)
        return percpu_py_item_raise_unusable((PyObject *)self);
    char *first = self->copies != NULL ? percpu_py_memory_bytes(self->copies) : self->address;
    array->address = first + (Py_ssize_t)cpu * self->strides[0];
    array->itemsize = 1;
    array->format = "B";
    if (percpu_py_fill_view(view, exporter, array, flags) == 0)
        return 0;
    percpu_py_item_release((PyObject *)self);
    return -1;
}

int percpu_py_item_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    struct percpu_py_array array = {.ndim = 2, .shape = self->shape, .strides = self->strides};
    return export(self, op, &array, 0, view, flags);
}

void percpu_py_item_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    percpu_py_item_release(op);
}

int percpu_py_item_get_copy(PyObject *op, PyObject *exporter, unsigned cpu, Py_buffer *view,
                            int flags)
{
    struct percpu_py_item *self = percpu_py_as_item(op);
    struct percpu_py_array array = {
        .ndim = 1, .shape = self->shape + 1, .strides = self->strides + 1};
    return export(self, exporter, &array, cpu, view, flags);
}

/* the copies, as a sequence ------------------------------------------------------------------- */

static PyObject *view_copy(PyObject *op, unsigned cpu)
{
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (percpu_py_item_is_usable(percpu_py_as_item(op)) && state != NULL &&
        state->copy_type != NULL)
        return percpu_py_view_copy(state->copy_type, op, cpu);
    percpu_py_item_raise_unusable(op);
    return NULL;
}

PyObject *percpu_py_item_subscript(PyObject *op, PyObject *key)
{
    unsigned cpu;
    if (percpu_py_cpu(key, percpu_py_as_item(op)->pool->geometry.cpus, &cpu) != 0)
        return NULL;
    return view_copy(op, cpu);
}

/* An assignment to a whole copy would have to say what becomes of the bytes that it does not name. */
int percpu_py_item_assign(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(key), PyObject *value)
{
    PyErr_SetString(PyExc_TypeError, value == NULL
                                         ? "a CPU's copy cannot be deleted"
                                         : "write into the copy: item[cpu][:n] = n bytes");
    return -1;
}

/* For iteration, which ends with IndexError. */
PyObject *percpu_py_item_at(PyObject *op, Py_ssize_t position)
{
    if (position >= 0 && position < percpu_py_as_item(op)->shape[0])
        return view_copy(op, (unsigned)position);
    PyErr_SetString(PyExc_IndexError, "no such CPU");
    return NULL;
}

Py_ssize_t percpu_py_item_length(PyObject *op)
{
    return percpu_py_as_item(op)->shape[0];
}
