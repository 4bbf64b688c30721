/* SPDX-License-Identifier: MIT */
/*
 * pool_sites.c - where in the program the items of a robust pool were allocated.
 *
 * `sites` has the address of each item that lives, with a pair of the code that allocated it and
 * the place in it, or None; in the order of the allocations, as dicts are. `former_sites` has the
 * same for items that were freed.
 */
#include "pool.h"

int percpu_py_sites_make(struct percpu_py_pool *self)
{
    self->sites = PyDict_New();
    self->former_sites = PyDict_New();
    return self->sites != NULL && self->former_sites != NULL ? 0 : -1;
}

/* The innermost frame of Python code. */
static PyObject *current_site(void)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame == NULL)
        return Py_NewRef(Py_None);
    PyObject *code = (PyObject *)PyFrame_GetCode(frame);
    PyObject *at = PyLong_FromLong(PyFrame_GetLasti(frame));
    PyObject *site = at != NULL ? PyTuple_Pack(2, code, at) : NULL;
    Py_XDECREF(at);
    Py_DECREF(code);
    Py_DECREF(frame);
    return site;
}

int percpu_py_sites_add(struct percpu_py_pool *self, const void *item)
{
    if (percpu_likely(self->sites == NULL))
        return 0;
    PyObject *key = PyLong_FromVoidPtr((void *)(uintptr_t)item), *site = current_site();
    int done = key != NULL && site != NULL ? PyDict_SetItem(self->sites, key, site) : -1;
    Py_XDECREF(key);
    Py_XDECREF(site);
    return done;
}

/* 0; -1 with an exception: MemoryError. Without memory the former site is lost, but what was freed
 * is no leak. */
static int retire(struct percpu_py_pool *self, PyObject *key)
{
    PyObject *site = percpu_py_dict_get(self->sites, key);
    if (site == NULL) /* closed before it was freed */
        return PyErr_Occurred() ? -1 : 0;
    if (PyDict_SetItem(self->former_sites, key, site) != 0)
        PyErr_Clear();
    Py_DECREF(site);
    if (PyDict_DelItem(self->sites, key) == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_KeyError))
        return -1;
    PyErr_Clear(); /* closed in another thread at the same time */
    return 0;
}

void percpu_py_sites_remove(struct percpu_py_pool *self, const void *item)
{
    if (percpu_likely(self->sites == NULL))
        return;
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *key = PyLong_FromVoidPtr((void *)(uintptr_t)item);
    if (key == NULL || retire(self, key) != 0)
        percpu_py_pool_unraisable(self);
    Py_XDECREF(key);
    PyErr_SetRaisedException(raised);
}

static PyObject *site_text(PyObject *site)
{
    if (site == Py_None)
        return Py_NewRef(Py_None);
    PyCodeObject *code = (PyCodeObject *)PyTuple_GET_ITEM(site, 0);
    int line = PyCode_Addr2Line(code, (int)PyLong_AsLong(PyTuple_GET_ITEM(site, 1)));
    return PyUnicode_FromFormat("%U:%d in %U", code->co_filename, line, code->co_qualname);
}

PyObject *percpu_py_sites_find(struct percpu_py_pool *self, const void *item)
{
    if (self->sites == NULL)
        return Py_NewRef(Py_None);
    PyObject *key = PyLong_FromVoidPtr((void *)(uintptr_t)item);
    PyObject *site = key != NULL ? percpu_py_dict_get(self->sites, key) : NULL;
    if (site == NULL && !PyErr_Occurred())
        site = percpu_py_dict_get(self->former_sites, key);
    Py_XDECREF(key);
    if (site == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    PyObject *text = site_text(site);
    Py_DECREF(site);
    return text;
}

size_t percpu_py_sites_count(struct percpu_py_pool *self, const void **first)
{
    PyObject *key = percpu_py_dict_first(self->sites);
    if (key == NULL)
        return 0;
    *first = PyLong_AsVoidPtr(key);
    Py_DECREF(key);
    return (size_t)PyDict_Size(self->sites);
}
