/* SPDX-License-Identifier: MIT */
/*
 * numbers.h - numbers out of a buffer: an array, a memoryview, a NumPy array, read where they are.
 *
 * They are taken a block at a time: each number is read once, and made 64 bits. What is looked at
 * afterwards is that copy, so another thread may write to the buffer meanwhile. No function here
 * but open and close needs the GIL.
 */
#ifndef PERCPU_PYTHON_NUMBERS_H
#define PERCPU_PYTHON_NUMBERS_H

#include "module.h"

/* The most numbers that are taken at once. */
#define PERCPU_PY_BLOCK 512

/* With fewer numbers than this it is not worth it to let go of the GIL. */
#define PERCPU_PY_MANY_NUMBERS 256

struct percpu_py_numbers {
    Py_buffer view;
    const char *address;
    Py_ssize_t stride;
    size_t count, width; /* width: bytes of one */
    char kind;           /* 'i', 'u', 'f': signed and unsigned integers, floats */
    bool swapped;        /* the bytes are in the other order */
};

/*
 * Open the argument `name`: a buffer of one dimension of the codes bBhHiIlLqQnN, and fd if `floats`,
 * of any strides and byte order, aligned or not. 0; -1 with TypeError, or ValueError for another
 * number of dimensions, and there is nothing to close.
 */
int percpu_py_numbers_open(struct percpu_py_numbers *numbers, PyObject *given, const char *name,
                           bool floats);
void percpu_py_numbers_close(struct percpu_py_numbers *numbers);

/* Numbers `first` and on, `count` of them, at most PERCPU_PY_BLOCK: integers modulo 2^64, or
 * anything as doubles. */
void percpu_py_numbers_integers(const struct percpu_py_numbers *numbers, size_t first, size_t count,
                                uint64_t *to);
void percpu_py_numbers_doubles(const struct percpu_py_numbers *numbers, size_t first, size_t count,
                               double *to);

/* All of them where they are, if they are doubles beside each other, as C has them; or NULL. */
const double *percpu_py_numbers_as_doubles(const struct percpu_py_numbers *numbers);

/* How many numbers the block that begins at `first` has. */
static inline size_t percpu_py_block(const struct percpu_py_numbers *numbers, size_t first)
{
    size_t left = numbers->count - first;
    return left < PERCPU_PY_BLOCK ? left : PERCPU_PY_BLOCK;
}

#endif
