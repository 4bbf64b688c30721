/* SPDX-License-Identifier: MIT */
/*
 * limiter.c - PerCpuLimiter. acquire() and release() are like a counter's add(): the C limiter lies
 * in the object, its section is inlined, and one branch asks whether it is closed (module.h).
 */
#include "pool.h"

#include <errno.h>

#include <percpu/limiter.h>

struct limiter {
    PyObject_HEAD
    const uint8_t *closed;         /* see module.h */
    struct percpu_limiter limiter; /* cpus 0: not made yet */
    struct percpu_py_pool *pool;   /* a reference, or NULL: a pool of the process */
    PyObject *weakrefs;
};

static struct limiter *as_limiter(PyObject *op)
{
    return (struct limiter *)op;
}

static bool usable(struct limiter *self)
{
    if (percpu_likely(!percpu_py_is_closed(&self->closed)))
        return true;
    percpu_py_raise_closed((PyObject *)self);
    return false;
}

/* life --------------------------------------------------------------------------------------- */

enum { CAPACITY, POOL };

static const struct percpu_py_signature signature = {
    .callable = "PerCpuLimiter",
    .required = 1,
    .positional = 1,
    .parameters = {"capacity", "pool"},
};

struct wish {
    struct percpu_limiter *limiter;
    uint64_t capacity;
};

/* `memory` is NULL for a pool of the process. */
static void *source(struct percpu_pool *memory, void *what)
{
    const struct wish *wish = what;
    return percpu_limiter_init(wish->limiter, memory, wish->capacity) == 0
               ? wish->limiter->words.base
               : NULL;
}

/* 0; an errno of the core; -1 with an exception. */
static int init(struct limiter *self, uint64_t capacity)
{
    struct wish wish = {&self->limiter, capacity};
    void *item;
    if (self->pool == NULL)
        return source(NULL, &wish) != NULL ? 0 : errno;
    int error = percpu_py_pool_take(self->pool, source, &wish, &item, NULL);
    if (error != 0)
        self->limiter.cpus = 0;
    return error;
}

static PyObject *make(PyTypeObject *type, PyObject *const *values)
{
    uint64_t capacity;
    struct percpu_py_pool *pool;
    if (percpu_py_size(values[CAPACITY], "capacity", "", 0, PERCPU_LIMITER_MAX, &capacity) != 0 ||
        percpu_py_pool_argument(type, values[POOL], &pool) != 0 ||
        (pool != NULL &&
         percpu_py_pool_fits(pool, PERCPU_LIMITER_ITEM, sizeof(uint64_t), "a limiter") != 0))
        return NULL;
    struct limiter *self = as_limiter(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    int error = init(self, capacity);
    if (error == ENOMEM && pool == NULL && percpu_py_collect_deferred())
        error = init(self, capacity);
    if (error != 0) {
        if (error > 0 && error != ENOMEM && pool != NULL)
            percpu_py_pool_raise_not_allocated(pool, error);
        else if (error > 0)
            percpu_py_raise_errno(type, error, "no memory for a limiter of %zu bytes per CPU",
                                  PERCPU_LIMITER_ITEM);
        Py_DECREF(self);
        return NULL;
    }
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

static PyObject *limiter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&signature, args, kwargs, values) != 0)
        return NULL;
    return make(type, values);
}

static PyObject *limiter_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                    PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return make((PyTypeObject *)type, values);
}

static int limiter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_limiter(op)->pool);
    return 0;
}

static void limiter_dealloc(PyObject *op)
{
    struct limiter *self = as_limiter(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    if (self->limiter.cpus > 0 && self->pool == NULL)
        percpu_limiter_destroy(&self->limiter);
    else if (self->limiter.cpus > 0) /* the same, and it is noticed what a robust pool finds */
        percpu_py_pool_give_back_quietly(self->pool, self->limiter.words.base);
    Py_XDECREF(self->pool);
    type->tp_free(op);
    Py_DECREF(type);
}

/* tokens ------------------------------------------------------------------------------------- */

static PERCPU_COLD bool reject_count(const char *method, Py_ssize_t nargs)
{
    PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method, nargs);
    return false;
}

/* What a small int is not, or not from 1 on. */
static PERCPU_COLD bool tokens_of_any(struct limiter *self, PyObject *n, uint64_t *tokens)
{
    return percpu_py_size(n, "n", "", 1, PERCPU_LIMITER_MAX, tokens) == 0 &&
           usable(self); /* __index__ may have closed it */
}

/* Whether the argument `n`, 1 if there is none, is a number of tokens, and the limiter usable. */
static inline __attribute__((always_inline)) bool tokens_of(struct limiter *self,
                                                            const char *method,
                                                            PyObject *const *args, Py_ssize_t nargs,
                                                            uint64_t *tokens)
{
    int64_t number;
    if (percpu_unlikely(!usable(self)))
        return false;
    *tokens = 1;
    if (nargs == 0)
        return true;
    if (percpu_unlikely(nargs != 1))
        return reject_count(method, nargs);
    if (percpu_unlikely(!percpu_py_small_int(args[0], &number) || number < 1))
        return tokens_of_any(self, args[0], tokens);
    *tokens = (uint64_t)number;
    return true;
}

PyDoc_STRVAR(
    acquire_doc,
    "acquire($self, n=1, /)\n--\n\n"
    "Take `n` tokens; return whether there were as many. Does not wait.\n\n"
    "False only if at some instant of the call fewer than `n` were spare, on all CPUs together;\n"
    "then none was taken. That answer takes microseconds and interrupts the other CPUs, so pause\n"
    "before the next try. `n` is an int from 1 to 2**63 - 1 (:exc:`ValueError`), and may be more\n"
    "than the capacity, which is False always.");

static PyObject *limiter_acquire(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct limiter *self = as_limiter(op);
    uint64_t n;
    if (percpu_unlikely(!tokens_of(self, "acquire", args, nargs, &n)))
        return NULL;
    return PyBool_FromLong(percpu_limiter_acquire(&self->limiter, n));
}

static PERCPU_COLD PyObject *reject_release(PyObject *const *args, Py_ssize_t nargs, uint64_t held)
{
    PyObject *n = nargs == 1 ? Py_NewRef(args[0]) : PyLong_FromLong(1);
    if (n != NULL)
        percpu_py_reject(PyExc_ValueError, "n", n, "at most %llu, the tokens that are outstanding",
                         (unsigned long long)held);
    Py_XDECREF(n);
    return NULL;
}

PyDoc_STRVAR(
    release_doc,
    "release($self, n=1, /)\n--\n\n"
    "Give `n` tokens back, from whatever thread and on whatever CPU.\n\n"
    "Raises :exc:`ValueError`, and gives none, if fewer than `n` are outstanding: somebody\n"
    "released more than they had acquired. `n` is an int from 1 on (:exc:`ValueError`).");

static PyObject *limiter_release(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct limiter *self = as_limiter(op);
    uint64_t n, held;
    if (percpu_unlikely(!tokens_of(self, "release", args, nargs, &n)))
        return NULL;
    if (percpu_unlikely(n > UINT32_MAX) ||
        percpu_unlikely(!percpu_limiter_try(self->limiter.words, percpu_limiter_releasing(n)))) {
        if (percpu_limiter_release_slow(&self->limiter, n, &held) != 0)
            return reject_release(args, nargs, held);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    outstanding_doc,
    "outstanding($self, /)\n--\n\n"
    "Return how many tokens are acquired and not released: exactly, at one instant of the\n"
    "call.\n\n"
    "It is never above the capacity. Takes microseconds and interrupts the other CPUs.");

static PyObject *limiter_outstanding(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct limiter *self = as_limiter(op);
    if (!usable(self))
        return NULL;
    return PyLong_FromUnsignedLongLong(percpu_limiter_outstanding(&self->limiter));
}

PyDoc_STRVAR(available_doc, "available($self, /)\n--\n\n"
                            "Return the capacity less :meth:`outstanding`, at one instant.");

static PyObject *limiter_available(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct limiter *self = as_limiter(op);
    if (!usable(self))
        return NULL;
    return PyLong_FromUnsignedLongLong(self->limiter.capacity -
                                       percpu_limiter_outstanding(&self->limiter));
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(check_doc,
             "check($self, /)\n--\n\n"
             "Test every invariant of the limiter; other threads may use it meanwhile.\n\n"
             "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, with a sentence about\n"
             "the first one that does not hold.");

static PyObject *limiter_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct limiter *self = as_limiter(op);
    if (!usable(self))
        return NULL;
    const char *broken = percpu_limiter_check(&self->limiter);
    if (broken != NULL)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", broken);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the limiter: it raises :exc:`ClosedError` from now on, whoever has tokens.\n\n"
             "Its memory is given back when it is garbage. Closing a closed limiter does\n"
             "nothing.");

static PyObject *limiter_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct limiter *self = as_limiter(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (self->pool != NULL)
        percpu_py_sites_remove(self->pool, self->limiter.words.base); /* no leak of a robust pool */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the limiter.");

static PyObject *limiter_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the limiter.");

static PyObject *limiter_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                              Py_ssize_t Py_UNUSED(nargs))
{
    return limiter_close(op, NULL);
}

static PyObject *limiter_repr(PyObject *op)
{
    struct limiter *self = as_limiter(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s %llu of %llu outstanding mode=%s cpus=%u>", name,
                                (unsigned long long)percpu_limiter_outstanding(&self->limiter),
                                (unsigned long long)self->limiter.capacity, percpu_py_mode_name(),
                                self->limiter.cpus);
}

static PyMethodDef limiter_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))limiter_acquire, METH_FASTCALL, acquire_doc},
    {"release", (PyCFunction)(void (*)(void))limiter_release, METH_FASTCALL, release_doc},
    {"outstanding", limiter_outstanding, METH_NOARGS, outstanding_doc},
    {"available", limiter_available, METH_NOARGS, available_doc},
    {"check", limiter_check, METH_NOARGS, check_doc},
    {"close", limiter_close, METH_NOARGS, close_doc},
    {"__enter__", limiter_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))limiter_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_capacity(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(as_limiter(op)->limiter.capacity);
}

static PyObject *get_pool(PyObject *op, void *Py_UNUSED(closure))
{
    struct percpu_py_pool *pool = as_limiter(op)->pool;
    return Py_NewRef(pool != NULL ? (PyObject *)pool : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&as_limiter(op)->closed));
}

static PyGetSetDef limiter_attributes[] = {
    {"capacity", get_capacity, NULL, "How many tokens there are.", NULL},
    {"pool", get_pool, NULL, "The PerCpuPool that was given, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the limiter or its pool was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef limiter_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct limiter, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    limiter_doc,
    "PerCpuLimiter(capacity, *, pool=None)\n--\n\n"
    "An exact limit on what all threads have of something: `capacity` tokens to acquire and release,\n"
    "with no lock and no atomic instruction while this CPU has some.\n\n"
    "What is acquired and not yet released is never above the capacity, under any interleaving, and\n"
    ":meth:`acquire` fails only if fewer tokens than it wants were spare on all CPUs together. When a\n"
    "CPU has none left it stops the others for an instant, and takes its share of theirs. A token may\n"
    "be released by another thread and on another CPU than it was acquired.\n\n"
    "`capacity` is an int from 0 to 2**63 - 1. `pool` is a :class:`PerCpuPool` to take the memory\n"
    "from, 8 bytes on each CPU; None: a pool of the process. After a fork the child has a limiter of\n"
    "its own, in which what other threads had acquired stays acquired.\n\n"
    "The idea is that of the exact limit counters of P. McKenney's \"Is Parallel Programming Hard\",\n"
    "chapter 5, with restartable sequences in the place of atomics and signals.\n\n"
    "Raises :exc:`TypeError` for what is not an int, :exc:`ValueError` for a `capacity` out of range\n"
    "or a pool whose items are too small, :exc:`PoolExhausted`, and :exc:`ClosedError` once it was\n"
    "closed.");

static PyType_Slot limiter_slots[] = {
    {Py_tp_doc, (void *)limiter_doc},
    PERCPU_PY_SLOT(Py_tp_new, limiter_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, limiter_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, limiter_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, limiter_repr),
    {Py_tp_methods, limiter_methods},
    {Py_tp_getset, limiter_attributes},
    {Py_tp_members, limiter_members},
    {0, NULL},
};

static PyType_Spec limiter_spec = {
    .name = "percpu.PerCpuLimiter",
    .basicsize = sizeof(struct limiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = limiter_slots,
};

int percpu_py_add_limiter(PyObject *module, struct percpu_py_state *state)
{
    state->limiter_type = percpu_py_make_type(module, &limiter_spec, limiter_vectorcall);
    return state->limiter_type != NULL ? PyModule_AddType(module, state->limiter_type) : -1;
}
