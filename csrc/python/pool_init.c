/* SPDX-License-Identifier: MIT */
/*
 * pool_init.c - the callable `init` of a pool: it is run for each CPU of each new range.
 *
 * It gets bytes of their own, zeros as those of the range are, and what it has written is then
 * copied to the range: a view that it keeps may outlive the range, which the pool may unmap at any
 * time. Pages that hold nothing but zeros are left alone, so that they cost nothing.
 */
#include "memory.h"
#include "pool.h"

#include <errno.h>
#include <string.h>

/* What lies between the items of a robust pool must stay zero. */
static void clear_gaps(const struct percpu_pool_geometry *geometry, char *bytes, size_t length)
{
    size_t end = geometry->item_size;
    for (size_t i = 1; i < geometry->capacity; i++, end += geometry->slot_size)
        memset(bytes + end, 0, geometry->slot_size - geometry->item_size);
    memset(bytes + end, 0, length - end);
}

static bool is_zero(const char *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static void copy(const char *bytes, char *memory, size_t length)
{
    enum { PIECE = 4096 }; /* divides the size of a page, and `length` */
    for (size_t at = 0; at < length; at += PIECE)
        if (!is_zero(bytes + at, PIECE))
            memcpy(memory + at, bytes + at, PIECE);
}

static int call(PyObject *init, PyObject *memory, int cpu)
{
    PyObject *id = cpu >= 0 ? PyLong_FromLong(cpu) : Py_NewRef(Py_None);
    PyObject *view = id != NULL ? PyMemoryView_FromObject(memory) : NULL;
    PyObject *result = NULL;
    if (view != NULL && percpu_py_call_deeper() == 0) {
        result = PyObject_CallFunctionObjArgs(init, id, view, NULL);
        percpu_py_call_shallower();
    }
    Py_XDECREF(view);
    Py_XDECREF(id);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static int run(struct percpu_py_pool *self, char *memory, size_t length, int cpu)
{
    PyObject *own = percpu_py_memory_new(Py_TYPE(self), length);
    int done = own != NULL ? call(self->init, own, cpu) : -1;
    if (done == 0) {
        if (self->geometry.robust)
            clear_gaps(&self->geometry, percpu_py_memory_bytes(own), length);
        copy(percpu_py_memory_bytes(own), memory, length);
    }
    Py_XDECREF(own);
    return done;
}

int percpu_py_range_init(void *pool, void *memory, size_t length, int cpu)
{
    struct percpu_py_call *call = percpu_py_call_back(pool);
    int done = -1;
    if (call != NULL) {
        done = run(pool, memory, length, cpu);
        percpu_py_call_resume(call);
    }
    if (done != 0)
        errno = ECANCELED; /* percpu_py_call_leave() knows the reason */
    return done;
}
