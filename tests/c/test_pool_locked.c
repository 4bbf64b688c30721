/* SPDX-License-Identifier: MIT */
/*
 * test_pool_locked.c - pools of a program that locks its memory.
 *
 * The kernel then gives every CPU pages of its own at once: by writing to a private mapping, before
 * anybody stored initial values in its file. And it refuses to drop pages.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "pool_tools.h"

enum { CPUS = 4, ITEMS = 3000 };

static size_t stride;

/* Every copy of the items that follow starts with `init`. */
static void check_items(struct percpu_pool *pool, const char *init)
{
    for (int i = 0; i < ITEMS; i++) {
        char *item = percpu_pool_alloc_init(pool, init, strlen(init));
        CHECK(item != NULL);
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            CHECK(strcmp(item + cpu * stride, init) == 0);
    }
}

static struct percpu_pool *create(bool robust)
{
    struct percpu_pool_attr attr = {
        .item_size = 16,
        .cpus = CPUS > percpu_nr_cpus() ? CPUS : percpu_nr_cpus(),
        .stride = (size_t)1 << 20, /* more than is prepared at once */
        .populate = PERCPU_POPULATE_INIT,
        .init = "initial",
        .init_size = 8,
        .robust = robust,
    };
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK(pool != NULL);
    return pool;
}

static void test_made_in_locked_memory(void)
{
    CHECK(mlockall(MCL_FUTURE) == 0);
    struct percpu_pool *pool = create(false);
    check_items(pool, "initial");
    check_items(pool, "other");
    check_items(pool, "initial");
    percpu_pool_destroy(pool);
    pool = create(true);
    char *item = percpu_pool_alloc_initial(pool);
    CHECK(item != NULL && strcmp(item, "initial") == 0);
    percpu_pool_free(pool, item);
    CHECK(pool_broken(pool) == NULL);
    percpu_pool_destroy(pool);
}

static void test_locked_after_it_was_made(void)
{
    struct percpu_pool *pool = create(false);
    check_items(pool, "initial");
    CHECK(mlockall(MCL_CURRENT) == 0);
    for (int i = 0; i < 10; i++)
        check_items(pool, "initial");
    percpu_pool_destroy(pool);
}

/* Units that another class used are zeros again. */
static void test_classes(void)
{
    struct percpu_pool_set *set = percpu_pool_set_create();
    CHECK(set != NULL &&
          percpu_pool_set_add_classes(set, &(struct percpu_pool_attr){.item_size = 1024}) == 0);
    CHECK(mlockall(MCL_CURRENT) == 0);
    char ones[72], *items[500];
    memset(ones, 0xff, sizeof ones);
    CHECK(percpu_pool_set_alloc(set, 8) != NULL); /* keeps the range */
    for (int i = 0; i < 500; i++)
        CHECK((items[i] = percpu_pool_set_alloc_init(set, ones, sizeof ones)) != NULL);
    for (int i = 0; i < 500; i++)
        percpu_pool_set_free(set, items[i]);
    struct percpu_pool *pool;
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++)
        percpu_pool_trim(pool);
    for (int i = 0; i < 100; i++) {
        char *item = percpu_pool_set_zalloc(set, 200);
        CHECK(item != NULL);
        for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
            for (int byte = 0; byte < 200; byte++)
                CHECK(item[cpu * 65536 + byte] == 0);
    }
    percpu_pool_set_destroy(set);
}

/* In a child: locks are not inherited, and end with it. */
static void run(void (*test)(void))
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        test();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_CASE(status == 0, "status %#x", status);
}

int main(void)
{
    if (emulated() || mlockall(MCL_CURRENT) != 0 || munlockall() != 0) {
        puts("this process may not lock its memory");
        return TEST_SKIPPED;
    }
    stride = (size_t)1 << 20;
    run(test_made_in_locked_memory);
    run(test_locked_after_it_was_made);
    run(test_classes);
    return 0;
}
