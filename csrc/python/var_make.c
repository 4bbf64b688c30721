/* SPDX-License-Identifier: MIT */
/*
 * var_make.c - where a PerCpuVar's memory comes from and goes to, and its values in Python.
 */
#include "item.h"
#include "var.h"

#include <errno.h>
#include <string.h>

#include <percpu/this_cpu.h>

/* values ------------------------------------------------------------------------------------- */

PyObject *percpu_py_box(const struct percpu_py_var_ops *ops, uint64_t bits)
{
    switch (ops->kind) {
    case PERCPU_PY_SIGNED:
        return PyLong_FromLongLong((int64_t)bits);
    case PERCPU_PY_UNSIGNED:
        return PyLong_FromUnsignedLongLong(bits);
    default:
        return PyFloat_FromDouble(percpu_f64_from_bits(bits));
    }
}

int percpu_py_unbox(const struct percpu_py_var_ops *ops, const char *name, PyObject *obj,
                    uint64_t *bits)
{
    if (ops->kind != PERCPU_PY_FLOAT)
        return percpu_py_bits(obj, name, ops->of, ops->min, ops->max, bits);
    double value;
    if (percpu_py_double(obj, name, &value) != 0)
        return -1;
    *bits = percpu_f64_bits(value);
    return 0;
}

/* making ------------------------------------------------------------------------------------- */

const struct percpu_py_signature percpu_py_var_signature = {
    .callable = "PerCpuVar",
    .required = 1,
    .positional = 2,
    .parameters = {"code", "value", "pool"},
};

static const struct percpu_py_var_ops *code_argument(PyObject *code)
{
    if (!PyUnicode_Check(code)) {
        percpu_py_reject(PyExc_TypeError, "code", code, "a str");
        return NULL;
    }
    const struct percpu_py_var_ops *ops = PyUnicode_GET_LENGTH(code) == 1
                                              ? percpu_py_var_ops_of(PyUnicode_READ_CHAR(code, 0))
                                              : NULL;
    if (ops == NULL)
        percpu_py_reject(PyExc_ValueError, "code", code, "one of " PERCPU_PY_CODES);
    return ops;
}

struct wish {
    uint64_t value;
    unsigned width;
};

static void *source(struct percpu_pool *memory, void *what)
{
    /* The first bytes of the value are those of the narrower type: all our machines are
     * little-endian (arch.h has x86-64 and aarch64, and the build checks below). */
    const struct wish *wish = what;
    return wish->value == 0 ? percpu_pool_zalloc(memory)
                            : percpu_pool_alloc_init(memory, &wish->value, wish->width);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "source() takes the low bytes");

/* 0; an errno of the core; -1 with an exception. */
static int place(struct percpu_py_var *self, uint64_t value)
{
    struct wish wish = {value, self->ops->width};
    void *item = NULL;
    int error = 0;
    if (self->pool != NULL) {
        error = percpu_py_pool_take(self->pool, source, &wish, &item, NULL);
    } else {
        self->memory = percpu_pool_shared(self->ops->width);
        item = self->memory != NULL ? source(self->memory, &wish) : NULL;
        error = item != NULL ? 0 : errno;
    }
    if (error != 0)
        return error;
    if (self->pool != NULL)
        self->memory = self->pool->memory;
    self->ptr = percpu_pool_ptr(self->memory, item);
    return 0;
}

/* A variable that is closed and has no memory, while the garbage collector can see it, but nobody
 * should. */
static struct percpu_py_var *allocate(PyTypeObject *type, const struct percpu_py_var_ops *ops,
                                      struct percpu_py_pool *pool)
{
    struct percpu_py_var *self = percpu_py_as_var(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->exports = SIZE_MAX;
    self->ops = ops;
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    return self;
}

static void set_shape(struct percpu_py_var *self)
{
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(self->memory, &geometry);
    self->cpus = geometry.cpus;
    self->shape = (Py_ssize_t)geometry.cpus;
    self->stride = (Py_ssize_t)geometry.stride;
}

static void set_open(struct percpu_py_var *self, const uint8_t *closed)
{
    /* Release: pairs with begin_export() in var_copies.c. */
    __atomic_store_n(&self->exports, 0, __ATOMIC_RELEASE);
    percpu_py_point_closed(&self->closed, closed);
}

PyObject *percpu_py_var_make(PyTypeObject *type, PyObject *const *values)
{
    const struct percpu_py_var_ops *ops = code_argument(values[0]);
    uint64_t value = 0;
    struct percpu_py_pool *pool;
    if (ops == NULL ||
        (values[1] != NULL && percpu_py_unbox(ops, "value", values[1], &value) != 0) ||
        percpu_py_pool_argument(type, values[2], &pool) != 0 ||
        (pool != NULL && percpu_py_pool_fits(pool, ops->width, ops->width, ops->of + 5) != 0))
        return NULL;
    struct percpu_py_var *self = allocate(type, ops, pool);
    if (self == NULL)
        return NULL;
    int error = place(self, value);
    if (error == ENOMEM && pool == NULL && percpu_py_collect_deferred())
        error = place(self, value);
    if (error != 0) {
        if (error > 0 && error != ENOMEM && pool != NULL)
            percpu_py_pool_raise_not_allocated(pool, error);
        else if (error > 0)
            percpu_py_raise_errno(type, error, "no memory for a variable of %u bytes per CPU",
                                  ops->width);
        Py_DECREF(self);
        return NULL;
    }
    set_shape(self);
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    set_open(self, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

/* in an item --------------------------------------------------------------------------------- */

/* Where in `item` the number would be; NULL with ValueError or TypeError. */
static char *place_in_item(const struct percpu_py_item *item, const struct percpu_py_var_ops *ops,
                           PyObject *offset)
{
    const struct percpu_pool_geometry *geometry = &item->pool->geometry;
    uint64_t bytes = 0;
    if (geometry->global) {
        PyErr_SetString(PyExc_ValueError,
                        "the item must be of a pool of scope 'percpu', with a copy for each CPU");
        return NULL;
    }
    if (geometry->item_size < ops->width) {
        PyErr_Format(PyExc_ValueError, "code '%s' needs %u bytes, and the item has %zu",
                     ops->format, ops->width, geometry->item_size);
        return NULL;
    }
    if (offset != NULL &&
        percpu_py_size(offset, "offset", ops->of, 0, geometry->item_size - ops->width, &bytes) != 0)
        return NULL;
    if (bytes % ops->width == 0) /* the item itself is aligned: see percpu_pool_alloc() */
        return item->address + bytes;
    percpu_py_reject(PyExc_ValueError, "offset", offset, "a multiple of %u%s", ops->width, ops->of);
    return NULL;
}

PyObject *percpu_py_var_of_item(PyObject *op, PyObject *code, PyObject *offset)
{
    struct percpu_py_item *item = percpu_py_as_item(op);
    const struct percpu_py_var_ops *ops = code_argument(code);
    char *place = ops != NULL ? place_in_item(item, ops, offset) : NULL;
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (place == NULL)
        return NULL;
    if (state == NULL || state->var_type == NULL)
        return percpu_py_raise_closed(op);
    struct percpu_py_var *self = allocate(state->var_type, ops, item->pool);
    if (self == NULL)
        return NULL;
    if (percpu_py_item_begin_variable(op) != 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->item = Py_NewRef(op);
    self->memory = item->pool->memory;
    self->ptr = percpu_pool_ptr(self->memory, place);
    set_shape(self);
    set_open(self, &item->pool->closed);
    return (PyObject *)self;
}

void percpu_py_var_give_back(struct percpu_py_var *self)
{
    if (self->ptr.base == NULL)
        return;
    if (self->item != NULL)
        percpu_py_item_end_variable(self->item);
    else if (self->pool == NULL)
        percpu_pool_free(self->memory, self->ptr.base);
    else
        percpu_py_pool_give_back_quietly(self->pool, self->ptr.base);
}
