/* SPDX-License-Identifier: MIT */
/*
 * pool.c - the type PerCpuPool: how a pool is made, and its end.
 *
 * dtor is Python code, and so must not run once the garbage collector has begun to take objects
 * apart. So it runs when the pool is finalized, which comes before; then the pool is `finalized`,
 * and what is left of it goes without Python.
 */
#include "pool.h"

#include <errno.h>
#include <string.h>

/* making a pool ------------------------------------------------------------------------------ */

/* What percpu_py_pool_parse() lets through may be too much for the kernel, and may ask for what it
 * does not have. */
void percpu_py_pool_raise_not_made(PyTypeObject *type, const struct percpu_pool_attr *attr,
                                   int error)
{
    size_t stride = attr->stride;
    if (stride == 0) /* the core's choice */
        for (stride = (size_t)64 << 10; stride < attr->item_size;)
            stride *= 2;
    if (error == ENOTSUP && percpu_index_check(attr->index) != 0)
        percpu_py_raise_errno(type, error, "index 'cid' needs mm_cid in the rseq area (Linux 6.3)");
    else if (error == ENOTSUP)
        percpu_py_raise_errno(type, error, "guard needs a kernel that can make guard pages");
    else if (error == EMFILE || error == ENFILE)
        percpu_py_raise_errno(type, error,
                              "populate 'init' needs a file descriptor for a moment: %s",
                              strerror(error));
    else
        percpu_py_raise_errno(type, error,
                              "cannot map %zu bytes of address space for a pool of %zu-byte items: "
                              "strides of %zu bytes for %u CPUs: %s",
                              stride * attr->cpus, attr->item_size, stride, attr->cpus,
                              strerror(error));
}

struct percpu_py_pool *percpu_py_pool_new(PyTypeObject *type,
                                          const struct percpu_py_pool_wishes *wishes)
{
    struct percpu_py_pool *self = percpu_py_as_pool(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    self->state = PERCPU_PY_POOL_CLOSED;
    self->closed = 1;
    self->init = Py_XNewRef(wishes->init);
    self->ctor = Py_XNewRef(wishes->ctor);
    self->dtor = Py_XNewRef(wishes->dtor);
    self->calls_back = self->init != NULL || percpu_py_pool_constructs(self);
    self->name = wishes->attr.name != NULL ? PyUnicode_FromString(wishes->attr.name)
                                           : Py_NewRef(Py_None);
    if (self->name != NULL && percpu_py_addresses_start() == 0)
        return self;
    Py_DECREF(self);
    return NULL;
}

void percpu_py_pool_open(struct percpu_py_pool *self, struct percpu_pool *memory)
{
    self->memory = memory;
    percpu_pool_geometry(memory, &self->geometry);
    __atomic_store_n(&self->closed, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&self->state, 0, __ATOMIC_RELEASE); /* pairs with add_if_open() */
}

static struct percpu_pool *create(struct percpu_py_pool *self, struct percpu_py_pool_wishes *wishes)
{
    struct percpu_pool_attr *attr = &wishes->attr;
    attr->range_init = self->init != NULL ? percpu_py_range_init : NULL;
    attr->ctor = self->ctor != NULL ? percpu_py_ctor : NULL;
    attr->dtor = percpu_py_pool_constructs(self) ? percpu_py_dtor : NULL;
    attr->report = attr->robust ? percpu_py_report : NULL;
    attr->priv = self;
    attr->lazy = self->init != NULL; /* it is to find a pool: see first_range() */
    struct percpu_pool *memory = percpu_pool_create(attr);
    if (memory == NULL && errno == ENOTSUP && wishes->guard_if_possible && attr->guard &&
        percpu_index_check(attr->index) == 0) {
        attr->guard = false;
        memory = percpu_pool_create(attr);
    }
    return memory;
}

/* The range that the pool starts with, if `init` has a part in it. 0; an errno; -1 with an
 * exception. */
static int first_range(struct percpu_py_pool *self)
{
    struct percpu_py_call call;
    if (self->init == NULL)
        return 0;
    if (percpu_py_pool_hold(self) != 0)
        return -1;
    percpu_py_call_enter(&call, self);
    int failed = percpu_pool_reserve(self->memory, 1);
    int error = percpu_py_call_leave(&call, failed ? errno : 0);
    percpu_py_pool_release(self);
    return error;
}

static PyObject *make(PyTypeObject *type, struct percpu_py_pool_wishes *wishes)
{
    struct percpu_py_pool *self = percpu_py_pool_new(type, wishes);
    if (self == NULL)
        return NULL;
    struct percpu_pool *memory = create(self, wishes);
    int error = memory == NULL ? errno : 0;
    if (memory != NULL) {
        percpu_py_pool_open(self, memory);
        error = first_range(self);
    }
    if (error == 0)
        return (PyObject *)self;
    if (error > 0)
        percpu_py_pool_raise_not_made(type, &wishes->attr, error);
    Py_DECREF(self);
    return NULL;
}

static PyObject *pool_make(PyTypeObject *type, PyObject *const *values)
{
    struct percpu_py_pool_wishes wishes;
    PyObject *self = percpu_py_pool_parse(values, &wishes) == 0 ? make(type, &wishes) : NULL;
    percpu_py_pool_forget_wishes(&wishes);
    return self;
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&percpu_py_pool_signature, args, kwargs, values) != 0)
        return NULL;
    return pool_make(type, values);
}

static PyObject *pool_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                 PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&percpu_py_pool_signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return pool_make((PyTypeObject *)type, values);
}

/* the end ------------------------------------------------------------------------------------ */

static int pool_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->init);
    Py_VISIT(self->ctor);
    Py_VISIT(self->dtor);
    return 0;
}

/* Nobody but other garbage refers to the pool, and to what lives in it. */
static void pool_finalize(PyObject *op)
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    PyObject *raised = PyErr_GetRaisedException();
    if (percpu_py_pool_constructs(self) && percpu_py_pool_hold_mapped(self)) {
        percpu_py_pool_destruct(self);
        percpu_py_pool_release(self);
    }
    if (self->geometry.robust && percpu_py_pool_state(self) == 0 &&
        percpu_py_pool_close(self, false) != 0)
        percpu_py_pool_unraisable(self);
    self->finalized = true;
    PyErr_SetRaisedException(raised);
}

static void pool_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0)
        return; /* a dtor keeps an item, and it the pool */
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    self->finalized = true;
    if (self->memory != NULL)
        percpu_py_pool_unmap(self); /* nobody else can have it, and nothing holds it */
    Py_XDECREF(self->init);
    Py_XDECREF(self->ctor);
    Py_XDECREF(self->dtor);
    percpu_py_addresses_clear(&self->constructed);
    percpu_py_addresses_clear(&self->sites);
    percpu_py_addresses_clear(&self->former_sites);
    Py_XDECREF(self->name);
    type->tp_free(op);
    Py_DECREF(type);
}

/* the rest ----------------------------------------------------------------------------------- */

static Py_ssize_t pool_length(PyObject *op)
{
    uint64_t state = percpu_py_pool_state(percpu_py_as_pool(op));
    if ((state & PERCPU_PY_POOL_CLOSED) == 0)
        return (Py_ssize_t)(state / PERCPU_PY_POOL_HOLD);
    percpu_py_raise_closed(op);
    return -1;
}

/* An empty pool is a pool: only None is the absence of one. */
static int pool_bool(PyObject *Py_UNUSED(op))
{
    return 1;
}

static PyObject *pool_repr(PyObject *op)
{
    struct percpu_py_pool *self = percpu_py_as_pool(op);
    uint64_t state = percpu_py_pool_state(self);
    PyObject *name = self->name == Py_None
                         ? PyUnicode_FromString(percpu_py_type_name(op))
                         : PyUnicode_FromFormat("%s %R", percpu_py_type_name(op), self->name);
    if (name == NULL)
        return NULL;
    PyObject *repr = state & PERCPU_PY_POOL_CLOSED
                         ? PyUnicode_FromFormat("<%U closed>", name)
                         : PyUnicode_FromFormat("<%U of %zu bytes x %u %s, %u live>", name,
                                                self->geometry.item_size, self->geometry.cpus,
                                                self->geometry.global ? "copies" : "CPUs",
                                                (unsigned)(state / PERCPU_PY_POOL_HOLD));
    Py_DECREF(name);
    return repr;
}

static PyMemberDef pool_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_pool, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    pool_doc,
    "PerCpuPool(item_size, *, populate='zero', stride=None, cpus=None, max_ranges=0,\n"
    "           index='cpu', scope='percpu', init=None, constructed=False, ctor=None, dtor=None,\n"
    "           robust=False, poison=None, guard=None, numa=False, name=None,\n"
    "           cache_bytes=None)\n--\n\n"
    "A pool of items of `item_size` bytes, each with one copy per CPU.\n\n"
    "Memory costs nothing until a CPU writes it. :func:`len` counts what lives in the pool:\n"
    "items, variables and counters. Leaving a ``with`` block closes the pool.\n\n"
    "populate\n"
    "    What a page reads as that no CPU has written: 'zero', or 'init', what it was\n"
    "    initialised with, which is then stored once and not for each CPU.\n"
    "stride\n"
    "    How far apart an item's copies are, in bytes: a power of two, at least a page; by\n"
    "    default 64 KiB or what holds an item.\n"
    "cpus\n"
    "    How many copies an item has: by default, and at least, one for each possible CPU.\n"
    "max_ranges\n"
    "    The pool grows by ranges: how many it may have. 0: no limit.\n"
    "index\n"
    "    'cpu', or 'cid' to choose a thread's copy by its concurrency id: see\n"
    "    :func:`current_cid`.\n"
    "scope\n"
    "    'percpu', or 'global': items are not per CPU, and have one copy, or `cpus` copies that\n"
    "    the program chooses among. Variables and counters cannot be made in such a pool.\n"
    "init\n"
    "    Bytes that every copy of an item starts with, zeros following. Or a callable: for each\n"
    "    CPU of each new range ``init(cpu, memory)`` is called with a writable memoryview of as\n"
    "    many bytes as the CPU has there, zeros at first (`cpu` is None where there is one copy).\n"
    "    What it has written when it returns is what is in items that were never handed out\n"
    "    before; item n starts at ``n * slot_size``. Its exception is that of the allocation.\n"
    "constructed, ctor, dtor\n"
    "    Freed items are in their initial state, or as ``ctor(item)`` left them: the program sees\n"
    "    to it, and allocating such an item again costs nothing. `ctor` is called once for an\n"
    "    item, before it is allocated for the first time; its exception is that of the\n"
    "    allocation. ``dtor(item)`` is called once before an item's memory is given back, which\n"
    "    :meth:`trim` and the pool's end do. The views of the item that `dtor` gets show a copy\n"
    "    of the memory; its address is good until `dtor` returns. An exception there goes to\n"
    "    ``sys.unraisablehook``.\n"
    "robust\n"
    "    Look for corruption, and raise :exc:`CorruptionError`: for what is freed twice or was\n"
    "    never allocated, written after it was freed, or beyond its end, and in :meth:`close` for\n"
    "    what was not freed.\n"
    "poison\n"
    "    An int of 64 bits: freed items are overwritten with it, in every copy.\n"
    "guard\n"
    "    The last page of each CPU's stride is no memory, so that nobody gets from one CPU's to\n"
    "    the next by mistake: SIGSEGV. None: in a robust pool that has room for it.\n"
    "numa\n"
    "    Place each CPU's memory on its node.\n"
    "name\n"
    "    1 to 63 characters that show in ``/proc/PID/maps``, if the kernel can.\n"
    "cache_bytes\n"
    "    How many bytes of free items each CPU keeps at hand; by default 64 KiB.\n\n"
    "Raises :exc:`ValueError` for sizes that are not sane, :exc:`PoolExhausted` where there is\n"
    "no memory, and :exc:`OSError` for what the kernel does not have, such as concurrency ids for\n"
    "'cid', or refuses, such as a file for the initial values.");

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (void *)pool_doc},
    PERCPU_PY_SLOT(Py_tp_new, pool_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, pool_dealloc),
    PERCPU_PY_SLOT(Py_tp_finalize, pool_finalize),
    PERCPU_PY_SLOT(Py_tp_traverse, pool_traverse),
    PERCPU_PY_SLOT(Py_tp_repr, pool_repr),
    {Py_tp_methods, percpu_py_pool_methods},
    {Py_tp_getset, percpu_py_pool_attributes},
    {Py_tp_members, pool_members},
    PERCPU_PY_SLOT(Py_sq_length, pool_length),
    PERCPU_PY_SLOT(Py_nb_bool, pool_bool),
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "percpu.PerCpuPool",
    .basicsize = sizeof(struct percpu_py_pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

int percpu_py_add_pool(PyObject *module, struct percpu_py_state *state)
{
    state->pool_type = percpu_py_make_type(module, &pool_spec, pool_vectorcall);
    return state->pool_type != NULL ? PyModule_AddType(module, state->pool_type) : -1;
}
