/* SPDX-License-Identifier: MIT */
/*
 * freelist_all.c - what a PerCpuFreeList does with the stacks of all CPUs: see freelist.c for who
 * owns what, and when.
 */
#include "freelist.h"

int percpu_py_freelist_visit(struct percpu_py_freelist *self, visitproc visit, void *arg)
{
    for (unsigned cpu = 0; self->stacks.base != NULL && cpu < self->cpus; cpu++) {
        const uint64_t *stack = percpu_ptr_cpu(self->stacks, cpu);
        for (uint64_t count = percpu_py_freelist_count(self, cpu); count > 0; count--)
            Py_VISIT(percpu_py_freelist_object(stack[count]));
    }
    return 0;
}

/* No section of the list is under way anywhere, so its words can be written as they are. */
void percpu_py_freelist_drop_unreachable(struct percpu_py_freelist *self)
{
    for (unsigned cpu = 0; self->stacks.base != NULL && cpu < self->cpus; cpu++) {
        uint64_t *stack = percpu_ptr_cpu(self->stacks, cpu);
        for (uint64_t rounds = stack[0]; rounds > 0 && stack[0] > 0; rounds--) {
            PyObject *object = percpu_py_freelist_object(stack[stack[0]]);
            stack[0]--;
            Py_DECREF(object);
        }
    }
}

static uint64_t count_all(const struct percpu_py_freelist *self)
{
    uint64_t count = 0;
    for (unsigned cpu = 0; cpu < self->cpus; cpu++)
        count += percpu_py_freelist_count(self, cpu);
    return count;
}

Py_ssize_t percpu_py_freelist_length(PyObject *op)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    return percpu_py_freelist_usable(self) ? (Py_ssize_t)count_all(self) : -1;
}

PyObject *percpu_py_freelist_repr(PyObject *op)
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    const char *name = percpu_py_type_name(op);
    if (percpu_py_is_closed(&self->closed))
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s of %llu objects, capacity=%llu mode=%s cpus=%u>", name,
                                (unsigned long long)count_all(self),
                                (unsigned long long)self->capacity, percpu_py_mode_name(),
                                self->cpus);
}

const char percpu_py_freelist_per_cpu_doc[] =
    "per_cpu($self, /)\n--\n\n"
    "Return a tuple of how many objects each CPU's list has.";

PyObject *percpu_py_freelist_per_cpu(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    PyObject *counts = percpu_py_freelist_usable(self) ? PyTuple_New((Py_ssize_t)self->cpus) : NULL;
    for (unsigned cpu = 0; counts != NULL && cpu < self->cpus; cpu++) {
        PyObject *number = PyLong_FromUnsignedLongLong(percpu_py_freelist_count(self, cpu));
        if (number == NULL)
            Py_CLEAR(counts);
        else
            PyTuple_SET_ITEM(counts, (Py_ssize_t)cpu, number);
    }
    return counts;
}

/* What was taken out of the stacks: references that are no longer the list's. */
struct taken {
    uint64_t *values;
    size_t count;
};

/* Take all that CPU `cpu` has. 0; -1 with MemoryError, and nothing was taken. */
static int take_all_of(struct percpu_py_freelist *self, unsigned cpu, struct taken *taken)
{
    if (percpu_py_freelist_count(self, cpu) == 0)
        return 0;
    uint64_t *room = PyMem_Realloc(taken->values, (taken->count + self->capacity) * sizeof *room);
    if (room == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    taken->values = room;
    taken->count += percpu_stack_take_all_of(self->stacks, cpu, room + taken->count);
    return 0;
}

int percpu_py_freelist_drop(struct percpu_py_freelist *self)
{
    struct taken taken = {NULL, 0};
    int error = 0;
    for (unsigned cpu = 0; error == 0 && cpu < self->cpus; cpu++) {
        error = take_all_of(self, cpu, &taken);
        while (taken.count > 0)
            Py_DECREF(percpu_py_freelist_object(taken.values[--taken.count]));
    }
    PyMem_Free(taken.values);
    return error;
}

const char percpu_py_freelist_clear_doc[] = "clear($self, /)\n--\n\n"
                                            "Give up the objects in the lists of all CPUs.";

PyObject *percpu_py_freelist_clear(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    if (!percpu_py_freelist_usable(self) || percpu_py_freelist_drop(self) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static bool push_to(struct percpu_py_freelist *self, unsigned cpu, uint64_t value)
{
    struct percpu_op op = {.code = PERCPU_OP_STACK_PUSH,
                           .width = 8,
                           .p = self->stacks,
                           .x = value,
                           .expect = self->capacity};
    return percpu_remote(&op, cpu) == PERCPU_COMMITTED;
}

/* There is no memory for the result: what was taken goes back, to any CPU. If others have filled
 * all lists meanwhile, the rest is given up. */
static void put_back(struct percpu_py_freelist *self, const struct taken *taken)
{
    PyObject *raised = PyErr_GetRaisedException();
    unsigned cpu = 0;
    for (size_t i = 0; i < taken->count; i++) {
        while (cpu < self->cpus && !push_to(self, cpu, taken->values[i]))
            cpu++;
        if (cpu == self->cpus)
            Py_DECREF(percpu_py_freelist_object(taken->values[i]));
    }
    PyErr_SetRaisedException(raised);
}

const char percpu_py_freelist_drain_doc[] =
    "drain($self, /)\n--\n\n"
    "Take all objects out of the lists of all CPUs, and return them in a list: CPU by\n"
    "CPU, the one that was put first first.";

PyObject *percpu_py_freelist_drain(PyObject *op, PyObject *Py_UNUSED(unused))
{
    struct percpu_py_freelist *self = percpu_py_as_freelist(op);
    struct taken taken = {NULL, 0};
    int error = percpu_py_freelist_usable(self) ? 0 : -1;
    for (unsigned cpu = 0; error == 0 && cpu < self->cpus; cpu++)
        error = take_all_of(self, cpu, &taken);
    PyObject *list = error == 0 ? PyList_New((Py_ssize_t)taken.count) : NULL;
    for (size_t i = 0; list != NULL && i < taken.count; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, percpu_py_freelist_object(taken.values[i]));
    if (list == NULL)
        put_back(self, &taken);
    PyMem_Free(taken.values);
    return list;
}
