/* SPDX-License-Identifier: MIT */
/*
 * stats_bulk.c - PerCpuStats.add_at(): many adds out of buffers, without the GIL.
 *
 * Whoever else writes to the buffers meanwhile must not make us write out of bounds. So numbers are
 * brought to 64 bits in pieces of our own, and what is checked is what is used: all pieces once
 * before anything is added, and each again when it is.
 */
#include "stats.h"

#include <string.h>

enum { PIECE = 256, HOLD_THE_GIL = 256 };

/* buffers of integers ------------------------------------------------------------------------ */

struct column {
    Py_buffer view;
    const char *start;
    Py_ssize_t step, count;
    size_t width;
    bool is_signed;
};

/* The one letter of a format of integers in this machine's byte order; 0 of any other. */
static char letter_of(const Py_buffer *view)
{
    const char *format = view->format != NULL ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == '<' ||
        (*format != '\0' && view->itemsize == 1 && strchr(">!", *format) != NULL))
        format++;
    bool known = *format != '\0' && format[1] == '\0' && strchr("bBhHiIlLqQnN", *format) != NULL;
    bool sized = view->itemsize == 1 || view->itemsize == 2 || view->itemsize == 4 ||
                 view->itemsize == 8;
    return known && sized ? *format : '\0';
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "'<' is this machine's byte order");

/* 0; -1 with an exception. PyBuffer_Release(&column->view) in the first case alone. */
static int open_column(struct column *column, PyObject *given, const char *name)
{
    if (!PyObject_CheckBuffer(given))
        return percpu_py_reject(PyExc_TypeError, name, given,
                                "a buffer of integers: an array, a "
                                "memoryview, a NumPy array");
    if (PyObject_GetBuffer(given, &column->view, PyBUF_FORMAT | PyBUF_STRIDES) != 0)
        return -1;
    const Py_buffer *view = &column->view;
    char letter = letter_of(view);
    if (letter == '\0' || view->ndim != 1) {
        if (letter == '\0')
            PyErr_Format(PyExc_TypeError,
                         "%s must be integers of this machine's byte order, not of format '%s'",
                         name, view->format != NULL ? view->format : "B");
        else
            PyErr_Format(PyExc_ValueError, "%s must have 1 dimension, not %d", name, view->ndim);
        PyBuffer_Release(&column->view);
        return -1;
    }
    column->start = view->buf;
    column->step = view->strides[0];
    column->count = view->shape[0];
    column->width = (size_t)view->itemsize;
    column->is_signed = strchr("bhilqn", letter) != NULL;
    return 0;
}

/* Numbers `from` and on, brought to 64 bits. The CPU need not have them aligned. */
static void fetch(const struct column *column, Py_ssize_t from, size_t count, uint64_t *numbers)
{
    const char *at = column->start + from * column->step;
    unsigned shift = 64 - 8 * (unsigned)column->width;
    for (size_t i = 0; i < count; i++, at += column->step) {
        uint64_t number = 0;
        switch (column->width) {
        case 1:
            memcpy(&number, at, 1);
            break;
        case 2:
            memcpy(&number, at, 2);
            break;
        case 4:
            memcpy(&number, at, 4);
            break;
        default:
            memcpy(&number, at, 8);
        }
        numbers[i] = column->is_signed ? (uint64_t)((int64_t)(number << shift) >> shift) : number;
    }
}

/* adding ------------------------------------------------------------------------------------- */

struct bulk {
    const struct percpu_stats *stats;
    struct column indices, weights; /* weights.count 0: `weight` for all */
    int64_t weight;
    Py_ssize_t bad; /* the position of an index that is none, or -1 */
    uint64_t found; /* what it is */
};

static size_t piece_at(const struct bulk *bulk, Py_ssize_t from)
{
    Py_ssize_t left = bulk->indices.count - from;
    return left < PIECE ? (size_t)left : PIECE;
}

static bool is_bad(struct bulk *bulk, const uint64_t *indices, size_t at, Py_ssize_t from)
{
    if (indices[at] < bulk->stats->n)
        return false;
    bulk->bad = from + (Py_ssize_t)at;
    bulk->found = indices[at];
    return true;
}

static bool check_all(struct bulk *bulk)
{
    uint64_t indices[PIECE];
    for (Py_ssize_t from = 0; from < bulk->indices.count; from += PIECE) {
        size_t count = piece_at(bulk, from);
        fetch(&bulk->indices, from, count, indices);
        for (size_t i = 0; i < count; i++)
            if (is_bad(bulk, indices, i, from))
                return false;
    }
    return true;
}

static void add_all(struct bulk *bulk)
{
    uint64_t indices[PIECE];
    int64_t weights[PIECE];
    for (size_t i = 0; i < PIECE; i++)
        weights[i] = bulk->weight;
    for (Py_ssize_t from = 0; from < bulk->indices.count; from += PIECE) {
        size_t count = piece_at(bulk, from);
        fetch(&bulk->indices, from, count, indices);
        if (bulk->weights.count > 0)
            fetch(&bulk->weights, from, count, (uint64_t *)weights);
        size_t added = percpu_stats_add_at(bulk->stats, indices, weights, count);
        if (added < count) { /* it was good when it was checked */
            (void)is_bad(bulk, indices, added, from);
            return;
        }
    }
}

static void run(struct bulk *bulk)
{
    if (check_all(bulk))
        add_all(bulk);
}

/* The GIL costs more than a few adds do. */
static int run_or_raise(struct bulk *bulk)
{
    bulk->bad = -1;
    if (bulk->indices.count <= HOLD_THE_GIL) {
        run(bulk);
    } else {
        Py_BEGIN_ALLOW_THREADS
        run(bulk);
        Py_END_ALLOW_THREADS
    }
    if (bulk->bad < 0)
        return 0;
    size_t last = bulk->stats->n - 1;
    if (bulk->indices.is_signed)
        PyErr_Format(PyExc_IndexError, "indices[%zd] must be from 0 to %zu, not %lld", bulk->bad,
                     last, (long long)bulk->found);
    else
        PyErr_Format(PyExc_IndexError, "indices[%zd] must be from 0 to %zu, not %llu", bulk->bad,
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
                                    "an int, a buffer of integers, or None");
        return percpu_py_int64(given, "weights", &bulk->weight);
    }
    if (open_column(&bulk->weights, given, "weights") != 0) {
        /* A NumPy integer is a buffer too, of no dimension. */
        if (!PyErr_ExceptionMatches(PyExc_ValueError) || bulk->weights.view.ndim != 0 ||
            !PyIndex_Check(given))
            return -1;
        PyErr_Clear();
        return percpu_py_int64(given, "weights", &bulk->weight);
    }
    if (bulk->weights.count == bulk->indices.count)
        return 0;
    PyErr_Format(PyExc_ValueError, "weights must be one int, or as many as indices, %zd, not %zd",
                 bulk->indices.count, bulk->weights.count);
    PyBuffer_Release(&bulk->weights.view);
    return -1;
}

static int add_columns(struct percpu_py_stats *self, PyObject *indices, PyObject *weights)
{
    struct bulk bulk = {.stats = &self->stats};
    if (open_column(&bulk.indices, indices, "indices") != 0)
        return -1;
    int done = -1;
    if (open_weights(&bulk, weights) == 0) {
        if (percpu_py_stats_usable(self))
            done = run_or_raise(&bulk);
        PyBuffer_Release(&bulk.weights.view); /* does nothing if there is none */
    }
    PyBuffer_Release(&bulk.indices.view);
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
