/* SPDX-License-Identifier: MIT */
/*
 * test_pool_faults.c - mmap() failing at every point of a pool's life: the call that needed it says
 * ENOMEM, what was there before goes on working, and no mapping is left behind.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include <percpu/percpu.h>

#include "pool_check.h"
#include "threads.h"

enum { ITEMS = 400, ITEM = 64 };

/* Pages of address space that this process has mapped; under an emulator, which maps memory for
 * itself as it goes, always 0. */
static long mapped_pages(void)
{
    long pages = 0;
    if (getenv("PERCPU_TEST_EMULATED") != NULL)
        return 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return pages;
}

/* Use a pool while maps fail from the `after`-th on. Returns how many calls failed. */
static unsigned life_of_a_pool(int after, size_t page)
{
    struct percpu_pool_attr attr = {.item_size = ITEM, .stride = page};
    static uint64_t *items[ITEMS];
    unsigned failures = 0;
    percpu_pool_fail_maps(after);
    errno = 0;
    struct percpu_pool *pool = percpu_pool_create(&attr);
    if (pool == NULL) {
        CHECK(errno == ENOMEM);
        percpu_pool_fail_maps(-1);
        return 1;
    }
    for (uint64_t i = 0; i < ITEMS; i++) {
        errno = 0;
        items[i] = percpu_pool_zalloc(pool);
        if (items[i] == NULL) {
            CHECK(errno == ENOMEM);
            failures++;
            continue;
        }
        CHECK(*items[i] == 0);
        *items[i] = i + 1;
    }
    CHECK(pool_broken(pool) == NULL);
    percpu_pool_fail_maps(-1);
    for (uint64_t i = 0; i < ITEMS; i++) {
        if (items[i] == NULL) {
            items[i] = percpu_pool_zalloc(pool);
            CHECK(items[i] != NULL && *items[i] == 0);
            *items[i] = i + 1;
        }
    }
    for (uint64_t i = 0; i < ITEMS; i++) {
        CHECK(*items[i] == i + 1);
        percpu_pool_free(pool, items[i]);
    }
    CHECK(pool_broken(pool) == NULL);
    percpu_pool_destroy(pool);
    return failures;
}

static void test_every_map_may_fail(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    CHECK(life_of_a_pool(-1, page) == 0); /* malloc() has grown now */
    long before = mapped_pages();
    int after = 0;
    while (life_of_a_pool(after, page) > 0) {
        CHECK_CASE(mapped_pages() == before, "map %d: %ld pages left", after,
                   mapped_pages() - before);
        CHECK(++after < 1000);
    }
    /* One for the caches and one for each range at least. */
    CHECK(after > (int)(ITEMS * ITEM / page));
    CHECK(mapped_pages() == before);
}

/* A counter in no pool of its own needs the shared one; a failure is told, and not for ever. */
static void test_counter_without_memory(void)
{
    struct percpu_counter counter;
    percpu_pool_fail_maps(0);
    errno = 0;
    CHECK(percpu_counter_init(&counter, NULL, 5, 0) == -1 && errno == ENOMEM);
    errno = 0;
    CHECK(percpu_pool_shared(8) == NULL && errno == ENOMEM);
    percpu_pool_fail_maps(-1);
    CHECK(percpu_counter_init(&counter, NULL, 5, 0) == 0);
    CHECK(percpu_counter_sum(&counter) == 5);
    percpu_counter_destroy(&counter);
    CHECK(percpu_pool_shared(8) != NULL);
}

/* The kernel's own refusal, not the hook's. */
static void test_address_space_runs_out(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    /* The sanitizers' shadow memory is larger than any sensible limit. */
#else
    struct rlimit former, low;
    if (getenv("PERCPU_TEST_EMULATED") != NULL)
        return; /* the limit would be the emulator's */
    CHECK(getrlimit(RLIMIT_AS, &former) == 0);
    low = former;
    low.rlim_cur = (rlim_t)mapped_pages() * (rlim_t)sysconf(_SC_PAGESIZE) + (64 << 20);
    CHECK(setrlimit(RLIMIT_AS, &low) == 0);
    struct percpu_pool_attr large = {.item_size = 8, .cpus = PERCPU_MAX_CPUS};
    errno = 0;
    struct percpu_pool *pool = percpu_pool_create(&large);
    CHECK(pool == NULL && errno == ENOMEM);
    CHECK(setrlimit(RLIMIT_AS, &former) == 0);
    pool = percpu_pool_create(&large);
    CHECK(pool != NULL);
    percpu_pool_destroy(pool);
#endif
}

int main(void)
{
    deadline(60);
    test_counter_without_memory();
    test_every_map_may_fail();
    test_address_space_runs_out();
    return 0;
}
