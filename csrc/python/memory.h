/* SPDX-License-Identifier: MIT */
/* memory.h - the private type _Memory. */
#ifndef PERCPU_PYTHON_MEMORY_H
#define PERCPU_PYTHON_MEMORY_H

#include "module.h"

/* `length` zeros, as a writable buffer; `type` is any type of the module. NULL with an exception. */
PyObject *percpu_py_memory_new(PyTypeObject *type, size_t length);

/* They live as long as the object. */
char *percpu_py_memory_bytes(PyObject *memory);

#endif
