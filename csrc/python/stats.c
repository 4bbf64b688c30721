/* SPDX-License-Identifier: MIT */
/*
 * stats.c - PerCpuStats: many named counts that all threads add to. See stats.h for its other files.
 */
#include "stats.h"

#include <string.h>

/* life --------------------------------------------------------------------------------------- */

static const struct percpu_py_signature keywords = {
    .callable = "PerCpuStats",
    .parameters = {"pool"},
};

static PyObject *stats_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                  PyObject *kwnames)
{
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyObject *pool;
    if (percpu_py_match_vector(&keywords, args + nargs, 0, kwnames, &pool) != 0)
        return NULL;
    return percpu_py_stats_make((PyTypeObject *)type, args, nargs, pool);
}

static PyObject *stats_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pool, *none = PyTuple_New(0);
    if (none == NULL)
        return NULL;
    int matched = percpu_py_match_tuple(&keywords, none, kwargs, &pool);
    Py_DECREF(none);
    if (matched != 0)
        return NULL;
    return percpu_py_stats_make(type, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args), pool);
}

static int stats_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_stats(op)->stat_type);
    Py_VISIT(percpu_py_as_stats(op)->names);
    Py_VISIT(percpu_py_as_stats(op)->pool);
    return 0;
}

static void stats_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_stats_give_back(self);
    PyMem_RawFree(self->places);
    Py_XDECREF(self->names);
    Py_XDECREF(self->stat_type);
    Py_XDECREF(self->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* adding ------------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    inc_doc,
    "inc($self, /, which, n=1)\n--\n\n"
    "Add `n` to the count that `which` means: a name, an index or a handle.\n\n"
    "A handle is the fastest, a name costs a look into a table. Raises :exc:`KeyError` for\n"
    "a name that is none, :exc:`IndexError`, :exc:`ValueError` for a handle of other stats,\n"
    ":exc:`OverflowError` for an `n` that is not from -2**63 to 2**63 - 1.");

static PyObject *inc_any(PyObject *op, PyObject *which, PyObject *n)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    size_t index = percpu_py_stats_find(self, which);
    int64_t value;
    /* __index__ may have closed it, so that is asked last. */
    if (index == PERCPU_PY_NO_STAT ||
        (!percpu_py_small_int(n, &value) && percpu_py_int64(n, "n", &value) != 0) ||
        !percpu_py_stats_usable(self))
        return NULL;
    percpu_stats_add(&self->stats, index, value);
    Py_RETURN_NONE;
}

static PERCPU_COLD PyObject *inc_by_signature(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                              PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "inc",
        .required = 1,
        .positional = 2,
        .parameters = {"which", "n"},
    };
    PyObject *values[2];
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, values) != 0)
        return NULL;
    if (values[1] != NULL)
        return inc_any(op, values[0], values[1]);
    PyObject *one = PyLong_FromLong(1);
    PyObject *done = one != NULL ? inc_any(op, values[0], one) : NULL;
    Py_XDECREF(one);
    return done;
}

/* By a name or an index, or with `n`. */
static __attribute__((noinline)) PyObject *inc_found(PyObject *op, PyObject *const *args,
                                                     Py_ssize_t nargs, PyObject *kwnames)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    if (percpu_unlikely(kwnames != NULL || (size_t)(nargs - 1) > 1))
        return inc_by_signature(op, args, nargs, kwnames);
    if (nargs == 2)
        return inc_any(op, args[0], args[1]);
    size_t index = percpu_py_stats_find(self, args[0]);
    if (percpu_unlikely(index == PERCPU_PY_NO_STAT || !percpu_py_stats_usable(self)))
        return NULL;
    percpu_stats_inc(&self->stats, index);
    Py_RETURN_NONE;
}

/* With a handle, nothing is called and nothing saved on the stack: what a handle's own inc() does,
 * and a few comparisons. */
static PyObject *stats_inc(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    if (percpu_unlikely(nargs != 1 || kwnames != NULL || Py_TYPE(args[0]) != self->stat_type))
        return inc_found(op, args, nargs, kwnames);
    struct percpu_py_stat *stat = percpu_py_as_stat(args[0]);
    if (percpu_unlikely(stat->stats != self || percpu_py_is_closed(&self->closed)))
        return inc_found(op, args, nargs, kwnames);
    percpu_this_inc_i64(stat->count);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_doc, "add($self, /, which, n)\n--\n\n"
                      "Do as :meth:`inc` does; `n` has to be said.");

static PyObject *stats_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "add",
        .required = 2,
        .positional = 2,
        .parameters = {"which", "n"},
    };
    PyObject *values[2];
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, values) != 0)
        return NULL;
    return inc_any(op, values[0], values[1]);
}

PyDoc_STRVAR(handle_doc,
             "handle($self, which, /)\n--\n\n"
             "Return a :class:`PerCpuStat`: a handle of the count that `which` means.\n\n"
             "Its ``inc()`` is the fastest way to add 1.");

static PyObject *stats_handle(PyObject *op, PyObject *which)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    size_t index = percpu_py_stats_find(self, which);
    if (index == PERCPU_PY_NO_STAT || !percpu_py_stats_usable(self))
        return NULL;
    return percpu_py_stat_new(self, index);
}

/* `stats[name] += n` would read, add, and store: not what other threads allow. */
static int stats_assign(PyObject *op, PyObject *Py_UNUSED(which), PyObject *value)
{
    PyErr_Format(PyExc_TypeError,
                 value == NULL ? "a count of %s cannot be deleted"
                               : "a count of %s is not assigned to: use stats.add(name, n)",
                 percpu_py_type_name(op));
    return -1;
}

/* names, as of a mapping ------------------------------------------------------------------------ */

static Py_ssize_t stats_length(PyObject *op)
{
    return (Py_ssize_t)percpu_py_as_stats(op)->stats.n;
}

static PyObject *stats_iter(PyObject *op)
{
    return PyObject_GetIter(percpu_py_as_stats(op)->names);
}

static int stats_contains(PyObject *op, PyObject *name)
{
    if (!PyUnicode_Check(name))
        return 0;
    PyObject *exact = PyUnicode_FromObject(name);
    if (exact == NULL)
        return -1;
    size_t index = percpu_py_stats_find_name(percpu_py_as_stats(op), exact);
    Py_DECREF(exact);
    return index != PERCPU_PY_NO_STAT;
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(check_doc, "check($self, /)\n--\n\n"
                        "Test every invariant.\n\n"
                        "Raises :exc:`CorruptionError` with a sentence about the first that does\n"
                        "not hold.");

static PyObject *stats_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    if (!percpu_py_stats_usable(self))
        return NULL;
    const char *broken = percpu_stats_check(&self->stats);
    if (broken != NULL)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", broken);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the stats: they and their handles raise :exc:`ClosedError` from now on.\n\n"
             "Their memory is given back when they are garbage. Closing closed ones does nothing.");

static PyObject *stats_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (self->pool != NULL)
        percpu_py_sites_remove(self->pool, self->stats.counts.base); /* no leak of a robust pool */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the stats.");

static PyObject *stats_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the stats.");

static PyObject *stats_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                            Py_ssize_t Py_UNUSED(nargs))
{
    return stats_close(op, NULL);
}

static PyObject *stats_repr(PyObject *op)
{
    struct percpu_py_stats *self = percpu_py_as_stats(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s of %zu names mode=%s cpus=%u>", name, self->stats.n,
                                percpu_py_mode_name(), self->stats.cpus);
}

#define FAST_METHOD(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef stats_methods[] = {
    {"inc", FAST_METHOD(stats_inc), METH_FASTCALL | METH_KEYWORDS, inc_doc},
    {"add", FAST_METHOD(stats_add), METH_FASTCALL | METH_KEYWORDS, add_doc},
    {"add_at", FAST_METHOD(percpu_py_stats_add_at), METH_FASTCALL | METH_KEYWORDS,
     percpu_py_stats_add_at_doc},
    {"handle", stats_handle, METH_O, handle_doc},
    {"sum", percpu_py_stats_sum, METH_O, percpu_py_stats_sum_doc},
    {"per_cpu", percpu_py_stats_per_cpu, METH_O, percpu_py_stats_per_cpu_doc},
    {"snapshot", FAST_METHOD(percpu_py_stats_snapshot), METH_FASTCALL | METH_KEYWORDS,
     percpu_py_stats_snapshot_doc},
    {"check", stats_check, METH_NOARGS, check_doc},
    {"close", stats_close, METH_NOARGS, close_doc},
    {"_repr_html_", percpu_py_stats_repr_html, METH_NOARGS, percpu_py_stats_repr_html_doc},
    {"__enter__", stats_enter, METH_NOARGS, enter_doc},
    {"__exit__", FAST_METHOD(stats_exit), METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_names(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(percpu_py_as_stats(op)->names);
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = percpu_py_as_stats(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_stats(op)->closed));
}

static PyGetSetDef stats_attributes[] = {
    {"names", get_names, NULL, "The names: a tuple.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that was given, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the stats or their pool were closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stats_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_stats, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    stats_doc,
    "PerCpuStats(*names, pool=None)\n--\n\n"
    "Named counts that all threads add to, with no lock and no atomic instruction.\n\n"
    "`names` are different, non-empty strings, or one iterable of them. Each CPU has an array of\n"
    "its own with 8 bytes for each name, so hundreds of names cost a page or two on each CPU that\n"
    "counts. ``stats[name]`` is the exact value of a count, :func:`len` the number of names, and\n"
    "iteration goes over the names. Wherever a count is asked for, its name, its index (the\n"
    "position among the names) or a handle will do.\n\n"
    "`pool` is a :class:`PerCpuPool` to take the memory from; None: a pool of the process.\n\n"
    "Counts are modulo 2**64, shown as signed numbers: they may go down as well. There is no\n"
    "reset: take the difference of two snapshots. The Linux kernel's ``vm_event_states`` are such\n"
    "counts.\n\n"
    "Raises :exc:`TypeError` for a name that is no str, :exc:`ValueError` for one that is empty or\n"
    "there twice, for no name, for more than 2**21, or a pool whose items are too small,\n"
    ":exc:`PoolExhausted`, and :exc:`ClosedError` once they were closed.");

static PyType_Slot stats_slots[] = {
    {Py_tp_doc, (void *)stats_doc},
    PERCPU_PY_SLOT(Py_tp_new, stats_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, stats_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, stats_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, stats_repr),
    PERCPU_PY_SLOT(Py_tp_iter, stats_iter),
    {Py_tp_methods, stats_methods},
    {Py_tp_getset, stats_attributes},
    {Py_tp_members, stats_members},
    PERCPU_PY_SLOT(Py_mp_length, stats_length),
    PERCPU_PY_SLOT(Py_mp_subscript, percpu_py_stats_sum),
    PERCPU_PY_SLOT(Py_mp_ass_subscript, stats_assign),
    PERCPU_PY_SLOT(Py_sq_contains, stats_contains),
    {0, NULL},
};

static PyType_Spec stats_spec = {
    .name = "percpu.PerCpuStats",
    .basicsize = sizeof(struct percpu_py_stats),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stats_slots,
};

int percpu_py_add_stats(PyObject *module, struct percpu_py_state *state)
{
    state->stats_type = percpu_py_make_type(module, &stats_spec, stats_vectorcall);
    return state->stats_type != NULL ? PyModule_AddType(module, state->stats_type) : -1;
}
