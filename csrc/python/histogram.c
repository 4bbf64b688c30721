/* SPDX-License-Identifier: MIT */
/*
 * histogram.c - PerCpuHistogram. observe() is what has to be fast: the C histogram lies in the
 * object, its observation is inlined. histogram_make.c makes and unmakes it, histogram_many.c has
 * what takes many numbers, histogram_look.c what only looks.
 */
#include "histogram.h"

/* life --------------------------------------------------------------------------------------- */

static PyObject *histogram_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&percpu_py_histogram_signature, args, kwargs, values) != 0)
        return NULL;
    return percpu_py_histogram_make(type, values);
}

static PyObject *histogram_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                      PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&percpu_py_histogram_signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return percpu_py_histogram_make((PyTypeObject *)type, values);
}

static int histogram_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_histogram(op)->pool);
    return 0;
}

static void histogram_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (percpu_py_as_histogram(op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_histogram_give_back(percpu_py_as_histogram(op));
    Py_XDECREF(percpu_py_as_histogram(op)->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* observing ---------------------------------------------------------------------------------- */

/* `x` as a double, whatever it takes. 0; -1 with an exception: closed by an __index__, too. */
static PERCPU_COLD int any_double(struct percpu_py_histogram *self, PyObject *x, double *value)
{
    if (percpu_py_double(x, "x", value) != 0)
        return -1;
    return percpu_py_histogram_usable(self) ? 0 : -1;
}

static PERCPU_COLD PyObject *reject(PyObject *x)
{
    percpu_py_reject(PyExc_ValueError, "x", x, "finite");
    return NULL;
}

PyDoc_STRVAR(observe_doc,
             "observe($self, x, /)\n--\n\n"
             "Count `x`, an int or a float: one search for its bucket, in C, and two additions to\n"
             "this CPU's copy.\n\n"
             "Raises :exc:`ValueError`, and counts nothing, if `x` is NaN or infinite: it could\n"
             "not be taken out of the sum again. :exc:`OverflowError` for an int beyond floats.");

static PyObject *histogram_observe(PyObject *op, PyObject *x)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    double value;
    int64_t number;
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    if (percpu_likely(PyFloat_Check(x)))
        value = PyFloat_AS_DOUBLE(x);
    else if (percpu_py_small_int(x, &number))
        value = (double)number;
    else if (any_double(self, x, &value) != 0)
        return NULL;
    if (percpu_unlikely(percpu_histogram_observe(&self->histogram, value) != 0))
        return reject(x);
    Py_RETURN_NONE;
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(check_doc,
             "check($self, /)\n--\n\n"
             "Test every invariant of the histogram.\n\n"
             "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, with a sentence about\n"
             "the first one that does not hold.");

static PyObject *histogram_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    if (!percpu_py_histogram_usable(self))
        return NULL;
    const char *broken = percpu_histogram_check(&self->histogram);
    if (broken != NULL)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", broken);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the histogram: it raises :exc:`ClosedError` from now on.\n\n"
             "Its memory is given back when it is garbage. Closing a closed histogram does\n"
             "nothing.");

static PyObject *histogram_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (self->pool != NULL) /* no leak of a robust pool */
        percpu_py_sites_remove(self->pool, self->histogram.slots.base);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the histogram.");

static PyObject *histogram_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the histogram.");

static PyObject *histogram_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                                Py_ssize_t Py_UNUSED(nargs))
{
    return histogram_close(op, NULL);
}

static PyMethodDef histogram_methods[] = {
    {"observe", histogram_observe, METH_O, observe_doc},
    {"observe_many", percpu_py_histogram_observe_many, METH_O,
     percpu_py_histogram_observe_many_doc},
    {"merge", percpu_py_histogram_merge, METH_O, percpu_py_histogram_merge_doc},
    {"quantile", percpu_py_histogram_quantile, METH_O, percpu_py_histogram_quantile_doc},
    {"quantiles", percpu_py_histogram_quantiles, METH_O, percpu_py_histogram_quantiles_doc},
    {"snapshot", percpu_py_histogram_snapshot, METH_NOARGS, percpu_py_histogram_snapshot_doc},
    {"per_cpu", percpu_py_histogram_per_cpu, METH_NOARGS, percpu_py_histogram_per_cpu_doc},
    {"check", histogram_check, METH_NOARGS, check_doc},
    {"close", histogram_close, METH_NOARGS, close_doc},
    {"_repr_html_", percpu_py_histogram_repr_html, METH_NOARGS, percpu_py_histogram_repr_html_doc},
    {"__enter__", histogram_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))histogram_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef histogram_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_histogram, weakrefs),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    histogram_doc,
    "PerCpuHistogram(relative_error=0.05, *, bounds=None, low=1e-09, high=1000000000.0, "
    "pool=None)\n--\n\n"
    "How many observations fell into each of many buckets, and their sum: counted by all threads,\n"
    "with no lock and no atomic instruction.\n\n"
    "Without `bounds` the buckets are log-linear: every octave, from a power of two to the next,\n"
    "is cut into as few equal parts as keep the middle of a part within `relative_error` of every\n"
    "value in it. They reach from `low`, rounded down to where a part starts, to `high`, rounded\n"
    "up. One more bucket is for what is below `low`, zero and negative numbers included, one for\n"
    "`high` and above. By default that is 16 parts to an octave, 959 buckets from a billionth to\n"
    "a billion, and 7680 bytes of address space on each CPU; memory is used where values fall:\n"
    "one or two pages on each CPU that observes, if they are within a factor of 10**9.\n\n"
    "`bounds` are upper bounds, floats each above the one before. A value belongs to the first\n"
    "bound that it is at most (``x <= bound``, Prometheus' ``le``), and one more bucket is for\n"
    "what is above the last. They cannot be had together with `relative_error`, `low` or `high`.\n\n"
    "`pool` is a :class:`PerCpuPool` to take the memory from, 8 bytes for each bucket and 8 for\n"
    "the sum on each CPU; None: a pool of the process.\n\n"
    "Raises :exc:`TypeError` for what is not a number, :exc:`ValueError` for a `relative_error`\n"
    "that is not between 0 and 1, a `low` or `high` that is not from 2**-1022 to 2**1023, bounds\n"
    "that do not increase, more than 2**20 buckets, NaN, or a pool whose items are too small,\n"
    ":exc:`PoolExhausted`, and :exc:`ClosedError` once it was closed.");

static PyType_Slot histogram_slots[] = {
    {Py_tp_doc, (void *)histogram_doc},
    PERCPU_PY_SLOT(Py_tp_new, histogram_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, histogram_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, histogram_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, percpu_py_histogram_repr),
    {Py_tp_methods, histogram_methods},
    {Py_tp_getset, percpu_py_histogram_attributes},
    {Py_tp_members, histogram_members},
    {0, NULL},
};

static PyType_Spec histogram_spec = {
    .name = "percpu.PerCpuHistogram",
    .basicsize = sizeof(struct percpu_py_histogram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = histogram_slots,
};

int percpu_py_add_histogram(PyObject *module, struct percpu_py_state *state)
{
    state->histogram_type = percpu_py_make_type(module, &histogram_spec, histogram_vectorcall);
    return state->histogram_type != NULL ? PyModule_AddType(module, state->histogram_type) : -1;
}
