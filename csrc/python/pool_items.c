/* SPDX-License-Identifier: MIT */
/*
 * pool_items.c - where the items of a PerCpuPool come from and go to, and their ctor and dtor.
 *
 * ctor is run here, not by the core, on the PerCpuItem that alloc() then returns: so a view that
 * it keeps is a view of an item that is handed out. `constructed` says which items it has seen;
 * one that it failed for is freed and not in there, so that it is seen again. dtor is run by the
 * core, when it gives memory back, on a PerCpuItem that shows a copy and is dead afterwards.
 */
#include "item.h"

#include <errno.h>
#include <string.h>

int percpu_py_pool_take(struct percpu_py_pool *self, percpu_py_source *source, void *what,
                        void **item, bool *fresh)
{
    struct percpu_py_call call;
    if (percpu_py_pool_hold(self) != 0)
        return -1;
    percpu_py_call_enter(&call, self);
    *item = source(self->memory, what);
    int error = percpu_py_call_leave(&call, *item != NULL ? 0 : errno);
    if (fresh != NULL)
        *fresh = call.pool != NULL && call.fresh;
    if (error == 0 && percpu_py_sites_add(self, *item) != 0)
        error = -1;
    if (error == 0)
        return 0;
    if (*item != NULL)
        percpu_py_pool_give_back_quietly(self, *item);
    else
        percpu_py_pool_release(self);
    return error;
}

int percpu_py_pool_give_back(struct percpu_py_pool *self, void *item)
{
    struct percpu_py_call call;
    percpu_py_sites_remove(self, item); /* before another thread can allocate the item */
    percpu_py_call_watch(&call, self);
    percpu_pool_free(self->memory, item);
    int result = percpu_py_call_leave(&call, 0);
    percpu_py_pool_release(self);
    return result;
}

void percpu_py_pool_give_back_quietly(struct percpu_py_pool *self, void *item)
{
    if (percpu_likely(!self->geometry.robust)) {
        percpu_pool_free(self->memory, item);
        percpu_py_pool_release(self);
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    if (percpu_py_pool_give_back(self, item) != 0)
        percpu_py_pool_unraisable(self);
    PyErr_SetRaisedException(raised);
}

void percpu_py_pool_raise_not_allocated(struct percpu_py_pool *self, int error)
{
    if (error == ENOMEM && self->geometry.max_ranges == 0)
        percpu_py_raise_errno(Py_TYPE(self), error,
                              "no free item of %zu bytes, and no memory for a new range",
                              self->geometry.item_size);
    else if (error == ENOMEM)
        percpu_py_raise_errno(Py_TYPE(self), error,
                              "no free item of %zu bytes, and no new range (max_ranges is %zu)",
                              self->geometry.item_size, self->geometry.max_ranges);
    else
        percpu_py_raise_errno(Py_TYPE(self), error, "no new range for items of %zu bytes: %s",
                              self->geometry.item_size, strerror(error));
}

/* construction ------------------------------------------------------------------------------- */

/* `constructed` has the item already, so that nobody does this twice. */
static int run_ctor(struct percpu_py_pool *self, PyObject *item)
{
    struct percpu_py_place none;
    if (self->ctor == NULL)
        return 0;
    if (percpu_py_item_begin_export(item) != 0) /* ctor cannot free it, or close the pool */
        return percpu_py_item_raise_unusable(item);
    int done = percpu_py_call_python(self->ctor, item);
    percpu_py_item_release(item);
    if (done != 0)
        percpu_py_addresses_take(&self->constructed, percpu_py_as_item(item)->address, &none);
    return done;
}

int percpu_py_pool_construct(struct percpu_py_pool *self, PyObject *item, bool fresh)
{
    struct percpu_py_place none = {NULL, 0};
    const void *address = percpu_py_as_item(item)->address;
    if (!percpu_py_pool_constructs(self))
        return 0;
    /* C code may have trimmed the pool without our knowledge: see percpu_py_dtor(). */
    if (!fresh && percpu_py_addresses_find(&self->constructed, address, &none))
        return 0;
    if (percpu_py_addresses_add(&self->constructed, address, none) < 0)
        return -1;
    return run_ctor(self, item);
}

/* Exceptions go to sys.unraisablehook. */
static void run_dtor(struct percpu_py_pool *self, void *address)
{
    PyObject *item = percpu_py_item_lend(self, address);
    if (item == NULL || percpu_py_call_python(self->dtor, item) != 0)
        PyErr_WriteUnraisable(self->dtor);
    if (item != NULL)
        percpu_py_item_end_loan(item);
    Py_XDECREF(item);
}

/* The core asks nothing more of an item that came out of a ctor. */
int percpu_py_ctor(void *pool, void *Py_UNUSED(item))
{
    struct percpu_py_call *call = percpu_py_call_innermost();
    if (call != NULL && call->pool == pool)
        call->fresh = true;
    return 0;
}

void percpu_py_dtor(void *pool, void *item)
{
    struct percpu_py_pool *self = pool;
    struct percpu_py_place none;
    struct percpu_py_call *call = percpu_py_call_back(self);
    if (call == NULL)
        return;
    if (percpu_py_addresses_take(&self->constructed, item, &none) && self->dtor != NULL &&
        !self->finalized)
        run_dtor(self, item);
    percpu_py_call_resume(call);
}

/* Of those that are constructed now: a dtor may allocate more, and without an end. */
void percpu_py_pool_destruct(struct percpu_py_pool *self)
{
    struct percpu_py_addresses all = percpu_py_addresses_take_all(&self->constructed);
    for (size_t i = 0; self->dtor != NULL && all.slots != NULL && i <= all.mask; i++)
        if (all.slots[i].address != NULL && percpu_pool_owns(self->memory, all.slots[i].address))
            run_dtor(self, (void *)(uintptr_t)all.slots[i].address);
    percpu_py_addresses_clear(&all);
}
