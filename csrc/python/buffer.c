/* SPDX-License-Identifier: MIT */
/*
 * buffer.c - the buffer protocol for arrays with strides. Copies of different CPUs are a stride
 * apart, so who asks for contiguous memory is told that there is none.
 */
#include "module.h"

/* Does a consumer that asks with `flags` understand `view`? NULL, or what it must ask for. */
static const char *what_is_missing(const Py_buffer *view, int flags)
{
    bool rows = PyBuffer_IsContiguous(view, 'C'), columns = PyBuffer_IsContiguous(view, 'F');
    if ((flags & PyBUF_C_CONTIGUOUS) == PyBUF_C_CONTIGUOUS && !rows)
        return "the copies of the CPUs are not C-contiguous";
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && !columns)
        return "the copies of the CPUs are not Fortran-contiguous";
    if ((flags & PyBUF_ANY_CONTIGUOUS) == PyBUF_ANY_CONTIGUOUS && !rows && !columns)
        return "the copies of the CPUs are not contiguous";
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES && !rows)
        return "the copies of the CPUs are a stride apart, so ask for strides "
               "(memoryview and numpy.asarray do)";
    return NULL;
}

int percpu_py_fill_view(Py_buffer *view, PyObject *exporter, const struct percpu_py_array *array,
                        int flags)
{
    Py_ssize_t elements = 1;
    for (int i = 0; i < array->ndim; i++)
        elements *= array->shape[i];
    *view = (Py_buffer){
        .buf = array->address,
        .len = elements * array->itemsize,
        .itemsize = array->itemsize,
        .readonly = 0,
        .ndim = array->ndim,
        .format = (char *)array->format,
        .shape = array->shape,
        .strides = array->strides,
    };
    const char *missing = what_is_missing(view, flags);
    if (missing != NULL) {
        PyErr_SetString(PyExc_BufferError, missing);
        return -1; /* view->obj is NULL, as it must be */
    }
    if ((flags & PyBUF_FORMAT) == 0)
        view->format = NULL;
    if ((flags & PyBUF_ND) == 0) { /* one dimension of bytes, to this consumer */
        view->shape = NULL;
        view->ndim = 1;
    }
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES)
        view->strides = NULL;
    view->obj = Py_NewRef(exporter);
    return 0;
}
