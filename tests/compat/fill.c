/* SPDX-License-Identifier: MIT */
/*
 * fill.c - pools filled to the last item, for many strides, numbers of ranges and CPUs, in both
 * policies, robust and with a poison value: a range holds exactly stride / item_len items, nothing
 * overlaps, and everything can be had again.
 */
#include <rseq/mempool.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

#define POISON 0xABCDABCDABCDABCDUL

/* 40 bytes: rounded up to 64. */
struct record {
    uintptr_t value[2];
    struct record __rseq_percpu *self;
    struct record *previous;
    uintptr_t last;
};
enum { ITEM_LEN = 64 };

struct shape {
    enum rseq_mempool_populate_policy policy;
    unsigned long ranges;
    size_t stride;
    int cpus;
};

static struct rseq_mempool *make(const struct shape *shape)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL);
    CHECK(rseq_mempool_attr_set_robust(attr) == 0);
    CHECK(rseq_mempool_attr_set_percpu(attr, shape->stride, shape->cpus) == 0);
    CHECK(rseq_mempool_attr_set_max_nr_ranges(attr, shape->ranges) == 0);
    CHECK(rseq_mempool_attr_set_poison(attr, POISON) == 0);
    CHECK(rseq_mempool_attr_set_populate_policy(attr, shape->policy) == 0);
    struct rseq_mempool *pool = rseq_mempool_create("fill", sizeof(struct record), attr);
    CHECK(pool != NULL);
    rseq_mempool_attr_destroy(attr);
    return pool;
}

/* Items linked through their copies on CPU 0, the last one first. */
static struct record *fill(struct rseq_mempool *pool, const struct shape *shape)
{
    struct record *list = NULL, __rseq_percpu * item;
    size_t count = 0;
    while ((item = rseq_mempool_percpu_zmalloc(pool)) != NULL) {
        CHECK(((uintptr_t)item & (ITEM_LEN - 1)) == 0);
        struct record *copy = rseq_percpu_ptr(item, 0, shape->stride);
        CHECK(copy->self == NULL && copy->previous == NULL);
        copy->self = item;
        copy->previous = list;
        list = copy;
        count++;
    }
    CHECK(errno == ENOMEM);
    CHECK_CASE(count == shape->ranges * shape->stride / ITEM_LEN,
               "%zu items in %lu ranges of %zu bytes", count, shape->ranges, shape->stride);
    return list;
}

static void write_all(struct record *list, const struct shape *shape)
{
    for (; list != NULL; list = list->previous)
        for (int cpu = 0; cpu < shape->cpus; cpu++) {
            struct record *copy = rseq_percpu_ptr(list->self, cpu, shape->stride);
            CHECK(copy->value[0] == 0 && copy->value[1] == 0 && copy->last == 0);
            copy->value[0] = copy->last = (uintptr_t)copy;
        }
}

static void free_all(struct record *list, const struct shape *shape)
{
    while (list != NULL) {
        struct record *previous = list->previous;
        CHECK(list->value[0] == (uintptr_t)list && list->last == (uintptr_t)list);
        rseq_mempool_percpu_free(list->self, shape->stride);
        list = previous;
    }
}

/* Recycled items: zeros and initial values arrive on every CPU, whatever the poison is. */
static void recycle(struct rseq_mempool *pool, const struct shape *shape)
{
    struct record init = {.value = {123, 456}, .last = 789};
    struct record __rseq_percpu *zeros = rseq_mempool_percpu_zmalloc(pool);
    struct record __rseq_percpu *values = rseq_mempool_percpu_malloc_init(pool, &init, sizeof init);
    CHECK(zeros != NULL && values != NULL);
    for (int cpu = 0; cpu < shape->cpus; cpu++) {
        static const struct record zero;
        CHECK(memcmp(rseq_percpu_ptr(zeros, cpu, shape->stride), &zero, sizeof zero) == 0);
        CHECK(memcmp(rseq_percpu_ptr(values, cpu, shape->stride), &init, sizeof init) == 0);
    }
    rseq_mempool_percpu_free(zeros, shape->stride);
    rseq_mempool_percpu_free(values, shape->stride);
}

static void test_shape(const struct shape *shape)
{
    struct rseq_mempool *pool = make(shape);
    CHECK(rseq_mempool_get_max_nr_cpus(pool) == shape->cpus);
    struct record *list = fill(pool, shape);
    write_all(list, shape);
    free_all(list, shape);
    recycle(pool, shape);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

int main(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int policy = 0; policy < 2; policy++) {
        struct shape shape = {.policy = (enum rseq_mempool_populate_policy)policy};
        shape.cpus = 3;
        for (shape.ranges = 1; shape.ranges <= 16; shape.ranges *= 4)
            for (shape.stride = page; shape.stride < 65536; shape.stride *= 2)
                test_shape(&shape);
        shape.ranges = 1;
        for (shape.stride = 65536; shape.stride <= (1 << 20); shape.stride *= 4)
            test_shape(&shape);
        shape.stride = page;
        shape.cpus = 1024;
        test_shape(&shape);
    }
    return 0;
}
