/* SPDX-License-Identifier: MIT */
/*
 * test_pool.c - one thread and a pool: geometry, contents, exhaustion, foreign pointers, drains,
 * statistics, and that the invariant walker sees a broken invariant.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "pool_check.h"
#include "threads.h"

static unsigned nr_cpus;
static size_t page;

static struct percpu_pool *create(struct percpu_pool_attr attr)
{
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK(pool != NULL);
    return pool;
}

static void check(struct percpu_pool *pool)
{
    const char *broken = pool_broken(pool);
    CHECK_CASE(broken == NULL, "%s", broken);
    struct percpu_pool_stats stats;
    struct percpu_pool_geometry geometry;
    percpu_pool_stats(pool, &stats);
    percpu_pool_geometry(pool, &geometry);
    CHECK(stats.live + stats.cached + stats.free == stats.ranges * geometry.capacity);
    CHECK(stats.resident_bytes <= stats.virtual_bytes);
}

static struct percpu_pool_stats stats_of(struct percpu_pool *pool)
{
    struct percpu_pool_stats stats;
    percpu_pool_stats(pool, &stats);
    return stats;
}

/* Byte `at` of copy `cpu` of item number `number`, in a pattern. */
static unsigned char pattern(size_t number, unsigned cpu, size_t at)
{
    return (unsigned char)(1 + (number * 131 + cpu * 17 + at * 7) % 255);
}

static bool all_zero(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static void test_attributes(void)
{
    const struct percpu_pool_attr bad[] = {
        {.item_size = 0},
        {.item_size = 5000, .stride = 4096},
        {.item_size = 8, .stride = 12345},
        {.item_size = 8, .stride = 3 * 65536},
        {.item_size = 8, .stride = page / 2},
        {.item_size = 8, .stride = SIZE_MAX},
        {.item_size = 8, .stride = (size_t)1 << 60},
        {.item_size = SIZE_MAX},
        {.item_size = ((size_t)1 << 45) + 1},
        {.item_size = 8, .cpus = PERCPU_MAX_CPUS + 1},
        {.item_size = 8, .cpus = UINT32_MAX},
        {.item_size = 8, .cpus = nr_cpus > 1 ? nr_cpus - 1 : UINT32_MAX},
        {.item_size = 8, .index = (enum percpu_index)5},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK_CASE(percpu_pool_create(&bad[i]) == NULL, "case %zu", i);
        CHECK_CASE(errno == EINVAL, "case %zu: errno %d", i, errno);
    }
    struct percpu_pool_geometry geometry;
    struct percpu_pool *pool = create((struct percpu_pool_attr){.item_size = 24});
    percpu_pool_geometry(pool, &geometry);
    CHECK(geometry.item_size == 24 && geometry.slot_size == 24 && geometry.stride == 65536);
    CHECK(geometry.cpus == nr_cpus && geometry.index == PERCPU_INDEX_CPU);
    CHECK(geometry.max_ranges == 0 && geometry.capacity == 65536 / 24);
    percpu_pool_destroy(pool);
    pool = create((struct percpu_pool_attr){.item_size = 100000});
    percpu_pool_geometry(pool, &geometry);
    CHECK(geometry.stride == 131072 && geometry.capacity == 1);
    percpu_pool_destroy(pool);
    percpu_pool_destroy(NULL);
}

/* What percpu_pool_alloc() promises. */
static size_t alignment_of(size_t item_size)
{
    size_t alignment = 1;
    if (item_size < 8) {
        while (alignment < item_size)
            alignment *= 2;
        return alignment;
    }
    for (alignment = 64; alignment > 8 && item_size % alignment != 0;)
        alignment /= 2;
    return alignment;
}

/* Fill a one-range pool to the brim, by every way to allocate; nothing overlaps. */
static void test_items_do_not_overlap(size_t item_size, size_t stride, enum percpu_index index)
{
    struct percpu_pool *pool = create((struct percpu_pool_attr){
        .item_size = item_size, .stride = stride, .max_ranges = 1, .index = index});
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    size_t alignment = alignment_of(item_size);
    unsigned char **items = calloc(geometry.capacity, sizeof *items);
    CHECK(items != NULL);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < geometry.capacity; i++) {
            items[i] = percpu_pool_zalloc(pool);
            CHECK(items[i] != NULL && (uintptr_t)items[i] % alignment == 0);
            for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
                unsigned char *copy = percpu_ptr_cpu(percpu_pool_ptr(pool, items[i]), cpu);
                CHECK(copy == items[i] + cpu * geometry.stride);
                CHECK(all_zero(copy, item_size));
                for (size_t at = 0; at < item_size; at++)
                    copy[at] = pattern(i, cpu, at);
            }
        }
        errno = 0;
        CHECK(percpu_pool_alloc(pool) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(percpu_pool_zalloc(pool) == NULL && errno == ENOMEM);
        CHECK(stats_of(pool).live == geometry.capacity && stats_of(pool).ranges == 1);
        check(pool);
        for (size_t i = 0; i < geometry.capacity; i++) {
            for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
                for (size_t at = 0; at < item_size; at++)
                    CHECK(items[i][cpu * geometry.stride + at] == pattern(i, cpu, at));
            percpu_pool_free(pool, items[i]);
        }
        check(pool);
        CHECK(stats_of(pool).live == 0);
        if (round == 1) {
            percpu_pool_drain(pool);
            CHECK(stats_of(pool).cached == 0 && stats_of(pool).free == geometry.capacity);
            check(pool);
        }
    }
    free(items);
    percpu_pool_destroy(pool);
}

static void test_contents(void)
{
    struct percpu_pool *pool = create(
        (struct percpu_pool_attr){.item_size = 40, .stride = page, .max_ranges = 1});
    /* Fresh items are zero, and nobody had to write that. */
    unsigned char *item = percpu_pool_zalloc(pool);
    CHECK(item != NULL);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        CHECK(percpu_pool_resident(pool, cpu) == 0);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        CHECK(all_zero(item + cpu * page, 40));
        memset(item + cpu * page, 0xee, 40);
    }
    /* alloc() leaves an item as it was: last in, first out. alloc_init() and zalloc() do not, and
     * every item of the pool comes round often enough to have been dirty. */
    percpu_pool_free(pool, item);
    CHECK(percpu_pool_alloc(pool) == item);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        CHECK(item[cpu * page] == 0xee && item[cpu * page + 39] == 0xee);
    for (size_t round = 0; round < 1000; round++) {
        percpu_pool_free(pool, item);
        unsigned char init[40];
        size_t size = round % 41;
        memset(init, 0x77, sizeof init);
        CHECK((item = percpu_pool_alloc_init(pool, init, size)) != NULL);
        for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
            CHECK(memcmp(item + cpu * page, init, size) == 0);
            CHECK(all_zero(item + cpu * page + size, 40 - size));
            memset(item + cpu * page, 0xee, 40);
        }
    }
    errno = 0;
    CHECK(percpu_pool_alloc_init(pool, item, 41) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(percpu_pool_alloc_init(pool, item, SIZE_MAX) == NULL && errno == EINVAL);
    CHECK(stats_of(pool).live == 1);
    check(pool);
    percpu_pool_destroy(pool);
}

static void test_foreign_pointers(void)
{
    struct percpu_pool *pool = create((struct percpu_pool_attr){.item_size = 16});
    struct percpu_pool *other = create((struct percpu_pool_attr){.item_size = 16});
    char *item = percpu_pool_alloc(pool), *others = percpu_pool_alloc(other), local;
    /* clang-format off */
    void *const foreign[] = {
        &local, item + 1, item + 8, item - 16, item + 65536, others, (void *)16, (void *)-16,
        item - page, stdin, pool, (void *)((uintptr_t)1 << 47),
        (void *)((uintptr_t)item | (uintptr_t)1 << 63),
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        CHECK_CASE(!percpu_pool_owns(pool, foreign[i]), "case %zu", i);
    }
    CHECK(percpu_pool_owns(pool, item) && percpu_pool_owns(other, others));
    CHECK(!percpu_pool_owns(pool, NULL));
    percpu_pool_free(pool, NULL);
    CHECK(stats_of(pool).live == 1 && stats_of(other).live == 1);
    percpu_pool_free(pool, item);
    check(pool);
    check(other);
    percpu_pool_destroy(pool);
    percpu_pool_destroy(other);
}

/* max_ranges reached: what other CPUs' caches hold can still be had, all of it. */
static void test_exhaustion_finds_other_cpus_items(void)
{
    for (size_t max_ranges = 1; max_ranges <= 3; max_ranges++) {
        struct percpu_pool *pool = create(
            (struct percpu_pool_attr){.item_size = 64, .stride = page, .max_ranges = max_ranges});
        size_t all = max_ranges * (page / 64);
        void **items = calloc(all, sizeof *items);
        CHECK(items != NULL);
        for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
            if (!pin(cpu))
                continue;
            for (size_t i = 0; i < all; i++)
                CHECK((items[i] = percpu_pool_alloc(pool)) != NULL);
            CHECK(percpu_pool_alloc(pool) == NULL && errno == ENOMEM);
            CHECK(stats_of(pool).ranges == max_ranges && stats_of(pool).live == all);
            for (size_t i = 0; i < all; i++)
                percpu_pool_free(pool, items[i]);
            CHECK(stats_of(pool).cached > 0);
            check(pool);
        }
        free(items);
        percpu_pool_destroy(pool);
    }
}

/* With no limit, ranges are added as they fill up, and their items are told apart. */
static void test_ranges_grow(void)
{
    enum { ITEMS = 3000 };
    static uint64_t *items[ITEMS];
    struct percpu_pool *pool = create((struct percpu_pool_attr){.item_size = 64, .stride = page});
    for (uint64_t i = 0; i < ITEMS; i++) {
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        *items[i] = i;
    }
    CHECK(stats_of(pool).ranges >= ITEMS * 64 / page && stats_of(pool).refills > 0);
    check(pool);
    for (uint64_t i = 0; i < ITEMS; i++) {
        CHECK(*items[i] == i);
        percpu_pool_free(pool, items[i]);
    }
    CHECK(stats_of(pool).live == 0 && stats_of(pool).overflows > 0);
    check(pool);
    percpu_pool_destroy(pool);
}

/* Bytes of memory that the process has, its pages counted one by one; pages of zeros that were
 * only read are none. */
static size_t memory_in_use(void)
{
    char line[256];
    size_t kibibytes = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    CHECK(file != NULL);
    while (kibibytes == 0 && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Rss: %zu kB", &kibibytes) == 1)
            break;
    CHECK(kibibytes > 0);
    fclose(file);
    return kibibytes * 1024;
}

/* An emulator and a sanitizer's shadow need memory of their own, which the kernel does not tell
 * apart. */
static bool memory_is_ours(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return false;
#else
    return getenv("PERCPU_TEST_EMULATED") == NULL;
#endif
}

/* 512 copies cost address space; memory is what is written, on the CPUs that write. */
static void test_unwritten_cpus_cost_no_memory(void)
{
    enum { ITEMS = 512, COPIES = 512 };
    unsigned copies = COPIES > nr_cpus ? COPIES : nr_cpus;
    (void)memory_in_use();
    size_t before = memory_in_use();
    struct percpu_pool *pool = create(
        (struct percpu_pool_attr){.item_size = 64, .cpus = copies, .max_ranges = 1});
    for (unsigned i = 0; i < ITEMS; i++) {
        char *item = percpu_pool_zalloc(pool);
        CHECK(item != NULL);
        item[0] = item[65536] = 1;
    }
    size_t written = ITEMS * 64, used = memory_in_use() - before;
    CHECK_CASE(used <= 2 * written + 16384 || !memory_is_ours(), "%zu bytes", used);
    /* An emulator lets the kernel use huge pages: it ignores that advice of ours. */
    bool emulated = getenv("PERCPU_TEST_EMULATED") != NULL;
    for (unsigned cpu = 0; cpu < copies && !emulated; cpu++)
        CHECK(percpu_pool_resident(pool, cpu) == (cpu < 2 ? written : 0));
    CHECK(stats_of(pool).virtual_bytes >= (size_t)copies * 65536);
    percpu_pool_destroy(pool);
}

static void test_shared_pools(void)
{
    struct percpu_pool *pools[17] = {0};
    for (size_t size = 0; size <= 17; size++) {
        struct percpu_pool *pool = percpu_pool_shared(size);
        bool served = size == 1 || size == 2 || size == 4 || size == 8 || size == 16;
        CHECK(served == (pool != NULL));
        if (!served) {
            CHECK(errno == EINVAL);
            continue;
        }
        CHECK(percpu_pool_shared(size) == pool);
        for (size_t other = 0; other < size; other++)
            CHECK(pools[other] != pool);
        pools[size] = pool;
        void *item = percpu_pool_zalloc(pool);
        CHECK(item != NULL && (uintptr_t)item % (size < 8 ? size : 8) == 0);
        percpu_pool_free(pool, item);
        check(pool);
    }
}

/* The walker is no decoration: it sees a second free, in a cache and in the ranges. */
static void test_check_sees_a_second_free(void)
{
    struct percpu_pool *pool = create((struct percpu_pool_attr){.item_size = 16});
    void *item = percpu_pool_alloc(pool), *other = percpu_pool_alloc(pool);
    percpu_pool_free(pool, item);
    CHECK(pool_broken(pool) == NULL);
    percpu_pool_free(pool, item);
    CHECK(pool_broken(pool) != NULL);
    CHECK(other != item);
    percpu_pool_destroy(pool);
}

int main(void)
{
    static const size_t sizes[] = {1,  2,  3,  4,  5,  7,   8,   9,    12,   16,   24,
                                   40, 48, 63, 64, 65, 100, 128, 1000, 2048, 2049, 4096};
    deadline(60);
    nr_cpus = percpu_nr_cpus();
    page = (size_t)sysconf(_SC_PAGESIZE);
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    test_attributes();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        test_items_do_not_overlap(sizes[i], page, PERCPU_INDEX_CPU);
    test_items_do_not_overlap(72, 4 * page, PERCPU_INDEX_CPU);
    if (percpu_index_check(PERCPU_INDEX_CID) == 0)
        test_items_do_not_overlap(24, page, PERCPU_INDEX_CID);
    CHECK(pin((unsigned)percpu_current_cpu()));
    test_contents();
    test_foreign_pointers();
    test_check_sees_a_second_free();
    test_exhaustion_finds_other_cpus_items();
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    test_ranges_grow();
    test_unwritten_cpus_cost_no_memory();
    test_shared_pools();
    return 0;
}
