/* SPDX-License-Identifier: MIT */
/*
 * counter_make.c - what a PerCpuCounter is to be, and where its memory comes from and goes to.
 */
#include "counter.h"

#include <errno.h>

enum { VALUE, BATCH, ERROR, LAZY, POOL };

const struct percpu_py_signature percpu_py_counter_signature = {
    .callable = "PerCpuCounter",
    .positional = 1,
    .parameters = {"value", "batch", "error", "lazy", "pool"},
};

struct wish {
    struct percpu_counter *counter;
    int64_t value, batch;
    double error; /* as percpu_counter_set_error() takes it; 0: nothing was said */
    bool lazy;
};

/* `memory` is NULL for a pool of the process. */
static void *source(struct percpu_pool *memory, void *what)
{
    const struct wish *wish = what;
    int (*init)(struct percpu_counter *, struct percpu_pool *, int64_t,
                int64_t) = wish->lazy ? percpu_counter_init_lazy : percpu_counter_init;
    if (init(wish->counter, memory, wish->value, wish->batch) != 0)
        return NULL;
    if (wish->error > 0)
        (void)percpu_counter_set_error(wish->counter, wish->error); /* parse_error() knows it */
    return wish->lazy ? wish->counter : (void *)wish->counter->slots.base;
}

/* 0; an errno of the core; -1 with an exception. */
static int init(struct percpu_py_counter *self, struct wish *wish)
{
    void *item;
    wish->counter = &self->counter;
    if (self->pool == NULL)
        return source(NULL, wish) != NULL ? 0 : errno;
    int error = percpu_py_pool_take(self->pool, source, wish, &item, NULL);
    if (error != 0)
        self->counter.cpus = 0;
    return error;
}

/* 0; -1 with an exception. */
static int parse_error(PyObject *obj, struct wish *wish)
{
    if (!PyFloat_Check(obj) && !PyIndex_Check(obj))
        return percpu_py_reject(PyExc_TypeError, "error", obj, "an int or a float");
    if (!PyFloat_Check(obj)) {
        uint64_t amount;
        if (percpu_py_size(obj, "error", ", or a float between 0 and 1", 0, INT64_MAX, &amount) !=
            0)
            return -1;
        wish->error = (double)amount;
        wish->batch = 1; /* what an amount of 0 says */
        return 0;
    }
    wish->error = PyFloat_AS_DOUBLE(obj);
    if (wish->error > 0 && wish->error < 1)
        return 0;
    return percpu_py_reject(PyExc_ValueError, "error", obj,
                            "an int that is not negative, or a float between 0 and 1");
}

/* 0; -1 with an exception. */
static int parse(PyObject *const *values, const struct percpu_py_pool *pool, struct wish *wish)
{
    uint64_t batch = PERCPU_COUNTER_BATCH;
    bool batch_given = values[BATCH] != NULL && values[BATCH] != Py_None;
    bool error_given = values[ERROR] != NULL && values[ERROR] != Py_None;
    bool lazy_given = values[LAZY] != NULL && values[LAZY] != Py_None;
    if ((values[VALUE] != NULL && percpu_py_int64(values[VALUE], "value", &wish->value) != 0) ||
        (batch_given &&
         percpu_py_size(values[BATCH], "batch", "", 1, PERCPU_COUNTER_BATCH_MAX, &batch) != 0))
        return -1;
    wish->batch = (int64_t)batch;
    if (error_given && parse_error(values[ERROR], wish) != 0)
        return -1;
    int lazy = lazy_given ? PyObject_IsTrue(values[LAZY]) : pool == NULL;
    if (lazy < 0)
        return -1;
    wish->lazy = lazy != 0;
    if (batch_given && error_given) {
        PyErr_SetString(PyExc_ValueError,
                        "batch and error cannot both be given: either is found from the other");
        return -1;
    }
    if (lazy != 0 && pool != NULL) {
        PyErr_SetString(PyExc_ValueError, "lazy must be False or None with a pool: memory of a "
                                          "PerCpuPool is taken at once");
        return -1;
    }
    return 0;
}

void *percpu_py_counter_raise_no_memory(PyTypeObject *type, int error)
{
    return percpu_py_raise_errno(type, error, "no memory for a counter of %zu bytes per CPU",
                                 PERCPU_COUNTER_ITEM);
}

PyObject *percpu_py_counter_make(PyTypeObject *type, PyObject *const *values)
{
    struct wish wish = {.value = 0};
    struct percpu_py_pool *pool;
    if (percpu_py_pool_argument(type, values[POOL], &pool) != 0 ||
        parse(values, pool, &wish) != 0 ||
        (pool != NULL &&
         percpu_py_pool_fits(pool, PERCPU_COUNTER_ITEM, sizeof(uint64_t), "a counter") != 0))
        return NULL;
    struct percpu_py_counter *self = percpu_py_as_counter(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    int error = init(self, &wish);
    if (error == ENOMEM && pool == NULL && percpu_py_collect_deferred())
        error = init(self, &wish);
    if (error != 0) {
        if (error > 0 && error != ENOMEM && pool != NULL)
            percpu_py_pool_raise_not_allocated(pool, error);
        else if (error > 0)
            percpu_py_counter_raise_no_memory(type, error);
        Py_DECREF(self);
        return NULL;
    }
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

void percpu_py_counter_give_back(struct percpu_py_counter *self)
{
    if (self->counter.cpus == 0)
        return;
    if (self->pool == NULL)
        percpu_counter_destroy(&self->counter);
    else /* the same, and it is noticed what a robust pool finds */
        percpu_py_pool_give_back_quietly(self->pool, self->counter.slots.base);
}

/* many at once ------------------------------------------------------------------------------- */

enum { LEAST_STRIDE = 1 << 16, MOST_STRIDE = 1 << 26 };
#define MOST_COUNTERS (((size_t)1 << 46) / PERCPU_COUNTER_ITEM)

/* A PerCpuPool with room for `n` counters, side by side. */
static PyObject *make_pool(PyTypeObject *type, size_t n)
{
    size_t stride = LEAST_STRIDE;
    if (n > MOST_COUNTERS) { /* would end so after minutes of mapping */
        percpu_py_raise(type, PERCPU_PY_EXHAUSTED, "no address space for %zu counters", n);
        return NULL;
    }
    while (stride < MOST_STRIDE && stride / PERCPU_COUNTER_ITEM < n)
        stride *= 2;
    struct percpu_py_state *state = percpu_py_state_of(type);
    if (state == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the module percpu is being torn down");
        return NULL;
    }
    PyObject *kwargs = Py_BuildValue("{s:n}", "stride", (Py_ssize_t)stride);
    PyObject *args = Py_BuildValue("(n)", (Py_ssize_t)PERCPU_COUNTER_ITEM);
    PyObject *pool = NULL;
    if (kwargs != NULL && args != NULL)
        pool = PyObject_Call((PyObject *)state->pool_type, args, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    PyObject *reserved = pool != NULL ? PyObject_CallMethod(pool, "reserve", "n", (Py_ssize_t)n)
                                      : NULL;
    if (reserved == NULL)
        Py_CLEAR(pool);
    Py_XDECREF(reserved);
    return pool;
}

/* type(value, batch=batch, pool=pool), `n` times: a subclass may have more to do than we know. */
static PyObject *make_list(PyObject *type, size_t n, PyObject *value, PyObject *batch,
                           PyObject *pool)
{
    PyObject *args[] = {value, batch, pool};
    PyObject *names = Py_BuildValue("(ss)", "batch", "pool");
    PyObject *list = names != NULL ? PyList_New(0) : NULL;
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *counter = PyObject_Vectorcall(type, args, 1, names);
        if (counter == NULL || PyList_Append(list, counter) != 0)
            Py_CLEAR(list);
        Py_XDECREF(counter);
    }
    Py_XDECREF(names);
    return list;
}

const char percpu_py_counter_many_doc[] =
    "many($type, /, n, value=0, *, batch=32)\n--\n\n"
    "Return a list of `n` new counters of `value` each, with memory on each CPU.\n\n"
    "Their memory is allocated in one go, packed: 16 bytes each on each CPU, side by side, in a\n"
    ":class:`PerCpuPool` that they share and that goes when the last of them does. It is what the\n"
    "kernel's ``percpu_counter_init_many`` is for. Raises as ``PerCpuCounter()`` does, and\n"
    ":exc:`ValueError` for an `n` that is negative.";

PyObject *percpu_py_counter_many(PyObject *type, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames)
{
    static const struct percpu_py_signature signature = {
        .callable = "many",
        .required = 1,
        .positional = 2,
        .parameters = {"n", "value", "batch"},
    };
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    uint64_t n;
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, values) != 0 ||
        percpu_py_size(values[0], "n", "", 0, PY_SSIZE_T_MAX / PERCPU_COUNTER_ITEM, &n) != 0)
        return NULL;
    PyObject *zero = PyLong_FromLong(0);
    PyObject *pool = zero != NULL ? make_pool((PyTypeObject *)type, n) : NULL;
    PyObject *list = NULL;
    if (pool != NULL)
        list = make_list(type, n, values[1] != NULL ? values[1] : zero,
                         values[2] != NULL ? values[2] : Py_None, pool);
    Py_XDECREF(pool);
    Py_XDECREF(zero);
    return list;
}
