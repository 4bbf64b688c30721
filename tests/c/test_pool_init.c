/* SPDX-License-Identifier: MIT */
/*
 * test_pool_init.c - a pool populated from a file of initial values: every copy reads what it
 * should, CPUs that never wrote have no memory of their own, and the file is written once, ahead
 * of the items, without touching what items handed out before hold.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

enum { MANY = 512 }; /* copies: all are looked at, for one item */

static size_t page;
static bool told; /* pages_are_told_apart() */
static uint64_t seed = 12345;

static size_t below(size_t n)
{
    return (size_t)(random_next(&seed) >> 33) % n;
}

static void random_bytes(unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(1 + below(255));
}

static unsigned at_least_all_cpus(unsigned copies)
{
    return copies > percpu_nr_cpus() ? copies : percpu_nr_cpus();
}

static struct percpu_pool *populated(size_t item_size, unsigned copies)
{
    return make_pool((struct percpu_pool_attr){.item_size = item_size,
                                               .cpus = at_least_all_cpus(copies),
                                               .populate = PERCPU_POPULATE_INIT});
}

/* Nobody wrote: everybody reads the initial values, in pages of the file. Who writes gets one. */
static void test_untouched_cpus_read_the_initial_values(void)
{
    unsigned char init[40];
    random_bytes(init, sizeof init);
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = 48,
        .cpus = at_least_all_cpus(MANY),
        .populate = PERCPU_POPULATE_INIT,
        .init = init,
        .init_size = sizeof init,
    });
    size_t stride = geometry_of(pool).stride;
    unsigned char *items[100];
    for (unsigned i = 0; i < 100; i++) {
        CHECK((items[i] = percpu_pool_alloc_initial(pool)) != NULL);
        CHECK(wrong_copy(pool, items[i], init, sizeof init) == -1);
    }
    CHECK(!told || own_pages(pool) == 0);
    items[7][3 * stride] ^= 0xff;
    items[8][3 * stride + 5] ^= 0xff;
    CHECK(!told || own_pages(pool) == 1);
    CHECK(!told || percpu_pool_resident(pool, 3) == page);
    CHECK(wrong_copy(pool, items[7], init, sizeof init) == 3);
    CHECK(wrong_copy(pool, items[9], init, sizeof init) == -1);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* Each with bytes of its own, at 512 copies: written in one place. */
static void test_initial_bytes_are_written_once(void)
{
    enum { ITEMS = 300, SIZE = 64 };
    struct percpu_pool *pool = populated(SIZE, MANY);
    unsigned copies = geometry_of(pool).cpus;
    static unsigned char *items[ITEMS], bytes[ITEMS][SIZE];
    for (unsigned i = 0; i < ITEMS; i++) {
        random_bytes(bytes[i], SIZE);
        items[i] = percpu_pool_alloc_init(pool, bytes[i], 1 + i % SIZE);
        CHECK(items[i] != NULL);
    }
    CHECK(!told || own_pages(pool) == 0);
    unsigned char own[1024];
    CHECK(geometry_of(pool).stride / page <= sizeof own);
    CHECK(percpu_pool_pages(pool, 0, copies, own, sizeof own) == geometry_of(pool).stride / page);
    CHECK(own[0] == 1 && own[ITEMS * SIZE / page - 1] == 1);
    for (unsigned cpu = 0; cpu < copies; cpu += 100) {
        CHECK(percpu_pool_pages(pool, 0, cpu, own, sizeof own) > 0);
        CHECK(!told || memchr(own, 1, sizeof own) == NULL);
    }
    CHECK(percpu_pool_pages(pool, 0, copies + 1, own, sizeof own) == 0);
    CHECK(percpu_pool_pages(pool, 1, 0, own, sizeof own) == 0);
    for (unsigned i = 0; i < ITEMS; i++)
        CHECK_CASE(wrong_copy(pool, items[i], bytes[i], 1 + i % SIZE) == -1, "item %u", i);
    CHECK(!told || own_pages(pool) == 0);
    struct percpu_pool_stats stats = stats_of(pool);
    CHECK(!told || stats.resident_bytes < (size_t)64 * page);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* What was asked for is prepared for the items that follow: alloc() finds it in them. */
static void test_bytes_are_remembered(void)
{
    enum { SIZE = 64 };
    struct percpu_pool *pool = populated(SIZE, 0);
    size_t capacity = geometry_of(pool).capacity, ready = 0;
    unsigned char bytes[SIZE];
    random_bytes(bytes, SIZE);
    /* The first is one of a batch that was prepared with nothing: it teaches those to come. */
    for (unsigned i = 0; i < 2; i++) {
        const unsigned char *item = percpu_pool_alloc_init(pool, bytes, SIZE - 9);
        CHECK(item != NULL && wrong_copy(pool, item, bytes, SIZE - 9) == -1);
    }
    for (size_t i = 2; i < capacity; i++) {
        const unsigned char *item = percpu_pool_alloc(pool);
        CHECK(item != NULL);
        ready += wrong_copy(pool, item, bytes, SIZE - 9) == -1;
    }
    CHECK_CASE(ready >= capacity / 2, "%zu of %zu", ready, capacity);
    CHECK(stats_of(pool).ranges == 1);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* Give a CPU a page of its own, without changing anything. */
static void touch(struct percpu_pool *pool, unsigned char *item, size_t at, unsigned cpu)
{
    volatile unsigned char *byte = item + cpu * geometry_of(pool).stride + at;
    *byte = *byte;
}

/* Caches of one item, so each fresh item is prepared by itself, with what the one before wanted:
 * sizes that do not divide a page. No item changes what its neighbours hold; and none begins in a
 * page that CPUs have had before it was prepared. */
static void test_preparing_leaves_neighbours_alone(size_t size, bool guard, bool touched)
{
    enum { ITEMS = 400 };
    static unsigned char *items[ITEMS], bytes[ITEMS][5000];
    size_t given[ITEMS];
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = size,
        .stride = 16 * page,
        .populate = PERCPU_POPULATE_INIT,
        .cache_bytes = 1,
        .guard = guard,
    });
    CHECK(geometry_of(pool).cache_items == 2 && size <= sizeof bytes[0]);
    for (unsigned i = 0; i < ITEMS; i++) {
        given[i] = i % 5 == 0 ? 0 : 1 + below(size);
        random_bytes(bytes[i], given[i]);
        items[i] = percpu_pool_alloc_init(pool, bytes[i], given[i]);
        CHECK(items[i] != NULL);
        CHECK_CASE(wrong_copy(pool, items[i], bytes[i], given[i]) == -1, "item %u", i);
        if (touched)
            touch(pool, items[i], i % 2 ? size - 1 : 0, i % geometry_of(pool).cpus);
    }
    for (unsigned i = 0; i < ITEMS; i++)
        CHECK_CASE(wrong_copy(pool, items[i], bytes[i], given[i]) == -1, "%zu bytes, item %u", size,
                   i);
    CHECK(!told || touched || own_pages(pool) == 0);
    CHECK(stats_of(pool).ranges >= ITEMS / geometry_of(pool).capacity);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* ---- whatever happened before ----------------------------------------------------------- */

struct held {
    unsigned char *item;
    unsigned char bytes[4200];
    size_t size;
};

/* One of the ways to allocate; alloc() says nothing about the bytes. */
static void allocate(struct percpu_pool *pool, struct held *held, const unsigned char *init,
                     size_t init_size)
{
    size_t item_size = geometry_of(pool).item_size, way = below(10);
    held->size = 0;
    if (way == 0) {
        held->item = percpu_pool_zalloc(pool);
    } else if (way < 4) {
        held->item = percpu_pool_alloc_initial(pool);
        memcpy(held->bytes, init, held->size = init_size);
    } else {
        held->size = below(item_size + 1);
        memset(held->bytes, (int)(1 + below(4)), held->size); /* the same bytes now and then */
        if (way == 4)
            random_bytes(held->bytes, held->size);
        held->item = percpu_pool_alloc_init(pool, held->bytes, held->size);
    }
    CHECK(held->item != NULL);
}

static void scribble(struct percpu_pool *pool, unsigned char *item)
{
    struct percpu_pool_geometry geometry = geometry_of(pool);
    for (size_t writes = below(4); writes > 0; writes--)
        memset(item + below(geometry.cpus) * geometry.stride, (int)below(256), geometry.item_size);
}

/* Items come and go, CPUs write some: every new one is right, and what it replaces does not show. */
static void test_random_life(struct percpu_pool_attr attr, unsigned steps)
{
    enum { HELD = 40 };
    static struct held held[HELD];
    unsigned char init[30];
    random_bytes(init, sizeof init);
    attr.init = init;
    attr.init_size = attr.item_size < sizeof init ? attr.item_size : sizeof init;
    attr.stride = 8 * page;
    struct percpu_pool *pool = make_pool(attr);
    memset(held, 0, sizeof held);
    for (unsigned step = 0; step < steps; step++) {
        struct held *one = &held[below(HELD)];
        if (one->item != NULL) {
            CHECK_CASE(wrong_copy(pool, one->item, one->bytes, one->size) == -1, "step %u", step);
            scribble(pool, one->item);
            percpu_pool_free(pool, one->item);
            one->item = NULL;
        } else {
            allocate(pool, one, init, attr.init_size);
            int wrong = wrong_copy(pool, one->item, one->bytes, one->size);
            CHECK_CASE(wrong == -1, "step %u, copy %d, %zu bytes", step, wrong, attr.item_size);
        }
        if (below(50) == 0)
            percpu_pool_drain(pool);
        if (below(100) == 0)
            percpu_pool_trim(pool);
    }
    check_pool(pool);
    percpu_pool_destroy(pool);
}

static void test_random_lives(void)
{
    static const size_t sizes[] = {1, 8, 24, 64, 100, 1000, 4104};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (unsigned kind = 0; kind < 8; kind++) {
            struct percpu_pool_attr attr = {
                .item_size = sizes[i],
                .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
                .guard = kind & 2,
                .cache_bytes = kind & 4 ? 1 : 0,
            };
            test_random_life(attr, (unsigned)effort(1000));
            attr.cpus = at_least_all_cpus(MORE);
            if (kind == 1 || kind == 4 || kind == 7)
                test_random_life(attr, (unsigned)effort(emulated() ? 40 : 200));
        }
    }
}

/* ---- frozen ------------------------------------------------------------------------------ */

/* As a fork leaves them: nobody may write the files that exist now. */
static void freeze(void)
{
    pid_t pid = fork_child();
    if (pid == 0)
        _exit(0);
    succeeds(pid);
}

/* Bytes that a frozen file holds are handed out from it; others come from a new range. */
static void test_a_frozen_file_is_not_written(void)
{
    enum { SIZE = 64 };
    unsigned char one[SIZE], other[SIZE];
    random_bytes(one, SIZE);
    random_bytes(other, SIZE);
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE,
        .cpus = at_least_all_cpus(MORE),
        .populate = PERCPU_POPULATE_INIT,
        .init = one,
        .init_size = SIZE,
        .max_ranges = 2,
    });
    unsigned char *first = percpu_pool_alloc_initial(pool);
    CHECK(first != NULL);
    freeze();
    void *same = percpu_pool_alloc_initial(pool);
    CHECK(same != NULL && wrong_copy(pool, same, one, SIZE) == -1);
    CHECK(stats_of(pool).ranges == 1);
    void *fresh = percpu_pool_alloc_init(pool, other, SIZE);
    CHECK(fresh != NULL && wrong_copy(pool, fresh, other, SIZE) == -1);
    CHECK(stats_of(pool).ranges == 2);
    CHECK(!told || own_pages(pool) == 0);
    CHECK(wrong_copy(pool, same, one, SIZE) == -1);
    /* Recycled in the frozen range: restored to what its file holds. */
    memset(first, 0x11, SIZE);
    percpu_pool_free(pool, first);
    percpu_pool_free(pool, same);
    freeze();
    /* No range may be made now, so every copy gets the bytes; and what the files hold stays. */
    for (unsigned i = 0; i < 300; i++) {
        unsigned char *item = percpu_pool_alloc_init(pool, other, i % SIZE);
        CHECK(item != NULL);
        int wrong = wrong_copy(pool, item, other, i % SIZE);
        CHECK_CASE(wrong == -1, "item %u, copy %d", i, wrong);
        memset(item, 0x22, SIZE);
        percpu_pool_free(pool, item);
    }
    CHECK(stats_of(pool).ranges == 2);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* Every fresh item of a frozen range is still to be had, when there is no other range. */
static void test_a_frozen_range_is_used_up(void)
{
    enum { SIZE = 256 };
    unsigned char bytes[SIZE];
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE, .populate = PERCPU_POPULATE_INIT, .max_ranges = 1, .stride = 4 * page});
    size_t capacity = geometry_of(pool).capacity;
    freeze();
    for (size_t i = 0; i < capacity; i++) {
        memset(bytes, (int)(1 + i), SIZE);
        const unsigned char *item = percpu_pool_alloc_init(pool, bytes, SIZE);
        CHECK_CASE(item != NULL && wrong_copy(pool, item, bytes, SIZE) == -1, "item %zu", i);
    }
    errno = 0;
    CHECK(percpu_pool_alloc_init(pool, bytes, SIZE) == NULL && errno == ENOMEM);
    CHECK(stats_of(pool).live == capacity);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    page = (size_t)sysconf(_SC_PAGESIZE);
    told = pages_are_told_apart();
    test_untouched_cpus_read_the_initial_values();
    test_initial_bytes_are_written_once();
    test_bytes_are_remembered();
    static const size_t sizes[] = {24, 56, 100, 1000, 4104};
    for (size_t i = 0; i < 4 * COUNT_OF(sizes); i++)
        test_preparing_leaves_neighbours_alone(sizes[i / 4], i & 1, i & 2);
    test_random_lives();
    test_a_frozen_file_is_not_written();
    test_a_frozen_range_is_used_up();
    return 0;
}
