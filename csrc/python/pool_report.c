/* SPDX-License-Identifier: MIT */
/*
 * pool_report.c - what a robust pool finds, as exceptions.
 *
 * The core tells the pool's `report` while it is in the middle of a call, so that only notes it:
 * in the call, which raises it when the core has returned. C code that was given an item, or the
 * pool itself, calls the core without us: what it finds waits in the pool's mailbox, which has room
 * for the first finding, for the next call of ours.
 */
#include "pool.h"

#include <errno.h>
#include <stdio.h>

enum { EMPTY, IN_HAND, FULL }; /* the mailbox */

static void post(struct percpu_py_mailbox *mailbox, const struct percpu_report *report)
{
    uint32_t state = EMPTY;
    if (!__atomic_compare_exchange_n(&mailbox->state, &state, IN_HAND, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return;
    mailbox->report = *report;
    __atomic_store_n(&mailbox->state, FULL, __ATOMIC_RELEASE); /* pairs with the exchange below */
}

bool percpu_py_pool_mail(struct percpu_py_pool *self, struct percpu_report *report)
{
    uint32_t state = FULL;
    if (percpu_likely(__atomic_load_n(&self->mailbox.state, __ATOMIC_RELAXED) != FULL) ||
        !__atomic_compare_exchange_n(&self->mailbox.state, &state, IN_HAND, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return false;
    *report = self->mailbox.report;
    __atomic_store_n(&self->mailbox.state, EMPTY, __ATOMIC_RELEASE); /* pairs with post() */
    return true;
}

/* With or without the GIL. `pool` is NULL for size classes: they have one `priv` for all, so that
 * there is nobody to tell what C code did wrong. */
void percpu_py_report(void *pool, const struct percpu_report *report)
{
    struct percpu_py_call *call = percpu_py_call_innermost();
    struct percpu_py_pool *self = pool;
    char text[512];
    if (call != NULL && call->pool->memory == report->pool) {
        if (call->report.finding == PERCPU_NO_FINDING)
            call->report = *report;
    } else if (self != NULL) {
        post(&self->mailbox, report);
    } else {
        percpu_report_format(report, text, sizeof text);
        fputs(text, stderr);
    }
}

/* the exception ------------------------------------------------------------------------------ */

static bool has_bytes(enum percpu_finding finding)
{
    return finding == PERCPU_USE_AFTER_FREE || finding == PERCPU_OVERFLOW ||
           finding == PERCPU_NOT_CONSTRUCTED;
}

/* An int; None if it says nothing. */
static PyObject *number(bool known, size_t value)
{
    return known ? PyLong_FromSize_t(value) : Py_NewRef(Py_None);
}

static PyObject *attributes(struct percpu_py_pool *self, const struct percpu_report *report,
                            PyObject *site)
{
    bool bytes = has_bytes(report->finding);
    return Py_BuildValue(
        "{s:s,s:O,s:N,s:N,s:N,s:N,s:N,s:N,s:O}", "kind", percpu_finding_name(report->finding),
        "pool", self->finalized ? Py_None : (PyObject *)self, "item",
        PyLong_FromVoidPtr((void *)(uintptr_t)report->item), "offset",
        number(bytes || report->finding == PERCPU_INTERIOR_FREE, report->offset), "cpu",
        number(report->cpu >= 0, (size_t)report->cpu), "expected", number(bytes, report->expected),
        "found", number(bytes, report->found), "count",
        number(report->finding == PERCPU_LEAK, report->count), "site", site);
}

/* Which item, and what is wrong with it. Not percpu_report_format(): it looks at the memory of the
 * pool, which may be gone, and names the site in the extension. */
static PyObject *particulars(const struct percpu_report *report)
{
    if (report->finding == PERCPU_LEAK)
        return PyUnicode_FromFormat("%zu of them, the first is %p", report->count, report->item);
    if (has_bytes(report->finding))
        return PyUnicode_FromFormat("item %p, CPU %d, offset %zu: 0x%02x instead of 0x%02x",
                                    report->item, report->cpu, report->offset, report->found,
                                    report->expected);
    return PyUnicode_FromFormat("item %p", report->item);
}

static PyObject *message(struct percpu_py_pool *self, const struct percpu_report *report,
                         PyObject *site)
{
    const char *kind = percpu_finding_name(report->finding), *detail = report->detail;
    PyObject *item = particulars(report), *text = NULL;
    PyObject *where = self->name == Py_None ? PyUnicode_FromString("a pool")
                                            : PyUnicode_FromFormat("pool %R", self->name);
    if (item != NULL && where != NULL)
        text = PyUnicode_FromFormat("%s in %U: %s (%U)", kind, where, detail, item);
    if (text != NULL && site != Py_None)
        Py_SETREF(text, PyUnicode_FromFormat("%U; allocated at %U", text, site));
    Py_XDECREF(where);
    Py_XDECREF(item);
    return text;
}

static PyObject *make_exception(struct percpu_py_pool *self, const struct percpu_report *report,
                                PyObject *site)
{
    PyObject *text = message(self, report, site), *values = attributes(self, report, site);
    PyObject *type = percpu_py_error_class(Py_TYPE(self), PERCPU_PY_CORRUPTION);
    PyObject *exception = text != NULL && values != NULL ? PyObject_CallOneArg(type, text) : NULL;
    PyObject *dict = exception != NULL ? PyObject_GenericGetDict(exception, NULL) : NULL;
    if (dict == NULL || PyDict_Update(dict, values) != 0)
        Py_CLEAR(exception);
    Py_XDECREF(dict);
    Py_XDECREF(values);
    Py_XDECREF(text);
    return exception;
}

int percpu_py_raise_report(struct percpu_py_pool *self, const struct percpu_report *report)
{
    PyObject *site = percpu_py_sites_find(self, report->item);
    PyObject *exception = site != NULL ? make_exception(self, report, site) : NULL;
    if (exception != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
    Py_XDECREF(site);
    return -1;
}

/* looking ------------------------------------------------------------------------------------ */

int percpu_py_pool_inspect(struct percpu_py_pool *self)
{
    struct percpu_py_call call;
    struct percpu_report report;
    percpu_py_call_enter(&call, self);
    bool whole = percpu_pool_check(self->memory, &report) == 0;
    bool found = !whole && report.finding != PERCPU_NO_FINDING;
    int error = percpu_py_call_leave(&call, whole || found ? 0 : errno);
    if (error > 0)
        percpu_py_raise_errno(Py_TYPE(self), error, "no memory for a list of the pool's items");
    if (error != 0)
        return -1;
    return found ? percpu_py_raise_report(self, &report) : 0;
}

int percpu_py_pool_find_leaks(struct percpu_py_pool *self)
{
    struct percpu_report report = {
        .finding = PERCPU_LEAK,
        .pool = self->memory,
        .cpu = -1,
        .detail = "items are handed out when the pool is closed",
    };
    if (percpu_py_addresses_first(&self->sites, &report.item) == 0)
        return 0;
    PyGC_Collect(); /* what is garbage is not leaked */
    report.count = percpu_py_addresses_first(&self->sites, &report.item);
    return report.count == 0 ? 0 : percpu_py_raise_report(self, &report);
}
