/* SPDX-License-Identifier: MIT */
/*
 * pool.h - PerCpuPool, as seen by what is made in one.
 *
 * What lives in a pool holds it: items, variables, counters, and calls that use its memory. All
 * that threads must agree on is in one word, `state`:
 *
 *      63 ............... 32 | 31 ................ 1 | 0
 *      how often it is held  | buffers in use        | closed
 *
 * Nothing holds a closed pool, and a pool with buffers in use is not closed. Whoever makes the word
 * "closed, not held" unmaps the memory: that happens once.
 *
 *   pool.c            the type: making, finalizing
 *   pool_attributes.c its attributes
 *   pool_methods.c    its methods
 *   pool_look.c       those of them that only look
 *   pool_classes.c    pools that share ranges
 *   pool_arguments.c  the arguments of PerCpuPool()
 *   pool_hold.c       the word above; closing
 *   pool_call.c       calls of the core that come back to Python
 *   pool_items.c      where items come from and go to; ctor and dtor
 *   pool_init.c       the callable `init`
 *   pool_report.c     what a robust pool finds, as exceptions
 *   pool_sites.c      where in the program live items were allocated
 */
#ifndef PERCPU_PYTHON_POOL_H
#define PERCPU_PYTHON_POOL_H

#include "addresses.h"
#include "module.h"

#include <percpu/pool.h>
#include <percpu/report.h>

/* A finding of a call that is not ours: C code that was given an item. See pool_report.c. */
struct percpu_py_mailbox {
    uint32_t state;
    struct percpu_report report;
};

struct percpu_py_pool {
    PyObject_HEAD
    struct percpu_pool *memory;           /* good while the pool is held */
    struct percpu_pool_geometry geometry; /* constant */
    uint64_t state;
    uint8_t closed;                         /* follows `state`: see module.h */
    bool calls_back;                        /* the core calls `init` or `dtor`; constant */
    bool finalized;                         /* garbage: Python code is not to see it any more */
    bool told;                              /* close() said what was found */
    PyObject *init, *ctor, *dtor;           /* callables, or NULL; constant */
    struct percpu_py_addresses constructed; /* with ctor or dtor: the items that ctor has seen */
    struct percpu_py_addresses sites, former_sites; /* robust: see pool_sites.c */
    PyObject *name;                                 /* str or None; constant */
    struct percpu_py_mailbox mailbox;
    PyObject *weakrefs;
};

static inline struct percpu_py_pool *percpu_py_as_pool(PyObject *op)
{
    return (struct percpu_py_pool *)op;
}

/* arguments ---------------------------------------------------------------------------------- */

/* What was asked for. `attr` refers to the arguments, which the caller keeps. */
struct percpu_py_pool_wishes {
    struct percpu_pool_attr attr;
    Py_buffer init_bytes;         /* `obj` is NULL if there are none */
    PyObject *init, *ctor, *dtor; /* callables (borrowed), or NULL */
    bool guard_if_possible;       /* nobody asked for the guard by name */
};

extern const struct percpu_py_signature percpu_py_pool_signature;
extern const struct percpu_py_signature percpu_py_classes_signature;

/* 0; -1 with TypeError or ValueError. percpu_py_pool_forget_wishes() in either case. */
int percpu_py_pool_parse(PyObject *const *values, struct percpu_py_pool_wishes *wishes);
void percpu_py_pool_forget_wishes(struct percpu_py_pool_wishes *wishes);

/* 0 if attributes are such as size classes can have; -1 with ValueError. */
int percpu_py_pool_check_classes(const struct percpu_py_pool_wishes *wishes);

/* 0 if variables and counters of `size` bytes that are aligned to `alignment` fit in `pool`'s
 * items; -1 with ValueError. */
int percpu_py_pool_fits(struct percpu_py_pool *pool, size_t size, size_t alignment,
                        const char *what);

/* The argument `pool` of a constructor: None or absent (*pool NULL) or a PerCpuPool. 0; -1 with
 * TypeError. `type` is the type that is being made. */
int percpu_py_pool_argument(PyTypeObject *type, PyObject *value, struct percpu_py_pool **pool);

/* life --------------------------------------------------------------------------------------- */

#define PERCPU_PY_POOL_CLOSED UINT64_C(1)
#define PERCPU_PY_POOL_EXPORT (UINT64_C(1) << 1)
#define PERCPU_PY_POOL_HOLD (UINT64_C(1) << 32)

static inline uint64_t percpu_py_pool_state(const struct percpu_py_pool *self)
{
    return __atomic_load_n(&self->state, __ATOMIC_RELAXED);
}

/* Whether `constructed` is used. */
static inline bool percpu_py_pool_constructs(const struct percpu_py_pool *self)
{
    return self->ctor != NULL || self->dtor != NULL;
}

static inline bool percpu_py_pool_is_closed(const struct percpu_py_pool *self)
{
    return (percpu_py_pool_state(self) & PERCPU_PY_POOL_CLOSED) != 0;
}

/* A pool that is closed, while the garbage collector can see it but nobody should; open it with its
 * memory. NULL; -1 with an exception. */
struct percpu_py_pool *percpu_py_pool_new(PyTypeObject *type,
                                          const struct percpu_py_pool_wishes *wishes);
void percpu_py_pool_open(struct percpu_py_pool *pool, struct percpu_pool *memory);

/* percpu_pool_create() or the like failed with the errno `error`. */
void percpu_py_pool_raise_not_made(PyTypeObject *type, const struct percpu_pool_attr *attr,
                                   int error);

/* Close the pool, if it is not closed; `leaks`: live items are a finding of a robust pool. 0; -1
 * with BufferError, or with CorruptionError, and then it is closed. */
int percpu_py_pool_close(struct percpu_py_pool *self, bool leaks);

/* Unmap the memory of a closed pool that nothing holds. An exception that is set stays; findings
 * go to sys.unraisablehook. */
void percpu_py_pool_unmap(struct percpu_py_pool *self);

/* Hold the pool, and let go of it. 0; -1 with ClosedError. An exception that is set stays. */
int percpu_py_pool_hold(struct percpu_py_pool *pool);
void percpu_py_pool_release(struct percpu_py_pool *pool);

/* Hold a pool even if it is closed, unless its memory is gone, or going. */
bool percpu_py_pool_hold_mapped(struct percpu_py_pool *pool);

/* One more buffer in use in a pool that is held; one less. 0; -1, with no exception, if closed. */
int percpu_py_pool_export(struct percpu_py_pool *pool);
void percpu_py_pool_end_export(struct percpu_py_pool *pool);

extern PyGetSetDef percpu_py_pool_attributes[];
extern PyMethodDef percpu_py_pool_methods[];

/* pool_look.c: methods */
PyObject *percpu_py_pool_stats(PyObject *op, PyObject *unused);
PyObject *percpu_py_pool_pages(PyObject *op, PyObject *unused);
PyObject *percpu_py_pool_map(PyObject *op, PyObject *unused);
PyObject *percpu_py_pool_repr_html(PyObject *op, PyObject *unused);
extern const char percpu_py_pool_stats_doc[], percpu_py_pool_pages_doc[], percpu_py_pool_map_doc[],
    percpu_py_pool_repr_html_doc[];

/* pool_call.c: calls of the core --------------------------------------------------------------- */

/* One call: see pool_call.c. */
struct percpu_py_call {
    struct percpu_py_pool *pool; /* NULL: nothing comes back from this call */
    struct percpu_py_call *outer;
    PyThreadState *thread;       /* while the core runs without the GIL; else NULL */
    PyObject *raised;            /* by a callback: the first exception */
    bool fresh;                  /* the item was never handed out before: percpu_py_ctor() */
    struct percpu_report report; /* the first finding */
};

/* Around every call of the core for a pool that is held. enter() lets go of the GIL if the core
 * may call Python back; watch() never does, for calls that cannot: free. leave() returns `error`,
 * an errno or 0 if the call succeeded; or -1 with an exception: that of a callback, if the call
 * failed; CorruptionError, whether it failed or not. */
void percpu_py_call_enter(struct percpu_py_call *call, struct percpu_py_pool *pool);
void percpu_py_call_watch(struct percpu_py_call *call, struct percpu_py_pool *pool);
int percpu_py_call_leave(struct percpu_py_call *call, int error);

/* For callbacks: NULL, or the call that brought us here, with the GIL taken again; and back to the
 * core, after what was raised (an exception that is set) was kept. */
struct percpu_py_call *percpu_py_call_back(struct percpu_py_pool *pool);
void percpu_py_call_resume(struct percpu_py_call *call);

/* Callbacks in callbacks: not for ever. 0; -1 with RecursionError. */
int percpu_py_call_deeper(void);
void percpu_py_call_shallower(void);

/* Call the function with one argument, no deeper than that. 0; -1 with its exception. */
int percpu_py_call_python(PyObject *function, PyObject *argument);

/* The call that this thread is in; NULL. */
struct percpu_py_call *percpu_py_call_innermost(void);

/* The exception that is set cannot be raised: tell sys.unraisablehook. */
void percpu_py_pool_unraisable(struct percpu_py_pool *pool);

/* pool_items.c ------------------------------------------------------------------------------- */

/* Allocates with `what`, an argument of percpu_py_pool_take(); NULL with errno. */
typedef void *percpu_py_source(struct percpu_pool *memory, void *what);

/* Let `source` allocate an item, which holds the pool from then on. 0; an errno of the core; -1
 * with an exception. `fresh` (or NULL): whether it was never handed out before, in a pool with
 * ctor. */
int percpu_py_pool_take(struct percpu_py_pool *pool, percpu_py_source *source, void *what,
                        void **item, bool *fresh);

/* The exception for that errno. */
void percpu_py_pool_raise_not_allocated(struct percpu_py_pool *pool, int error);

/* Free an item and let go of the pool. 0; -1 with CorruptionError; the item is gone in any case.
 * quietly: an exception that is set stays, and findings go to sys.unraisablehook. */
int percpu_py_pool_give_back(struct percpu_py_pool *pool, void *item);
void percpu_py_pool_give_back_quietly(struct percpu_py_pool *pool, void *item);

/* Run `ctor` for `item`, a PerCpuItem, if it is fresh or ctor has not seen it. 0; -1 with its
 * exception. */
int percpu_py_pool_construct(struct percpu_py_pool *pool, PyObject *item, bool fresh);

/* For the core: it knows which items were handed out, `constructed` which of them ctor has seen. */
int percpu_py_ctor(void *pool, void *item);
void percpu_py_dtor(void *pool, void *item);

/* Run `dtor` for all that were constructed so far. */
void percpu_py_pool_destruct(struct percpu_py_pool *pool);

/* pool_init.c -------------------------------------------------------------------------------- */

int percpu_py_range_init(void *pool, void *memory, size_t length, int cpu);

/* pool_report.c ------------------------------------------------------------------------------ */

void percpu_py_report(void *pool, const struct percpu_report *report);

/* Raise CorruptionError. Returns -1. */
int percpu_py_raise_report(struct percpu_py_pool *pool, const struct percpu_report *report);

/* A finding of a call that was not ours. */
bool percpu_py_pool_mail(struct percpu_py_pool *pool, struct percpu_report *report);

/* Test everything in a pool that is held. 0; -1 with CorruptionError or PoolExhausted. */
int percpu_py_pool_inspect(struct percpu_py_pool *pool);

/* 0 if nothing lives in the pool; -1 with CorruptionError. */
int percpu_py_pool_find_leaks(struct percpu_py_pool *pool);

/* pool_sites.c ------------------------------------------------------------------------------- */

/* An item was allocated here. 0; -1 with an exception. Nothing to do in a pool that is not robust. */
int percpu_py_sites_add(struct percpu_py_pool *pool, const void *item);

/* It lives no more, or was closed. An exception that is set stays. */
void percpu_py_sites_remove(struct percpu_py_pool *pool, const void *item);

/* "file.py:123 in function", or None: where the item was allocated last. NULL with an exception. */
PyObject *percpu_py_sites_find(struct percpu_py_pool *pool, const void *item);

#endif
