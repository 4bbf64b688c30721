/* SPDX-License-Identifier: MIT */
/*
 * counter_make.c - where a PerCpuCounter's memory comes from and goes to.
 */
#include "counter.h"

#include <errno.h>

enum { VALUE, BATCH, POOL };

const struct percpu_py_signature percpu_py_counter_signature = {
    .callable = "PerCpuCounter",
    .positional = 1,
    .parameters = {"value", "batch", "pool"},
};

struct wish {
    struct percpu_counter *counter;
    int64_t value, batch;
};

/* `memory` is NULL for a pool of the process. */
static void *source(struct percpu_pool *memory, void *what)
{
    const struct wish *wish = what;
    return percpu_counter_init(wish->counter, memory, wish->value, wish->batch) == 0
               ? wish->counter->slots.base
               : NULL;
}

/* 0; an errno of the core; -1 with an exception. */
static int init(struct percpu_py_counter *self, int64_t value, int64_t batch)
{
    struct wish wish = {&self->counter, value, batch};
    void *item;
    if (self->pool == NULL)
        return source(NULL, &wish) != NULL ? 0 : errno;
    int error = percpu_py_pool_take(self->pool, source, &wish, &item, NULL);
    if (error != 0)
        self->counter.cpus = 0;
    return error;
}

PyObject *percpu_py_counter_make(PyTypeObject *type, PyObject *const *values)
{
    int64_t value = 0;
    uint64_t batch = PERCPU_COUNTER_BATCH;
    struct percpu_py_pool *pool;
    if ((values[VALUE] != NULL && percpu_py_int64(values[VALUE], "value", &value) != 0) ||
        (values[BATCH] != NULL &&
         percpu_py_size(values[BATCH], "batch", "", 1, PERCPU_COUNTER_BATCH_MAX, &batch) != 0) ||
        percpu_py_pool_argument(type, values[POOL], &pool) != 0 ||
        (pool != NULL &&
         percpu_py_pool_fits(pool, PERCPU_COUNTER_ITEM, sizeof(uint64_t), "a counter") != 0))
        return NULL;
    struct percpu_py_counter *self = percpu_py_as_counter(type->tp_alloc(type, 0));
    if (self == NULL)
        return NULL;
    percpu_py_point_closed(&self->closed, &percpu_py_shut);
    self->pool = (struct percpu_py_pool *)Py_XNewRef((PyObject *)pool);
    int error = init(self, value, (int64_t)batch);
    if (error == ENOMEM && pool == NULL && percpu_py_collect_deferred())
        error = init(self, value, (int64_t)batch);
    if (error != 0) {
        if (error > 0 && error != ENOMEM && pool != NULL)
            percpu_py_pool_raise_not_allocated(pool, error);
        else if (error > 0)
            percpu_py_raise_errno(type, error, "no memory for a counter of %zu bytes per CPU",
                                  PERCPU_COUNTER_ITEM);
        Py_DECREF(self);
        return NULL;
    }
    if (pool == NULL) /* a pool with max_ranges needs its items back at once */
        percpu_py_defer_refcount((PyObject *)self);
    percpu_py_point_closed(&self->closed, pool != NULL ? &pool->closed : &percpu_py_open);
    return (PyObject *)self;
}

void percpu_py_counter_give_back(struct percpu_py_counter *self)
{
    if (self->counter.cpus == 0)
        return;
    if (self->pool == NULL)
        percpu_counter_destroy(&self->counter);
    else /* the same, and it is noticed what a robust pool finds */
        percpu_py_pool_give_back_quietly(self->pool, self->counter.slots.base);
}
