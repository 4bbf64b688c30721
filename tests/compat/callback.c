/* SPDX-License-Identifier: MIT */
/*
 * callback.c - the function that initialises new memory: it is told each CPU's part in order, -1 in
 * a global pool, for every new range; what it writes is what malloc finds; its failure fails the
 * creation, or the allocation, that needed the memory; it may allocate.
 */
#include <rseq/mempool.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "machine.h"

enum { STRIDE = 4096, ITEM = 1024, CPUS = 5 };

struct seen {
    int calls;
    int fail_at;                /* the call that fails; -1: none */
    int cpus;                   /* that are expected; 0: global */
    char *first;                /* CPU 0's memory of the range that is being made */
    struct rseq_mempool *inner; /* to allocate from */
};

static int init(void *priv, void *memory, size_t length, int cpu)
{
    struct seen *seen = priv;
    int call = seen->calls++;
    CHECK(length == STRIDE);
    if (seen->cpus == 0) {
        CHECK(cpu == -1);
    } else {
        CHECK_CASE(cpu == call % seen->cpus, "call %d is for CPU %d", call, cpu);
        if (cpu == 0)
            seen->first = memory;
        CHECK(memory == rseq_percpu_ptr(seen->first, cpu, STRIDE));
    }
    if (seen->inner != NULL) /* fills ranges of its own */
        CHECK(rseq_mempool_percpu_malloc(seen->inner) != NULL);
    memset(memory, 100 + cpu, length);
    errno = EDOM;
    return call == seen->fail_at ? -1 : 0;
}

/* CPUs of -1: a global pool. The creation may fail. */
static struct rseq_mempool *make(struct seen *seen, int cpus, bool zero, bool robust)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_init(attr, init, seen) == 0);
    if (cpus < 0)
        CHECK(rseq_mempool_attr_set_global(attr, STRIDE) == 0);
    else
        CHECK(rseq_mempool_attr_set_percpu(attr, STRIDE, cpus) == 0);
    if (zero) /* after set_init, which asks for COW_INIT */
        CHECK(rseq_mempool_attr_set_populate_policy(attr, RSEQ_MEMPOOL_POPULATE_COW_ZERO) == 0);
    CHECK(!robust || rseq_mempool_attr_set_robust(attr) == 0);
    errno = 0;
    struct rseq_mempool *pool = rseq_mempool_create("callback", ITEM, attr);
    int error = errno;
    rseq_mempool_attr_destroy(attr);
    errno = error;
    return pool;
}

static void expect(const char *item, int cpu, int value)
{
    for (int at = 0; at < ITEM; at++)
        CHECK_CASE(item[at] == (char)value, "CPU %d, byte %d: %d", cpu, at, item[at]);
}

static void test_every_range(int cpus, bool zero, bool robust)
{
    struct seen seen = {.fail_at = -1, .cpus = cpus};
    struct rseq_mempool *pool = make(&seen, cpus, zero, robust);
    CHECK(pool != NULL && seen.calls == cpus);
    char *items[3 * STRIDE / ITEM];
    size_t count = sizeof items / sizeof *items;
    for (size_t i = 0; i < count; i++) {
        items[i] = rseq_mempool_percpu_malloc(pool);
        CHECK(items[i] != NULL);
        for (int cpu = 0; cpu < cpus; cpu++)
            expect(rseq_percpu_ptr(items[i], cpu, STRIDE), cpu, 100 + cpu);
    }
    CHECK(seen.calls == 3 * cpus);
    for (size_t i = 0; i < count; i++)
        rseq_mempool_percpu_free(items[i], STRIDE);
    char *zeros = rseq_mempool_percpu_zmalloc(pool);
    for (int cpu = 0; cpu < cpus; cpu++)
        expect(rseq_percpu_ptr(zeros, cpu, STRIDE), cpu, 0);
    rseq_mempool_percpu_free(zeros, STRIDE);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

static void test_global(void)
{
    struct seen seen = {.fail_at = -1};
    struct rseq_mempool *pool = make(&seen, -1, false, false);
    CHECK(pool != NULL && seen.calls == 1);
    char *item = rseq_mempool_malloc(pool);
    expect(item, -1, 99);
    rseq_mempool_free(item, STRIDE);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

/* An item never handed out that the callback has written: zmalloc has to clear it. */
static void test_fresh_zeros(bool zero)
{
    struct seen seen = {.fail_at = -1, .cpus = 2};
    struct rseq_mempool *pool = make(&seen, 2, zero, false);
    CHECK(pool != NULL);
    char *item = rseq_mempool_percpu_zmalloc(pool), init[ITEM];
    memset(init, 3, sizeof init);
    char *other = rseq_mempool_percpu_malloc_init(pool, init, sizeof init);
    CHECK(item != NULL && other != NULL);
    for (int cpu = 0; cpu < 2; cpu++) {
        expect(rseq_percpu_ptr(item, cpu, STRIDE), cpu, 0);
        expect(rseq_percpu_ptr(other, cpu, STRIDE), cpu, 3);
    }
    CHECK(rseq_mempool_destroy(pool) == 0);
}

static void test_failure(bool zero)
{
    for (int at = 0; at < CPUS; at++) {
        struct seen seen = {.fail_at = at, .cpus = CPUS};
        CHECK(make(&seen, CPUS, zero, false) == NULL && errno == ENOMEM);
        CHECK(seen.calls == at + 1);
    }
    struct seen seen = {.fail_at = CPUS + 1, .cpus = CPUS};
    struct rseq_mempool *pool = make(&seen, CPUS, zero, false);
    CHECK(pool != NULL);
    for (int i = 0; i < STRIDE / ITEM; i++)
        CHECK(rseq_mempool_percpu_malloc(pool) != NULL);
    errno = 0;
    CHECK(rseq_mempool_percpu_malloc(pool) == NULL && errno == ENOMEM);
    CHECK(seen.calls == CPUS + 2);
    seen.calls = CPUS; /* as if it had not been */
    seen.fail_at = -1;
    CHECK(rseq_mempool_percpu_malloc(pool) != NULL && seen.calls == 2 * CPUS);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

/* Each call makes a new range of another pool that has a callback too. */
static void test_allocating_in_the_callback(void)
{
    struct seen inside = {.fail_at = -1, .cpus = CPUS};
    struct seen outside = {.fail_at = -1, .cpus = CPUS};
    outside.inner = make(&inside, CPUS, true, false);
    CHECK(outside.inner != NULL);
    for (int i = 0; i < STRIDE / ITEM; i++)
        CHECK(rseq_mempool_percpu_malloc(outside.inner) != NULL);
    struct rseq_mempool *pool = make(&outside, CPUS, true, false);
    CHECK(pool != NULL && outside.calls == CPUS);
    CHECK(inside.calls == CPUS * (1 + (CPUS * ITEM + STRIDE - 1) / STRIDE));
    CHECK(rseq_mempool_destroy(pool) == 0 && rseq_mempool_destroy(outside.inner) == 0);
}

int main(void)
{
    int everywhere = (int)percpu_nr_cpus();
    for (int i = 0; i < 4; i++) {
        test_every_range(1, i & 1, i & 2);
        test_every_range(CPUS, i & 1, i & 2);
        test_every_range(everywhere + 3, i & 1, i & 2);
    }
    test_global();
    for (int zero = 0; zero < 2; zero++) {
        test_fresh_zeros(zero);
        test_failure(zero);
    }
    test_allocating_in_the_callback();
    return 0;
}
