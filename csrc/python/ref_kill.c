/* SPDX-License-Identifier: MIT */
/*
 * ref_kill.c - PerCpuRef between live and dying: kill() with its confirmation, resurrect() and
 * reinit().
 *
 * confirm's exception is kept while kill() goes on, because the initial reference must be dropped.
 * If release then raises too, confirm's becomes the context of that.
 */
#include "ref.h"

#include <errno.h>

struct confirmation {
    PyObject *self, *confirm;
    PyObject *raised; /* out: what confirm() raised, or NULL */
};

static void call_confirm(struct percpu_ref *Py_UNUSED(ref), void *argument)
{
    struct confirmation *confirmation = argument;
    PyObject *done = PyObject_CallOneArg(confirmation->confirm, confirmation->self);
    if (done == NULL)
        confirmation->raised = PyErr_GetRaisedException();
    Py_XDECREF(done);
}

/* What is raised after confirm() raised; release() may have raised since, or kill() found that the
 * initial reference was gone. Returns NULL. */
static PyObject *raise_both(PyObject *first)
{
    PyObject *second = PyErr_GetRaisedException();
    if (second == NULL)
        second = first;
    else if (second != first)
        PyException_SetContext(second, first);
    else
        Py_DECREF(first);
    PyErr_SetRaisedException(second);
    return NULL;
}

static void raise_not_killed(struct percpu_py_ref *self, int error)
{
    long long count = (long long)percpu_ref_count(&self->ref);
    if (error == EALREADY)
        PyErr_SetString(PyExc_ValueError, "kill() of a PerCpuRef that was killed before");
    else if (percpu_ref_is_zero(&self->ref))
        PyErr_SetString(PyExc_ValueError, "the initial reference was put() by somebody else");
    else if (count < 1)
        PyErr_Format(PyExc_ValueError,
                     "kill() of a PerCpuRef of which %lld more references were put than gotten; "
                     "it lives on",
                     1 - count);
    else
        PyErr_SetString(PyExc_OverflowError, "a PerCpuRef counts fewer than 2**61 references");
}

const char percpu_py_ref_kill_doc[] =
    "kill($self, /, confirm=None)\n--\n\n"
    "Drop the initial reference, and let no :meth:`tryget_live` succeed any more.\n\n"
    "From now on all references are counted in one place, and when the last is dropped,\n"
    "which may be here, `release` is called. ``confirm(ref)`` is called before the initial\n"
    "reference is dropped, when every CPU sees that the ref was killed. What either raises\n"
    "comes through; the reference is dropped all the same.\n\n"
    "Raises :exc:`ValueError` if the ref was killed before, or if more references were put\n"
    "than gotten: then it lives on, because what is released might be in use.";

PyObject *percpu_py_ref_kill(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const struct percpu_py_signature call = {"kill", 0, 1, {"confirm"}};
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    PyObject *confirm;
    if (percpu_py_match_vector(&call, args, (size_t)nargs, kwnames, &confirm) != 0 ||
        !percpu_py_ref_usable(self))
        return NULL;
    if (confirm != NULL && confirm != Py_None && !PyCallable_Check(confirm)) {
        percpu_py_reject(PyExc_TypeError, "confirm", confirm, "a callable or None");
        return NULL;
    }
    struct confirmation confirmation = {op, confirm, NULL};
    int killed = confirm != NULL && confirm != Py_None
                     ? percpu_ref_kill_and_confirm(&self->ref, call_confirm, &confirmation)
                     : percpu_ref_kill(&self->ref);
    if (killed != 0)
        raise_not_killed(self, errno);
    if (confirmation.raised != NULL)
        return raise_both(confirmation.raised);
    return PyErr_Occurred() == NULL ? Py_NewRef(Py_None) : NULL; /* of release() */
}

static PyObject *made_live(struct percpu_py_ref *self, int result, const char *method)
{
    if (result == 0)
        Py_RETURN_NONE;
    const char *why = errno == EALREADY ? "lives"
                      : errno == EBUSY  ? "has references left: use resurrect()"
                                        : "has no reference left: use reinit()";
    return PyErr_Format(PyExc_ValueError, "%s() of a %s that %s", method,
                        percpu_py_type_name((PyObject *)self), why);
}

const char percpu_py_ref_resurrect_doc[] =
    "resurrect($self, /)\n--\n\n"
    "Make a killed ref that still has references live again, with a new initial\n"
    "reference.\n\n"
    "Raises :exc:`ValueError` if it lives, or if its last reference was dropped.";

PyObject *percpu_py_ref_resurrect(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    return percpu_py_ref_usable(self)
               ? made_live(self, percpu_ref_resurrect(&self->ref), "resurrect")
               : NULL;
}

const char percpu_py_ref_reinit_doc[] =
    "reinit($self, /)\n--\n\n"
    "Make a ref whose last reference was dropped live again, with a new initial\n"
    "reference: `release` will be called once more.\n\n"
    "Raises :exc:`ValueError` if it lives, or has references left.";

PyObject *percpu_py_ref_reinit(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_ref *self = percpu_py_as_ref(op);
    return percpu_py_ref_usable(self) ? made_live(self, percpu_ref_reinit(&self->ref), "reinit")
                                      : NULL;
}
