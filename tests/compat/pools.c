/* SPDX-License-Identifier: MIT */
/*
 * pools.c - attributes and what is refused; global pools; the three ways to allocate.
 */
#include <rseq/mempool.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

#define REFUSED(call) (errno = 0, (call) == -1 && errno == EINVAL)

static bool all_are(const void *bytes, size_t size, unsigned char value)
{
    const unsigned char *byte = bytes;
    while (size > 0 && byte[size - 1] == value)
        size--;
    return size == 0;
}

static void test_attributes_need_a_structure(void)
{
    rseq_mempool_attr_destroy(NULL);
    CHECK(REFUSED(rseq_mempool_attr_set_robust(NULL)));
    CHECK(REFUSED(rseq_mempool_attr_set_percpu(NULL, 0, 0)));
    CHECK(REFUSED(rseq_mempool_attr_set_global(NULL, 0)));
    CHECK(REFUSED(rseq_mempool_attr_set_max_nr_ranges(NULL, 1)));
    CHECK(REFUSED(rseq_mempool_attr_set_poison(NULL, 1)));
    CHECK(REFUSED(rseq_mempool_attr_set_init(NULL, NULL, NULL)));
    CHECK(REFUSED(rseq_mempool_attr_set_populate_policy(NULL, RSEQ_MEMPOOL_POPULATE_COW_ZERO)));
    CHECK(REFUSED(rseq_mempool_get_max_nr_cpus(NULL)));
    CHECK(rseq_mempool_destroy(NULL) == 0);
}

/* A per-CPU pool, or with cpus = -1 a global one, of the given stride. */
static struct rseq_mempool *make(size_t item_len, size_t stride, int cpus, int policy)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL);
    if (cpus < 0)
        CHECK(rseq_mempool_attr_set_global(attr, stride) == 0);
    else
        CHECK(rseq_mempool_attr_set_percpu(attr, stride, cpus) == 0);
    enum rseq_mempool_populate_policy wanted = (enum rseq_mempool_populate_policy)policy;
    CHECK(rseq_mempool_attr_set_populate_policy(attr, wanted) == 0);
    errno = 0;
    struct rseq_mempool *pool = rseq_mempool_create(NULL, item_len, attr);
    int error = errno;
    rseq_mempool_attr_destroy(attr);
    errno = error;
    return pool;
}

static void test_what_is_refused(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const struct {
        size_t item_len, stride;
        int cpus, policy;
    } bad[] = {
        {8, page / 2, 1, 0},        {8, page + 1, 1, 0},     {8, 3 * page, 1, 0},
        {2 * page, page, 1, 0},     {page + 1, page, -1, 0}, {SIZE_MAX, page, 1, 0},
        {SIZE_MAX, SIZE_MAX, 1, 0}, {8, page, -1, 2},        {8, page, 1, 2},
        {8, page, 1, -1},           {8, 0, 1 << 20, 0},      {8, (size_t)1 << 63, 1, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_CASE(make(bad[i].item_len, bad[i].stride, bad[i].cpus, bad[i].policy) == NULL &&
                       errno == EINVAL,
                   "case %zu: errno %d", i, errno);
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_percpu(attr, 0, -1) == 0);
    errno = 0;
    CHECK(rseq_mempool_create(NULL, 8, attr) == NULL && errno == EINVAL);
    CHECK(REFUSED(rseq_mempool_attr_set_init(attr, NULL, NULL)));
    rseq_mempool_attr_destroy(attr);
}

/* No attributes: a copy for every possible CPU, a stride of 64 KiB, no limit to the ranges. */
static void test_defaults(void)
{
    CHECK(RSEQ_MEMPOOL_STRIDE == 65536);
    struct rseq_mempool *pool = rseq_mempool_create(NULL, RSEQ_MEMPOOL_STRIDE / 2, NULL);
    CHECK(pool != NULL);
    int cpus = rseq_mempool_get_max_nr_cpus(pool);
    CHECK(cpus == (int)percpu_nr_cpus());
    char *items[5];
    for (int i = 0; i < 5; i++) {
        items[i] = rseq_mempool_percpu_zmalloc(pool);
        CHECK(items[i] != NULL && (uintptr_t)items[i] % (RSEQ_MEMPOOL_STRIDE / 2) == 0);
        for (int cpu = 0; cpu < cpus; cpu++) {
            CHECK(all_are(rseq_percpu_ptr(items[i], cpu), RSEQ_MEMPOOL_STRIDE / 2, 0));
            memset(rseq_percpu_ptr(items[i], cpu), i + 1, RSEQ_MEMPOOL_STRIDE / 2);
        }
    }
    for (int i = 0; i < 5; i++) {
        for (int cpu = 0; cpu < cpus; cpu++)
            CHECK(all_are(rseq_percpu_ptr(items[i], cpu), RSEQ_MEMPOOL_STRIDE / 2,
                          (unsigned char)(i + 1)));
        rseq_mempool_percpu_free(items[i]);
    }
    rseq_mempool_percpu_free(NULL);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

/* More copies than the machine has CPUs, or fewer, are what the pool has. */
static void test_any_number_of_cpus(void)
{
    const int numbers[] = {1, 2, 3, 64, 1000};
    for (int policy = 0; policy < 2; policy++)
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            uint64_t init = 77;
            struct rseq_mempool *pool = make(3, 8192, numbers[i], policy);
            CHECK(pool != NULL && rseq_mempool_get_max_nr_cpus(pool) == numbers[i]);
            uint64_t *item = rseq_mempool_percpu_malloc_init(pool, &init, sizeof init);
            CHECK(item != NULL);
            for (int cpu = 0; cpu < numbers[i]; cpu++)
                CHECK((*rseq_percpu_ptr(item, cpu, 8192))++ == 77);
            CHECK(*item == 78);
            rseq_mempool_percpu_free(item, 8192);
            CHECK(rseq_mempool_destroy(pool) == 0);
        }
}

static void test_global(void)
{
    enum { STRIDE = 16384, LENGTH = 100 };
    struct rseq_mempool *pool = make(LENGTH, STRIDE, -1, RSEQ_MEMPOOL_POPULATE_COW_INIT);
    CHECK(pool != NULL && REFUSED(rseq_mempool_get_max_nr_cpus(pool)));
    char init[LENGTH];
    memset(init, 9, sizeof init);
    for (int round = 0; round < 3; round++) {
        char *any = rseq_mempool_malloc(pool), *zeros = rseq_mempool_zmalloc(pool);
        char *values = rseq_mempool_malloc_init(pool, init, sizeof init);
        CHECK(any != NULL && zeros != NULL && values != NULL);
        CHECK(all_are(zeros, LENGTH, 0) && all_are(values, LENGTH, 9));
        memset(any, 1, 128);
        memset(zeros, 2, 128);
        memset(values, 3, 128);
        CHECK(all_are(any, 128, 1) && all_are(zeros, 128, 2) && all_are(values, 128, 3));
        rseq_mempool_free(any, STRIDE);
        rseq_mempool_free(zeros, STRIDE);
        rseq_mempool_free((const char *)values, STRIDE);
    }
    CHECK(rseq_mempool_destroy(pool) == 0);
    pool = make(8, 0, -1, RSEQ_MEMPOOL_POPULATE_COW_ZERO);
    CHECK(pool != NULL);
    rseq_mempool_free(rseq_mempool_malloc(pool)); /* the default stride */
    CHECK(rseq_mempool_destroy(pool) == 0);
}

static void test_initial_bytes(void)
{
    char init[32];
    memset(init, 5, sizeof init);
    for (int policy = 0; policy < 2; policy++) {
        struct rseq_mempool *pool = make(20, 4096, 2, policy);
        CHECK(pool != NULL);
        char *whole = rseq_mempool_percpu_malloc_init(pool, init, 32); /* an item is 32 bytes */
        CHECK(whole != NULL && all_are(rseq_percpu_ptr(whole, 1, 4096), 32, 5));
        rseq_mempool_percpu_free(whole, 4096);
        char *part = rseq_mempool_percpu_malloc_init(pool, init, 10);
        CHECK(part != NULL && all_are(rseq_percpu_ptr(part, 1, 4096), 10, 5));
        CHECK(all_are(rseq_percpu_ptr(part, 1, 4096) + 10, 22, 0));
        rseq_mempool_percpu_free(part, 4096);
        char *nothing = rseq_mempool_percpu_malloc_init(pool, NULL, 10);
        CHECK(nothing != NULL);
        rseq_mempool_percpu_free(nothing, 4096);
        errno = 0;
        CHECK(rseq_mempool_percpu_malloc_init(pool, init, 33) == NULL && errno == EINVAL);
        errno = 0;
        CHECK(rseq_mempool_percpu_malloc_init(pool, NULL, 33) == NULL && errno == EINVAL);
        CHECK(rseq_mempool_destroy(pool) == 0);
    }
}

/* A name may be anything; what a mapping's name cannot hold is replaced. */
static void test_names(void)
{
    char longest[300];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const char *names[] = {"", "a pool", "[heap]\\$`\n\x80", longest};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct rseq_mempool *pool = rseq_mempool_create(names[i], 8, NULL);
        CHECK_CASE(pool != NULL, "%s", names[i]);
        CHECK(rseq_mempool_destroy(pool) == 0);
    }
}

/* A freed item is overwritten, robust or not; the poison may be zero. */
static void test_poison(void)
{
    const uintptr_t values[] = {0x0102030405060708, 0};
    for (int i = 0; i < 4; i++) {
        struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
        CHECK(attr != NULL && rseq_mempool_attr_set_poison(attr, values[i % 2]) == 0);
        CHECK(rseq_mempool_attr_set_populate_policy(
                  attr, (enum rseq_mempool_populate_policy)(i / 2)) == 0);
        struct rseq_mempool *pool = rseq_mempool_create("poison", 64, attr);
        CHECK(pool != NULL);
        rseq_mempool_attr_destroy(attr);
        uintptr_t *item = rseq_mempool_percpu_malloc(pool);
        CHECK(item != NULL);
        memset(rseq_percpu_ptr(item, 0), 0x77, 64);
        rseq_mempool_percpu_free(item);
        for (int word = 1; word < 8; word++) /* in librseq the first is a link */
            CHECK(rseq_percpu_ptr(item, 0)[word] == values[i % 2]);
        CHECK(rseq_mempool_destroy(pool) == 0);
    }
}

int main(void)
{
    test_attributes_need_a_structure();
    test_what_is_refused();
    test_defaults();
    test_any_number_of_cpus();
    test_global();
    test_initial_bytes();
    test_names();
    test_poison();
    return 0;
}
