/* SPDX-License-Identifier: MIT */
/*
 * robust.c - what a robust pool finds. Each misdeed is done in a child, which must be aborted and
 * say which pool it was; one that behaves must not be.
 */
#include <rseq/mempool.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define NAME "the robust one"

struct record {
    uintptr_t value[4];
};

typedef void deed(struct rseq_mempool *pool);

static struct record *item_of(struct rseq_mempool *pool)
{
    struct record *item = rseq_mempool_percpu_malloc(pool);
    CHECK(item != NULL);
    return item;
}

static void behave(struct rseq_mempool *pool)
{
    for (int i = 0; i < 3; i++) {
        struct record *item = item_of(pool);
        rseq_percpu_ptr(item, 0)->value[0] = 1;
        rseq_percpu_ptr(item, 1)->value[3] = 1;
        rseq_mempool_percpu_free(item);
    }
    CHECK(rseq_mempool_destroy(pool) == 0);
}

static void free_twice(struct rseq_mempool *pool)
{
    struct record *item = item_of(pool);
    rseq_mempool_percpu_free(item);
    rseq_mempool_percpu_free(item);
}

static void free_inside(struct rseq_mempool *pool)
{
    rseq_mempool_percpu_free(&item_of(pool)->value[1]);
}

static void free_unallocated(struct rseq_mempool *pool)
{
    rseq_mempool_percpu_free(item_of(pool) + 1);
}

static void leak(struct rseq_mempool *pool)
{
    (void)item_of(pool);
    rseq_mempool_destroy(pool);
}

static struct record *write_freed(struct rseq_mempool *pool, int cpu, uintptr_t value)
{
    struct record *item = item_of(pool);
    rseq_mempool_percpu_free(item);
    rseq_percpu_ptr(item, cpu)->value[2] = value;
    return item;
}

static void write_freed_then_malloc(struct rseq_mempool *pool)
{
    struct record *item = write_freed(pool, 1, 1);
    for (int i = 0; i < 2000; i++) /* sooner or later it is this one's turn */
        if (rseq_mempool_percpu_malloc(pool) == item)
            break;
}

static void write_freed_then_destroy(struct rseq_mempool *pool)
{
    (void)write_freed(pool, 0, 1);
    rseq_mempool_destroy(pool);
}

/* Zeros are not the poison of COW_INIT. */
static void write_zeros_then_destroy(struct rseq_mempool *pool)
{
    (void)write_freed(pool, 1, 0);
    rseq_mempool_destroy(pool);
}

static struct rseq_mempool *make(enum rseq_mempool_populate_policy policy)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_robust(attr) == 0);
    CHECK(rseq_mempool_attr_set_percpu(attr, RSEQ_MEMPOOL_STRIDE, 2) == 0);
    CHECK(rseq_mempool_attr_set_populate_policy(attr, policy) == 0);
    struct rseq_mempool *pool = rseq_mempool_create(NAME, sizeof(struct record), attr);
    CHECK(pool != NULL);
    rseq_mempool_attr_destroy(attr);
    return pool;
}

/* How the child ended, and what it said. */
static int status_of(deed *deed, enum rseq_mempool_populate_policy policy, char *said, size_t size)
{
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        deed(make(policy));
        _exit(0);
    }
    close(ends[1]);
    ssize_t length = 0, more;
    while ((more = read(ends[0], said + length, size - 1 - (size_t)length)) > 0)
        length += more;
    said[length] = '\0';
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void expect_abort(const char *name, deed *deed, enum rseq_mempool_populate_policy policy)
{
    char said[4096];
    int status = status_of(deed, policy, said, sizeof said);
    CHECK_CASE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s, policy %d, status %#x: %s",
               name, (int)policy, (unsigned)status, said);
    CHECK_CASE(strstr(said, NAME) != NULL, "%s: %s", name, said);
}

#define EXPECT_ABORT(deed, policy) expect_abort(#deed, deed, policy)

int main(void)
{
    for (int i = 0; i < 2; i++) {
        enum rseq_mempool_populate_policy policy = (enum rseq_mempool_populate_policy)i;
        char said[4096];
        int status = status_of(behave, policy, said, sizeof said);
        CHECK_CASE(status == 0, "policy %d, status %#x: %s", i, (unsigned)status, said);
        EXPECT_ABORT(free_twice, policy);
        EXPECT_ABORT(free_inside, policy);
        EXPECT_ABORT(free_unallocated, policy);
        EXPECT_ABORT(leak, policy);
        EXPECT_ABORT(write_freed_then_malloc, policy);
        EXPECT_ABORT(write_freed_then_destroy, policy);
    }
    EXPECT_ABORT(write_zeros_then_destroy, RSEQ_MEMPOOL_POPULATE_COW_INIT);
    return 0;
}
