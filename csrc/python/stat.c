/* SPDX-License-Identifier: MIT */
/*
 * stat.c - PerCpuStat, one count of a PerCpuStats: its address is worked out once, so inc() is one
 * critical section and one branch that asks whether the stats are closed.
 */
#include "stats.h"

/* life --------------------------------------------------------------------------------------- */

PyObject *percpu_py_stat_new(struct percpu_py_stats *stats, size_t index)
{
    PyTypeObject *type = stats->stat_type;
    struct percpu_py_stat *self = percpu_py_as_stat(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->stats = percpu_py_as_stats(Py_NewRef((PyObject *)stats));
    self->count = percpu_stats_count(&stats->stats, index);
    self->index = index;
    if (stats->pool == NULL) /* such a pool may need its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    return (PyObject *)self;
}

static int stat_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_stat(op)->stats);
    return 0;
}

static void stat_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (percpu_py_as_stat(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    Py_XDECREF(percpu_py_as_stat(op)->stats);
    type->tp_free(op);
    Py_DECREF(type);
}

/* methods ------------------------------------------------------------------------------------ */

PyDoc_STRVAR(inc_doc, "inc($self, /)\n--\n\nAdd 1.");

static PyObject *stat_inc(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_stat *self = percpu_py_as_stat(op);
    if (percpu_unlikely(percpu_py_is_closed(&self->stats->closed)))
        return percpu_py_raise_closed((PyObject *)self->stats);
    percpu_this_inc_i64(self->count);
    Py_RETURN_NONE;
}

static PERCPU_COLD PyObject *add_any(struct percpu_py_stat *self, PyObject *n)
{
    int64_t value;
    if (percpu_py_int64(n, "n", &value) != 0 ||
        !percpu_py_stats_usable(self->stats)) /* __index__ may have closed it */
        return NULL;
    percpu_this_add_i64(self->count, value);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_doc, "add($self, n, /)\n--\n\n"
                      "Add `n`, an int from -2**63 to 2**63 - 1 (:exc:`OverflowError`).");

static PyObject *stat_add(PyObject *op, PyObject *n)
{
    struct percpu_py_stat *self = percpu_py_as_stat(op);
    int64_t value;
    if (percpu_unlikely(!percpu_py_small_int(n, &value)))
        return add_any(self, n);
    if (percpu_unlikely(percpu_py_is_closed(&self->stats->closed)))
        return percpu_py_raise_closed((PyObject *)self->stats);
    percpu_this_add_i64(self->count, value);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(sum_doc, "sum($self, /)\n--\n\n"
                      "Return the exact value: every add that returned before the call is in it.");

static PyObject *stat_sum(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_stat *self = percpu_py_as_stat(op);
    if (!percpu_py_stats_usable(self->stats))
        return NULL;
    return PyLong_FromLongLong(percpu_stats_sum(&self->stats->stats, self->index));
}

static PyObject *name_of(struct percpu_py_stat *self)
{
    return PyTuple_GET_ITEM(self->stats->names, (Py_ssize_t)self->index);
}

static PyObject *stat_repr(PyObject *op)
{
    struct percpu_py_stat *self = percpu_py_as_stat(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->stats->closed))
        return PyUnicode_FromFormat("<%s %R closed>", name, name_of(self));
    return PyUnicode_FromFormat("<%s %R %lld>", name, name_of(self),
                                (long long)percpu_stats_sum(&self->stats->stats, self->index));
}

static PyMethodDef stat_methods[] = {
    {"inc", stat_inc, METH_NOARGS, inc_doc},
    {"add", stat_add, METH_O, add_doc},
    {"sum", stat_sum, METH_NOARGS, sum_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_name(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(name_of(percpu_py_as_stat(op)));
}

static PyObject *get_index(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(percpu_py_as_stat(op)->index);
}

static PyObject *get_stats(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)percpu_py_as_stat(op)->stats);
}

static PyGetSetDef stat_attributes[] = {
    {"name", get_name, NULL, "The name.", NULL},
    {"index", get_index, NULL, "The position among the names.", NULL},
    {"stats", get_stats, NULL, "The PerCpuStats that it is of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stat_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_stat, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(stat_doc,
             "A handle of one count of a :class:`PerCpuStats`, for the hot path.\n\n"
             "It keeps the stats from being garbage. :meth:`PerCpuStats.handle` makes handles.");

static PyType_Slot stat_slots[] = {
    {Py_tp_doc, (void *)stat_doc},
    PERCPU_PY_SLOT(Py_tp_dealloc, stat_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, stat_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, stat_repr),
    {Py_tp_methods, stat_methods},
    {Py_tp_getset, stat_attributes},
    {Py_tp_members, stat_members},
    {0, NULL},
};

static PyType_Spec stat_spec = {
    .name = "percpu.PerCpuStat",
    .basicsize = sizeof(struct percpu_py_stat),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stat_slots,
};

int percpu_py_add_stat(PyObject *module, struct percpu_py_state *state)
{
    state->stat_type = percpu_py_make_type(module, &stat_spec, NULL);
    return state->stat_type != NULL ? PyModule_AddType(module, state->stat_type) : -1;
}
