/* SPDX-License-Identifier: MIT */
/* histogram_look.c - the methods and attributes of PerCpuHistogram that only look. */
#include "histogram.h"

/* The counts and the sum of all CPUs, the counts to be freed with PyMem_RawFree(); NULL with
 * ClosedError or MemoryError. */
static uint64_t *read_all(PyObject *op, double *sum)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    if (!percpu_py_histogram_usable(self))
        return NULL;
    uint64_t *counts = PyMem_RawMalloc(self->histogram.buckets * sizeof *counts);
    if (counts == NULL)
        return (uint64_t *)PyErr_NoMemory();
    percpu_histogram_read(&self->histogram, counts, sum);
    return counts;
}

/* attributes --------------------------------------------------------------------------------- */

static PyObject *get_count(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    return percpu_py_histogram_usable(self)
               ? PyLong_FromUnsignedLongLong(percpu_histogram_count(&self->histogram))
               : NULL;
}

static PyObject *get_sum(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    return percpu_py_histogram_usable(self)
               ? PyFloat_FromDouble(percpu_histogram_sum(&self->histogram))
               : NULL;
}

static PyObject *get_mean(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    if (!percpu_py_histogram_usable(self))
        return NULL;
    /* The sum first, as percpu_histogram_read(): what is in it is in the count. */
    double sum = percpu_histogram_sum(&self->histogram);
    uint64_t count = percpu_histogram_count(&self->histogram);
    return PyFloat_FromDouble(count > 0 ? sum / (double)count : Py_NAN);
}

static PyObject *get_layout(PyObject *op, void *Py_UNUSED(closure))
{
    const double *bounds = percpu_py_as_histogram(op)->histogram.bounds;
    return PyUnicode_FromString(bounds != NULL ? "bounds" : "log");
}

static PyObject *get_error(PyObject *op, void *Py_UNUSED(closure))
{
    const struct percpu_histogram *histogram = &percpu_py_as_histogram(op)->histogram;
    if (histogram->bounds != NULL)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(percpu_histogram_error(histogram));
}

/* What is not made yet has none, and is closed. */
static bool has_bounds(PyObject *op)
{
    if (percpu_py_as_histogram(op)->histogram.cpus > 0)
        return true;
    percpu_py_raise_closed(op);
    return false;
}

static PyObject *bound(PyObject *op, size_t place)
{
    return PyFloat_FromDouble(
        percpu_histogram_bound(&percpu_py_as_histogram(op)->histogram, place));
}

static PyObject *get_low(PyObject *op, void *Py_UNUSED(closure))
{
    return has_bounds(op) ? bound(op, 0) : NULL;
}

static PyObject *get_high(PyObject *op, void *Py_UNUSED(closure))
{
    return has_bounds(op) ? bound(op, percpu_py_as_histogram(op)->histogram.buckets - 2u) : NULL;
}

PyObject *percpu_py_histogram_bounds(PyObject *op, void *Py_UNUSED(closure))
{
    if (!has_bounds(op))
        return NULL;
    size_t count = percpu_py_as_histogram(op)->histogram.buckets - 1u;
    PyObject *bounds = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; bounds != NULL && i < count; i++) {
        PyObject *number = bound(op, i);
        if (number == NULL)
            Py_CLEAR(bounds);
        else
            PyTuple_SET_ITEM(bounds, (Py_ssize_t)i, number);
    }
    return bounds;
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = percpu_py_as_histogram(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_histogram(op)->closed));
}

PyGetSetDef percpu_py_histogram_attributes[] = {
    {"count", get_count, NULL,
     "How many observations there are: the sum of the counts of all buckets.", NULL},
    {"sum", get_sum, NULL,
     "The sum of the observations: those of each CPU in the order in which they came, then the\n"
     "CPUs in their order. While threads observe, it may lack one that is in `count` already.",
     NULL},
    {"mean", get_mean, NULL, "The sum by the count; NaN if there is no observation.", NULL},
    {"layout", get_layout, NULL, "What kind of buckets there are: 'log' or 'bounds'.", NULL},
    {"error", get_error, NULL,
     "The relative error of quantiles from `low` to `high`, which may be below the one asked for;\n"
     "None with explicit bounds.",
     NULL},
    {"low", get_low, NULL, "The first bound: where the first bucket ends.", NULL},
    {"high", get_high, NULL, "The last bound: where the last bucket starts.", NULL},
    {"bounds", percpu_py_histogram_bounds, NULL,
     "The bounds between the buckets, a tuple: one less than there are buckets.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that was given, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the histogram or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* quantiles ---------------------------------------------------------------------------------- */

static int quantile_argument(PyObject *obj, const char *name, double *q)
{
    if (percpu_py_double(obj, name, q) != 0)
        return -1;
    return *q >= 0 && *q <= 1 ? 0 : percpu_py_reject(PyExc_ValueError, name, obj, "from 0 to 1");
}

const char percpu_py_histogram_quantile_doc[] = PyDoc_STR(
    "quantile($self, q, /)\n--\n\n"
    "Return the quantile `q`, from 0 (the least value) to 1 (the greatest); NaN if there is no\n"
    "observation.\n\n"
    "Log-linear buckets: within :attr:`error`, relatively, of the r-th smallest observation,\n"
    "r being ``q * count`` rounded up. What is below :attr:`low` counts as low, what is above\n"
    ":attr:`high` as high. Explicit bounds: as Prometheus does it, as if the observations of a\n"
    "bucket lay evenly between its bounds. The first bucket starts at 0 if its bound is above 0;\n"
    "otherwise, and in the last bucket, the quantile is the bound that there is.\n\n"
    "Raises :exc:`ValueError` for a `q` that is not from 0 to 1.");

PyObject *percpu_py_histogram_quantile(PyObject *op, PyObject *q)
{
    double wanted, sum;
    if (quantile_argument(q, "q", &wanted) != 0)
        return NULL;
    uint64_t *counts = read_all(op, &sum);
    if (counts == NULL)
        return NULL;
    double quantile = percpu_histogram_quantile(&percpu_py_as_histogram(op)->histogram, counts,
                                                wanted);
    PyMem_RawFree(counts);
    return PyFloat_FromDouble(quantile);
}

/* `wanted` is a tuple of ours. */
static PyObject *quantiles(PyObject *op, PyObject *wanted, const uint64_t *counts)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < PyTuple_GET_SIZE(wanted); i++) {
        double q;
        char name[32];
        PyObject *number = NULL;
        PyOS_snprintf(name, sizeof name, "qs[%zd]", i);
        if (quantile_argument(PyTuple_GET_ITEM(wanted, i), name, &q) == 0)
            number = PyFloat_FromDouble(
                percpu_histogram_quantile(&percpu_py_as_histogram(op)->histogram, counts, q));
        if (number == NULL || PyList_Append(list, number) != 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

const char percpu_py_histogram_quantiles_doc[] = PyDoc_STR(
    "quantiles($self, qs, /)\n--\n\n"
    "Return a list of quantiles, one for each of `qs`, an iterable of numbers from 0 to 1: all of\n"
    "the same observations.");

PyObject *percpu_py_histogram_quantiles(PyObject *op, PyObject *qs)
{
    double sum;
    if (Py_TYPE(qs)->tp_iter == NULL && !PySequence_Check(qs)) {
        percpu_py_reject(PyExc_TypeError, "qs", qs, "an iterable of numbers");
        return NULL;
    }
    PyObject *wanted = PySequence_Tuple(qs);
    if (wanted == NULL)
        return NULL;
    uint64_t *counts = read_all(op, &sum);
    PyObject *list = counts != NULL ? quantiles(op, wanted, counts) : NULL;
    PyMem_RawFree(counts);
    Py_DECREF(wanted);
    return list;
}

/* the rest ----------------------------------------------------------------------------------- */

const char percpu_py_histogram_snapshot_doc[] = PyDoc_STR(
    "snapshot($self, /)\n--\n\n"
    "Return what was observed so far: a :class:`HistogramSnapshot`.\n\n"
    "Every observation that returned before the call is in it.");

static PyObject *counts_tuple(const uint64_t *counts, size_t buckets)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)buckets);
    for (size_t i = 0; tuple != NULL && i < buckets; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(counts[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, number);
    }
    return tuple;
}

static PyObject *make_snapshot(PyObject *op, const uint64_t *counts, double sum)
{
    size_t buckets = percpu_py_as_histogram(op)->histogram.buckets;
    PyObject *module = PyImport_ImportModule("percpu._histogram");
    PyObject *layout = get_layout(op, NULL), *bounds = percpu_py_histogram_bounds(op, NULL);
    PyObject *tuple = counts_tuple(counts, buckets), *snapshot = NULL;
    if (module != NULL && layout != NULL && bounds != NULL && tuple != NULL)
        snapshot = PyObject_CallMethod(module, "HistogramSnapshot", "OOOd", layout, bounds, tuple,
                                       sum);
    Py_XDECREF(module);
    Py_XDECREF(layout);
    Py_XDECREF(bounds);
    Py_XDECREF(tuple);
    return snapshot;
}

PyObject *percpu_py_histogram_snapshot(PyObject *op, PyObject *Py_UNUSED(unused))
{
    double sum;
    uint64_t *counts = read_all(op, &sum);
    PyObject *snapshot = counts != NULL ? make_snapshot(op, counts, sum) : NULL;
    PyMem_RawFree(counts);
    return snapshot;
}

const char percpu_py_histogram_per_cpu_doc[] = PyDoc_STR(
    "per_cpu($self, /)\n--\n\n"
    "Return a tuple of how many observations were made on each CPU.");

PyObject *percpu_py_histogram_per_cpu(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    if (!percpu_py_histogram_usable(self))
        return NULL;
    PyObject *counts = PyTuple_New((Py_ssize_t)self->histogram.cpus);
    for (unsigned cpu = 0; counts != NULL && cpu < self->histogram.cpus; cpu++) {
        PyObject *number = PyLong_FromUnsignedLongLong(
            percpu_histogram_count_of(&self->histogram, cpu));
        if (number == NULL)
            Py_CLEAR(counts);
        else
            PyTuple_SET_ITEM(counts, (Py_ssize_t)cpu, number);
    }
    return counts;
}

PyObject *percpu_py_histogram_repr(PyObject *op)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    const struct percpu_histogram *histogram = &self->histogram;
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    PyObject *sum = get_sum(op, NULL), *low = get_low(op, NULL), *high = get_high(op, NULL);
    PyObject *repr = NULL;
    if (sum != NULL && low != NULL && high != NULL)
        repr = PyUnicode_FromFormat(
            "<%s count=%llu sum=%R %s buckets=%u from %R to %R mode=%s cpus=%u>", name,
            (unsigned long long)percpu_histogram_count(histogram), sum,
            histogram->bounds != NULL ? "explicit" : "log-linear", histogram->buckets, low, high,
            percpu_py_mode_name(), histogram->cpus);
    Py_XDECREF(sum);
    Py_XDECREF(low);
    Py_XDECREF(high);
    return repr;
}

const char percpu_py_histogram_repr_html_doc[] = PyDoc_STR(
    "_repr_html_($self, /)\n--\n\n"
    "For notebooks: the drawing of :meth:`snapshot`; None if the histogram is closed.");

PyObject *percpu_py_histogram_repr_html(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (percpu_py_is_closed(&percpu_py_as_histogram(op)->closed))
        Py_RETURN_NONE;
    PyObject *snapshot = percpu_py_histogram_snapshot(op, NULL);
    PyObject *html = snapshot != NULL ? PyObject_CallMethod(snapshot, "_repr_svg_", NULL) : NULL;
    Py_XDECREF(snapshot);
    return html;
}
