/* SPDX-License-Identifier: MIT */
/*
 * module.c - the module percpu._core: its state, its slots, and how its types are made.
 */
#include "module.h"

#include <percpu/rseq.h>

const uint8_t percpu_py_open = 0;
const uint8_t percpu_py_shut = 1;

struct percpu_py_state *percpu_py_state_of(PyTypeObject *type)
{
    if (type->tp_mro == NULL) /* PyType_GetModuleByDef() relies on it */
        return NULL;
    PyObject *module = PyType_GetModuleByDef(type, &percpu_py_module);
    if (module == NULL) {
        PyErr_Clear();
        return NULL;
    }
    return PyModule_GetState(module);
}

PyTypeObject *percpu_py_make_type(PyObject *module, PyType_Spec *spec, vectorcallfunc vectorcall)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL)
        type->tp_vectorcall = vectorcall; /* a slot only since 3.14; subclasses do not inherit it */
    return type;
}

static int check_environment(void)
{
    const char *value = percpu_rseq_info()->bad_environment;
    if (value == NULL)
        return 0;
    PyErr_Format(PyExc_ImportError,
                 "the environment variable PERCPU_RSEQ must be glibc, own or none, not '%s'",
                 value);
    return -1;
}

static int (*const add_types[])(PyObject *module, struct percpu_py_state *state) = {
    /* clang-format off */
    percpu_py_add_errors, /* first: the others raise them */
    percpu_py_add_pool,
    percpu_py_add_item,
    percpu_py_add_copy,
    percpu_py_add_memory,
    percpu_py_add_records,
    percpu_py_add_var,
    percpu_py_add_counter,
    percpu_py_add_limiter,
    percpu_py_add_freelist,
    percpu_py_add_histogram,
    percpu_py_add_ref,
    percpu_py_add_stats,
    percpu_py_add_stat,
    /* clang-format on */
};

static int module_exec(PyObject *module)
{
    struct percpu_py_state *state = PyModule_GetState(module);
    if (check_environment() != 0)
        return -1;
    for (size_t i = 0; i < sizeof add_types / sizeof *add_types; i++)
        if (add_types[i](module, state) != 0)
            return -1;
    if (percpu_py_add_noop(module) != 0 || percpu_py_add_cpu(module) != 0 ||
        percpu_py_add_race(module) != 0 || percpu_py_add_classes(module) != 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct percpu_py_state *state = PyModule_GetState(module);
    Py_VISIT(state->pool_type);
    Py_VISIT(state->item_type);
    Py_VISIT(state->copy_type);
    Py_VISIT(state->memory_type);
    Py_VISIT(state->records_type);
    Py_VISIT(state->var_type);
    Py_VISIT(state->counter_type);
    Py_VISIT(state->limiter_type);
    Py_VISIT(state->freelist_type);
    Py_VISIT(state->stats_type);
    Py_VISIT(state->stat_type);
    Py_VISIT(state->histogram_type);
    Py_VISIT(state->ref_type);
    Py_VISIT(state->pool_exhausted);
    Py_VISIT(state->corruption_error);
    Py_VISIT(state->closed_error);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct percpu_py_state *state = PyModule_GetState(module);
    Py_CLEAR(state->pool_type);
    Py_CLEAR(state->item_type);
    Py_CLEAR(state->copy_type);
    Py_CLEAR(state->memory_type);
    Py_CLEAR(state->records_type);
    Py_CLEAR(state->var_type);
    Py_CLEAR(state->counter_type);
    Py_CLEAR(state->limiter_type);
    Py_CLEAR(state->freelist_type);
    Py_CLEAR(state->stats_type);
    Py_CLEAR(state->stat_type);
    Py_CLEAR(state->histogram_type);
    Py_CLEAR(state->ref_type);
    Py_CLEAR(state->pool_exhausted);
    Py_CLEAR(state->corruption_error);
    Py_CLEAR(state->closed_error);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    PERCPU_PY_SLOT(Py_mod_exec, module_exec),
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The C core of percpu, and its types. Import percpu instead.");

struct PyModuleDef percpu_py_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "percpu._core",
    .m_doc = module_doc,
    .m_size = sizeof(struct percpu_py_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&percpu_py_module);
}
