/* SPDX-License-Identifier: MIT */
/*
 * sets.c - several pools behind one allocator: one for each power of two, the smallest that fits,
 * the next one when it is full; pools of a set may have strides of their own.
 */
#include <rseq/mempool.h>

#include <errno.h>
#include <string.h>

#include "check.h"

enum { CPUS = 3, SMALL = 4096, LARGE = 16384 };

static struct rseq_mempool *pool_of(size_t item_len, size_t stride)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_percpu(attr, stride, CPUS) == 0);
    CHECK(rseq_mempool_attr_set_max_nr_ranges(attr, 1) == 0);
    struct rseq_mempool *pool = rseq_mempool_create("of a set", item_len, attr);
    CHECK(pool != NULL);
    rseq_mempool_attr_destroy(attr);
    return pool;
}

static struct rseq_mempool_set *set_of_two(void)
{
    struct rseq_mempool_set *set = rseq_mempool_set_create();
    CHECK(set != NULL);
    CHECK(rseq_mempool_set_add_pool(set, pool_of(60, SMALL)) == 0);
    CHECK(rseq_mempool_set_add_pool(set, pool_of(1024, LARGE)) == 0);
    return set;
}

static void test_one_pool_for_each_power_of_two(void)
{
    struct rseq_mempool_set *set = set_of_two();
    struct rseq_mempool *another = pool_of(33, SMALL);
    errno = 0;
    CHECK(rseq_mempool_set_add_pool(set, another) == -1 && errno == EBUSY);
    CHECK(rseq_mempool_destroy(another) == 0); /* it is still ours */
    CHECK(rseq_mempool_set_add_pool(set, pool_of(1, SMALL)) == 0);
    CHECK(rseq_mempool_set_destroy(set) == 0);
}

static void expect(char *item, size_t stride, const char *start, size_t length)
{
    for (int cpu = 0; cpu < CPUS; cpu++) {
        const char *copy = rseq_percpu_ptr(item, cpu, stride);
        CHECK_CASE(memcmp(copy, start, length) == 0, "CPU %d: %.*s", cpu, (int)length, copy);
    }
}

/* Also the bytes: they must arrive on every CPU, in an item that is new and in one that is not. */
static void test_smallest_that_fits(void)
{
    struct rseq_mempool_set *set = set_of_two();
    char text[200] = "some text that every copy is to have";
    static const char nothing[200];
    for (int round = 0; round < 3; round++) {
        char *small = rseq_mempool_set_percpu_malloc_init(set, text, 64);
        char *large = rseq_mempool_set_percpu_malloc_init(set, text, 65);
        char *zeros = rseq_mempool_set_percpu_zmalloc(set, sizeof nothing);
        char *empty = rseq_mempool_set_percpu_malloc(set, 0);
        CHECK(small != NULL && large != NULL && zeros != NULL && empty != NULL);
        expect(small, SMALL, text, 64);
        expect(large, LARGE, text, 65);
        expect(zeros, LARGE, nothing, sizeof nothing);
        memset(rseq_percpu_ptr(small, 1, SMALL), 'x', 64);
        memset(rseq_percpu_ptr(large, 1, LARGE), 'x', 1024);
        memset(rseq_percpu_ptr(zeros, 1, LARGE), 'x', 1024);
        rseq_mempool_percpu_free(small, SMALL);
        rseq_mempool_percpu_free(large, LARGE);
        rseq_mempool_percpu_free(zeros, LARGE);
        rseq_mempool_percpu_free(empty, SMALL);
    }
    errno = 0;
    CHECK(rseq_mempool_set_percpu_malloc(set, 1025) == NULL && errno == ENOMEM);
    CHECK(rseq_mempool_set_percpu_zmalloc(set, (size_t)-1) == NULL && errno == ENOMEM);
    CHECK(rseq_mempool_set_destroy(set) == 0);
}

static void test_the_next_when_full(void)
{
    struct rseq_mempool_set *set = set_of_two();
    char *last = NULL;
    for (int i = 0; i < SMALL / 64; i++) {
        char *item = rseq_mempool_set_percpu_malloc(set, 10);
        CHECK(item != NULL);
        /* Not in the stride of the one before, if that is a range of its own. */
        CHECK(last == NULL || ((uintptr_t)item ^ (uintptr_t)last) < SMALL);
        last = item;
    }
    for (int i = 0; i < LARGE / 1024; i++)
        CHECK((uintptr_t)rseq_mempool_set_percpu_malloc(set, 10) % 1024 == 0);
    errno = 0;
    CHECK(rseq_mempool_set_percpu_malloc(set, 10) == NULL && errno == ENOMEM);
    rseq_mempool_percpu_free(last, SMALL);
    CHECK(rseq_mempool_set_percpu_zmalloc(set, 10) == last);
    CHECK(rseq_mempool_set_percpu_malloc(set, 10) == NULL);
    CHECK(rseq_mempool_set_destroy(set) == 0);
}

static void test_an_empty_set(void)
{
    struct rseq_mempool_set *set = rseq_mempool_set_create();
    CHECK(set != NULL);
    errno = 0;
    CHECK(rseq_mempool_set_malloc(set, 1) == NULL && errno == ENOMEM);
    CHECK(rseq_mempool_set_destroy(set) == 0);
}

static void test_global_pools(void)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_global(attr, 0) == 0);
    struct rseq_mempool_set *set = rseq_mempool_set_create();
    CHECK(set != NULL);
    CHECK(rseq_mempool_set_add_pool(set, rseq_mempool_create("g", 256, attr)) == 0);
    rseq_mempool_attr_destroy(attr);
    char text[] = "bytes";
    char *any = rseq_mempool_set_malloc(set, 200), *zeros = rseq_mempool_set_zmalloc(set, 200);
    char *values = rseq_mempool_set_malloc_init(set, text, sizeof text);
    CHECK(any != NULL && zeros != NULL && zeros[199] == 0 && strcmp(values, "bytes") == 0);
    rseq_mempool_free(any);
    rseq_mempool_free(zeros);
    rseq_mempool_free(values);
    CHECK(rseq_mempool_set_destroy(set) == 0);
}

int main(void)
{
    test_one_pool_for_each_power_of_two();
    test_smallest_that_fits();
    test_the_next_when_full();
    test_an_empty_set();
    test_global_pools();
    return 0;
}
