/* SPDX-License-Identifier: MIT */
/*
 * test_pool_set.c - pools of several sizes behind one allocator: the smallest that fits, the next
 * larger one when that is full, initial bytes in either; and what may not be in one set.
 */
#define _GNU_SOURCE
#include <percpu/pool_set.h>

#include "pool_tools.h"

static size_t page;
static unsigned nr_cpus;

static struct percpu_pool_attr of_size(size_t size, unsigned populate)
{
    return (struct percpu_pool_attr){
        .item_size = size, .stride = 4 * page, .max_ranges = 1, .populate = populate, .lazy = true};
}

static struct percpu_pool_set *set_of(const size_t *sizes, unsigned count, unsigned populate)
{
    struct percpu_pool_set *set = percpu_pool_set_create();
    CHECK(set != NULL);
    for (unsigned i = 0; i < count; i++)
        CHECK(percpu_pool_set_add(set, make_pool(of_size(sizes[i], populate))) == 0);
    return set;
}

static size_t size_of(struct percpu_pool_set *set, const void *item)
{
    struct percpu_pool *pool = percpu_pool_set_find(set, item);
    CHECK(pool != NULL && percpu_pool_of(item, 4 * page) == pool);
    return geometry_of(pool).item_size;
}

static void test_pools_are_sorted(void)
{
    static const size_t sizes[] = {256, 16, 1000, 64, 8, 100};
    static const size_t sorted[] = {8, 16, 64, 100, 256, 1000};
    struct percpu_pool_set *set = set_of(sizes, COUNT_OF(sizes), 0);
    for (unsigned i = 0; i < COUNT_OF(sorted); i++)
        CHECK(geometry_of(percpu_pool_set_get(set, i)).item_size == sorted[i]);
    CHECK(percpu_pool_set_get(set, COUNT_OF(sorted)) == NULL);
    CHECK(percpu_pool_set_get(set, UINT32_MAX) == NULL);
    int local;
    CHECK(percpu_pool_set_find(set, &local) == NULL && percpu_pool_set_find(set, NULL) == NULL);
    /* Each size is served by the smallest that holds it. */
    for (size_t size = 0, at = 0; size <= 1000; size++) {
        at += size > sorted[at];
        void *item = percpu_pool_set_zalloc(set, size);
        CHECK(item != NULL && size_of(set, item) == sorted[at]);
        CHECK(percpu_pool_set_find(set, (char *)item + 1) == NULL);
        percpu_pool_set_free(set, item);
    }
    errno = 0;
    CHECK(percpu_pool_set_alloc(set, 1001) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(percpu_pool_set_zalloc(set, SIZE_MAX) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(percpu_pool_set_alloc_init(set, &local, SIZE_MAX) == NULL && errno == ENOMEM);
    percpu_pool_set_free(set, NULL);
    percpu_pool_set_destroy(set);
    percpu_pool_set_destroy(NULL);
}

/* Each in its turn; the bytes arrive in all of them, with zeros behind. */
static void test_next_larger_when_full(unsigned populate)
{
    static const size_t sizes[] = {16, 64, 256};
    struct percpu_pool_set *set = set_of(sizes, COUNT_OF(sizes), populate);
    static unsigned char *items[4096];
    unsigned count = 0;
    for (unsigned i = 0; i < COUNT_OF(sizes); i++) {
        struct percpu_pool *pool = percpu_pool_set_get(set, i);
        for (size_t n = geometry_of(pool).capacity; n > 0; n--) {
            unsigned number = count + 1;
            void *item = percpu_pool_set_alloc_init(set, &number, sizeof number);
            CHECK(item != NULL && size_of(set, item) == sizes[i]);
            CHECK(wrong_copy(pool, item, &number, sizeof number) == -1);
            items[count++] = item;
        }
    }
    errno = 0;
    CHECK(percpu_pool_set_alloc_init(set, "x", 1) == NULL && errno == ENOMEM);
    CHECK(percpu_pool_set_alloc(set, 10) == NULL && percpu_pool_set_zalloc(set, 200) == NULL);
    for (unsigned i = 0; i < count; i++) {
        unsigned number = i + 1;
        CHECK(wrong_copy(percpu_pool_set_find(set, items[i]), items[i], &number, 4) == -1);
    }
    /* One of each back: the smallest that fits is found again. */
    unsigned char *largest = items[count - 1], *smallest = items[0];
    percpu_pool_set_free(set, largest);
    CHECK(percpu_pool_set_zalloc(set, 1) == largest);
    percpu_pool_set_free(set, largest);
    percpu_pool_set_free(set, smallest);
    CHECK(percpu_pool_set_zalloc(set, 1) == smallest && percpu_pool_set_zalloc(set, 1) == largest);
    for (unsigned i = 0; i < COUNT_OF(sizes); i++)
        check_pool(percpu_pool_set_get(set, i));
    percpu_pool_set_destroy(set);
}

static void refused(struct percpu_pool_set *set, struct percpu_pool_attr attr, int error)
{
    struct percpu_pool *pool = make_pool(attr);
    errno = 0;
    CHECK_CASE(percpu_pool_set_add(set, pool) == -1 && errno == error, "errno %d", errno);
    CHECK(percpu_pool_set_get(set, 2) == NULL);
    percpu_pool_destroy(pool); /* is still ours */
}

static void test_what_is_refused(void)
{
    static const size_t sizes[] = {16, 64};
    struct percpu_pool_set *set = set_of(sizes, 2, 0);
    struct percpu_pool_attr attr = of_size(32, 0);
    refused(set, of_size(16, 0), EBUSY);
    refused(set, of_size(64, 1), EBUSY);
    attr.stride = 8 * page;
    refused(set, attr, EINVAL);
    attr = of_size(32, 0);
    attr.cpus = nr_cpus + 1;
    refused(set, attr, EINVAL);
    attr = of_size(32, 0);
    attr.global = true;
    attr.cpus = nr_cpus;
    refused(set, attr, EINVAL);
    if (percpu_index_check(PERCPU_INDEX_CID) == 0) {
        attr = of_size(32, 0);
        attr.index = PERCPU_INDEX_CID;
        refused(set, attr, EINVAL);
    }
    percpu_pool_set_destroy(set);
    set = percpu_pool_set_create();
    for (unsigned i = 1; i <= 128; i++)
        CHECK(percpu_pool_set_add(set, make_pool(of_size(8 * i, 0))) == 0);
    struct percpu_pool *one_more = make_pool(of_size(8 * 129, 0));
    errno = 0;
    CHECK(percpu_pool_set_add(set, one_more) == -1 && errno == ENOSPC);
    percpu_pool_destroy(one_more);
    percpu_pool_set_destroy(set);
}

/* A robust set looks at what is freed to it, before it looks there. */
static unsigned reports;
static enum percpu_finding found;

static void tell(void *priv, const struct percpu_report *report)
{
    (void)priv;
    reports++;
    found = report->finding;
}

static void test_bad_frees(bool classes)
{
    struct percpu_pool_attr attr = {
        .item_size = 64, .stride = 4 * page, .robust = true, .report = tell, .lazy = true};
    struct percpu_pool_set *set = percpu_pool_set_create();
    int local;
    reports = 0;
    if (classes) {
        CHECK(percpu_pool_set_add_classes(set, &attr) == 0);
    } else {
        CHECK(percpu_pool_set_add(set, make_pool(attr)) == 0);
        attr.item_size = 16;
        CHECK(percpu_pool_set_add(set, make_pool(attr)) == 0);
    }
    percpu_pool_set_free(set, &local);
    CHECK(reports == 1 && found == PERCPU_FOREIGN_FREE);
    char *item = percpu_pool_set_zalloc(set, 50);
    CHECK(item != NULL);
    percpu_pool_set_free(set, &local);
    CHECK(reports == 2 && found == PERCPU_FOREIGN_FREE);
    percpu_pool_set_free(set, item + 8);
    CHECK(reports == 3 && found == PERCPU_INTERIOR_FREE);
    percpu_pool_set_free(set, item + 4 * page);
    CHECK(reports == 4 && found == PERCPU_INTERIOR_FREE);
    percpu_pool_set_free(set, item);
    CHECK(reports == 4);
    percpu_pool_set_free(set, item);
    CHECK(reports == 5 && found == PERCPU_DOUBLE_FREE);
    for (unsigned i = 0; percpu_pool_set_get(set, i) != NULL; i++)
        percpu_pool_trim(percpu_pool_set_get(set, i));
    percpu_pool_set_free(set, item); /* its range has gone */
    CHECK(reports == 6 && found == PERCPU_FOREIGN_FREE);
    percpu_pool_set_destroy(set);
    CHECK(reports == 6);
}

/* ---- threads ------------------------------------------------------------------------------ */

static struct percpu_pool_set *shared;
static bool of_classes;

/* Contents on the first and the last copy; the size stands in the first word. */
static void mark(unsigned char *item, size_t size, unsigned id)
{
    memset(item, (int)(id + size), size);
    memset(item + (nr_cpus - 1) * 4 * page, (int)(id + size), size);
}

static bool is_marked(const unsigned char *item, size_t size, unsigned id)
{
    const unsigned char *last = item + (nr_cpus - 1) * 4 * page;
    for (size_t i = 0; i < size; i++)
        if (item[i] != (unsigned char)(id + size) || last[i] != (unsigned char)(id + size))
            return false;
    return true;
}

static void user(struct worker *worker)
{
    enum { HELD = 100 };
    unsigned char *items[HELD] = {0};
    size_t sizes[HELD];
    uint64_t random = worker->id + 7;
    while (!stopping() || worker->done == 0) {
        unsigned i = (unsigned)(random_next(&random) >> 40) % HELD;
        if (items[i] != NULL) {
            CHECK(is_marked(items[i], sizes[i], worker->id));
            percpu_pool_set_free(shared, items[i]);
            items[i] = NULL;
            worker->done++;
            continue;
        }
        sizes[i] = 1 + (random >> 20) % 1000;
        items[i] = percpu_pool_set_zalloc(shared, sizes[i]);
        CHECK(items[i] != NULL || errno == ENOMEM);
        if (items[i] == NULL)
            continue;
        CHECK(wrong_copy(percpu_pool_of(items[i], 4 * page), items[i], NULL, 0) == -1);
        mark(items[i], sizes[i], worker->id);
    }
    for (unsigned i = 0; i < HELD; i++)
        if (items[i] != NULL)
            percpu_pool_set_free(shared, items[i]);
}

/* Pools come beside allocations; memory goes. */
static void keeper(struct worker *worker)
{
    for (size_t size = 1001; size < 1100 && !of_classes; size += 8)
        CHECK(percpu_pool_set_add(shared, make_pool(of_size(size, 0))) == 0);
    while (!stopping()) {
        struct percpu_pool *pool;
        for (unsigned i = 0; (pool = percpu_pool_set_get(shared, i)) != NULL; i++)
            percpu_pool_trim(pool);
        worker->done++;
        sched_yield();
    }
}

static void test_threads(bool classes, unsigned populate)
{
    static const size_t sizes[] = {16, 100, 300, 1000};
    static void (*const bodies[])(struct worker *) = {user, keeper, user};
    struct percpu_pool_attr attr = of_size(1000, populate);
    attr.max_ranges = 16;
    of_classes = classes;
    if (classes) {
        CHECK((shared = percpu_pool_set_create()) != NULL);
        CHECK(percpu_pool_set_add_classes(shared, &attr) == 0);
    } else {
        shared = set_of(sizes, COUNT_OF(sizes), populate);
    }
    CHECK(run_workers(3, bodies, 3, 0, 300) > 0);
    struct percpu_pool *pool;
    for (unsigned i = 0; (pool = percpu_pool_set_get(shared, i)) != NULL; i++) {
        check_pool(pool);
        CHECK(stats_of(pool).live == 0);
    }
    percpu_pool_set_destroy(shared);
}

int main(void)
{
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    for (unsigned kind = 0; kind < 4; kind++)
        test_threads(kind / 2, kind % 2);
    CHECK(pin((unsigned)percpu_current_cpu()));
    test_pools_are_sorted();
    test_next_larger_when_full(PERCPU_POPULATE_ZERO);
    test_next_larger_when_full(PERCPU_POPULATE_INIT);
    test_what_is_refused();
    test_bad_frees(false);
    test_bad_frees(true);
    return 0;
}
