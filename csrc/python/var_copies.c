/* SPDX-License-Identifier: MIT */
/*
 * var_copies.c - all copies of a PerCpuVar: their sum and extremes, as a sequence, as a buffer.
 */
#include "item.h"
#include "var.h"

#include <percpu/this_cpu.h>

uint64_t percpu_py_var_total(struct percpu_py_var *self)
{
    if (self->ops->kind == PERCPU_PY_FLOAT) {
        double sum = 0;
        for (unsigned cpu = 0; cpu < self->cpus; cpu++)
            sum += percpu_f64_from_bits(self->ops->get(&self->ptr, cpu));
        return percpu_f64_bits(sum);
    }
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < self->cpus; cpu++)
        sum += self->ops->get(&self->ptr, cpu);
    return sum;
}

static bool below(const struct percpu_py_var_ops *ops, uint64_t a, uint64_t b)
{
    switch (ops->kind) {
    case PERCPU_PY_SIGNED:
        return (int64_t)a < (int64_t)b;
    case PERCPU_PY_UNSIGNED:
        return a < b;
    default:
        return percpu_f64_from_bits(a) < percpu_f64_from_bits(b);
    }
}

static bool is_nan(const struct percpu_py_var_ops *ops, uint64_t bits)
{
    double value = percpu_f64_from_bits(bits);
    return ops->kind == PERCPU_PY_FLOAT && value != value;
}

uint64_t percpu_py_var_extreme(struct percpu_py_var *self, bool least)
{
    uint64_t found = self->ops->get(&self->ptr, 0);
    for (unsigned cpu = 1; cpu < self->cpus && !is_nan(self->ops, found); cpu++) {
        uint64_t bits = self->ops->get(&self->ptr, cpu);
        bool better = least ? below(self->ops, bits, found) : below(self->ops, found, bits);
        if (better || is_nan(self->ops, bits))
            found = bits;
    }
    return found;
}

Py_ssize_t percpu_py_var_length(PyObject *op)
{
    return percpu_py_as_var(op)->shape;
}

PyObject *percpu_py_var_subscript(PyObject *op, PyObject *key)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    unsigned cpu;
    if (percpu_py_cpu(key, self->cpus, &cpu) != 0 || !percpu_py_var_usable(self))
        return NULL;
    return percpu_py_box(self->ops, self->ops->get(&self->ptr, cpu));
}

int percpu_py_var_assign(PyObject *op, PyObject *key, PyObject *x)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    unsigned cpu;
    uint64_t bits;
    if (x == NULL) {
        PyErr_SetString(PyExc_TypeError, "a CPU's copy cannot be deleted");
        return -1;
    }
    if (percpu_py_cpu(key, self->cpus, &cpu) != 0 || !percpu_py_var_argument(self, "x", x, &bits))
        return -1;
    self->ops->set(&self->ptr, cpu, bits);
    return 0;
}

/* For iteration, which ends with IndexError. */
PyObject *percpu_py_var_at(PyObject *op, Py_ssize_t position)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    if (!percpu_py_var_usable(self))
        return NULL;
    if (position >= 0 && position < self->shape)
        return percpu_py_box(self->ops, self->ops->get(&self->ptr, (unsigned)position));
    PyErr_SetString(PyExc_IndexError, "no such CPU");
    return NULL;
}

/* 0 and a buffer in use, in the variable and in its item or pool; -1: closed. */
static int begin_export(struct percpu_py_var *self)
{
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports == SIZE_MAX)
            return -1;
    } while (!__atomic_compare_exchange_n(&self->exports, &exports, exports + 1, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    if (self->item != NULL ? percpu_py_item_begin_export(self->item) == 0
                           : self->pool == NULL || percpu_py_pool_export(self->pool) == 0)
        return 0;
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
    return -1;
}

static void end_export(struct percpu_py_var *self)
{
    if (self->item != NULL)
        percpu_py_item_release(self->item);
    else if (self->pool != NULL)
        percpu_py_pool_end_export(self->pool);
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
}

int percpu_py_var_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    struct percpu_py_array array = {
        .address = self->ptr.base,
        .ndim = 1,
        .shape = &self->shape,
        .strides = &self->stride,
        .itemsize = (Py_ssize_t)self->ops->width,
        .format = self->ops->format,
    };
    view->obj = NULL;
    if (begin_export(self) != 0) {
        percpu_py_raise_closed(op);
        return -1;
    }
    if (percpu_py_fill_view(view, op, &array, flags) == 0)
        return 0;
    end_export(self);
    return -1;
}

void percpu_py_var_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    end_export(percpu_py_as_var(op));
}
