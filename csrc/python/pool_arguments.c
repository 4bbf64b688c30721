/* SPDX-License-Identifier: MIT */
/*
 * pool_arguments.c - the arguments of PerCpuPool(): each is checked here, so that the message can
 * name it; what only the core can know comes back from percpu_pool_create(). And the argument
 * `pool` of the constructors of other types.
 */
#include "pool.h"

#include <unistd.h>

#include <percpu/topology.h>

#define MAX_STRIDE (UINT64_C(1) << 30) /* of the core */

enum { ITEM_SIZE, STRIDE, CPUS, MAX_RANGES, INDEX };

const struct percpu_py_signature percpu_py_pool_signature = {
    .callable = "PerCpuPool",
    .required = 1,
    .positional = 1,
    .parameters = {"item_size", "stride", "cpus", "max_ranges", "index"},
};

static bool given(PyObject *value)
{
    return value != NULL && value != Py_None;
}

static int stride_argument(PyObject *value, size_t *stride)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return percpu_py_power_of_two(value, "stride", " bytes", page, MAX_STRIDE, stride);
}

static int index_argument(PyObject *value, enum percpu_index *index)
{
    if (!PyUnicode_Check(value))
        return percpu_py_reject(PyExc_TypeError, "index", value, "'cpu' or 'cid'");
    if (PyUnicode_CompareWithASCIIString(value, "cpu") == 0)
        *index = PERCPU_INDEX_CPU;
    else if (PyUnicode_CompareWithASCIIString(value, "cid") == 0)
        *index = PERCPU_INDEX_CID;
    else
        return percpu_py_reject(PyExc_ValueError, "index", value, "'cpu' or 'cid'");
    return 0;
}

int percpu_py_pool_parse(PyObject *const *values, struct percpu_pool_attr *attr)
{
    uint64_t cpus = percpu_nr_cpus();
    attr->index = PERCPU_INDEX_CPU;
    if (percpu_py_size(values[ITEM_SIZE], "item_size", " bytes", 1, MAX_STRIDE, &attr->item_size) !=
        0)
        return -1;
    if (given(values[STRIDE])) {
        if (stride_argument(values[STRIDE], &attr->stride) != 0)
            return -1;
        if (attr->item_size > attr->stride) {
            PyErr_Format(PyExc_ValueError,
                         "item_size must be at most stride, which is %zu, not %zu", attr->stride,
                         attr->item_size);
            return -1;
        }
    }
    if (given(values[CPUS]) &&
        percpu_py_size(values[CPUS], "cpus", " (this machine's CPUs and Linux's limit)", cpus,
                       PERCPU_MAX_CPUS, &cpus) != 0)
        return -1;
    attr->cpus = (unsigned)cpus;
    if (values[MAX_RANGES] != NULL &&
        percpu_py_size(values[MAX_RANGES], "max_ranges", " (0: no limit)", 0, SIZE_MAX / 2,
                       &attr->max_ranges) != 0)
        return -1;
    return values[INDEX] == NULL ? 0 : index_argument(values[INDEX], &attr->index);
}

int percpu_py_pool_fits(struct percpu_py_pool *self, size_t size, size_t alignment,
                        const char *what)
{
    const struct percpu_pool_geometry *geometry = &self->geometry;
    if (geometry->item_size >= size && geometry->slot_size % alignment == 0)
        return 0;
    PyErr_Format(
        PyExc_ValueError,
        "pool must have items of at least %zu bytes, aligned to %zu, for %s, not of %zu bytes",
        size, alignment, what, geometry->item_size);
    return -1;
}

int percpu_py_pool_argument(PyTypeObject *type, PyObject *value, struct percpu_py_pool **pool)
{
    *pool = NULL;
    if (value == NULL || value == Py_None)
        return 0;
    struct percpu_py_state *state = percpu_py_state_of(type);
    if (state == NULL || state->pool_type == NULL || !PyObject_TypeCheck(value, state->pool_type))
        return percpu_py_reject(PyExc_TypeError, "pool", value, "a PerCpuPool or None");
    *pool = (struct percpu_py_pool *)value;
    return 0;
}
