/* SPDX-License-Identifier: MIT */
/*
 * stats_bulk.c - PerCpuStats.add_at(): many adds out of buffers, without the GIL.
 *
 * Whoever else writes to the buffers meanwhile must not make us write out of bounds. So numbers are
 * copied a block at a time (numbers.h), and what is checked is what is used: all blocks once before
 * anything is added, and each again when it is.
 */
#include "numbers.h"
#include "stats.h"

struct bulk {
    const struct percpu_stats *stats;
    struct percpu_py_numbers indices, weights; /* weights.count 0: `weight` for all */
    int64_t weight;
    size_t bad;     /* the position of an index that is none, or indices.count */
    uint64_t found; /* what it is */
};

static bool is_bad(struct bulk *bulk, const uint64_t *indices, size_t at, size_t first)
{
    if (indices[at] < bulk->stats->n)
        return false;
    bulk->bad = first + at;
    bulk->found = indices[at];
    return true;
}

static bool check_all(struct bulk *bulk)
{
    uint64_t indices[PERCPU_PY_BLOCK];
    for (size_t first = 0; first < bulk->indices.count; first += PERCPU_PY_BLOCK) {
        size_t count = percpu_py_block(&bulk->indices, first);
        percpu_py_numbers_integers(&bulk->indices, first, count, indices);
        for (size_t i = 0; i < count; i++)
            if (is_bad(bulk, indices, i, first))
                return false;
    }
    return true;
}

static void add_all(struct bulk *bulk)
{
    uint64_t indices[PERCPU_PY_BLOCK];
    int64_t weights[PERCPU_PY_BLOCK];
    for (size_t i = 0; i < PERCPU_PY_BLOCK; i++)
        weights[i] = bulk->weight;
    for (size_t first = 0; first < bulk->indices.count; first += PERCPU_PY_BLOCK) {
        size_t count = percpu_py_block(&bulk->indices, first);
        percpu_py_numbers_integers(&bulk->indices, first, count, indices);
        if (bulk->weights.count > 0)
            percpu_py_numbers_integers(&bulk->weights, first, count, (uint64_t *)weights);
        size_t added = percpu_stats_add_at(bulk->stats, indices, weights, count);
        if (added < count) { /* it was good when it was checked */
            (void)is_bad(bulk, indices, added, first);
            return;
        }
    }
}

static void run(struct bulk *bulk)
{
    if (check_all(bulk))
        add_all(bulk);
}

static int run_or_raise(struct bulk *bulk)
{
    bulk->bad = bulk->indices.count;
    if (bulk->indices.count < PERCPU_PY_MANY_NUMBERS) {
        run(bulk);
    } else {
        Py_BEGIN_ALLOW_THREADS
        run(bulk);
        Py_END_ALLOW_THREADS
    }
    if (bulk->bad == bulk->indices.count)
        return 0;
    size_t last = bulk->stats->n - 1;
    if (bulk->indices.kind == 'i')
        PyErr_Format(PyExc_IndexError, "indices[%zu] must be from 0 to %zu, not %lld", bulk->bad,
                     last, (long long)bulk->found);
    else
        PyErr_Format(PyExc_IndexError, "indices[%zu] must be from 0 to %zu, not %llu", bulk->bad,
                     last, (unsigned long long)bulk->found);
    return -1;
}

/* The argument `weights`: absent or None, one int, or a buffer. 0; -1 with an exception. */
static int open_weights(struct bulk *bulk, PyObject *given)
{
    bulk->weights.count = 0;
    bulk->weight = 1;
    if (given == NULL || given == Py_None)
        return 0;
    if (!PyObject_CheckBuffer(given)) {
        if (!PyIndex_Check(given))
            return percpu_py_reject(PyExc_TypeError, "weights", given,
                                    "an int, a buffer of ints, or None");
        return percpu_py_int64(given, "weights", &bulk->weight);
    }
    bulk->weights.view.ndim = -1; /* still so if there is no buffer after all */
    if (percpu_py_numbers_open(&bulk->weights, given, "weights", false) != 0) {
        /* A NumPy integer is a buffer too, of no dimension. */
        if (!PyErr_ExceptionMatches(PyExc_ValueError) || bulk->weights.view.ndim != 0 ||
            !PyIndex_Check(given))
            return -1;
        PyErr_Clear();
        return percpu_py_int64(given, "weights", &bulk->weight);
    }
    if (bulk->weights.count == bulk->indices.count)
        return 0;
    PyErr_Format(PyExc_ValueError, "weights must be one int, or as many as indices, %zu, not %zu",
                 bulk->indices.count, bulk->weights.count);
    percpu_py_numbers_close(&bulk->weights);
    return -1;
}

static int add_columns(struct percpu_py_stats *self, PyObject *indices, PyObject *weights)
{
    struct bulk bulk = {.stats = &self->stats};
    if (percpu_py_numbers_open(&bulk.indices, indices, "indices", false) != 0)
        return -1;
    int done = -1;
    if (open_weights(&bulk, weights) == 0) {
        if (percpu_py_stats_usable(self))
            done = run_or_raise(&bulk);
        percpu_py_numbers_close(&bulk.weights); /* does nothing if there is none */
    }
    percpu_py_numbers_close(&bulk.indices);
    return done;
}

const char percpu_py_stats_add_at_doc[] = PyDoc_STR(
    "add_at($self, /, indices, weights=None)\n--\n\n"
    "Add to many counts: ``weights[k]`` to count ``indices[k]``, for each k.\n\n"
    "`indices` is a buffer of integers of any size, such as an :class:`array.array` or a NumPy\n"
    "array; nothing is copied. `weights` is one as long, or one int for all; by default 1.\n"
    "Arithmetic is modulo 2**64. An index may come more than once. Other threads run meanwhile.\n\n"
    "All indices are looked at before anything is added: :exc:`IndexError` names the first that\n"
    "is out of range (negative ones are), and no count has changed, unless somebody changed\n"
    "`indices` in the middle. Raises :exc:`TypeError` for what is no buffer of integers,\n"
    ":exc:`ValueError` for more than one dimension or weights that are not as many, and\n"
    ":exc:`ClosedError`.");

static const struct percpu_py_signature signature = {
    .callable = "add_at",
    .required = 1,
    .positional = 2,
    .parameters = {"indices", "weights"},
};

PyObject *percpu_py_stats_add_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames)
{
    PyObject *values[2];
    if (percpu_py_match_vector(&signature, args, (size_t)nargs, kwnames, values) != 0 ||
        add_columns(percpu_py_as_stats(op), values[0], values[1]) != 0)
        return NULL;
    Py_RETURN_NONE;
}
