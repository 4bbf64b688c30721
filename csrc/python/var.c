/* SPDX-License-Identifier: MIT */
/*
 * var.c - PerCpuVar: a number of one machine type, with a copy on each CPU. var_make.c makes and
 * unmakes it.
 */
#include "var.h"

#include <percpu/this_cpu.h>

static struct percpu_py_var *as_var(PyObject *op)
{
    return (struct percpu_py_var *)op;
}

/* Whether the variable can be used; otherwise ClosedError is set. */
static bool usable(struct percpu_py_var *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* An argument of a method of an open variable. */
static bool argument(struct percpu_py_var *self, const char *name, PyObject *obj, uint64_t *bits)
{
    return usable(self) && percpu_py_unbox(self->ops, name, obj, bits) == 0;
}

/* life --------------------------------------------------------------------------------------- */

static PyObject *var_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&percpu_py_var_signature, args, kwargs, values) != 0)
        return NULL;
    return percpu_py_var_make(type, values);
}

static PyObject *var_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&percpu_py_var_signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return percpu_py_var_make((PyTypeObject *)type, values);
}

static int var_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_var(op)->pool);
    return 0;
}

static void var_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (as_var(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_var_give_back(as_var(op));
    Py_XDECREF(as_var(op)->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* this CPU's copy ---------------------------------------------------------------------------- */

PyDoc_STRVAR(read_doc, "read($self, /)\n--\n\n"
                       "Return this CPU's copy: that of the CPU that ran the thread at some\n"
                       "instant of the call.");

static PyObject *var_read(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = as_var(op);
    return usable(self) ? percpu_py_box(self->ops, self->ops->read(&self->ptr)) : NULL;
}

PyDoc_STRVAR(write_doc, "write($self, x, /)\n--\n\nStore `x` in this CPU's copy.");

static PyObject *var_write(PyObject *op, PyObject *x)
{
    struct percpu_py_var *self = as_var(op);
    uint64_t bits;
    if (!argument(self, "x", x, &bits))
        return NULL;
    self->ops->write(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_doc, "add($self, n, /)\n--\n\nAdd `n` to this CPU's copy.");

static PyObject *var_add(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = as_var(op);
    uint64_t bits;
    if (!argument(self, "n", n, &bits))
        return NULL;
    self->ops->add(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(sub_doc, "sub($self, n, /)\n--\n\nSubtract `n` from this CPU's copy.");

static PyObject *var_sub(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = as_var(op);
    uint64_t bits;
    if (!argument(self, "n", n, &bits))
        return NULL;
    self->ops->sub(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(inc_doc, "inc($self, /)\n--\n\nAdd 1 to this CPU's copy.");

static PyObject *var_inc(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = as_var(op);
    if (!usable(self))
        return NULL;
    self->ops->add(&self->ptr, self->ops->one);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(dec_doc, "dec($self, /)\n--\n\nSubtract 1 from this CPU's copy.");

static PyObject *var_dec(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = as_var(op);
    if (!usable(self))
        return NULL;
    self->ops->sub(&self->ptr, self->ops->one);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_return_doc, "add_return($self, n, /)\n--\n\n"
                             "Add `n` to this CPU's copy, and return what it then is.");

static PyObject *var_add_return(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = as_var(op);
    uint64_t bits;
    if (!argument(self, "n", n, &bits))
        return NULL;
    return percpu_py_box(self->ops, self->ops->add_return(&self->ptr, bits));
}

PyDoc_STRVAR(xchg_doc, "xchg($self, x, /)\n--\n\n"
                       "Store `x` in this CPU's copy, and return what it was.");

static PyObject *var_xchg(PyObject *op, PyObject *x)
{
    struct percpu_py_var *self = as_var(op);
    uint64_t bits;
    if (!argument(self, "x", x, &bits))
        return NULL;
    return percpu_py_box(self->ops, self->ops->xchg(&self->ptr, bits));
}

PyDoc_STRVAR(cmpxchg_doc,
             "cmpxchg($self, /, expect, new)\n--\n\n"
             "Store `new` in this CPU's copy if it is `expect`; return what it was.\n\n"
             "It was stored if that equals `expect`. For code 'd' the bits are compared, so 0.0 is\n"
             "not -0.0, and a NaN equals itself.");

static const struct percpu_py_signature cmpxchg_signature = {
    .callable = "cmpxchg",
    .required = 2,
    .positional = 2,
    .parameters = {"expect", "new"},
};

static PyObject *var_cmpxchg(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    struct percpu_py_var *self = as_var(op);
    PyObject *values[2];
    uint64_t expect, next;
    if (percpu_py_match_vector(&cmpxchg_signature, args, (size_t)nargs, kwnames, values) != 0 ||
        !argument(self, "expect", values[0], &expect) || !argument(self, "new", values[1], &next))
        return NULL;
    return percpu_py_box(self->ops, self->ops->cmpxchg(&self->ptr, expect, next));
}

static PyObject *bitwise(struct percpu_py_var *self, PyObject *mask,
                         uint64_t (*operation)(const percpu_ptr *, uint64_t), const char *name)
{
    uint64_t bits;
    if (operation == NULL)
        return PyErr_Format(PyExc_TypeError, "%s() needs a variable of integers, not of code '%s'",
                            name, self->ops->format);
    if (!argument(self, "mask", mask, &bits))
        return NULL;
    return percpu_py_box(self->ops, operation(&self->ptr, bits));
}

PyDoc_STRVAR(and_doc, "and_($self, mask, /)\n--\n\n"
                      "Clear the bits of this CPU's copy that are not in `mask`; return what it\n"
                      "was. Raises :exc:`TypeError` for code 'd'.");

static PyObject *var_and(PyObject *op, PyObject *mask)
{
    return bitwise(as_var(op), mask, as_var(op)->ops->and_, "and_");
}

PyDoc_STRVAR(or_doc, "or_($self, mask, /)\n--\n\n"
                     "Set the bits of this CPU's copy that are in `mask`; return what it was.\n"
                     "Raises :exc:`TypeError` for code 'd'.");

static PyObject *var_or(PyObject *op, PyObject *mask)
{
    return bitwise(as_var(op), mask, as_var(op)->ops->or_, "or_");
}

/* all copies --------------------------------------------------------------------------------- */

PyDoc_STRVAR(sum_doc,
             "sum($self, /)\n--\n\n"
             "Return the sum of all copies: for integers modulo 2**64, signed for signed codes.\n\n"
             "Every operation that returned before the call is in it. For code 'd' the copies are\n"
             "added in the order of the CPUs.");

static PyObject *var_sum(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = as_var(op);
    if (!usable(self))
        return NULL;
    if (self->ops->kind == PERCPU_PY_FLOAT) {
        double sum = 0;
        for (unsigned cpu = 0; cpu < self->cpus; cpu++)
            sum += percpu_f64_from_bits(self->ops->get(&self->ptr, cpu));
        return PyFloat_FromDouble(sum);
    }
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < self->cpus; cpu++)
        sum += self->ops->get(&self->ptr, cpu);
    return percpu_py_box(self->ops, sum);
}

/* Whether `a` is the one to return instead of `b`. A NaN is, whatever it is compared with. */
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

static PyObject *extreme(struct percpu_py_var *self, bool least)
{
    if (!usable(self))
        return NULL;
    uint64_t found = self->ops->get(&self->ptr, 0);
    for (unsigned cpu = 1; cpu < self->cpus && !is_nan(self->ops, found); cpu++) {
        uint64_t bits = self->ops->get(&self->ptr, cpu);
        bool better = least ? below(self->ops, bits, found) : below(self->ops, found, bits);
        if (better || is_nan(self->ops, bits))
            found = bits;
    }
    return percpu_py_box(self->ops, found);
}

PyDoc_STRVAR(min_doc, "min($self, /)\n--\n\n"
                      "Return the smallest copy; for code 'd', NaN if any copy is NaN.");

static PyObject *var_min(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return extreme(as_var(op), true);
}

PyDoc_STRVAR(max_doc, "max($self, /)\n--\n\n"
                      "Return the largest copy; for code 'd', NaN if any copy is NaN.");

static PyObject *var_max(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return extreme(as_var(op), false);
}

static Py_ssize_t var_length(PyObject *op)
{
    return as_var(op)->shape;
}

static PyObject *var_subscript(PyObject *op, PyObject *key)
{
    struct percpu_py_var *self = as_var(op);
    unsigned cpu;
    if (!usable(self) || percpu_py_cpu(key, self->cpus, &cpu) != 0)
        return NULL;
    return percpu_py_box(self->ops, self->ops->get(&self->ptr, cpu));
}

static int var_assign(PyObject *op, PyObject *key, PyObject *x)
{
    struct percpu_py_var *self = as_var(op);
    unsigned cpu;
    uint64_t bits;
    if (x == NULL) {
        PyErr_SetString(PyExc_TypeError, "a CPU's copy cannot be deleted");
        return -1;
    }
    if (!usable(self) || percpu_py_cpu(key, self->cpus, &cpu) != 0 ||
        !argument(self, "x", x, &bits))
        return -1;
    self->ops->set(&self->ptr, cpu, bits);
    return 0;
}

/* For iteration, which ends with IndexError. */
static PyObject *var_at(PyObject *op, Py_ssize_t position)
{
    struct percpu_py_var *self = as_var(op);
    if (!usable(self))
        return NULL;
    if (position >= 0 && position < self->shape)
        return percpu_py_box(self->ops, self->ops->get(&self->ptr, (unsigned)position));
    PyErr_SetString(PyExc_IndexError, "no such CPU");
    return NULL;
}

/* 0 and a buffer in use, in the variable and in its pool; -1: closed. */
static int begin_export(struct percpu_py_var *self)
{
    size_t exports = __atomic_load_n(&self->exports, __ATOMIC_RELAXED);
    do {
        if (exports == SIZE_MAX)
            return -1;
    } while (!__atomic_compare_exchange_n(&self->exports, &exports, exports + 1, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    if (self->pool == NULL || percpu_py_pool_export(self->pool) == 0)
        return 0;
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
    return -1;
}

static void end_export(struct percpu_py_var *self)
{
    if (self->pool != NULL)
        percpu_py_pool_end_export(self->pool);
    __atomic_sub_fetch(&self->exports, 1, __ATOMIC_RELEASE);
}

static int var_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct percpu_py_var *self = as_var(op);
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

static void var_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    end_export(as_var(op));
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the variable: it raises :exc:`ClosedError` from now on.\n\n"
                        "Its memory is given back when it is garbage. Raises :exc:`BufferError`,\n"
                        "and does nothing, while a memoryview or array of it lives. Closing a\n"
                        "closed variable does nothing.");

static PyObject *var_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = as_var(op);
    size_t exports = 0;
    if (!__atomic_compare_exchange_n(&self->exports, &exports, SIZE_MAX, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED) &&
        exports != SIZE_MAX)
        return PyErr_Format(PyExc_BufferError,
                            "cannot close a variable while %zu memoryviews or arrays of it live",
                            exports);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the variable.");

static PyObject *var_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the variable.");

static PyObject *var_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                          Py_ssize_t Py_UNUSED(nargs))
{
    return var_close(op, NULL);
}

static PyObject *var_repr(PyObject *op)
{
    struct percpu_py_var *self = as_var(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s '%s' closed>", name, self->ops->format);
    PyObject *sum = var_sum(op, NULL);
    if (sum == NULL)
        return NULL;
    PyObject *repr = PyUnicode_FromFormat("<%s '%s' sum=%R mode=%s cpus=%u>", name,
                                          self->ops->format, sum, percpu_py_mode_name(), self->cpus);
    Py_DECREF(sum);
    return repr;
}

PyDoc_STRVAR(class_getitem_doc, "__class_getitem__($type, number, /)\n--\n\n"
                                "For annotations: PerCpuVar[int], PerCpuVar[float].");

static PyMethodDef var_methods[] = {
    {"read", var_read, METH_NOARGS, read_doc},
    {"write", var_write, METH_O, write_doc},
    {"add", var_add, METH_O, add_doc},
    {"sub", var_sub, METH_O, sub_doc},
    {"inc", var_inc, METH_NOARGS, inc_doc},
    {"dec", var_dec, METH_NOARGS, dec_doc},
    {"add_return", var_add_return, METH_O, add_return_doc},
    {"xchg", var_xchg, METH_O, xchg_doc},
    {"cmpxchg", (PyCFunction)(void (*)(void))var_cmpxchg, METH_FASTCALL | METH_KEYWORDS,
     cmpxchg_doc},
    {"and_", var_and, METH_O, and_doc},
    {"or_", var_or, METH_O, or_doc},
    {"sum", var_sum, METH_NOARGS, sum_doc},
    {"min", var_min, METH_NOARGS, min_doc},
    {"max", var_max, METH_NOARGS, max_doc},
    {"close", var_close, METH_NOARGS, close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, class_getitem_doc},
    {"__enter__", var_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))var_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_code(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(as_var(op)->ops->format);
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = as_var(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&as_var(op)->closed));
}

static PyGetSetDef var_attributes[] = {
    {"code", get_code, NULL, "The type code.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that was given, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the variable or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef var_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_var, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    var_doc,
    "PerCpuVar(code, value=0, *, pool=None)\n--\n\n"
    "A number of one machine type, of which each CPU has its own copy.\n\n"
    "`code` is one of b B h H i I q Q d, as in the :mod:`array` and :mod:`struct` modules (i and I\n"
    "have 4 bytes, q and Q 8). `value` is what every CPU's copy starts with. `pool` is a\n"
    ":class:`PerCpuPool` to take the memory from; None: a pool of the process.\n\n"
    "Methods such as :meth:`add` work on the copy of the CPU that runs the thread, with no lock\n"
    "and no atomic instruction; no operation of any thread is lost or seen in part. Arguments\n"
    "must be in the type's range; results wrap around modulo 2**bits, whatever the sign.\n\n"
    "``v[cpu]`` reads any CPU's copy. ``v[cpu] = x`` writes it, safely beside the operations of\n"
    "threads on that CPU; it takes microseconds. CPUs are ids, not positions, so there is no\n"
    "``v[-1]``. :func:`len` is the number of copies, iteration yields them. The variable is a\n"
    "writable buffer of shape ``(cpus,)``: plain memory, so a write through it races with the\n"
    "CPU whose copy it is.\n\n"
    "Raises :exc:`TypeError`, :exc:`ValueError` for a code that does not exist or a pool whose\n"
    "items are too small, :exc:`OverflowError` for numbers out of the type's range,\n"
    ":exc:`IndexError` for CPUs out of range, :exc:`PoolExhausted`, and :exc:`ClosedError` once\n"
    "it was closed.");

static PyType_Slot var_slots[] = {
    {Py_tp_doc, (void *)var_doc},
    PERCPU_PY_SLOT(Py_tp_new, var_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, var_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, var_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, var_repr),
    PERCPU_PY_SLOT(Py_tp_iter, PySeqIter_New),
    {Py_tp_methods, var_methods},
    {Py_tp_getset, var_attributes},
    {Py_tp_members, var_members},
    PERCPU_PY_SLOT(Py_mp_length, var_length),
    PERCPU_PY_SLOT(Py_mp_subscript, var_subscript),
    PERCPU_PY_SLOT(Py_mp_ass_subscript, var_assign),
    PERCPU_PY_SLOT(Py_sq_item, var_at),
    PERCPU_PY_SLOT(Py_bf_getbuffer, var_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, var_releasebuffer),
    {0, NULL},
};

static PyType_Spec var_spec = {
    .name = "percpu.PerCpuVar",
    .basicsize = sizeof(struct percpu_py_var),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = var_slots,
};

int percpu_py_add_var(PyObject *module, struct percpu_py_state *state)
{
    state->var_type = percpu_py_make_type(module, &var_spec, var_vectorcall);
    return state->var_type != NULL ? PyModule_AddType(module, state->var_type) : -1;
}
