/* SPDX-License-Identifier: MIT */
/*
 * pool_arguments.c - the arguments of PerCpuPool(): each is checked here, so that the message can
 * name it; what only the core can know comes back from percpu_pool_create(). And the argument
 * `pool` of the constructors of other types.
 */
#include "pool.h"

#include <string.h>
#include <unistd.h>

#include <percpu/topology.h>

#define MAX_STRIDE (UINT64_C(1) << 30) /* of the core */

enum { REDZONE = 8 }; /* of the core: the least behind each item of a robust pool */

enum {
    ITEM_SIZE,
    POPULATE,
    STRIDE,
    CPUS,
    MAX_RANGES,
    INDEX,
    SCOPE,
    INIT,
    CONSTRUCTED,
    CTOR,
    DTOR,
    ROBUST,
    POISON,
    GUARD,
    NUMA,
    NAME,
    CACHE_BYTES,
};

#define PARAMETERS                                                                                 \
    {                                                                                              \
        "item_size", "populate", "stride", "cpus", "max_ranges", "index", "scope", "init",         \
            "constructed", "ctor", "dtor", "robust", "poison", "guard", "numa", "name",            \
            "cache_bytes",                                                                         \
    }

const struct percpu_py_signature percpu_py_pool_signature = {
    .callable = "PerCpuPool",
    .required = 1,
    .positional = 1,
    .parameters = PARAMETERS,
};

const struct percpu_py_signature percpu_py_classes_signature = {
    .callable = "_size_classes",
    .required = 1,
    .positional = 1,
    .parameters = PARAMETERS,
};

static bool given(PyObject *value)
{
    return value != NULL && value != Py_None;
}

/* one argument each: 0, or -1 with TypeError or ValueError ------------------------------------- */

/* Which of two strings it is. */
static int choice_argument(PyObject *value, const char *name, const char *first, const char *second,
                           bool *is_second)
{
    *is_second = false;
    if (value == NULL)
        return 0;
    if (!PyUnicode_Check(value))
        return percpu_py_reject(PyExc_TypeError, name, value, "'%s' or '%s'", first, second);
    *is_second = PyUnicode_CompareWithASCIIString(value, second) == 0;
    if (*is_second || PyUnicode_CompareWithASCIIString(value, first) == 0)
        return 0;
    return percpu_py_reject(PyExc_ValueError, name, value, "'%s' or '%s'", first, second);
}

/* What merely has a truth value, as the string 'no', is a mistake. */
static int flag_argument(PyObject *value, const char *name, bool *flag)
{
    if (value == NULL)
        return 0;
    if (!PyBool_Check(value))
        return percpu_py_reject(PyExc_TypeError, name, value, "True or False");
    *flag = value == Py_True;
    return 0;
}

static int callable_argument(PyObject *value, const char *name, PyObject **callable)
{
    if (!given(value))
        return 0;
    if (!PyCallable_Check(value))
        return percpu_py_reject(PyExc_TypeError, name, value, "callable, or None");
    *callable = value;
    return 0;
}

static int init_argument(PyObject *value, struct percpu_py_pool_wishes *wishes)
{
    if (!given(value))
        return 0;
    if (!PyObject_CheckBuffer(value)) {
        if (PyCallable_Check(value)) {
            wishes->init = value;
            return 0;
        }
        return percpu_py_reject(PyExc_TypeError, "init", value,
                                "a bytes-like object, a callable or None");
    }
    if (PyObject_GetBuffer(value, &wishes->init_bytes, PyBUF_SIMPLE) != 0)
        return -1;
    wishes->attr.init = wishes->init_bytes.buf;
    wishes->attr.init_size = (size_t)wishes->init_bytes.len;
    if (wishes->attr.init_size <= wishes->attr.item_size)
        return 0;
    PyErr_Format(PyExc_ValueError, "init must have at most item_size bytes, which is %zu, not %zu",
                 wishes->attr.item_size, wishes->attr.init_size);
    return -1;
}

static bool name_is_good(const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++)
        if (name[i] < ' ' || name[i] > '~' || strchr("[]\\$`", name[i]) != NULL)
            return false;
    return length >= 1 && length <= 63;
}

static int name_argument(PyObject *value, const char **name)
{
    Py_ssize_t length;
    if (!given(value))
        return 0;
    if (!PyUnicode_Check(value))
        return percpu_py_reject(PyExc_TypeError, "name", value, "a str or None");
    if (PyUnicode_IS_ASCII(value)) {
        *name = PyUnicode_AsUTF8AndSize(value, &length);
        if (*name == NULL)
            return -1;
        if (strlen(*name) == (size_t)length && name_is_good(*name))
            return 0;
    }
    return percpu_py_reject(PyExc_ValueError, "name", value,
                            "1 to 63 printable ASCII characters, none of [ ] \\ $ `");
}

static int cpus_argument(PyObject *value, struct percpu_pool_attr *attr)
{
    uint64_t cpus = attr->global ? 1 : percpu_nr_cpus();
    if (given(value) && percpu_py_size(value, "cpus",
                                       attr->global ? " (Linux's limit)"
                                                    : " (this machine's CPUs and Linux's limit)",
                                       cpus, PERCPU_MAX_CPUS, &cpus) != 0)
        return -1;
    attr->cpus = (unsigned)cpus;
    return 0;
}

/* groups of them ------------------------------------------------------------------------------ */

static int parse_kind(PyObject *const *values, struct percpu_pool_attr *attr)
{
    bool init, cid;
    if (choice_argument(values[POPULATE], "populate", "zero", "init", &init) != 0 ||
        choice_argument(values[INDEX], "index", "cpu", "cid", &cid) != 0 ||
        choice_argument(values[SCOPE], "scope", "percpu", "global", &attr->global) != 0)
        return -1;
    attr->populate = init ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO;
    attr->index = cid ? PERCPU_INDEX_CID : PERCPU_INDEX_CPU;
    return 0;
}

static int parse_sizes(PyObject *const *values, struct percpu_pool_attr *attr)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (percpu_py_size(values[ITEM_SIZE], "item_size", " bytes", 1, MAX_STRIDE, &attr->item_size) !=
        0)
        return -1;
    if (given(values[STRIDE]) && percpu_py_power_of_two(values[STRIDE], "stride", " bytes", page,
                                                        MAX_STRIDE, &attr->stride) != 0)
        return -1;
    if (values[MAX_RANGES] != NULL &&
        percpu_py_size(values[MAX_RANGES], "max_ranges", " (0: no limit)", 0, SIZE_MAX / 2,
                       &attr->max_ranges) != 0)
        return -1;
    if (given(values[CACHE_BYTES]) && percpu_py_size(values[CACHE_BYTES], "cache_bytes", " bytes",
                                                     1, SIZE_MAX / 2, &attr->cache_bytes) != 0)
        return -1;
    return cpus_argument(values[CPUS], attr);
}

static int parse_checks(PyObject *const *values, struct percpu_py_pool_wishes *wishes)
{
    struct percpu_pool_attr *attr = &wishes->attr;
    wishes->guard_if_possible = !given(values[GUARD]);
    if (flag_argument(values[ROBUST], "robust", &attr->robust) != 0 ||
        flag_argument(values[NUMA], "numa", &attr->numa) != 0)
        return -1;
    if (wishes->guard_if_possible)
        attr->guard = attr->robust;
    else if (flag_argument(values[GUARD], "guard", &attr->guard) != 0)
        return -1;
    attr->poison_set = given(values[POISON]);
    if (attr->poison_set &&
        percpu_py_size(values[POISON], "poison", "", 0, UINT64_MAX, &attr->poison) != 0)
        return -1;
    return name_argument(values[NAME], &attr->name);
}

static int parse_construction(PyObject *const *values, struct percpu_py_pool_wishes *wishes)
{
    if (flag_argument(values[CONSTRUCTED], "constructed", &wishes->attr.constructed) != 0 ||
        callable_argument(values[CTOR], "ctor", &wishes->ctor) != 0 ||
        callable_argument(values[DTOR], "dtor", &wishes->dtor) != 0)
        return -1;
    if (wishes->ctor != NULL || wishes->dtor != NULL)
        wishes->attr.constructed = true;
    if (wishes->attr.constructed && wishes->attr.poison_set) {
        PyErr_SetString(PyExc_ValueError,
                        "poison must be None in a pool of constructed items: freed items keep what "
                        "is in them");
        return -1;
    }
    return 0;
}

/* What is left of the stride for an item: none if all of it is needed otherwise. */
static size_t room(const struct percpu_pool_attr *attr, size_t stride)
{
    size_t guard = attr->guard ? (size_t)sysconf(_SC_PAGESIZE) : 0;
    size_t taken = guard + (attr->robust ? REDZONE : 0);
    return stride > taken ? stride - taken : 0;
}

/* An item fits its stride, with what else has to be there. */
static int check_fit(struct percpu_py_pool_wishes *wishes)
{
    struct percpu_pool_attr *attr = &wishes->attr;
    size_t stride = attr->stride != 0 ? attr->stride : MAX_STRIDE;
    if (wishes->guard_if_possible && attr->item_size > room(attr, stride))
        attr->guard = false;
    if (attr->item_size <= room(attr, stride))
        return 0;
    if (room(attr, stride) == 0)
        PyErr_Format(PyExc_ValueError,
                     "stride must be at least two pages with a guard page, which is %zu, not %zu",
                     2 * (size_t)sysconf(_SC_PAGESIZE), stride);
    else if (!attr->guard && !attr->robust)
        PyErr_Format(PyExc_ValueError, "item_size must be at most stride, which is %zu, not %zu",
                     stride, attr->item_size);
    else
        PyErr_Format(PyExc_ValueError,
                     "item_size must be at most %zu with a stride of %zu%s%s, not %zu",
                     room(attr, stride), stride, attr->guard ? " that ends in a guard page" : "",
                     attr->robust ? " in a robust pool" : "", attr->item_size);
    return -1;
}

int percpu_py_pool_parse(PyObject *const *values, struct percpu_py_pool_wishes *wishes)
{
    *wishes = (struct percpu_py_pool_wishes){0};
    if (parse_kind(values, &wishes->attr) != 0 || parse_sizes(values, &wishes->attr) != 0 ||
        init_argument(values[INIT], wishes) != 0 || parse_checks(values, wishes) != 0 ||
        parse_construction(values, wishes) != 0)
        return -1;
    return check_fit(wishes);
}

void percpu_py_pool_forget_wishes(struct percpu_py_pool_wishes *wishes)
{
    if (wishes->init_bytes.obj != NULL)
        PyBuffer_Release(&wishes->init_bytes);
}

int percpu_py_pool_check_classes(const struct percpu_py_pool_wishes *wishes)
{
    const char *wrong = wishes->init != NULL || wishes->init_bytes.obj != NULL ? "init"
                        : wishes->ctor != NULL                                 ? "ctor"
                        : wishes->dtor != NULL                                 ? "dtor"
                        : wishes->attr.constructed                             ? "constructed"
                                                                               : NULL;
    if (wrong == NULL)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s is not for size classes: their items differ in size", wrong);
    return -1;
}

/* the argument `pool` of other types ------------------------------------------------------------ */

int percpu_py_pool_fits(struct percpu_py_pool *self, size_t size, size_t alignment,
                        const char *what)
{
    const struct percpu_pool_geometry *geometry = &self->geometry;
    if (geometry->global || geometry->constructed) {
        PyErr_Format(PyExc_ValueError, "pool must be one of %s for %s",
                     geometry->global ? "scope 'percpu', with a copy for each CPU,"
                                      : "items that are not constructed",
                     what);
        return -1;
    }
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
