/* SPDX-License-Identifier: MIT */
/*
 * fork.c - a pool can be destroyed in the child of a fork, robust or not, and in both policies it
 * can be used there too: parent and child each have their own copies from then on.
 */
#include <rseq/mempool.h>

#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

enum { CPUS = 4, ITEMS = 40 };

static struct rseq_mempool *make(enum rseq_mempool_populate_policy policy, int robust)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_percpu(attr, 0, CPUS) == 0);
    CHECK(!robust || rseq_mempool_attr_set_robust(attr) == 0);
    CHECK(rseq_mempool_attr_set_populate_policy(attr, policy) == 0);
    struct rseq_mempool *pool = rseq_mempool_create("forked", sizeof(uintptr_t), attr);
    CHECK(pool != NULL);
    rseq_mempool_attr_destroy(attr);
    return pool;
}

static void allocate(struct rseq_mempool *pool, uintptr_t **items, uintptr_t value)
{
    for (int i = 0; i < ITEMS; i++) {
        items[i] = rseq_mempool_percpu_malloc_init(pool, &value, sizeof value);
        CHECK(items[i] != NULL);
    }
}

static void expect(uintptr_t **items, uintptr_t value)
{
    for (int i = 0; i < ITEMS; i++)
        for (int cpu = 0; cpu < CPUS; cpu++)
            CHECK(*rseq_percpu_ptr(items[i], cpu) == value);
}

static void overwrite(uintptr_t **items, uintptr_t value)
{
    for (int i = 0; i < ITEMS; i++)
        for (int cpu = 0; cpu < CPUS; cpu++)
            *rseq_percpu_ptr(items[i], cpu) = value;
}

static void free_all(uintptr_t **items)
{
    for (int i = 0; i < ITEMS; i++)
        rseq_mempool_percpu_free(items[i]);
}

/* The child writes and allocates; nothing of that may reach the parent. */
static void child_uses(struct rseq_mempool *pool, uintptr_t **items)
{
    uintptr_t *more[ITEMS];
    expect(items, 1);
    overwrite(items, 2);
    allocate(pool, more, 3);
    expect(items, 2);
    expect(more, 3);
    free_all(more);
    free_all(items);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_CASE(status == 0, "status %#x", (unsigned)status);
}

static void test_use_in_the_child(enum rseq_mempool_populate_policy policy, int robust)
{
    struct rseq_mempool *pool = make(policy, robust);
    uintptr_t *items[ITEMS], *more[ITEMS];
    allocate(pool, items, 1);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        child_uses(pool, items);
        _exit(0);
    }
    allocate(pool, more, 4);
    wait_for(child);
    expect(items, 1);
    expect(more, 4);
    overwrite(items, 5);
    expect(more, 4);
    free_all(items);
    free_all(more);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

/* As librseq's own test does it: nothing is allocated, the child only destroys. */
static void test_destroy_in_the_child(enum rseq_mempool_populate_policy policy, int robust)
{
    struct rseq_mempool *pool = make(policy, robust);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(rseq_mempool_destroy(pool) == 0);
        _exit(0);
    }
    wait_for(child);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

int main(void)
{
    for (int i = 0; i < 4; i++) {
        test_destroy_in_the_child((enum rseq_mempool_populate_policy)(i / 2), i % 2);
        test_use_in_the_child((enum rseq_mempool_populate_policy)(i / 2), i % 2);
    }
    return 0;
}
