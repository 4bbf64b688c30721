/* SPDX-License-Identifier: MIT */
/* numbers.c - numbers out of a buffer. */
#include "numbers.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "'>' is the other byte order");

/* The kind of a format's one letter, 0 of none that we take. Whoever exports the buffer says how
 * large an item is, so that decides: 'l' has 4 bytes or 8. */
static char kind_of(char letter, Py_ssize_t width, bool floats)
{
    bool whole = width == 1 || width == 2 || width == 4 || width == 8;
    if (letter != '\0' && strchr("bhilqn", letter) != NULL)
        return whole ? 'i' : '\0';
    if (letter != '\0' && strchr("BHILQN", letter) != NULL)
        return whole ? 'u' : '\0';
    return floats && ((letter == 'd' && width == 8) || (letter == 'f' && width == 4)) ? 'f' : '\0';
}

int percpu_py_numbers_open(struct percpu_py_numbers *numbers, PyObject *given, const char *name,
                           bool floats)
{
    if (!PyObject_CheckBuffer(given))
        return percpu_py_reject(PyExc_TypeError, name, given,
                                "a buffer of %s, such as an array of the array module or of NumPy",
                                floats ? "floats or ints" : "ints");
    Py_buffer *view = &numbers->view;
    if (PyObject_GetBuffer(given, view, PyBUF_RECORDS_RO) != 0)
        return -1;
    const char *format = view->format != NULL ? view->format : "B";
    const char *letter = format + (*format != '\0' && strchr("@=<>!", *format) != NULL);
    numbers->kind = '\0';
    if (letter[0] != '\0' && letter[1] == '\0')
        numbers->kind = kind_of(*letter, view->itemsize, floats);
    if (numbers->kind != '\0' && view->ndim == 1) {
        numbers->address = view->buf;
        numbers->stride = view->strides[0];
        numbers->count = (size_t)view->shape[0];
        numbers->width = (size_t)view->itemsize;
        numbers->swapped = *format == '>' || *format == '!';
        return 0;
    }
    if (numbers->kind == '\0')
        PyErr_Format(PyExc_TypeError, "%s must be a buffer of %s, not of format '%s'", name,
                     floats ? "floats or ints (codes bBhHiIlLqQfd)" : "ints (codes bBhHiIlLqQ)",
                     format);
    else
        PyErr_Format(PyExc_ValueError, "%s must have 1 dimension, not %d", name, view->ndim);
    PyBuffer_Release(view);
    return -1;
}

void percpu_py_numbers_close(struct percpu_py_numbers *numbers)
{
    PyBuffer_Release(&numbers->view);
}

/* `count` numbers of T that are `stride` bytes apart, aligned or not, as TO. */
#define CONVERT(name, T, TO)                                                                       \
    static void convert_##name(const char *from, Py_ssize_t stride, size_t count, TO *to)          \
    {                                                                                              \
        for (size_t i = 0; i < count; i++, from += stride) {                                       \
            T number;                                                                              \
            memcpy(&number, from, sizeof number);                                                  \
            to[i] = (TO)number;                                                                    \
        }                                                                                          \
    }

#define INTEGERS(TO, suffix)                                                                       \
    CONVERT(i1##suffix, int8_t, TO)                                                                \
    CONVERT(u1##suffix, uint8_t, TO)                                                               \
    CONVERT(i2##suffix, int16_t, TO)                                                               \
    CONVERT(u2##suffix, uint16_t, TO)                                                              \
    CONVERT(i4##suffix, int32_t, TO)                                                               \
    CONVERT(u4##suffix, uint32_t, TO)                                                              \
    CONVERT(i8##suffix, int64_t, TO)                                                               \
    CONVERT(u8##suffix, uint64_t, TO)                                                              \
    static void convert_integers##suffix(const struct percpu_py_numbers *numbers,                  \
                                         const char *from, Py_ssize_t stride, size_t count,        \
                                         TO *to)                                                   \
    {                                                                                              \
        bool is_signed = numbers->kind == 'i';                                                     \
        switch (numbers->width) {                                                                  \
        case 1:                                                                                    \
            (is_signed ? convert_i1##suffix : convert_u1##suffix)(from, stride, count, to);        \
            break;                                                                                 \
        case 2:                                                                                    \
            (is_signed ? convert_i2##suffix : convert_u2##suffix)(from, stride, count, to);        \
            break;                                                                                 \
        case 4:                                                                                    \
            (is_signed ? convert_i4##suffix : convert_u4##suffix)(from, stride, count, to);        \
            break;                                                                                 \
        default:                                                                                   \
            (is_signed ? convert_i8##suffix : convert_u8##suffix)(from, stride, count, to);        \
        }                                                                                          \
    }

INTEGERS(uint64_t, )
INTEGERS(double, _as_double)
CONVERT(f4, float, double)
CONVERT(f8, double, double)

/* The block's numbers in this machine's byte order: where they are, or copied to `room`. */
static const char *in_our_order(const struct percpu_py_numbers *numbers, size_t first, size_t count,
                                Py_ssize_t *stride, char *room)
{
    const char *from = numbers->address + (Py_ssize_t)first * numbers->stride;
    *stride = numbers->stride;
    if (!numbers->swapped || numbers->width == 1)
        return from;
    char *to = room;
    for (size_t i = 0; i < count; i++, from += numbers->stride, to += numbers->width)
        for (size_t byte = 0; byte < numbers->width; byte++)
            to[byte] = from[numbers->width - 1 - byte];
    *stride = (Py_ssize_t)numbers->width;
    return room;
}

/* The compiler is not to look at the buffer again instead of the copy. */
static void keep_copy(void *to)
{
    __asm__ __volatile__("" : : "r"(to) : "memory");
}

void percpu_py_numbers_integers(const struct percpu_py_numbers *numbers, size_t first, size_t count,
                                uint64_t *to)
{
    char room[PERCPU_PY_BLOCK * sizeof(uint64_t)];
    Py_ssize_t stride;
    const char *from = in_our_order(numbers, first, count, &stride, room);
    convert_integers(numbers, from, stride, count, to);
    keep_copy(to);
}

void percpu_py_numbers_doubles(const struct percpu_py_numbers *numbers, size_t first, size_t count,
                               double *to)
{
    char room[PERCPU_PY_BLOCK * sizeof(uint64_t)];
    Py_ssize_t stride;
    const char *from = in_our_order(numbers, first, count, &stride, room);
    if (numbers->kind != 'f')
        convert_integers_as_double(numbers, from, stride, count, to);
    else if (numbers->width == sizeof(float))
        convert_f4(from, stride, count, to);
    else if (stride == (Py_ssize_t)sizeof(double))
        memcpy(to, from, count * sizeof *to);
    else
        convert_f8(from, stride, count, to);
    keep_copy(to);
}

const double *percpu_py_numbers_as_doubles(const struct percpu_py_numbers *numbers)
{
    bool as_they_are = numbers->kind == 'f' && numbers->width == sizeof(double) &&
                       !numbers->swapped && numbers->stride == (Py_ssize_t)sizeof(double) &&
                       (uintptr_t)numbers->address % _Alignof(double) == 0;
    return as_they_are ? (const double *)(const void *)numbers->address : NULL;
}
