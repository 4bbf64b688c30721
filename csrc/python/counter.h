/* SPDX-License-Identifier: MIT */
/*
 * counter.h - the object behind PerCpuCounter, for the files that share it.
 */
#ifndef PERCPU_PYTHON_COUNTER_H
#define PERCPU_PYTHON_COUNTER_H

#include "pool.h"

#include <percpu/counter.h>

struct percpu_py_counter {
    PyObject_HEAD
    const uint8_t *closed;         /* see module.h */
    struct percpu_counter counter; /* cpus 0: not made yet */
    struct percpu_py_pool *pool;   /* a reference, or NULL: a pool of the process */
    PyObject *weakrefs;
};

static inline struct percpu_py_counter *percpu_py_as_counter(PyObject *op)
{
    return (struct percpu_py_counter *)op;
}

/* Whether the counter can be used; otherwise ClosedError is set. */
static inline bool percpu_py_counter_usable(struct percpu_py_counter *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* PerCpuCounter()'s parameters; make one of `values` in their order. NULL with an exception. */
extern const struct percpu_py_signature percpu_py_counter_signature;
PyObject *percpu_py_counter_make(PyTypeObject *type, PyObject *const *values);

/* Give its memory back, if it came that far. */
void percpu_py_counter_give_back(struct percpu_py_counter *self);

/* No memory for a counter, or another `error` of the core. NULL. */
void *percpu_py_counter_raise_no_memory(PyTypeObject *type, int error);

/* PerCpuCounter.many(). */
PyObject *percpu_py_counter_many(PyObject *type, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);
extern const char percpu_py_counter_many_doc[];

/* The methods of counter_value.c, each with its docstring, by what they take. */
#define PERCPU_PY_COUNTER_VALUE_METHODS(NOARGS, O, KEYWORDS)                                       \
    NOARGS(sum)                                                                                    \
    NOARGS(read)                                                                                   \
    NOARGS(read_bounds)                                                                            \
    NOARGS(delta)                                                                                  \
    NOARGS(per_cpu)                                                                                \
    O(add_many)                                                                                    \
    O(compare)                                                                                     \
    O(exchange)                                                                                    \
    O(set)                                                                                         \
    KEYWORDS(try_add)                                                                              \
    KEYWORDS(try_sub)

#define PERCPU_PY_DECLARE(name)                                                                    \
    PyObject *percpu_py_counter_##name##_method(PyObject *op, PyObject *argument);                 \
    extern const char percpu_py_counter_##name##_doc[];
#define PERCPU_PY_DECLARE_KEYWORDS(name)                                                           \
    PyObject *percpu_py_counter_##name##_method(PyObject *op, PyObject *const *args,               \
                                                Py_ssize_t nargs, PyObject *kwnames);              \
    extern const char percpu_py_counter_##name##_doc[];
PERCPU_PY_COUNTER_VALUE_METHODS(PERCPU_PY_DECLARE, PERCPU_PY_DECLARE, PERCPU_PY_DECLARE_KEYWORDS)
#undef PERCPU_PY_DECLARE
#undef PERCPU_PY_DECLARE_KEYWORDS

/* The sign of self - other; the other two are beyond those. `other` is an int of any size or a
 * counter, or it is not comparable; compare() makes an int of what has __index__ before. */
enum percpu_py_comparison {
    PERCPU_PY_BELOW = -1,
    PERCPU_PY_EQUAL = 0,
    PERCPU_PY_ABOVE = 1,
    PERCPU_PY_RAISED,
    PERCPU_PY_NOT_COMPARABLE,
};
enum percpu_py_comparison percpu_py_counter_compare(struct percpu_py_counter *self,
                                                    PyObject *other);

/* The slots of the operators: < == and so on, bool(), int(), float(); and __format__(). */
PyObject *percpu_py_counter_richcompare(PyObject *op, PyObject *other, int operator);
int percpu_py_counter_bool(PyObject *op);
PyObject *percpu_py_counter_int(PyObject *op);
PyObject *percpu_py_counter_float(PyObject *op);
PyObject *percpu_py_counter_format(PyObject *op, PyObject *spec);
extern const char percpu_py_counter_format_doc[];

#endif
