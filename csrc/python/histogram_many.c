/* SPDX-License-Identifier: MIT */
/*
 * histogram_many.c - the methods of PerCpuHistogram that take many numbers at a time.
 *
 * Another thread may write to the buffer that values come from meanwhile: each is read once
 * (numbers.h), found finite before it gets a bucket, and nothing is counted before all were seen.
 */
#include "histogram.h"
#include "numbers.h"

/* observe_many ------------------------------------------------------------------------------- */

const char percpu_py_histogram_observe_many_doc[] = PyDoc_STR(
    "observe_many($self, values, /)\n--\n\n"
    "Count all of `values`: an array, or any other buffer of one dimension, of floats or ints.\n\n"
    "A NumPy array is read where it is, whatever its strides and byte order; other threads may\n"
    "run meanwhile. Ints of 64 bits are rounded to floats. All values are looked at before any\n"
    "is counted, on one CPU: raises :exc:`ValueError`, naming the place, and counts nothing, if\n"
    "one is NaN or infinite.");

static PyObject *reject_value(size_t place, double value)
{
    char name[40];
    PyOS_snprintf(name, sizeof name, "values[%zu]", place);
    PyObject *number = PyFloat_FromDouble(value);
    if (number != NULL)
        percpu_py_reject(PyExc_ValueError, name, number, "finite");
    Py_XDECREF(number);
    return NULL;
}

/* Collect all. Returns how many are before the first that is not finite, or all. */
static size_t collect(struct percpu_histogram_batch *batch, const struct percpu_py_numbers *numbers)
{
    const double *doubles = percpu_py_numbers_as_doubles(numbers);
    if (doubles != NULL)
        return percpu_histogram_batch_add(batch, doubles, numbers->count);
    double block[PERCPU_PY_BLOCK];
    size_t done = 0, count, taken;
    for (count = taken = 0; done < numbers->count && taken == count; done += taken) {
        count = percpu_py_block(numbers, done);
        percpu_py_numbers_doubles(numbers, done, count, block);
        taken = percpu_histogram_batch_add(batch, block, count);
    }
    return done;
}

static PyObject *observe_all(struct percpu_py_histogram *self,
                             const struct percpu_py_numbers *numbers)
{
    struct percpu_histogram_batch batch;
    if (percpu_histogram_batch_begin(&batch, &self->histogram) != 0)
        return PyErr_NoMemory();
    PyThreadState *thread = numbers->count < PERCPU_PY_MANY_NUMBERS ? NULL : PyEval_SaveThread();
    size_t taken = collect(&batch, numbers);
    if (taken == numbers->count)
        percpu_histogram_batch_commit(&batch);
    if (thread != NULL)
        PyEval_RestoreThread(thread);
    percpu_histogram_batch_end(&batch);
    return taken == numbers->count ? Py_NewRef(Py_None) : reject_value(taken, batch.refused);
}

PyObject *percpu_py_histogram_observe_many(PyObject *op, PyObject *values)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    struct percpu_py_numbers numbers;
    if (!percpu_py_histogram_usable(self) ||
        percpu_py_numbers_open(&numbers, values, "values", true) != 0)
        return NULL;
    PyObject *done = NULL;
    if (percpu_py_histogram_usable(self)) /* a __buffer__ may have closed it */
        done = observe_all(self, &numbers);
    percpu_py_numbers_close(&numbers);
    return done;
}

/* merge -------------------------------------------------------------------------------------- */

const char percpu_py_histogram_merge_doc[] = PyDoc_STR(
    "merge($self, other, /)\n--\n\n"
    "Add the observations of `other`, a histogram or a :class:`HistogramSnapshot`, on this CPU.\n\n"
    "Raises :exc:`ValueError`, and adds nothing, if it has other buckets, or a sum that is NaN\n"
    "or infinite.");

static bool is_finite_sum(double sum)
{
    if (percpu_histogram_accepts(sum))
        return true;
    PyObject *number = PyFloat_FromDouble(sum);
    if (number != NULL)
        percpu_py_reject(PyExc_ValueError, "the sum of other", number, "finite");
    Py_XDECREF(number);
    return false;
}

static PyObject *raise_not_alike(void)
{
    PyErr_SetString(PyExc_ValueError, "other must have the same buckets as this histogram");
    return NULL;
}

static PyObject *merge_histogram(struct percpu_py_histogram *self,
                                 struct percpu_py_histogram *other, uint64_t *counts)
{
    double sum;
    if (!percpu_py_histogram_usable(other))
        return NULL;
    if (!percpu_histogram_alike(&self->histogram, &other->histogram))
        return raise_not_alike();
    percpu_histogram_read(&other->histogram, counts, &sum);
    if (!is_finite_sum(sum))
        return NULL;
    percpu_histogram_merge(&self->histogram, counts, sum);
    Py_RETURN_NONE;
}

/* 1: the snapshot has our buckets; 0: others; -1 with an exception. */
static int is_alike(PyObject *op, PyObject *snapshot)
{
    PyObject *layout = PyObject_GetAttrString(op, "layout");
    PyObject *bounds = percpu_py_histogram_bounds(op, NULL);
    PyObject *its_layout = PyObject_GetAttrString(snapshot, "layout");
    PyObject *its_bounds = PyObject_GetAttrString(snapshot, "bounds");
    int alike = -1;
    if (layout != NULL && bounds != NULL && its_layout != NULL && its_bounds != NULL)
        alike = PyObject_RichCompareBool(layout, its_layout, Py_EQ);
    if (alike == 1)
        alike = PyObject_RichCompareBool(bounds, its_bounds, Py_EQ);
    Py_XDECREF(layout);
    Py_XDECREF(bounds);
    Py_XDECREF(its_layout);
    Py_XDECREF(its_bounds);
    return alike;
}

/* 0; -1 with an exception. */
static int get_counts(const struct percpu_histogram *histogram, PyObject *snapshot,
                      uint64_t *counts)
{
    PyObject *sequence = PyObject_GetAttrString(snapshot, "counts");
    PyObject *tuple = sequence != NULL ? PySequence_Tuple(sequence) : NULL;
    Py_XDECREF(sequence);
    if (tuple == NULL)
        return -1;
    int got = 0;
    if ((size_t)PyTuple_GET_SIZE(tuple) != histogram->buckets) {
        raise_not_alike();
        got = -1;
    }
    for (size_t i = 0; got == 0 && i < histogram->buckets; i++)
        got = percpu_py_bits(PyTuple_GET_ITEM(tuple, (Py_ssize_t)i), "counts", "", 0, INT64_MAX,
                             &counts[i]);
    Py_DECREF(tuple);
    return got;
}

static PyObject *merge_snapshot(PyObject *op, PyObject *snapshot, uint64_t *counts)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    double sum;
    int alike = is_alike(op, snapshot);
    if (alike <= 0)
        return alike == 0 ? raise_not_alike() : NULL;
    if (get_counts(&self->histogram, snapshot, counts) != 0)
        return NULL;
    PyObject *number = PyObject_GetAttrString(snapshot, "sum");
    int got = number != NULL ? percpu_py_double(number, "the sum of other", &sum) : -1;
    Py_XDECREF(number);
    if (got != 0 || !is_finite_sum(sum) || !percpu_py_histogram_usable(self))
        return NULL;
    percpu_histogram_merge(&self->histogram, counts, sum);
    Py_RETURN_NONE;
}

/* 1: `other` is a HistogramSnapshot; 0; -1 with an exception. */
static int is_snapshot(PyObject *other)
{
    PyObject *module = PyImport_ImportModule("percpu._histogram");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "HistogramSnapshot") : NULL;
    int is = type != NULL ? PyObject_IsInstance(other, type) : -1;
    Py_XDECREF(module);
    Py_XDECREF(type);
    return is;
}

PyObject *percpu_py_histogram_merge(PyObject *op, PyObject *other)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (!percpu_py_histogram_usable(self))
        return NULL;
    bool both = state != NULL && state->histogram_type != NULL &&
                PyObject_TypeCheck(other, state->histogram_type);
    int snapshot = both ? 0 : is_snapshot(other);
    if (!both && snapshot <= 0) {
        if (snapshot == 0)
            percpu_py_reject(PyExc_TypeError, "other", other,
                             "a PerCpuHistogram or a HistogramSnapshot");
        return NULL;
    }
    uint64_t *counts = PyMem_RawMalloc(self->histogram.buckets * sizeof *counts);
    if (counts == NULL)
        return PyErr_NoMemory();
    PyObject *done = both ? merge_histogram(self, percpu_py_as_histogram(other), counts)
                          : merge_snapshot(op, other, counts);
    PyMem_RawFree(counts);
    return done;
}
