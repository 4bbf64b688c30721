/* SPDX-License-Identifier: MIT */
/*
 * stats.h - the objects behind PerCpuStats and PerCpuStat, its handles.
 *
 *   stats.c       PerCpuStats: adding, and its life
 *   stats_read.c  sums and snapshots
 *   stats_make.c  names and memory
 *   stats_find.c  which count is meant: a name, an index or a handle
 *   stats_bulk.c  add_at()
 *   stat.c        PerCpuStat
 *
 * Names are looked up in a table of our own, not a dict: nothing changes it once it is made, so no
 * thread waits and a forked child finds no lock taken; and looking for an exact str in it runs no
 * Python code.
 */
#ifndef PERCPU_PYTHON_STATS_H
#define PERCPU_PYTHON_STATS_H

#include "pool.h"

#include <percpu/stats.h>

struct percpu_py_stats {
    PyObject_HEAD
    const uint8_t *closed;       /* see module.h */
    struct percpu_stats stats;   /* cpus 0: not made yet */
    PyTypeObject *stat_type;     /* of its handles: a reference */
    PyObject *names;             /* a tuple of exact str, one for each count; constant */
    uint32_t *places;            /* open addressing by the names' hashes: index + 1; 0: empty */
    size_t mask;                 /* places - 1 */
    struct percpu_py_pool *pool; /* a reference, or NULL: a pool of the process */
    PyObject *weakrefs;
};

struct percpu_py_stat {
    PyObject_HEAD
    struct percpu_py_stats *stats; /* a reference; constant */
    percpu_ptr count;              /* constant */
    size_t index;
    PyObject *weakrefs;
};

static inline struct percpu_py_stats *percpu_py_as_stats(PyObject *op)
{
    return (struct percpu_py_stats *)op;
}

static inline struct percpu_py_stat *percpu_py_as_stat(PyObject *op)
{
    return (struct percpu_py_stat *)op;
}

/* Whether the stats can be used; otherwise ClosedError is set. */
static inline bool percpu_py_stats_usable(struct percpu_py_stats *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* stats_make.c ------------------------------------------------------------------------------- */

/* PerCpuStats(*names, pool): `names` are `count` objects, or one iterable of them. NULL with an
 * exception. */
PyObject *percpu_py_stats_make(PyTypeObject *type, PyObject *const *names, Py_ssize_t count,
                               PyObject *pool);

/* Give its memory back, if it came that far. */
void percpu_py_stats_give_back(struct percpu_py_stats *self);

/* stats_find.c ------------------------------------------------------------------------------- */

#define PERCPU_PY_NO_STAT SIZE_MAX

/* Make the table of `self->names`. 0; -1 with MemoryError, or ValueError for a name that is there
 * twice. */
int percpu_py_stats_index_names(struct percpu_py_stats *self);

/* The index of `name`, an exact str, or PERCPU_PY_NO_STAT. Sets no exception. */
size_t percpu_py_stats_find_name(const struct percpu_py_stats *self, PyObject *name);

/* The index of what `which` means: a name, an index, or a handle. PERCPU_PY_NO_STAT with KeyError,
 * IndexError, ValueError (a handle of other stats) or TypeError. */
size_t percpu_py_stats_find_slowly(struct percpu_py_stats *self, PyObject *which) PERCPU_COLD;

static inline size_t percpu_py_stats_find(struct percpu_py_stats *self, PyObject *which)
{
    if (Py_TYPE(which) == self->stat_type) {
        struct percpu_py_stat *stat = percpu_py_as_stat(which);
        if (percpu_likely(stat->stats == self))
            return stat->index;
    } else if (PyUnicode_CheckExact(which)) {
        size_t index = percpu_py_stats_find_name(self, which);
        if (percpu_likely(index != PERCPU_PY_NO_STAT))
            return index;
    } else {
        int64_t index;
        if (percpu_py_small_int(which, &index) && (uint64_t)index < self->stats.n)
            return (size_t)index;
    }
    return percpu_py_stats_find_slowly(self, which);
}

/* stats_read.c: methods, and the slot of stats[which] ------------------------------------------ */

PyObject *percpu_py_stats_sum(PyObject *op, PyObject *which);
PyObject *percpu_py_stats_per_cpu(PyObject *op, PyObject *which);
PyObject *percpu_py_stats_snapshot(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames);
PyObject *percpu_py_stats_repr_html(PyObject *op, PyObject *unused);
extern const char percpu_py_stats_sum_doc[], percpu_py_stats_per_cpu_doc[],
    percpu_py_stats_snapshot_doc[], percpu_py_stats_repr_html_doc[];

/* stat.c ------------------------------------------------------------------------------------- */

/* A new handle of count `index`. NULL with an exception. */
PyObject *percpu_py_stat_new(struct percpu_py_stats *stats, size_t index);

/* stats_bulk.c ------------------------------------------------------------------------------- */

PyObject *percpu_py_stats_add_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);
extern const char percpu_py_stats_add_at_doc[];

#endif
