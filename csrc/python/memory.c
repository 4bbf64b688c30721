/* SPDX-License-Identifier: MIT */
/*
 * memory.c - the private type _Memory: bytes of its own that Python code may keep views of. It
 * stands in for memory of a pool that may be gone before the last view is.
 */
#include "memory.h"

struct memory {
    PyObject_HEAD
    char *bytes;
    Py_ssize_t length;
};

static struct memory *as_memory(PyObject *op)
{
    return (struct memory *)op;
}

PyObject *percpu_py_memory_new(PyTypeObject *type, size_t length)
{
    struct percpu_py_state *state = percpu_py_state_of(type);
    if (state == NULL || state->memory_type == NULL)
        return PyErr_NoMemory();
    PyObject *memory = state->memory_type->tp_alloc(state->memory_type, 0);
    if (memory == NULL)
        return NULL;
    as_memory(memory)->length = (Py_ssize_t)length;
    as_memory(memory)->bytes = PyMem_RawCalloc(length, 1); /* what is never touched costs nothing */
    if (as_memory(memory)->bytes != NULL)
        return memory;
    Py_DECREF(memory);
    return PyErr_NoMemory();
}

char *percpu_py_memory_bytes(PyObject *op)
{
    return as_memory(op)->bytes;
}

static int memory_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, op, as_memory(op)->bytes, as_memory(op)->length, 0, flags);
}

static void memory_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyMem_RawFree(as_memory(op)->bytes);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(memory_doc, "What a memoryview that `init` was called with refers to. Private.");

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)memory_doc},
    PERCPU_PY_SLOT(Py_tp_dealloc, memory_dealloc),
    PERCPU_PY_SLOT(Py_bf_getbuffer, memory_getbuffer),
    {0, NULL},
};

static PyType_Spec memory_spec = {
    .name = "percpu._core._Memory",
    .basicsize = sizeof(struct memory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = memory_slots,
};

int percpu_py_add_memory(PyObject *module, struct percpu_py_state *state)
{
    state->memory_type = percpu_py_make_type(module, &memory_spec, NULL);
    return state->memory_type != NULL ? 0 : -1;
}
