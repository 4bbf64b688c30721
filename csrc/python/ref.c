/* SPDX-License-Identifier: MIT */
/*
 * ref.c - PerCpuRef: percpu_ref, whose callbacks are Python callables. ref_kill.c has what goes between live
 * and dying.
 *
 * Callbacks. `release` and `confirm` run inside put() and kill(), in the thread that called them,
 * with the reference dropped already or to be dropped in any case. What one raises is raised by the
 * method.
 *
 * A closed ref takes no more calls. Its memory, and the count in it, live until it is garbage, so a
 * put() beside close() meets nothing that has a new owner (module.h).
 */
#include "ref.h"

#include <errno.h>

/* life --------------------------------------------------------------------------------------- */

/* An exception stays set, for the method that dropped the last reference. The ref may be closed by
 * now, by confirm() or another thread. */
static void call_release(struct percpu_ref *Py_UNUSED(ref), void *priv)
{
    struct percpu_py_ref *self = priv;
    if (self->release != NULL && !percpu_py_is_closed(&self->closed))
        Py_XDECREF(PyObject_CallOneArg(self->release, (PyObject *)self));
}

static const struct percpu_py_signature signature = {
    .callable = "PerCpuRef",
    .positional = 1,
    .parameters = {"release"},
};

static PyObject *ref_make(PyTypeObject *type, PyObject *const *values)
{
    PyObject *release = values[0] != Py_None ? values[0] : NULL;
    if (release != NULL && !PyCallable_Check(release)) {
        percpu_py_reject(PyExc_TypeError, "release", release, "a callable or None");
        return NULL;
    }
    struct percpu_py_ref *self = percpu_py_as_ref(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    int made = percpu_ref_init(&self->ref, NULL, call_release, self);
    if (made != 0 && errno == ENOMEM && percpu_py_collect_deferred())
        made = percpu_ref_init(&self->ref, NULL, call_release, self);
    if (made != 0) {
        percpu_py_raise_errno(type, errno, "no memory for a reference count of 8 bytes per CPU");
        Py_DECREF(self);
        return NULL;
    }
    self->release = Py_XNewRef(release);
    percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, &percpu_py_open);
    return (PyObject *)self;
}

static PyObject *ref_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_tuple(&signature, args, kwargs, values) != 0)
        return NULL;
    return ref_make(type, values);
}

static PyObject *ref_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf,
                                PyObject *kwnames)
{
    PyObject *values[PERCPU_PY_MAX_PARAMETERS];
    if (percpu_py_match_vector(&signature, args, nargsf, kwnames, values) != 0)
        return NULL;
    return ref_make((PyTypeObject *)type, values);
}

static int ref_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(percpu_py_as_ref(op)->release);
    return 0;
}

/* The callback may well refer to the ref, and then nothing else can break the cycle. */
static int ref_clear(PyObject *op)
{
    Py_CLEAR(percpu_py_as_ref(op)->release);
    return 0;
}

static void ref_dealloc(PyObject *op)
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, ref_dealloc); /* refs whose release is a method of what has another ref */
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    if (self->ref.cpus != 0)
        percpu_ref_exit(&self->ref);
    Py_XDECREF(self->release);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

/* getting and putting ------------------------------------------------------------------------ */

/* The argument of get() or put(), 1 if there is none. Whether it is right, and the ref is open
 * afterwards: __index__ may have closed it. */
static bool how_many(struct percpu_py_ref *self, const char *method, PyObject *const *args,
                     Py_ssize_t nargs, uint32_t *n)
{
    uint64_t number = 1;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method, nargs);
        return false;
    }
    if (nargs == 1 && percpu_py_size(args[0], "n", "", 1, UINT32_MAX, &number) != 0)
        return false;
    *n = (uint32_t)number;
    return percpu_py_ref_usable(self);
}

PyDoc_STRVAR(get_doc, "get($self, n=1, /)\n--\n\n"
                      "Take `n` more references (1 to 2**32 - 1).\n\n"
                      "Only for who holds one already: others use :meth:`tryget_live`. Raises\n"
                      ":exc:`ValueError` if the count has reached zero.");

static PyObject *ref_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    uint32_t n;
    if (!how_many(self, "get", args, nargs, &n))
        return NULL;
    if (percpu_likely(percpu_ref_get_many(&self->ref, n) == 0))
        Py_RETURN_NONE;
    if (errno == ESTALE)
        PyErr_SetString(PyExc_ValueError, "get() after the last reference was dropped");
    else
        PyErr_SetString(PyExc_OverflowError, "a PerCpuRef counts fewer than 2**61 references");
    return NULL;
}

PyDoc_STRVAR(put_doc,
             "put($self, n=1, /)\n--\n\n"
             "Drop `n` references (1 to 2**32 - 1), and call `release` if none is left of a\n"
             "killed ref: what that raises comes through, with the references dropped.\n\n"
             "Raises :exc:`ValueError`, and drops nothing, if a killed ref has fewer. While it\n"
             "lives a ref cannot tell; :meth:`kill` finds it.");

static PyObject *ref_put(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    uint32_t n;
    if (!how_many(self, "put", args, nargs, &n))
        return NULL;
    if (percpu_likely(percpu_ref_put_many(&self->ref, n) == 0))
        return PyErr_Occurred() == NULL ? Py_NewRef(Py_None) : NULL; /* of release() */
    return PyErr_Format(PyExc_ValueError, "put(%lu) of a PerCpuRef that has %lld references left",
                        (unsigned long)n, (long long)percpu_ref_count(&self->ref));
}

PyDoc_STRVAR(tryget_doc, "tryget($self, /)\n--\n\n"
                         "Take a reference unless the count has reached zero; return whether it\n"
                         "did.");

static PyObject *ref_tryget(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    return percpu_py_ref_usable(self) ? PyBool_FromLong(percpu_ref_tryget(&self->ref)) : NULL;
}

PyDoc_STRVAR(tryget_live_doc, "tryget_live($self, /)\n--\n\n"
                              "Take a reference unless the ref was killed; return whether it did.");

static PyObject *ref_tryget_live(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    return percpu_py_ref_usable(self) ? PyBool_FromLong(percpu_ref_tryget_live(&self->ref)) : NULL;
}

/* looking, closing and the rest -------------------------------------------------------------- */

PyDoc_STRVAR(count_doc,
             "count($self, /)\n--\n\n"
             "Return how many references there are, the initial one included: for debugging.\n\n"
             "Exact when no other thread uses the ref. Reads one word of each CPU.");

static PyObject *ref_count(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    return percpu_py_ref_usable(self) ? PyLong_FromLongLong(percpu_ref_count(&self->ref)) : NULL;
}

PyDoc_STRVAR(check_doc, "check($self, /)\n--\n\n"
                        "Test every invariant of the ref, which no other thread may use\n"
                        "meanwhile.\n\n"
                        "Raises :exc:`CorruptionError`, a :exc:`RuntimeError`, with a sentence\n"
                        "about the first one that does not hold.");

static PyObject *ref_check(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    if (!percpu_py_ref_usable(self))
        return NULL;
    const char *broken = percpu_ref_check(&self->ref);
    if (broken != NULL)
        return percpu_py_raise(Py_TYPE(op), PERCPU_PY_CORRUPTION, "%s", broken);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the ref: it raises :exc:`ClosedError` from now on, and `release` is\n"
             "not called any more.\n\n"
             "Closing a closed ref does nothing.");

static PyObject *ref_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    percpu_py_point_closed(&percpu_py_as_ref(op)->closed, &percpu_py_shut);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nReturn the ref.");

static PyObject *ref_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exception)\n--\n\nClose the ref.");

static PyObject *ref_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
                          Py_ssize_t Py_UNUSED(nargs))
{
    return ref_close(op, NULL);
}

static PyObject *ref_repr(PyObject *op)
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    const char *state = percpu_ref_is_zero(&self->ref)    ? "zero"
                        : percpu_ref_is_dying(&self->ref) ? "dying"
                                                          : "live";
    return PyUnicode_FromFormat("<%s %s references=%lld mode=%s cpus=%u>", name, state,
                                (long long)percpu_ref_count(&self->ref), percpu_py_mode_name(),
                                self->ref.cpus);
}

static PyMethodDef ref_methods[] = {
    {"get", (PyCFunction)(void (*)(void))ref_get, METH_FASTCALL, get_doc},
    {"put", (PyCFunction)(void (*)(void))ref_put, METH_FASTCALL, put_doc},
    {"tryget", ref_tryget, METH_NOARGS, tryget_doc},
    {"tryget_live", ref_tryget_live, METH_NOARGS, tryget_live_doc},
    {"kill", (PyCFunction)(void (*)(void))percpu_py_ref_kill, METH_FASTCALL | METH_KEYWORDS,
     percpu_py_ref_kill_doc},
    {"resurrect", percpu_py_ref_resurrect, METH_NOARGS, percpu_py_ref_resurrect_doc},
    {"reinit", percpu_py_ref_reinit, METH_NOARGS, percpu_py_ref_reinit_doc},
    {"count", ref_count, METH_NOARGS, count_doc},
    {"check", ref_check, METH_NOARGS, check_doc},
    {"close", ref_close, METH_NOARGS, close_doc},
    {"__enter__", ref_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))ref_exit, METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_dying(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_ref_is_dying(&percpu_py_as_ref(op)->ref));
}

static PyObject *get_zero(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_ref_is_zero(&percpu_py_as_ref(op)->ref));
}

static PyObject *get_release(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *release = percpu_py_as_ref(op)->release;
    return Py_NewRef(release != NULL ? release : Py_None);
}

static PyObject *get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(percpu_py_is_closed(&percpu_py_as_ref(op)->closed));
}

static PyGetSetDef ref_attributes[] = {
    {"dying", get_dying, NULL, "Whether the ref was killed, and not made live again.", NULL},
    {"zero", get_zero, NULL, "Whether the last reference of a killed ref was dropped.", NULL},
    {"release", get_release, NULL, "What is called when the last is dropped, or None.", NULL},
    {"closed", get_closed, NULL, "Whether the ref was closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef ref_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct percpu_py_ref, weakrefs), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    ref_doc,
    "PerCpuRef(release=None)\n--\n\n"
    "A reference count that threads on different CPUs count without meeting, until it is killed.\n\n"
    "After the Linux kernel's ``percpu_ref``. It guards something that many threads use and one\n"
    "retires: a configuration, a connection, a plug-in. It starts live, with one reference, the\n"
    "initial one. Whoever uses the thing takes a reference by :meth:`tryget_live` and drops it by\n"
    ":meth:`put`, each one critical section. To retire the thing, :meth:`kill` drops the initial\n"
    "reference and turns away newcomers; ``release(ref)`` is called once, by the thread that drops\n"
    "the last reference. A killed ref can be made live again: :meth:`resurrect`, :meth:`reinit`.\n\n"
    "A ref that is garbage before it was killed does not call `release`, nor does a closed one. A\n"
    "forked child has a count of its own, in which the references of the parent's other threads\n"
    "stay.\n\n"
    "Raises :exc:`TypeError` for a `release` that is not callable, :exc:`PoolExhausted`, and\n"
    ":exc:`ClosedError` once it was closed.");

static PyType_Slot ref_slots[] = {
    {Py_tp_doc, (void *)ref_doc},
    PERCPU_PY_SLOT(Py_tp_new, ref_new),
    PERCPU_PY_SLOT(Py_tp_dealloc, ref_dealloc),
    PERCPU_PY_SLOT(Py_tp_traverse, ref_traverse),
    PERCPU_PY_SLOT(Py_tp_clear, ref_clear),
    PERCPU_PY_SLOT(Py_tp_repr, ref_repr),
    {Py_tp_methods, ref_methods},
    {Py_tp_getset, ref_attributes},
    {Py_tp_members, ref_members},
    {0, NULL},
};

static PyType_Spec ref_spec = {
    .name = "percpu.PerCpuRef",
    .basicsize = sizeof(struct percpu_py_ref),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ref_slots,
};

int percpu_py_add_ref(PyObject *module, struct percpu_py_state *state)
{
    state->ref_type = percpu_py_make_type(module, &ref_spec, ref_vectorcall);
    return state->ref_type != NULL ? PyModule_AddType(module, state->ref_type) : -1;
}
