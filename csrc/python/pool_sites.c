/* SPDX-License-Identifier: MIT */
/*
 * pool_sites.c - where in the program the items of a robust pool were allocated: `sites` for those
 * that live, `former_sites` for those that were freed.
 */
#include "pool.h"

/* The innermost Python code that runs. */
static struct percpu_py_place current_place(void)
{
    struct percpu_py_place place = {NULL, 0};
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame != NULL) {
        place.code = (PyObject *)PyFrame_GetCode(frame);
        place.offset = PyFrame_GetLasti(frame);
        Py_DECREF(frame);
    }
    return place;
}

int percpu_py_sites_add(struct percpu_py_pool *self, const void *item)
{
    if (percpu_likely(!self->geometry.robust))
        return 0;
    return percpu_py_addresses_add(&self->sites, item, current_place()) < 0 ? -1 : 0;
}

void percpu_py_sites_remove(struct percpu_py_pool *self, const void *item)
{
    enum { ENOUGH = 65536 };
    struct percpu_py_place place;
    if (percpu_likely(!self->geometry.robust) ||
        !percpu_py_addresses_take(&self->sites, item, &place))
        return; /* or closed before it was freed */
    PyObject *raised = PyErr_GetRaisedException();
    Py_ssize_t count = percpu_py_addresses_add(&self->former_sites, item, place);
    if (count < 0)
        PyErr_Clear(); /* then nobody knows where it was allocated */
    else if (count > ENOUGH)
        percpu_py_addresses_clear(&self->former_sites);
    PyErr_SetRaisedException(raised);
}

PyObject *percpu_py_sites_find(struct percpu_py_pool *self, const void *item)
{
    struct percpu_py_place place = {NULL, 0};
    if (!percpu_py_addresses_find(&self->sites, item, &place))
        percpu_py_addresses_find(&self->former_sites, item, &place);
    if (place.code == NULL)
        return Py_NewRef(Py_None);
    PyCodeObject *code = (PyCodeObject *)place.code;
    PyObject *text = PyUnicode_FromFormat("%U:%d in %U", code->co_filename,
                                          PyCode_Addr2Line(code, place.offset), code->co_qualname);
    Py_DECREF(code);
    return text;
}
