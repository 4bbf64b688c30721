/* SPDX-License-Identifier: MIT */
/*
 * module.h - what the files of the extension share: the module's state, errors, arguments,
 * conversions, buffers. Each type is in a file of its own, with its slots static.
 *
 * Life and closing. There are no locks: what threads share is a few atomic words, so threads do not
 * wait for each other and a forked child finds nothing locked. Memory that operations touch is
 * given back in dealloc alone: whoever calls a method holds a reference, so no operation can meet
 * memory that has a new owner, with or without the GIL. close() only sets a flag. An object does
 * not own that flag: `closed` points to one of
 *
 *      percpu_py_open             not made in a PerCpuPool; nobody closed it
 *      the flag of its PerCpuPool closing the pool closes everything made in it, at once
 *      percpu_py_shut             closed by itself; or not finished being made
 *
 * so one load and one branch that is always predicted ask both questions. All is relaxed: the flag
 * guards no memory, it only turns later calls away.
 *
 * Garbage collection. All types take part, because a pool of a subclass may refer to what was made
 * in it through its __dict__. Those that refer to what users give them have a tp_clear: free lists
 * and refs. The others have none: counter -> pool and the like have no cycle among themselves, so
 * any cycle goes through a __dict__, list... that has one, and an object keeps its pool for as long
 * as somebody could call a method.
 */
#ifndef PERCPU_PYTHON_MODULE_H
#define PERCPU_PYTHON_MODULE_H

#include "compat.h"

#include <stdbool.h>
#include <stdint.h>

#include <percpu/platform.h>

struct percpu_py_state {
    PyTypeObject *pool_type;
    PyTypeObject *item_type;
    PyTypeObject *copy_type;
    PyTypeObject *memory_type;
    PyTypeObject *records_type;
    PyTypeObject *var_type;
    PyTypeObject *counter_type;
    PyTypeObject *limiter_type;
    PyTypeObject *freelist_type;
    PyTypeObject *stats_type;
    PyTypeObject *stat_type;
    PyTypeObject *histogram_type;
    PyTypeObject *ref_type;
    PyObject *pool_exhausted;
    PyObject *corruption_error;
    PyObject *closed_error;
};

extern struct PyModuleDef percpu_py_module;

/*
 * The state of the module that made `type` or a base of it. NULL, with no exception set, for an
 * object that outlived its type's tear-down: that can happen while garbage is collected.
 */
struct percpu_py_state *percpu_py_state_of(PyTypeObject *type);

/* Each makes its type or types and puts them into `state`, and adds public ones to `module`.
 * Returns 0; -1 with an exception. */
int percpu_py_add_errors(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_pool(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_item(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_copy(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_memory(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_records(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_var(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_counter(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_limiter(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_freelist(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_stats(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_stat(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_histogram(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_ref(PyObject *module, struct percpu_py_state *state);
int percpu_py_add_noop(PyObject *module);
int percpu_py_add_cpu(PyObject *module);     /* functions */
int percpu_py_add_race(PyObject *module);    /* functions */
int percpu_py_add_classes(PyObject *module); /* functions */

/* A slot that is a function. POSIX lets it be a `void *`, ISO C does not. */
#define PERCPU_PY_SLOT(id, function)                                                               \
    {                                                                                              \
        (id), __extension__(void *)(function)                                                      \
    }

/* A heap type from `spec`, whose calls go to `vectorcall` (NULL: to tp_new). NULL with an
 * exception. */
PyTypeObject *percpu_py_make_type(PyObject *module, PyType_Spec *spec, vectorcallfunc vectorcall);

/* errors.c -------------------------------------------------------------------------------------
 * Everything here returns NULL or -1 with an exception set, so callers can return its result.
 * `type` is the type of the object at hand. */

enum percpu_py_error { PERCPU_PY_CLOSED, PERCPU_PY_EXHAUSTED, PERCPU_PY_CORRUPTION };

void *percpu_py_raise(PyTypeObject *type, enum percpu_py_error which, const char *format, ...);

/* The class itself, or a base of it while the module is torn down: a borrowed reference. */
PyObject *percpu_py_error_class(PyTypeObject *type, enum percpu_py_error which);

/* The exception for `error`, an errno of the core: EINVAL ValueError, ENOMEM PoolExhausted, and
 * OSError with that errno for all others. */
void *percpu_py_raise_errno(PyTypeObject *type, int error, const char *format, ...);

/* "NAME must be RIGHT, not VALUE" */
int percpu_py_reject(PyObject *exception, const char *name, PyObject *value, const char *right,
                     ...);

/* The name of the type of `op`, without the package's. */
const char *percpu_py_type_name(PyObject *op);

/* "this PerCpuVar is closed" */
void *percpu_py_raise_closed(PyObject *op) PERCPU_COLD;

/* What __exit__(type, exception, traceback) returns after it has closed something; `closed` is false
 * if an exception is set. If one comes out of the `with` block already, that is not to be hidden:
 * ours becomes a note of it. */
PyObject *percpu_py_exit(PyObject *const *args, Py_ssize_t nargs, bool closed);

/* `obj` for a message: its repr, shortened; its type's name if that raises. NULL: no
 * memory, or an exception that is no Exception. */
PyObject *percpu_py_show(PyObject *obj);

/* closing: see the top ---------------------------------------------------------------------- */

extern const uint8_t percpu_py_open; /* 0 */
extern const uint8_t percpu_py_shut; /* 1 */

static inline bool percpu_py_is_closed(const uint8_t *const *closed)
{
    return __atomic_load_n(__atomic_load_n(closed, __ATOMIC_RELAXED), __ATOMIC_RELAXED) != 0;
}

static inline void percpu_py_point_closed(const uint8_t **closed, const uint8_t *flag)
{
    __atomic_store_n(closed, flag, __ATOMIC_RELAXED);
}

/* arguments.c -------------------------------------------------------------------------------- */

#define PERCPU_PY_MAX_PARAMETERS 18

struct percpu_py_signature {
    const char *callable;                                 /* for messages: "PerCpuVar" */
    unsigned required, positional;                        /* of the parameters: the first ones */
    const char *parameters[PERCPU_PY_MAX_PARAMETERS + 1]; /* NULL after the last */
};

/* Sort arguments into `values`, one for each parameter, NULL where none was given (borrowed
 * references). 0; -1 with TypeError. */
int percpu_py_match_vector(const struct percpu_py_signature *signature, PyObject *const *args,
                           size_t nargsf, PyObject *kwnames, PyObject **values);
int percpu_py_match_tuple(const struct percpu_py_signature *signature, PyObject *args,
                          PyObject *kwargs, PyObject **values);

/* convert.c ----------------------------------------------------------------------------------
 * Each takes an int or what has __index__ (TypeError for the rest), and returns 0, or -1 with an
 * exception that names the argument, what is right, and the value. */

/* int64_t; OverflowError. */
int percpu_py_int64(PyObject *obj, const char *name, int64_t *value);

/* min to max, as 64 bits; OverflowError. `of` ends the message: " for code 'b'". */
int percpu_py_bits(PyObject *obj, const char *name, const char *of, int64_t min, uint64_t max,
                   uint64_t *bits);

/* min to max; ValueError. `unit` ends the message: " bytes". */
int percpu_py_size(PyObject *obj, const char *name, const char *unit, uint64_t min, uint64_t max,
                   uint64_t *size);

/* A power of two from min to max, which is one; ValueError. `unit` as above. */
int percpu_py_power_of_two(PyObject *obj, const char *name, const char *unit, uint64_t min,
                           uint64_t max, uint64_t *size);

/* 0 to cpus - 1; IndexError. */
int percpu_py_cpu(PyObject *obj, unsigned cpus, unsigned *cpu);

/* Any int or float; TypeError; OverflowError for an int beyond the largest double. */
int percpu_py_double(PyObject *obj, const char *name, double *value);

/* Whether `obj` is an int that needs no more than a look: most are. */
static inline __attribute__((always_inline)) bool percpu_py_small_int(PyObject *obj, int64_t *value)
{
    if (!PyLong_CheckExact(obj))
        return false;
    PyLongObject *number = (PyLongObject *)obj;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact(number))
        return false;
    *value = PyUnstable_Long_CompactValue(number);
#else
    Py_ssize_t digits = Py_SIZE(number); /* negative for a negative number */
    if ((size_t)(digits + 1) > 2)
        return false;
    *value = digits * (int64_t)number->ob_digit[0];
#endif
    return true;
}

/* buffer.c ----------------------------------------------------------------------------------- */

struct percpu_py_array {
    void *address;
    int ndim;
    Py_ssize_t *shape, *strides; /* must outlive the view */
    Py_ssize_t itemsize;
    const char *format; /* static storage */
};

/* Fill in a writable view of `array`, that keeps `exporter` alive. 0; -1 with BufferError. */
int percpu_py_fill_view(Py_buffer *view, PyObject *exporter, const struct percpu_py_array *array,
                        int flags);

/* cpu.c -------------------------------------------------------------------------------------- */

/* "glibc", "own" or "none". */
const char *percpu_py_mode_name(void);

#endif
