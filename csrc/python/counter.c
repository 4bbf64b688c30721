/* SPDX-License-Identifier: MIT */
/*
 * counter.c - PerCpuCounter. inc() and add() are the fastest thing in the package: the C counter
 * lies in the object, its add is inlined, and one branch asks whether it is closed (module.h).
 * counter_make.c makes and unmakes it, counter_number.c is what it does as a number.
 */
#include "counter.h"

#include <percpu/this_cpu.h>

/* life --------------------------------------------------------------------------------- */

static PyObject *counter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&percpu_py_counter_signature, args, kwargs, values) != 0)
        return NULL;
    return percpu_py_counter_make(type, values);
}

static PyObject *counter_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                    PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&percpu_py_counter_signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return percpu_py_counter_make((PyTypeObject *)type, values);
}

static int counter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_counter(op)->pool);
    return 0;
}

static void counter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (percpu_py_as_counter(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_counter_give_back(percpu_py_as_counter(op));
    Py_XDECREF(percpu_py_as_counter(op)->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* adding ------------------------------------------------------------------------------------- */

PyDoc_STRVAR(inc_doc, "inc($self, /)\n--\n\nAdd 1.");

static PyObject *counter_inc(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    percpu_counter_inc(&self->counter);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(dec_doc, "dec($self, /)\n--\n\nSubtract 1.");

static PyObject *counter_dec(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    percpu_counter_dec(&self->counter);
    Py_RETURN_NONE;
}

/* Whether `n` was an int64 and was added. */
static PERCPU_COLD bool add_any(struct percpu_py_counter *self, PyObject *n)
{
    int64_t value;
    if (percpu_py_int64(n, "n", &value) != 0 ||
        !percpu_py_counter_usable(self)) /* __index__ may have closed it */
        return false;
    percpu_counter_add(&self->counter, value);
    return true;
}

PyDoc_STRVAR(add_doc, "add($self, n, /)\n--\n\n"
                      "Add `n`, an int from -2**63 to 2**63 - 1 (:exc:`OverflowError`).");

static PyObject *counter_add(PyObject *op, PyObject *n)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    int64_t value;
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    if (percpu_unlikely(!percpu_py_small_int(n, &value)))
        return add_any(self, n) ? Py_NewRef(Py_None) : NULL;
    percpu_counter_add(&self->counter, value);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(sub_doc, "sub($self, n, /)\n--\n\n"
                      "Subtract `n`, an int from -2**63 to 2**63 - 1 (:exc:`OverflowError`).");

static PyObject *counter_sub(PyObject *op, PyObject *n)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    int64_t value;
    if (percpu_py_int64(n, "n", &value) != 0 || !percpu_py_counter_usable(self))
        return NULL;
    percpu_counter_sub(&self->counter, value);
    Py_RETURN_NONE;
}

static PyObject *counter_inplace_add(PyObject *op, PyObject *n)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    int64_t value;
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    if (percpu_unlikely(!percpu_py_small_int(n, &value)))
        return add_any(self, n) ? Py_NewRef(op) : NULL;
    percpu_counter_add(&self->counter, value);
    return Py_NewRef(op);
}

static PyObject *counter_inplace_subtract(PyObject *op, PyObject *n)
{
    PyObject *done = counter_sub(op, n);
    if (done == NULL)
        return NULL;
    Py_DECREF(done);
    return Py_NewRef(op);
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(upgrade_doc,
             "upgrade($self, /)\n--\n\n"
             "Give a lazy counter its memory on each CPU now. Does nothing if it has it.\n\n"
             "It does so by itself when threads contend for it. Raises :exc:`PoolExhausted`, and\n"
             "the counter goes on as it is.");

static PyObject *counter_upgrade(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (!percpu_py_counter_usable(self))
        return NULL;
    if (percpu_counter_upgrade(&self->counter) != 0 &&
        !(percpu_py_collect_deferred() && percpu_counter_upgrade(&self->counter) == 0))
        return percpu_py_counter_raise_no_memory(Py_TYPE(op), errno);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(check_doc,
             "check($self, /)\n--\n\n"
             "Test every invariant of the counter, which no other thread may use\n"
             "meanwhile.\n\n"
             "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, with a sentence about\n"
             "the first one that does not hold.");

static PyObject *counter_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    if (!percpu_py_counter_usable(self))
        return NULL;
    const char *broken = percpu_counter_check(&self->counter);
    if (broken != NULL)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", broken);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the counter: it raises :exc:`ClosedError` from now on.\n\n"
             "Its memory is given back when it is garbage. Closing a closed counter does\n"
             "nothing.");

static PyObject *counter_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (self->pool != NULL)
        percpu_py_sites_remove(self->pool, self->counter.slots.base); /* no leak of a robust pool */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the counter.");

static PyObject *counter_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the counter.");

static PyObject *counter_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                              Py_ssize_t Py_UNUSED(nargs))
{
    return counter_close(op, NULL);
}

static long long batch_of(const struct percpu_py_counter *self)
{
    return (long long)__atomic_load_n(&self->counter.margin, __ATOMIC_RELAXED) + 1;
}

static PyObject *counter_repr(PyObject *op)
{
    struct percpu_py_counter *self = percpu_py_as_counter(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s %lld batch=%lld mode=%s cpus=%u%s>", name,
                                (long long)percpu_counter_sum(&self->counter), batch_of(self),
                                percpu_py_mode_name(), self->counter.cpus,
                                percpu_counter_is_lazy(&self->counter) ? " lazy" : "");
}

static PyMethodDef counter_methods[] = {
    {"add", counter_add, METH_O, add_doc},
    {"sub", counter_sub, METH_O, sub_doc},
    {"inc", counter_inc, METH_NOARGS, inc_doc},
    {"dec", counter_dec, METH_NOARGS, dec_doc},
#define NOARGS(name) METHOD(name, percpu_py_counter_##name##_method, METH_NOARGS)
#define O(name) METHOD(name, percpu_py_counter_##name##_method, METH_O)
#define KEYWORDS(name)                                                                             \
    METHOD(name, (PyCFunction)(void (*)(void))percpu_py_counter_##name##_method,                   \
           METH_FASTCALL | METH_KEYWORDS)
#define METHOD(name, function, flags) {#name, function, flags, percpu_py_counter_##name##_doc},
    PERCPU_PY_COUNTER_VALUE_METHODS(NOARGS, O, KEYWORDS)
#undef METHOD
#undef KEYWORDS
#undef O
#undef NOARGS
        {"many", (PyCFunction)(void (*)(void))percpu_py_counter_many,
         METH_FASTCALL | METH_KEYWORDS | METH_CLASS, percpu_py_counter_many_doc},
    {"upgrade", counter_upgrade, METH_NOARGS, upgrade_doc},
    {"check", counter_check, METH_NOARGS, check_doc},
    {"close", counter_close, METH_NOARGS, close_doc},
    {"__format__", percpu_py_counter_format, METH_O, percpu_py_counter_format_doc},
    {"__enter__", counter_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))counter_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_batch(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(batch_of(percpu_py_as_counter(op)));
}

static PyObject *get_error(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(percpu_counter_error(&percpu_py_as_counter(op)->counter));
}

static PyObject *get_lazy(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_counter_is_lazy(&percpu_py_as_counter(op)->counter));
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = percpu_py_as_counter(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_counter(op)->closed));
}

static PyGetSetDef counter_attributes[] = {
    {"batch", get_batch, NULL,
     "How much a CPU adds before read() shows it: at most batch - 1 is left out. Follows the value "
     "if the counter was made with a relative error.",
     NULL},
    {"error", get_error, NULL,
     "How far read() may be from sum() when no add is under way: (batch - 1) * CPUs; 0 while the "
     "counter is lazy.",
     NULL},
    {"lazy", get_lazy, NULL, "Whether the counter has no memory on each CPU yet.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that was given, or that many() made, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the counter or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef counter_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_counter, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    counter_doc,
    "PerCpuCounter(value=0, *, batch=None, error=None, lazy=None, pool=None)\n--\n\n"
    "One number that all threads add to, with no lock and no atomic instruction.\n\n"
    "Each CPU counts for itself, and adds what it has to a shared total when that reaches\n"
    "`batch` (32). :meth:`sum` is exact; :meth:`read` is cheap and at most\n"
    "``(batch - 1) * CPUs`` away from it. Instead of a batch, `error` can say how far: an int is\n"
    "an amount, a float between 0 and 1 is a part of the value, and the batch then follows the\n"
    "value.\n\n"
    "A counter is `lazy` at first: it has no memory on each CPU, the first thread that adds to it\n"
    "does so as to a number of its own, and others add atomically. When they have done that 32\n"
    "times, or :meth:`upgrade` is called, it takes its memory and all threads count per CPU, with\n"
    "nothing stopped, moved or lost. ``lazy=False`` does that at once.\n\n"
    "``int(c)`` and ``float(c)`` are the sum, and ``f'{c:,}'`` formats it. ``c += n`` adds,\n"
    "``c < n`` and so on compare with ints, floats and counters, ``bool(c)`` is whether it is\n"
    "not 0. There is no ``c + n``: for arithmetic take ``c.sum()``. `pool` is a\n"
    ":class:`PerCpuPool` to take the memory from, 16 bytes on each CPU, at once; None: a pool of\n"
    "the process.\n\n"
    "Arithmetic is modulo 2**64; a value that fits a signed 64-bit integer is right, whatever the\n"
    "way to it. The algorithm is that of the Linux kernel's ``lib/percpu_counter.c``, but each\n"
    "CPU's word is only ever added to, so that no reader needs a lock to see completed adds.\n\n"
    "Raises :exc:`TypeError` for what is not an int, :exc:`OverflowError` for ints out of range,\n"
    ":exc:`ValueError` for a `batch` that is not from 1 to 2**48, an `error` that is none of the\n"
    "above, both of them, ``lazy=True`` with a `pool`, or a pool whose items are too small,\n"
    ":exc:`PoolExhausted`, and :exc:`ClosedError` once it was closed.");

static PyType_Slot counter_slots[] = {
    {Py_tp_doc, (void *)counter_doc},
    PERCPU_PY_SLOT(Py_tp_new, counter_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, counter_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, counter_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, counter_repr),
    PERCPU_PY_SLOT(Py_tp_richcompare, percpu_py_counter_richcompare),
    PERCPU_PY_SLOT(Py_tp_hash, PyObject_HashNotImplemented), /* its value changes */
    {Py_tp_methods, counter_methods},
    {Py_tp_getset, counter_attributes},
    {Py_tp_members, counter_members},
    PERCPU_PY_SLOT(Py_nb_bool, percpu_py_counter_bool),
    PERCPU_PY_SLOT(Py_nb_int, percpu_py_counter_int),
    PERCPU_PY_SLOT(Py_nb_float, percpu_py_counter_float),
    PERCPU_PY_SLOT(Py_nb_inplace_add, counter_inplace_add),
    PERCPU_PY_SLOT(Py_nb_inplace_subtract, counter_inplace_subtract),
    {0, NULL},
};

static PyType_Spec counter_spec = {
    .name = "percpu.PerCpuCounter",
    .basicsize = sizeof(struct percpu_py_counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = counter_slots,
};

int percpu_py_add_counter(PyObject *module, struct percpu_py_state *state)
{
    state->counter_type = percpu_py_make_type(module, &counter_spec, counter_vectorcall);
    return state->counter_type != NULL ? PyModule_AddType(module, state->counter_type) : -1;
}
