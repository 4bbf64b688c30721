/* SPDX-License-Identifier: MIT */
/*
 * pool_classes.c - _size_classes(): pools of several item sizes that share their ranges.
 */
#include "pool.h"

#include <errno.h>

#include <percpu/pool_set.h>

enum { MOST_CLASSES = 128 };

/* A list of PerCpuPool objects, which the memories go to. NULL with an exception, and they are
 * destroyed. */
static PyObject *wrap(PyTypeObject *type, const struct percpu_py_pool_wishes *wishes,
                      struct percpu_pool **memories, int count)
{
    PyObject *pools = PyList_New(count);
    int made = 0;
    for (; pools != NULL && made < count; made++) {
        struct percpu_py_pool *pool = percpu_py_pool_new(type, wishes);
        if (pool == NULL)
            Py_CLEAR(pools);
        if (pool == NULL)
            break;
        percpu_py_pool_open(pool, memories[made]);
        PyList_SET_ITEM(pools, made, (PyObject *)pool);
    }
    for (; made < count; made++)
        percpu_pool_destroy(memories[made]);
    return pools;
}

static PyObject *make(PyTypeObject *type, struct percpu_py_pool_wishes *wishes)
{
    struct percpu_pool *memories[MOST_CLASSES];
    struct percpu_pool_attr *attr = &wishes->attr;
    attr->report = attr->robust ? percpu_py_report : NULL;
    int count = percpu_pool_create_classes(attr, memories, MOST_CLASSES);
    if (count < 0 && errno == ENOTSUP && wishes->guard_if_possible && attr->guard &&
        percpu_index_check(attr->index) == 0) {
        attr->guard = false;
        count = percpu_pool_create_classes(attr, memories, MOST_CLASSES);
    }
    if (count < 0) {
        percpu_py_pool_raise_not_made(type, attr, errno);
        return NULL;
    }
    return wrap(type, wishes, memories, count);
}

PyDoc_STRVAR(
    size_classes_doc,
    "_size_classes(item_size, **attributes)\n--\n\n"
    "Return a list of pools that share their ranges: the size classes up to item_size, in\n"
    "order of size. For percpu.PerCpuPoolSet.");

static PyObject *size_classes(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    struct percpu_py_state *state = PyModule_GetState(module);
    struct percpu_py_pool_wishes wishes;
    PyObject *values[PERCPU_PY_MAX_PARAMETERS], *pools = NULL;
    if (percpu_py_match_vector(&percpu_py_classes_signature, args, (size_t)nargs, kwnames,
                               values) != 0)
        return NULL;
    if (percpu_py_pool_parse(values, &wishes) == 0 && percpu_py_pool_check_classes(&wishes) == 0)
        pools = make(state->pool_type, &wishes);
    percpu_py_pool_forget_wishes(&wishes);
    return pools;
}

static PyMethodDef functions[] = {
    {"_size_classes", (PyCFunction)(void (*)(void))size_classes, METH_FASTCALL | METH_KEYWORDS,
     size_classes_doc},
    {NULL, NULL, 0, NULL},
};

int percpu_py_add_classes(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
