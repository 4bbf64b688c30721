/* SPDX-License-Identifier: MIT */
/*
 * histogram_many.c - the methods of PerCpuHistogram that take many numbers at a time.
 *
 * Values come from a buffer, a block at a time: a block is copied, each value once, and made
 * doubles; what is looked at afterwards is the copy. So another thread may write the buffer
 * meanwhile: every value is one that was there, it is found finite before it gets a bucket, and
 * nothing is counted before all values were seen.
 */
#include "histogram.h"

#include <string.h>

enum { BLOCK = 512 };

/* numbers of a buffer ------------------------------------------------------------------------ */

/* Make doubles of `count` numbers of one type that are `stride` bytes apart, aligned or not. */
typedef void convert(const char *from, Py_ssize_t stride, size_t count, double *to);

#define CONVERT(name, T)                                                                           \
    static void from_##name(const char *from, Py_ssize_t stride, size_t count, double *to)         \
    {                                                                                              \
        for (size_t i = 0; i < count; i++, from += stride) {                                       \
            T value;                                                                               \
            memcpy(&value, from, sizeof value);                                                    \
            to[i] = (double)value;                                                                 \
        }                                                                                          \
    }

CONVERT(f64, double)
CONVERT(f32, float)
CONVERT(i8, int8_t)
CONVERT(u8, uint8_t)
CONVERT(i16, int16_t)
CONVERT(u16, uint16_t)
CONVERT(i32, int32_t)
CONVERT(u32, uint32_t)
CONVERT(i64, int64_t)
CONVERT(u64, uint64_t)
#undef CONVERT

/* What the buffer holds. */
struct numbers {
    const char *address;
    Py_ssize_t stride;
    size_t count, itemsize;
    convert *convert;
    bool swapped; /* the bytes are in the other order */
};

static convert *integers(size_t itemsize, bool is_signed)
{
    switch (itemsize) {
    case 1:
        return is_signed ? from_i8 : from_u8;
    case 2:
        return is_signed ? from_i16 : from_u16;
    case 4:
        return is_signed ? from_i32 : from_u32;
    case 8:
        return is_signed ? from_i64 : from_u64;
    default:
        return NULL;
    }
}

/* How a number of that format is read; NULL: not at all. Whoever exports the buffer says how large
 * an item is, so that decides: 'l' has 4 bytes or 8. */
static convert *convert_of(char code, size_t itemsize)
{
    switch (code) {
    case 'd':
        return itemsize == sizeof(double) ? from_f64 : NULL;
    case 'f':
        return itemsize == sizeof(float) ? from_f32 : NULL;
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n':
        return integers(itemsize, true);
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N':
        return integers(itemsize, false);
    default:
        return NULL;
    }
}

/* 0; -1 with TypeError or ValueError. */
static int understand(PyObject *values, const Py_buffer *view, struct numbers *numbers)
{
    const char *format = view->format != NULL ? view->format : "B";
    const char *code = format + (*format != '\0' && strchr("@=<>!", *format) != NULL);
    numbers->swapped = *format == '>' || *format == '!';
    numbers->itemsize = (size_t)view->itemsize;
    numbers->convert = *code != '\0' && code[1] == '\0' ? convert_of(*code, numbers->itemsize)
                                                        : NULL;
    if (numbers->convert == NULL)
        return percpu_py_reject(PyExc_TypeError, "values", values,
                                "a buffer of floats or ints (a code of dfbBhHiIlLqQ), not of '%s'",
                                format);
    if (view->ndim != 1) {
        PyErr_Format(PyExc_ValueError, "values must have one dimension, not %d", view->ndim);
        return -1;
    }
    numbers->address = view->buf;
    numbers->count = (size_t)(view->shape != NULL ? view->shape[0] : view->len / view->itemsize);
    numbers->stride = view->strides != NULL ? view->strides[0] : view->itemsize;
    return 0;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "'>' is the other order");

/* Copy `count` items, the bytes of each in reverse. */
static void swap(const char *from, Py_ssize_t stride, size_t count, size_t itemsize, char *to)
{
    for (; count > 0; count--, from += stride, to += itemsize)
        for (size_t byte = 0; byte < itemsize; byte++)
            to[byte] = from[itemsize - 1 - byte];
}

static void get_block(const struct numbers *numbers, size_t first, size_t count, double *to)
{
    const char *from = numbers->address + (Py_ssize_t)first * numbers->stride;
    Py_ssize_t stride = numbers->stride;
    char swapped[BLOCK * sizeof(uint64_t)];
    if (numbers->swapped) {
        swap(from, stride, count, numbers->itemsize, swapped);
        from = swapped;
        stride = (Py_ssize_t)numbers->itemsize;
    }
    if (numbers->convert == from_f64 && stride == (Py_ssize_t)sizeof(double))
        memcpy(to, from, count * sizeof *to);
    else
        numbers->convert(from, stride, count, to);
    /* The compiler is not to look at the buffer again instead of the copy. */
    __asm__ __volatile__("" : : "r"(to) : "memory");
}

/* Collect all; whether all are finite. If not, `*place` and `*value` are the first that is not. */
static bool collect(struct percpu_histogram_batch *batch, const struct numbers *numbers,
                    size_t *place, double *value)
{
    double block[BLOCK];
    for (size_t done = 0, count; done < numbers->count; done += count) {
        count = numbers->count - done < BLOCK ? numbers->count - done : BLOCK;
        get_block(numbers, done, count, block);
        size_t taken = percpu_histogram_batch_add(batch, block, count);
        if (taken < count) {
            *place = done + taken;
            *value = block[taken];
            return false;
        }
    }
    return true;
}

/* observe_many ------------------------------------------------------------------------------- */

const char percpu_py_histogram_observe_many_doc[] = PyDoc_STR(
    "observe_many($self, values, /)\n--\n\n"
    "Count all of `values`: an array, or any other buffer of one dimension, of floats or ints.\n\n"
    "A NumPy array is read where it is, whatever its strides and byte order; other threads may\n"
    "run meanwhile. Ints of 64 bits are rounded to floats. All values are looked at before any\n"
    "is counted, on one CPU: raises :exc:`ValueError`, naming the place, and counts nothing, if\n"
    "one is NaN or infinite.");

static PyObject *reject_value(size_t place, double value)
{
    char name[40];
    PyOS_snprintf(name, sizeof name, "values[%zu]", place);
    PyObject *number = PyFloat_FromDouble(value);
    if (number != NULL)
        percpu_py_reject(PyExc_ValueError, name, number, "finite");
    Py_XDECREF(number);
    return NULL;
}

static PyObject *observe_all(struct percpu_py_histogram *self, const struct numbers *numbers)
{
    struct percpu_histogram_batch batch;
    size_t place = 0;
    double value = 0;
    bool finite;
    if (percpu_histogram_batch_begin(&batch, &self->histogram) != 0)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    finite = collect(&batch, numbers, &place, &value);
    if (finite)
        percpu_histogram_batch_commit(&batch);
    Py_END_ALLOW_THREADS
    percpu_histogram_batch_end(&batch);
    return finite ? Py_NewRef(Py_None) : reject_value(place, value);
}

PyObject *percpu_py_histogram_observe_many(PyObject *op, PyObject *values)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    Py_buffer view;
    struct numbers numbers;
    if (!percpu_py_histogram_usable(self))
        return NULL;
    if (!PyObject_CheckBuffer(values)) {
        percpu_py_reject(PyExc_TypeError, "values", values,
                         "a buffer, such as an array of the array module or of NumPy");
        return NULL;
    }
    if (PyObject_GetBuffer(values, &view, PyBUF_RECORDS_RO) != 0)
        return NULL;
    PyObject *done = NULL;
    if (understand(values, &view, &numbers) == 0 &&
        percpu_py_histogram_usable(self)) /* a __buffer__ may have closed it */
        done = observe_all(self, &numbers);
    PyBuffer_Release(&view);
    return done;
}

/* merge -------------------------------------------------------------------------------------- */

const char percpu_py_histogram_merge_doc[] = PyDoc_STR(
    "merge($self, other, /)\n--\n\n"
    "Add the observations of `other`, a histogram or a :class:`HistogramSnapshot`, on this CPU.\n\n"
    "Raises :exc:`ValueError`, and adds nothing, if it has other buckets, or a sum that is NaN\n"
    "or infinite.");

static bool is_finite_sum(double sum)
{
    if (percpu_histogram_accepts(sum))
        return true;
    PyObject *number = PyFloat_FromDouble(sum);
    if (number != NULL)
        percpu_py_reject(PyExc_ValueError, "the sum of other", number, "finite");
    Py_XDECREF(number);
    return false;
}

static PyObject *raise_not_alike(void)
{
    PyErr_SetString(PyExc_ValueError, "other must have the same buckets as this histogram");
    return NULL;
}

static PyObject *merge_histogram(struct percpu_py_histogram *self,
                                 struct percpu_py_histogram *other, uint64_t *counts)
{
    double sum;
    if (!percpu_py_histogram_usable(other))
        return NULL;
    if (!percpu_histogram_alike(&self->histogram, &other->histogram))
        return raise_not_alike();
    percpu_histogram_read(&other->histogram, counts, &sum);
    if (!is_finite_sum(sum))
        return NULL;
    percpu_histogram_merge(&self->histogram, counts, sum);
    Py_RETURN_NONE;
}

/* 1: the snapshot has our buckets; 0: others; -1 with an exception. */
static int is_alike(PyObject *op, PyObject *snapshot)
{
    PyObject *layout = PyObject_GetAttrString(op, "layout");
    PyObject *bounds = percpu_py_histogram_bounds(op, NULL);
    PyObject *its_layout = PyObject_GetAttrString(snapshot, "layout");
    PyObject *its_bounds = PyObject_GetAttrString(snapshot, "bounds");
    int alike = -1;
    if (layout != NULL && bounds != NULL && its_layout != NULL && its_bounds != NULL)
        alike = PyObject_RichCompareBool(layout, its_layout, Py_EQ);
    if (alike == 1)
        alike = PyObject_RichCompareBool(bounds, its_bounds, Py_EQ);
    Py_XDECREF(layout);
    Py_XDECREF(bounds);
    Py_XDECREF(its_layout);
    Py_XDECREF(its_bounds);
    return alike;
}

/* 0; -1 with an exception. */
static int get_counts(const struct percpu_histogram *histogram, PyObject *snapshot,
                      uint64_t *counts)
{
    PyObject *sequence = PyObject_GetAttrString(snapshot, "counts");
    PyObject *tuple = sequence != NULL ? PySequence_Tuple(sequence) : NULL;
    Py_XDECREF(sequence);
    if (tuple == NULL)
        return -1;
    int got = 0;
    if ((size_t)PyTuple_GET_SIZE(tuple) != histogram->buckets) {
        raise_not_alike();
        got = -1;
    }
    for (size_t i = 0; got == 0 && i < histogram->buckets; i++)
        got = percpu_py_bits(PyTuple_GET_ITEM(tuple, (Py_ssize_t)i), "counts", "", 0, INT64_MAX,
                             &counts[i]);
    Py_DECREF(tuple);
    return got;
}

static PyObject *merge_snapshot(PyObject *op, PyObject *snapshot, uint64_t *counts)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    double sum;
    int alike = is_alike(op, snapshot);
    if (alike <= 0)
        return alike == 0 ? raise_not_alike() : NULL;
    if (get_counts(&self->histogram, snapshot, counts) != 0)
        return NULL;
    PyObject *number = PyObject_GetAttrString(snapshot, "sum");
    int got = number != NULL ? percpu_py_double(number, "the sum of other", &sum) : -1;
    Py_XDECREF(number);
    if (got != 0 || !is_finite_sum(sum) || !percpu_py_histogram_usable(self))
        return NULL;
    percpu_histogram_merge(&self->histogram, counts, sum);
    Py_RETURN_NONE;
}

/* 1: `other` is a HistogramSnapshot; 0; -1 with an exception. */
static int is_snapshot(PyObject *other)
{
    PyObject *module = PyImport_ImportModule("percpu._histogram");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "HistogramSnapshot") : NULL;
    int is = type != NULL ? PyObject_IsInstance(other, type) : -1;
    Py_XDECREF(module);
    Py_XDECREF(type);
    return is;
}

PyObject *percpu_py_histogram_merge(PyObject *op, PyObject *other)
{
    struct percpu_py_histogram *self = percpu_py_as_histogram(op);
    struct percpu_py_state *state = percpu_py_state_of(Py_TYPE(op));
    if (!percpu_py_histogram_usable(self))
        return NULL;
    bool both = state != NULL && state->histogram_type != NULL &&
                PyObject_TypeCheck(other, state->histogram_type);
    int snapshot = both ? 0 : is_snapshot(other);
    if (!both && snapshot <= 0) {
        if (snapshot == 0)
            percpu_py_reject(PyExc_TypeError, "other", other,
                             "a PerCpuHistogram or a HistogramSnapshot");
        return NULL;
    }
    uint64_t *counts = PyMem_RawMalloc(self->histogram.buckets * sizeof *counts);
    if (counts == NULL)
        return PyErr_NoMemory();
    PyObject *done = both ? merge_histogram(self, percpu_py_as_histogram(other), counts)
                          : merge_snapshot(op, other, counts);
    PyMem_RawFree(counts);
    return done;
}
