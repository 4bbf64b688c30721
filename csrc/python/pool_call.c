/* SPDX-License-Identifier: MIT */
/*
 * pool_call.c - calls of the core that come back: to run the pool's `init` or `dtor`, which are
 * Python code, or to say what a robust pool found.
 *
 *      method             core                       callback
 *      ----------------   ------------------------   ------------------------------------
 *      enter: GIL off
 *                         percpu_pool_alloc() ...
 *                         range_init()         --->  back: GIL on, with the call's thread state
 *                                                    Python runs; it may make calls of its own
 *                                              <---  resume: exception kept, GIL off
 *                         ... returns
 *      leave: GIL on, and the exception raised
 *
 * The call is on the C stack, the innermost one of a thread is in a thread-local pointer: the core's
 * callbacks have no other way to know whose thread state to take, and there may be more than one
 * interpreter (PyGILState_Ensure() knows one only). The core calls back without its locks, so
 * nobody waits for the GIL with a lock in his hand, and a lock may be waited for with the GIL.
 *
 * A pool with neither needs nothing of this: its calls keep the GIL.
 */
#include "pool.h"

#include <errno.h>

enum { DEEPEST = 50 }; /* callbacks in callbacks: each takes a few KiB of the thread's stack */

static _Thread_local struct percpu_py_call *innermost;
static _Thread_local unsigned depth;

void percpu_py_call_watch(struct percpu_py_call *call, struct percpu_py_pool *pool)
{
    call->pool = pool->calls_back || pool->geometry.robust ? pool : NULL;
    if (percpu_likely(call->pool == NULL))
        return;
    call->thread = NULL;
    call->raised = NULL;
    call->fresh = false;
    call->report.finding = PERCPU_NO_FINDING;
    call->outer = innermost;
    innermost = call;
}

void percpu_py_call_enter(struct percpu_py_call *call, struct percpu_py_pool *pool)
{
    percpu_py_call_watch(call, pool);
    if (pool->calls_back)
        call->thread = PyEval_SaveThread();
}

/* The exception of a callback whose call succeeded nevertheless, or failed for another reason. */
static void drop_raised(struct percpu_py_call *call)
{
    if (call->raised == NULL)
        return;
    PyErr_SetRaisedException(call->raised);
    percpu_py_pool_unraisable(call->pool);
}

int percpu_py_call_leave(struct percpu_py_call *call, int error)
{
    if (percpu_likely(call->pool == NULL))
        return error;
    if (call->thread != NULL)
        PyEval_RestoreThread(call->thread);
    innermost = call->outer;
    if (call->report.finding != PERCPU_NO_FINDING ||
        percpu_py_pool_mail(call->pool, &call->report)) {
        drop_raised(call);
        return percpu_py_raise_report(call->pool, &call->report);
    }
    if (error == 0 || call->raised == NULL) {
        drop_raised(call);
        return error;
    }
    PyErr_SetRaisedException(call->raised);
    return -1;
}

/* NULL: C code called the core, and there is no thread state to take. */
struct percpu_py_call *percpu_py_call_back(struct percpu_py_pool *pool)
{
    struct percpu_py_call *call = innermost;
    if (call == NULL || call->pool != pool || call->thread == NULL)
        return NULL;
    PyEval_RestoreThread(call->thread);
    call->thread = NULL;
    return call;
}

void percpu_py_call_resume(struct percpu_py_call *call)
{
    if (PyErr_Occurred()) {
        PyObject *raised = PyErr_GetRaisedException();
        drop_raised(call);
        call->raised = raised;
    }
    innermost = call; /* greenlets that were switched in the callback may have left another one */
    call->thread = PyEval_SaveThread();
}

struct percpu_py_call *percpu_py_call_innermost(void)
{
    return innermost;
}

int percpu_py_call_deeper(void)
{
    if (depth < DEEPEST) {
        depth++;
        return 0;
    }
    PyErr_SetString(PyExc_RecursionError, "callbacks of pools are nested too deep");
    return -1;
}

void percpu_py_call_shallower(void)
{
    depth--;
}

int percpu_py_call_python(PyObject *function, PyObject *argument)
{
    if (percpu_py_call_deeper() != 0)
        return -1;
    PyObject *result = PyObject_CallOneArg(function, argument);
    percpu_py_call_shallower();
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

void percpu_py_pool_unraisable(struct percpu_py_pool *pool)
{
    /* The hook may keep what it is given, and the pool may be going. */
    PyErr_WriteUnraisable((PyObject *)Py_TYPE(pool));
}
