/* SPDX-License-Identifier: MIT */
/*
 * test_pool_shared.c - the pools of the process for items of any size: threads that need one at
 * the same time get the same one, items are large enough, aligned and apart, and small ones of
 * different sizes share pages. A child forked in the middle can make what is not there yet.
 */
#define _GNU_SOURCE
#include <percpu/pool_set.h>
#include <percpu/topology.h>

#include <sys/wait.h>

#include "threads.h"

enum { WORKERS = 8, SIZES = 64 };

static const size_t most = (size_t)16 << 20;
static struct percpu_pool *_Atomic seen[SIZES];

static size_t size_of(unsigned i)
{
    return i < 60 ? (size_t)(i + 1) * (i + 7) * 16 : most >> (2 * (i - 60));
}

static void asker(struct worker *worker)
{
    for (unsigned i = 0; i < SIZES; i++) {
        struct percpu_pool *first = NULL, *pool = percpu_pool_shared_for(size_of(i));
        CHECK(pool != NULL);
        if (!atomic_compare_exchange_strong(&seen[i], &first, pool))
            CHECK_CASE(first == pool, "two pools for %zu bytes", size_of(i));
        worker->done++;
    }
    while (!stopping())
        sched_yield();
}

static void test_one_pool_for_all_threads(void)
{
    static void (*const bodies[])(struct worker *) = {asker};
    CHECK(run_workers(WORKERS, bodies, 1, 0, 100) == (uint64_t)WORKERS * SIZES);
}

static void test_bounds(void)
{
    static const size_t bad[] = {0, ((size_t)16 << 20) + 1, SIZE_MAX};
    for (size_t i = 0; i < 3; i++) {
        errno = 0;
        CHECK(percpu_pool_shared_for(bad[i]) == NULL && errno == EINVAL);
    }
}

static void test_sizes(void)
{
    for (size_t size = 1; size <= most; size += size / 7 + 1) {
        struct percpu_pool *pool = percpu_pool_shared_for(size);
        struct percpu_pool_geometry geometry;
        CHECK(pool != NULL);
        percpu_pool_geometry(pool, &geometry);
        CHECK_CASE(geometry.item_size >= size, "%zu bytes for %zu", geometry.item_size, size);
        if (size <= (size_t)64 << 10)
            CHECK(geometry.item_size == percpu_size_class(size));
        else
            CHECK(geometry.item_size < 2 * size);
        char *item = percpu_pool_zalloc(pool), *other = percpu_pool_zalloc(pool);
        CHECK(item != NULL && other != NULL && (uintptr_t)item % 8 == 0);
        CHECK(item + size <= other || other + size <= item);
        unsigned last = percpu_nr_cpus() - 1;
        item[0] = item[size - 1] = 1;
        item[last * geometry.stride + size - 1] = 1;
        CHECK(other[0] == 0 && other[size - 1] == 0);
        percpu_pool_free(pool, item);
        percpu_pool_free(pool, other);
    }
}

/* Twenty objects of 400 bytes, written on one CPU, cost two pages there, not twenty. */
static void test_small_items_share_pages(void)
{
    struct percpu_pool *pool = percpu_pool_shared_for(400);
    void *items[20];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = percpu_pool_resident(pool, 0);
    for (unsigned i = 0; i < 20; i++) {
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        memset(items[i], 1, 400);
    }
    size_t pages = (percpu_pool_resident(pool, 0) - before) / page;
    CHECK_CASE(pages <= (20 * 448 + page - 1) / page + 1, "%zu pages", pages);
    for (unsigned i = 0; i < 20; i++)
        percpu_pool_free(pool, items[i]);
}

/* The parent has no class yet; threads make them while it forks. */
static void test_fork_beside_the_first_use(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        deadline(30);
        test_sizes();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void *fork_often(void *unused)
{
    for (int i = 0; i < 5; i++)
        test_fork_beside_the_first_use();
    return unused;
}

int main(void)
{
    pthread_t forker;
    deadline(100);
    CHECK(pthread_create(&forker, NULL, fork_often, NULL) == 0);
    test_one_pool_for_all_threads();
    CHECK(pthread_join(forker, NULL) == 0);
    test_bounds();
    test_sizes();
    test_small_items_share_pages();
    return 0;
}
