/* SPDX-License-Identifier: MIT */
/*
 * freelist.c - PerCpuFreeList: Python objects that wait for their next use, a bounded stack of them
 * on each CPU (percpu_stack_push() and the like of sections.h).
 *
 * Who owns a reference. A value in a stack below its count is a reference that the list owns. put()
 * takes one for the list and then pushes; get() pops, and what it popped is the caller's. Nothing
 * between the section and the end of the method lets go of the GIL, or of the thread state without
 * one, so the garbage collector never runs in a thread that is in the middle.
 *
 * Garbage collection. traverse looks at all copies with plain loads. Whoever else could change one
 * is a thread inside a method of this list: with the GIL there is none, because the collector
 * holds it; without, all threads have been stopped at points where they have a thread state to
 * give up, and no method does so inside a section. A value above the count, which an
 * attempt that failed may have left, is nobody's reference and is not visited.
 *
 * Code of others runs when a reference is given up: __del__, and it may well use this list. So that
 * happens only after a value was taken out, with the count saying so, and never more often than
 * there were values at the beginning: a __del__ that puts something back cannot keep us for ever.
 *
 * fork(). The stacks are private memory: a child has the parent's objects and its own references.
 */
#include "freelist.h"

#include <errno.h>

enum { CAPACITY = 64, MAX_CAPACITY = 1 << 16 };

/* life --------------------------------------------------------------------------------------- */

/* 0; an errno of the core. */
static int place(struct percpu_py_freelist *self)
{
    self->memory = percpu_pool_shared_for((2 + self->capacity) * sizeof(uint64_t));
    void *item = self->memory != NULL ? percpu_pool_zalloc(self->memory) : NULL;
    if (item == NULL)
        return errno;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(self->memory, &geometry);
    self->cpus = geometry.cpus;
    self->stacks = percpu_pool_ptr(self->memory, item);
    return 0;
}

enum { FACTORY, CAPACITY_WISH };

static const struct percpu_py_signature signature = {
    .callable = "PerCpuFreeList",
    .positional = 1,
    .parameters = {"factory", "capacity"},
};

static PyObject *freelist_make(PyTypeObject *type, PyObject *const *values)
{
    PyObject *factory = values[FACTORY] != Py_None ? values[FACTORY] : NULL;
    uint64_t capacity = CAPACITY;
    if (factory != NULL && !PyCallable_Check(factory)) {
        percpu_py_reject(PyExc_TypeError, "factory", factory, "a callable or None");
        return NULL;
    }
    if (values[CAPACITY_WISH] != NULL &&
        percpu_py_size(values[CAPACITY_WISH], "capacity", " objects", 1, MAX_CAPACITY, &capacity) !=
            0)
        return NULL;
    struct percpu_py_freelist *self = percpu_py_as_freelist(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->capacity = capacity;
    int error = place(self);
    if (error == ENOMEM && percpu_py_collect_deferred())
        error = place(self);
    if (error != 0) {
        percpu_py_raise_errno(type, error, "no memory for lists of %llu objects on each CPU",
                              (unsigned long long)capacity);
        Py_DECREF(self);
        return NULL;
    }
    self->factory = Py_XNewRef(factory);
    percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, &percpu_py_open);
    return (PyObject *)self;
}

static PyObject *freelist_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&signature, args, kwargs, values) != 0)
        return NULL;
    return freelist_make(type, values);
}

static PyObject *freelist_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                     PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return freelist_make((PyTypeObject *)type, values);
}

static int freelist_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->factory);
    return percpu_py_freelist_visit(self, visit, arg);
}

/* Unlike the other types a list refers to whatever was put into it, and so can be part of a cycle
 * that nothing else can break. */
static int freelist_clear(PyObject *op)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut); /* get() without a factory */
    percpu_py_freelist_drop_unreachable(self);
    Py_CLEAR(self->factory);
    return 0;
}

static void freelist_dealloc(PyObject *op)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, freelist_dealloc); /* lists in lists in lists */
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    percpu_py_freelist_drop_unreachable(self);
    if (self->stacks.base != NULL)
        percpu_pool_free(self->memory, self->stacks.base);
    Py_XDECREF(self->factory);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

/* getting and putting ------------------------------------------------------------------------ */

/* An object of CPU `cpu`'s stack, wherever we are; NULL if it has none. */
static PyObject *pop_of(struct percpu_py_freelist *self, unsigned cpu)
{
    struct percpu_op op = {.code = PERCPU_OP_STACK_POP, .width = 8, .p = self->stacks};
    if (percpu_py_freelist_count(self, cpu) == 0 || percpu_remote(&op, cpu) != PERCPU_COMMITTED)
        return NULL;
    return percpu_py_freelist_object(op.old);
}

static PyObject *pop_of_any(struct percpu_py_freelist *self)
{
    PyObject *object = NULL;
    for (unsigned cpu = 0; object == NULL && cpu < self->cpus; cpu++)
        object = pop_of(self, cpu);
    return object;
}

static uint64_t count_puts(const struct percpu_py_freelist *self)
{
    uint64_t puts = 0;
    for (unsigned cpu = 0; cpu < self->cpus; cpu++)
        puts += percpu_cpu_read_u64(percpu_py_freelist_puts(self), cpu);
    return puts;
}

/*
 * Find an object on any CPU. That each CPU's stack was empty when we looked does not mean that they
 * were all empty at once: something may have been put where we had looked already, and what was
 * elsewhere taken before we came there. So look again if a put() has ended meanwhile. If none has,
 * then whatever was pushed behind us belongs to a put() that ends after us, and the list was empty.
 */
static PyObject *steal(struct percpu_py_freelist *self)
{
    uint64_t before, puts = count_puts(self);
    do {
        before = puts;
        PyObject *object = pop_of_any(self);
        if (object != NULL)
            return object;
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* pairs with that of end_put() */
        puts = count_puts(self);
    } while (puts != before);
    PyErr_SetString(PyExc_IndexError,
                    "get() from an empty list: put() objects into it, or make it with a factory");
    return NULL;
}

/* Release: whoever sees what this thread does next, or was told to do, also sees the count. */
static void end_put(struct percpu_py_freelist *self)
{
    percpu_this_inc_u64(percpu_py_freelist_puts(self));
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

PyDoc_STRVAR(get_doc,
             "get($self, /)\n--\n\n"
             "Return the object that was put into this CPU's list last, and take it out.\n\n"
             "If the list is empty: with a factory, return what ``factory()`` returns, or let\n"
             "its exception through; without, take an object from another CPU's list, which\n"
             "costs microseconds. Raises :exc:`IndexError` if no list has one.");

static PyObject *freelist_get(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    uint64_t value;
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    if (percpu_likely(percpu_stack_pop(self->stacks, &value)))
        return percpu_py_freelist_object(value);
    return self->factory != NULL ? PyObject_CallNoArgs(self->factory) : steal(self);
}

PyDoc_STRVAR(put_doc,
             "put($self, obj, /)\n--\n\n"
             "Put `obj` into this CPU's list, and return True; or return False if that has\n"
             "`capacity` objects already: then `obj` is still yours alone.\n\n"
             "Reset it before: the list hands objects out as they were put in. An object that is\n"
             "put twice is handed out twice.");

static PyObject *freelist_put(PyObject *op, PyObject *obj)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    if (percpu_unlikely(percpu_py_is_closed(&self->closed)))
        return percpu_py_raise_closed(op);
    Py_INCREF(obj);
    if (percpu_likely(percpu_stack_push(self->stacks, (uintptr_t)obj, self->capacity))) {
        if (percpu_py_freelist_counts_puts(self))
            end_put(self);
        Py_RETURN_TRUE;
    }
    Py_DECREF(obj); /* the caller has it, so this runs nothing */
    Py_RETURN_FALSE;
}

/* closing and the rest ----------------------------------------------------------------------- */

PyDoc_STRVAR(
    close_doc,
    "close($self, /)\n--\n\n"
    "Close the list: it gives up its objects, and raises :exc:`ClosedError` from now on.\n\n"
    "What another thread puts at this moment is given up when the list is garbage.\n"
    "Closing a closed list does nothing.");

static PyObject *freelist_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    if (percpu_py_freelist_drop(self) != 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the list.");

static PyObject *freelist_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the list.");

static PyObject *freelist_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *done = freelist_close(op, NULL);
    Py_XDECREF(done);
    return percpu_py_exit(args, nargs, done != NULL);
}

PyDoc_STRVAR(class_getitem_doc, "__class_getitem__($type, item, /)\n--\n\n"
                                "For annotations: PerCpuFreeList[bytearray].");

static PyMethodDef freelist_methods[] = {
    {"get", freelist_get, METH_NOARGS, get_doc},
    {"put", freelist_put, METH_O, put_doc},
    {"clear", percpu_py_freelist_clear, METH_NOARGS, percpu_py_freelist_clear_doc},
    {"drain", percpu_py_freelist_drain, METH_NOARGS, percpu_py_freelist_drain_doc},
    {"per_cpu", percpu_py_freelist_per_cpu, METH_NOARGS, percpu_py_freelist_per_cpu_doc},
    {"close", freelist_close, METH_NOARGS, close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, class_getitem_doc},
    {"__enter__", freelist_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))freelist_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_capacity(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(percpu_py_as_freelist(op)->capacity);
}

static PyObject *get_factory(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *factory = percpu_py_as_freelist(op)->factory;
    return Py_NewRef(factory != NULL ? factory : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_freelist(op)->closed));
}

static PyGetSetDef freelist_attributes[] = {
    {"capacity", get_capacity, NULL, "How many objects each CPU's list can have.", NULL},
    {"factory", get_factory, NULL, "What makes an object when a list is empty, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the list was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef freelist_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_freelist, weakrefs),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    freelist_doc,
    "PerCpuFreeList(factory=None, *, capacity=64)\n--\n\n"
    "Objects that wait for their next use, in a list for each CPU.\n\n"
    "For what costs more to make than to reset: buffers, parsers, connections. A thread gets what\n"
    "was put last on the CPU that it runs on, so the object is likely to be in that CPU's cache,\n"
    "and threads on different CPUs do not meet. :meth:`get` and :meth:`put` are one critical\n"
    "section each. ``len(f)`` is how many objects there are on all CPUs: exact when no other\n"
    "thread uses the list.\n\n"
    "With `factory`, a callable without parameters, the list is a cache like the kernel's slabs:\n"
    "an object is made where a CPU's list is empty, and :meth:`put` returns False where it is\n"
    "full. Without, the list has what was put into it, and :meth:`get` finds it on any CPU; to\n"
    "lend a fixed number of objects, let `capacity` (1 to 65536) be at least that number.\n\n"
    "Raises :exc:`TypeError` for a `factory` that is not callable, :exc:`ValueError` for a\n"
    "`capacity` out of range, :exc:`PoolExhausted`, and :exc:`ClosedError` once it was closed.");

static PyType_Slot freelist_slots[] = {
    {Py_tp_doc, (void *)freelist_doc},
    PERCPU_PY_SLOT(Py_tp_new, freelist_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, freelist_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, freelist_traverse),
    PERCPU_PY_SLOT(Py_tp_clear, freelist_clear),
    PERCPU_PY_SLOT(Py_tp_repr, percpu_py_freelist_repr),
    PERCPU_PY_SLOT(Py_sq_length, percpu_py_freelist_length),
    {Py_tp_methods, freelist_methods},
    {Py_tp_getset, freelist_attributes},
    {Py_tp_members, freelist_members},
    {0, NULL},
};

static PyType_Spec freelist_spec = {
    .name = "percpu.PerCpuFreeList",
    .basicsize = sizeof(struct percpu_py_freelist),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = freelist_slots,
};

int percpu_py_add_freelist(PyObject *module, struct percpu_py_state *state)
{
    state->freelist_type = percpu_py_make_type(module, &freelist_spec, freelist_vectorcall);
    return state->freelist_type != NULL ? PyModule_AddType(module, state->freelist_type) : -1;
}
