/* SPDX-License-Identifier: MIT */
/*
 * stats_make.c - where the names and the memory of a PerCpuStats come from.
 */
#include "stats.h"

#include <errno.h>

/* names -------------------------------------------------------------------------------------- */

/* `given` as an exact str; NULL with TypeError or ValueError. */
static PyObject *check_name(PyObject *given, Py_ssize_t position)
{
    char what[40];
    PyOS_snprintf(what, sizeof what, "names[%zd]", position);
    if (!PyUnicode_Check(given)) {
        percpu_py_reject(PyExc_TypeError, what, given, "a str");
        return NULL;
    }
    if (PyUnicode_GET_LENGTH(given) == 0) {
        percpu_py_reject(PyExc_ValueError, what, given, "a str that is not empty");
        return NULL;
    }
    return PyUnicode_FromObject(given);
}

static PyObject *check_names(PyObject *const *given, Py_ssize_t count)
{
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "names must be one str or more, not none");
        return NULL;
    }
    if ((size_t)count > PERCPU_STATS_MAX) {
        PyErr_Format(PyExc_ValueError, "names must be at most %zu, not %zd", PERCPU_STATS_MAX,
                     count);
        return NULL;
    }
    PyObject *names = PyTuple_New(count);
    for (Py_ssize_t i = 0; names != NULL && i < count; i++) {
        PyObject *name = check_name(given[i], i);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, i, name);
    }
    return names;
}

/* The names of one argument that is no str, or of all. NULL with an exception. */
static PyObject *names_argument(PyObject *const *given, Py_ssize_t count)
{
    if (count != 1 || PyUnicode_Check(given[0]))
        return check_names(given, count);
    if (Py_TYPE(given[0])->tp_iter == NULL && !PySequence_Check(given[0])) {
        percpu_py_reject(PyExc_TypeError, "names", given[0], "str, or one iterable of str");
        return NULL;
    }
    PyObject *several = PySequence_Tuple(given[0]); /* nobody else can change it */
    if (several == NULL)
        return NULL;
    PyObject *names = check_names(&PyTuple_GET_ITEM(several, 0), PyTuple_GET_SIZE(several));
    Py_DECREF(several);
    return names;
}

/* memory ------------------------------------------------------------------------------------- */

/* `memory` is NULL for a pool of the process. */
static void *source(struct percpu_pool *memory, void *what)
{
    struct percpu_py_stats *self = what;
    size_t n = (size_t)PyTuple_GET_SIZE(self->names);
    return percpu_stats_init(&self->stats, memory, n) == 0 ? self->stats.counts.base : NULL;
}

/* 0; an errno of the core; -1 with an exception. */
static int init(struct percpu_py_stats *self)
{
    void *item;
    if (self->pool == NULL)
        return source(NULL, self) != NULL ? 0 : errno;
    int error = percpu_py_pool_take(self->pool, source, self, &item, NULL);
    if (error != 0)
        self->stats.cpus = 0;
    return error;
}

/* 0; -1 with an exception. */
static int place(struct percpu_py_stats *self)
{
    int error = init(self);
    if (error == ENOMEM && self->pool == NULL && percpu_py_collect_deferred())
        error = init(self);
    if (error > 0 && error != ENOMEM && self->pool != NULL)
        percpu_py_pool_raise_not_allocated(self->pool, error);
    else if (error > 0)
        percpu_py_raise_errno(Py_TYPE(self), error, "no memory for %zd stats of 8 bytes per CPU",
                              PyTuple_GET_SIZE(self->names));
    return error == 0 ? 0 : -1;
}

static PyObject *make(PyTypeObject *type, PyTypeObject *stat_type, PyObject *names,
                      struct percpu_py_pool *pool)
{
    struct percpu_py_stats *self = percpu_py_as_stats(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->names = Py_NewRef(names);
    self->stat_type = (PyTypeObject *)Py_NewRef((PyObject *)stat_type);
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    if (percpu_py_stats_index_names(self) != 0 || place(self) != 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

PyObject *percpu_py_stats_make(PyTypeObject *type, PyObject *const *given, Py_ssize_t count,
                               PyObject *pool_value)
{
    struct percpu_py_pool *pool;
    struct percpu_py_state *state = percpu_py_state_of(type);
    if (percpu_py_pool_argument(type, pool_value, &pool) != 0)
        return NULL;
    if (state == NULL || state->stat_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the module percpu._core is being torn down");
        return NULL;
    }
    PyObject *names = names_argument(given, count), *self = NULL;
    if (names == NULL)
        return NULL;
    if (pool == NULL || percpu_py_pool_fits(pool, 8 * (size_t)PyTuple_GET_SIZE(names),
                                            sizeof(uint64_t), "so many stats") == 0)
        self = make(type, state->stat_type, names, pool);
    Py_DECREF(names);
    return self;
}

void percpu_py_stats_give_back(struct percpu_py_stats *self)
{
    if (self->stats.cpus == 0)
        return;
    if (self->pool == NULL)
        percpu_stats_destroy(&self->stats);
    else /* the same, and it is noticed what a robust pool finds */
        percpu_py_pool_give_back_quietly(self->pool, self->stats.counts.base);
}
