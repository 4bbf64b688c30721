/* SPDX-License-Identifier: MIT */
/*
 * var.c - PerCpuVar: a number of one machine type, with a copy on each CPU. var_make.c makes and
 * unmakes it, var_copies.c has what goes over all copies.
 */
#include "var.h"

#include <percpu/this_cpu.h>

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
    Py_VISIT(percpu_py_as_var(op)->pool);
    Py_VISIT(percpu_py_as_var(op)->item);
    return 0;
}

static void var_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (percpu_py_as_var(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_var_give_back(percpu_py_as_var(op));
    Py_XDECREF(percpu_py_as_var(op)->item);
    Py_XDECREF(percpu_py_as_var(op)->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* this CPU's copy ---------------------------------------------------------------------------- */

PyDoc_STRVAR(read_doc, "read($self, /)\n--\n\n"
                       "Return this CPU's copy: that of the CPU that ran the thread at some\n"
                       "instant of the call.");

static PyObject *var_read(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    return percpu_py_var_usable(self) ? percpu_py_box(self->ops, self->ops->read(&self->ptr))
                                      : NULL;
}

PyDoc_STRVAR(write_doc, "write($self, x, /)\n--\n\nStore `x` in this CPU's copy.");

static PyObject *var_write(PyObject *op, PyObject *x)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    uint64_t bits;
    if (!percpu_py_var_argument(self, "x", x, &bits))
        return NULL;
    self->ops->write(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_doc, "add($self, n, /)\n--\n\nAdd `n` to this CPU's copy.");

static PyObject *var_add(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    uint64_t bits;
    if (!percpu_py_var_argument(self, "n", n, &bits))
        return NULL;
    self->ops->add(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(sub_doc, "sub($self, n, /)\n--\n\nSubtract `n` from this CPU's copy.");

static PyObject *var_sub(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    uint64_t bits;
    if (!percpu_py_var_argument(self, "n", n, &bits))
        return NULL;
    self->ops->sub(&self->ptr, bits);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(inc_doc, "inc($self, /)\n--\n\nAdd 1 to this CPU's copy.");

static PyObject *var_inc(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    if (!percpu_py_var_usable(self))
        return NULL;
    self->ops->add(&self->ptr, self->ops->one);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(dec_doc, "dec($self, /)\n--\n\nSubtract 1 from this CPU's copy.");

static PyObject *var_dec(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    if (!percpu_py_var_usable(self))
        return NULL;
    self->ops->sub(&self->ptr, self->ops->one);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_return_doc, "add_return($self, n, /)\n--\n\n"
                             "Add `n` to this CPU's copy, and return what it then is.");

static PyObject *var_add_return(PyObject *op, PyObject *n)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    uint64_t bits;
    if (!percpu_py_var_argument(self, "n", n, &bits))
        return NULL;
    return percpu_py_box(self->ops, self->ops->add_return(&self->ptr, bits));
}

PyDoc_STRVAR(xchg_doc, "xchg($self, x, /)\n--\n\n"
                       "Store `x` in this CPU's copy, and return what it was.");

static PyObject *var_xchg(PyObject *op, PyObject *x)
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    uint64_t bits;
    if (!percpu_py_var_argument(self, "x", x, &bits))
        return NULL;
    return percpu_py_box(self->ops, self->ops->xchg(&self->ptr, bits));
}

PyDoc_STRVAR(
    cmpxchg_doc,
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
    struct percpu_py_var *self = percpu_py_as_var(op);
    PyObject *values[2];
    uint64_t expect, next;
    if (percpu_py_match_vector(&cmpxchg_signature, args, (size_t)nargs, kwnames, values) != 0 ||
        !percpu_py_var_argument(self, "expect", values[0], &expect) ||
        !percpu_py_var_argument(self, "new", values[1], &next))
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
    if (!percpu_py_var_argument(self, "mask", mask, &bits))
        return NULL;
    return percpu_py_box(self->ops, operation(&self->ptr, bits));
}

PyDoc_STRVAR(and_doc, "and_($self, mask, /)\n--\n\n"
                      "Clear the bits of this CPU's copy that are not in `mask`; return what it\n"
                      "was. Raises :exc:`TypeError` for code 'd'.");

static PyObject *var_and(PyObject *op, PyObject *mask)
{
    return bitwise(percpu_py_as_var(op), mask, percpu_py_as_var(op)->ops->and_, "and_");
}

PyDoc_STRVAR(or_doc, "or_($self, mask, /)\n--\n\n"
                     "Set the bits of this CPU's copy that are in `mask`; return what it was.\n"
                     "Raises :exc:`TypeError` for code 'd'.");

static PyObject *var_or(PyObject *op, PyObject *mask)
{
    return bitwise(percpu_py_as_var(op), mask, percpu_py_as_var(op)->ops->or_, "or_");
}

/* `v += n` reads as if it changed the sum or every copy; add() is what there is. */
static PyObject *var_inplace_add(PyObject *op, PyObject *Py_UNUSED(n))
{
    return PyErr_Format(PyExc_TypeError,
                        "use v.add(n): %s has no operator +=", percpu_py_type_name(op));
}

static PyObject *var_inplace_subtract(PyObject *op, PyObject *Py_UNUSED(n))
{
    return PyErr_Format(PyExc_TypeError,
                        "use v.sub(n): %s has no operator -=", percpu_py_type_name(op));
}

/* all copies --------------------------------------------------------------------------------- */

PyDoc_STRVAR(sum_doc,
             "sum($self, /)\n--\n\n"
             "Return the sum of all copies: for integers modulo 2**64, signed for signed codes.\n\n"
             "Every operation that returned before the call is in it. For code 'd' the copies are\n"
             "added in the order of the CPUs.");

static PyObject *var_sum(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    return percpu_py_var_usable(self) ? percpu_py_box(self->ops, percpu_py_var_total(self)) : NULL;
}

PyDoc_STRVAR(min_doc, "min($self, /)\n--\n\n"
                      "Return the smallest copy; for code 'd', NaN if any copy is NaN.");

static PyObject *var_min(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    if (!percpu_py_var_usable(self))
        return NULL;
    return percpu_py_box(self->ops, percpu_py_var_extreme(self, true));
}

PyDoc_STRVAR(max_doc, "max($self, /)\n--\n\n"
                      "Return the largest copy; for code 'd', NaN if any copy is NaN.");

static PyObject *var_max(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    if (!percpu_py_var_usable(self))
        return NULL;
    return percpu_py_box(self->ops, percpu_py_var_extreme(self, false));
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the variable: it raises :exc:`ClosedError` from now on.\n\n"
                        "Its memory is given back when it is garbage. Raises :exc:`BufferError`,\n"
                        "and does nothing, while a memoryview or array of it lives. Closing a\n"
                        "closed variable does nothing.");

static PyObject *var_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_var *self = percpu_py_as_var(op);
    size_t exports = 0;
    if (!__atomic_compare_exchange_n(&self->exports, &exports, SIZE_MAX, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED) &&
        exports != SIZE_MAX)
        return PyErr_Format(PyExc_BufferError,
                            "cannot close a variable while %zu memoryviews or arrays of it live: "
                            "release them first",
                            exports);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (self->pool != NULL && self->item == NULL)
        percpu_py_sites_remove(self->pool, self->ptr.base); /* no leak of a robust pool */
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
    struct percpu_py_var *self = percpu_py_as_var(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s '%s' closed>", name, self->ops->format);
    PyObject *sum = var_sum(op, NULL);
    if (sum == NULL)
        return NULL;
    PyObject *repr = PyUnicode_FromFormat("<%s '%s' sum=%R mode=%s cpus=%u>", name,
                                          self->ops->format, sum, percpu_py_mode_name(),
                                          self->cpus);
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
    return PyUnicode_FromString(percpu_py_as_var(op)->ops->format);
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = percpu_py_as_var(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_item(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *item = percpu_py_as_var(op)->item;
    return Py_NewRef(item != NULL ? item : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_var(op)->closed));
}

static PyGetSetDef var_attributes[] = {
    {"code", get_code, NULL, "The type code.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that it is in, or None: a pool of the process.", NULL},
    {"item", get_item, NULL, "The PerCpuItem that it is in, if item.var() made it, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the variable or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef var_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_var, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    var_doc,
    "PerCpuVar(code, value=0, *, pool=None)\n--\n\n"
    "A number of one machine type, of which each CPU has its own copy.\n\n"
    "`code` is one of b B h H i I q Q d, as in the :mod:`array` and :mod:`struct` modules (i and\n"
    "I have 4 bytes, q and Q 8). `value` is what every CPU's copy starts with. `pool` is a\n"
    ":class:`PerCpuPool` to take the memory from; None: a pool of the process.\n\n"
    "Methods such as :meth:`add` work on the copy of the CPU that runs the thread, with no lock\n"
    "and no atomic instruction; no operation of any thread is lost or seen in part. Arguments\n"
    "must be in the type's range; results wrap around modulo 2**bits, whatever the sign.\n\n"
    "``v[cpu]`` reads any CPU's copy. ``v[cpu] = x`` writes it, safely beside the operations of\n"
    "threads on that CPU; it takes microseconds. ``v[cpu] += n`` is a read and then a write, and\n"
    "loses what is added in between. CPUs are ids, not positions, so there is no ``v[-1]``.\n"
    ":func:`len` is the number of copies, iteration yields them. The variable is a writable buffer\n"
    "of shape ``(cpus,)``: plain memory, so a write through it races with the CPU whose copy it is.\n\n"
    "``v == w`` is identity, as of any object: compare ``v.sum()`` with numbers.\n\n"
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
    PERCPU_PY_SLOT(Py_mp_length, percpu_py_var_length),
    PERCPU_PY_SLOT(Py_mp_subscript, percpu_py_var_subscript),
    PERCPU_PY_SLOT(Py_mp_ass_subscript, percpu_py_var_assign),
    PERCPU_PY_SLOT(Py_sq_item, percpu_py_var_at),
    PERCPU_PY_SLOT(Py_nb_inplace_add, var_inplace_add),
    PERCPU_PY_SLOT(Py_nb_inplace_subtract, var_inplace_subtract),
    PERCPU_PY_SLOT(Py_bf_getbuffer, percpu_py_var_getbuffer),
    PERCPU_PY_SLOT(Py_bf_releasebuffer, percpu_py_var_releasebuffer),
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
