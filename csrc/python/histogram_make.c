/* SPDX-License-Identifier: MIT */
/*
 * histogram_make.c - a PerCpuHistogram's arguments, and where its memory comes from and goes to.
 */
#include "histogram.h"

#include <errno.h>

enum { RELATIVE_ERROR, BOUNDS, LOW, HIGH, POOL };

const struct percpu_py_signature percpu_py_histogram_signature = {
    .callable = "PerCpuHistogram",
    .positional = 1,
    .parameters = {"relative_error", "bounds", "low", "high", "pool"},
};

/* What was asked for. It is made outside of the object, which the garbage collector can see: that
 * has a whole histogram or none. */
struct wish {
    struct percpu_histogram histogram;
    double relative_error, low, high;
    double *bounds; /* NULL: log-linear */
    size_t count, buckets;
};

/* arguments ---------------------------------------------------------------------------------- */

static bool given(PyObject *value)
{
    return value != NULL && value != Py_None;
}

static int number_argument(PyObject *value, const char *name, double *number)
{
    return value == NULL ? 0 : percpu_py_double(value, name, number);
}

static int parse_log(PyObject *const *values, struct wish *wish)
{
    wish->relative_error = PERCPU_HISTOGRAM_ERROR;
    wish->low = PERCPU_HISTOGRAM_LOW;
    wish->high = PERCPU_HISTOGRAM_HIGH;
    if (number_argument(values[RELATIVE_ERROR], "relative_error", &wish->relative_error) != 0 ||
        number_argument(values[LOW], "low", &wish->low) != 0 ||
        number_argument(values[HIGH], "high", &wish->high) != 0)
        return -1;
    wish->buckets = percpu_histogram_log_buckets(wish->relative_error, wish->low, wish->high);
    if (wish->buckets > 0)
        return 0;
    if (errno == ERANGE) {
        PyErr_Format(PyExc_ValueError,
                     "relative_error, low and high make more than %u buckets: allow a larger error "
                     "or a shorter range",
                     PERCPU_HISTOGRAM_MAX_BUCKETS);
        return -1;
    }
    if (!(wish->relative_error > 0 && wish->relative_error < 1))
        return percpu_py_reject(PyExc_ValueError, "relative_error", values[RELATIVE_ERROR],
                                "above 0 and below 1");
    if (values[LOW] != NULL && !(wish->low >= 0x1p-1022 && wish->low <= 0x1p1023))
        return percpu_py_reject(PyExc_ValueError, "low", values[LOW], "from 2**-1022 to 2**1023");
    if (values[HIGH] != NULL && !(wish->high >= 0x1p-1022 && wish->high <= 0x1p1023))
        return percpu_py_reject(PyExc_ValueError, "high", values[HIGH], "from 2**-1022 to 2**1023");
    PyObject *low = PyFloat_FromDouble(wish->low), *high = PyFloat_FromDouble(wish->high);
    if (low != NULL && high != NULL)
        PyErr_Format(PyExc_ValueError, "low must be below high, which is %R, not %R", high, low);
    Py_XDECREF(low);
    Py_XDECREF(high);
    return -1;
}

/* "bounds[3]" */
static int reject_bound(PyObject *exception, size_t place, PyObject *bound, const char *right)
{
    char name[40];
    PyOS_snprintf(name, sizeof name, "bounds[%zu]", place);
    return percpu_py_reject(exception, name, bound, right);
}

/* `bound` is a reference of the caller's: an __index__ may do anything to what it came from. */
static int parse_bound(struct wish *wish, size_t place, PyObject *bound)
{
    char name[40];
    PyOS_snprintf(name, sizeof name, "bounds[%zu]", place);
    if (percpu_py_double(bound, name, &wish->bounds[place]) != 0)
        return -1;
    if (!percpu_histogram_accepts(wish->bounds[place]))
        return reject_bound(PyExc_ValueError, place, bound, "finite");
    if (place > 0 && !(wish->bounds[place] > wish->bounds[place - 1]))
        return reject_bound(PyExc_ValueError, place, bound, "above the one before");
    return 0;
}

/* `sequence` is a tuple of ours. */
static int parse_bounds(PyObject *sequence, struct wish *wish)
{
    wish->count = (size_t)PyTuple_GET_SIZE(sequence);
    if (wish->count == 0 || wish->count > PERCPU_HISTOGRAM_MAX_BUCKETS - 1) {
        PyErr_Format(PyExc_ValueError, "bounds must have from 1 to %u numbers, not %zu",
                     PERCPU_HISTOGRAM_MAX_BUCKETS - 1, wish->count);
        return -1;
    }
    wish->buckets = wish->count + 1;
    wish->bounds = PyMem_RawMalloc(wish->count * sizeof *wish->bounds);
    if (wish->bounds == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < wish->count; i++)
        if (parse_bound(wish, i, PyTuple_GET_ITEM(sequence, (Py_ssize_t)i)) != 0)
            return -1;
    return 0;
}

static int parse(PyObject *const *values, struct wish *wish)
{
    if (!given(values[BOUNDS]))
        return parse_log(values, wish);
    if (values[RELATIVE_ERROR] != NULL || values[LOW] != NULL || values[HIGH] != NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "bounds cannot be had together with relative_error, low or high");
        return -1;
    }
    if (Py_TYPE(values[BOUNDS])->tp_iter == NULL && !PySequence_Check(values[BOUNDS]))
        return percpu_py_reject(PyExc_TypeError, "bounds", values[BOUNDS],
                                "an iterable of numbers");
    PyObject *sequence = PySequence_Tuple(values[BOUNDS]);
    if (sequence == NULL)
        return -1;
    int parsed = parse_bounds(sequence, wish);
    Py_DECREF(sequence);
    return parsed;
}

/* making ------------------------------------------------------------------------------------- */

/* `memory` is NULL for a pool of the process. */
static void *source(struct percpu_pool *memory, void *what)
{
    struct wish *wish = what;
    int made = wish->bounds != NULL
                   ? percpu_histogram_init_bounds(&wish->histogram, memory, wish->bounds,
                                                  wish->count)
                   : percpu_histogram_init_log(&wish->histogram, memory, wish->relative_error,
                                               wish->low, wish->high);
    return made == 0 ? wish->histogram.slots.base : NULL;
}

/* 0; an errno of the core; -1 with an exception. */
static int init(struct percpu_py_histogram *self, struct wish *wish)
{
    void *item;
    if (self->pool == NULL)
        return source(NULL, wish) != NULL ? 0 : errno;
    int error = percpu_py_pool_take(self->pool, source, wish, &item, NULL);
    if (error != 0)
        percpu_histogram_forget(&wish->histogram); /* the item, if there was one, is gone */
    return error;
}

static PyObject *make(PyTypeObject *type, struct wish *wish, struct percpu_py_pool *pool)
{
    size_t item_size = PERCPU_HISTOGRAM_ITEM(wish->buckets);
    if (pool != NULL && percpu_py_pool_fits(pool, item_size, sizeof(uint64_t), "a histogram") != 0)
        return NULL;
    struct percpu_py_histogram *self = percpu_py_as_histogram(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    int error = init(self, wish);
    if (error == ENOMEM && pool == NULL && percpu_py_collect_deferred())
        error = init(self, wish);
    if (error != 0) {
        if (error > 0 && error != ENOMEM && pool != NULL)
            percpu_py_pool_raise_not_allocated(pool, error);
        else if (error > 0)
            percpu_py_raise_errno(type, error, "no memory for a histogram of %zu bytes per CPU",
                                  item_size);
        Py_DECREF(self);
        return NULL;
    }
    self->histogram = wish->histogram;
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

PyObject *percpu_py_histogram_make(PyTypeObject *type, PyObject *const *values)
{
    struct wish wish = {.bounds = NULL};
    struct percpu_py_pool *pool;
    PyObject *self = NULL;
    if (percpu_py_pool_argument(type, values[POOL], &pool) == 0 && parse(values, &wish) == 0)
        self = make(type, &wish, pool);
    PyMem_RawFree(wish.bounds);
    return self;
}

void percpu_py_histogram_give_back(struct percpu_py_histogram *self)
{
    if (self->histogram.cpus == 0)
        return;
    if (self->pool == NULL) {
        percpu_histogram_destroy(&self->histogram);
        return;
    }
    percpu_py_pool_give_back_quietly(self->pool, self->histogram.slots.base);
    percpu_histogram_forget(&self->histogram);
}
