/* SPDX-License-Identifier: MIT */
/*
 * test_pool_classes.c - size classes in one set of ranges: how far apart they are, that blocks do
 * not overlap, that one class gets what another gave back, clean, and what they share.
 */
#define _GNU_SOURCE
#include <percpu/pool_set.h>

#include "pool_tools.h"

enum { ROOM = 128 };

static size_t page;
static unsigned nr_cpus;
static uint64_t seed = 4711;

static size_t below(size_t n)
{
    return (size_t)(random_next(&seed) >> 33) % n;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static void test_sizes(void)
{
    static const size_t first[] = {8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160};
    for (size_t i = 0, size = 1; i < COUNT_OF(first); size = first[i++] + 1)
        for (; size <= first[i]; size++)
            CHECK_CASE(percpu_size_class(size) == first[i], "%zu: %zu", size,
                       percpu_size_class(size));
    size_t most = (size_t)1 << 29, former = 24;
    for (size_t size = 32; size <= most; former = size, size = percpu_size_class(size + 1)) {
        CHECK(size > former && size % 8 == 0 && 4 * (size - former) <= size);
        CHECK(percpu_size_class(size) == size && percpu_size_class(size - 1) == size);
        CHECK(percpu_size_class(former + 1) == size && 4 * size <= 5 * former + 32);
        if (size == most)
            break;
    }
    for (unsigned i = 0; i < 100000; i++) {
        size_t size = 1 + below((size_t)1 << (3 + i % 27));
        size_t class = percpu_size_class(size);
        CHECK(class >= size && (size < 32 || 4 * class < 5 * size + 4));
        CHECK(percpu_size_class(class) == class);
    }
    CHECK(percpu_size_class(0) == 0 && percpu_size_class(most) == most);
    CHECK(percpu_size_class(most + 1) == 0 && percpu_size_class(SIZE_MAX) == 0);
}

static int construct(void *priv, void *item)
{
    (void)priv, (void)item;
    return 0;
}

static int init_range(void *priv, void *memory, size_t length, int cpu)
{
    (void)priv, (void)memory, (void)length, (void)cpu;
    return 0;
}

static void test_what_is_refused(void)
{
    const struct percpu_pool_attr bad[] = {
        {.item_size = 0},
        {.item_size = ((size_t)1 << 29) + 1},
        {.item_size = SIZE_MAX},
        {.item_size = 64, .init = "x", .init_size = 1},
        {.item_size = 64, .constructed = true},
        {.item_size = 64, .ctor = construct},
        {.item_size = 64, .slot_size = 64},
        {.item_size = 64, .range_init = init_range},
        {.item_size = 64, .stride = 3},
        {.item_size = 8192, .stride = 4096},
        {.item_size = 64, .name = "["},
    };
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_set *set = percpu_pool_set_create();
    for (unsigned i = 0; i < COUNT_OF(bad); i++) {
        errno = 0;
        CHECK_CASE(percpu_pool_create_classes(&bad[i], pools, ROOM) == -1, "case %u", i);
        CHECK_CASE(errno == EINVAL, "case %u: %d", i, errno);
        errno = 0;
        CHECK(percpu_pool_set_add_classes(set, &bad[i]) == -1 && errno == EINVAL);
    }
    struct percpu_pool_attr attr = {.item_size = 100};
    CHECK(percpu_pool_create_classes(&attr, NULL, 0) == 11); /* too little room: how many */
    /* A size that is there already; the classes below it are of use. */
    CHECK(percpu_pool_set_add(set, make_pool((struct percpu_pool_attr){.item_size = 32})) == 0);
    errno = 0;
    CHECK(percpu_pool_set_add_classes(set, &attr) == -1 && errno == EBUSY);
    CHECK(percpu_pool_set_get(set, 3) != NULL && percpu_pool_set_get(set, 4) == NULL);
    void *item = percpu_pool_set_alloc(set, 20);
    CHECK(item != NULL && geometry_of(percpu_pool_set_find(set, item)).item_size == 24);
    percpu_pool_set_destroy(set);
}

/* max_ranges and cache_bytes are for all of them together. */
static void test_limits(void)
{
    static const size_t limits[] = {1, 100, 100000, 0};
    for (unsigned i = 0; i < COUNT_OF(limits); i++) {
        struct percpu_pool *pools[ROOM];
        struct percpu_pool_attr attr = {
            .item_size = 1000, .max_ranges = 2, .cache_bytes = limits[i], .lazy = true};
        int count = percpu_pool_create_classes(&attr, pools, ROOM);
        size_t cached = 0, least = 0, limit = limits[i] != 0 ? limits[i] : 512 << 10;
        CHECK(count == 24);
        for (int n = 0; n < count; n++) {
            struct percpu_pool_geometry geometry = geometry_of(pools[n]);
            CHECK(geometry.max_ranges == 2 && geometry.cache_items >= 2);
            CHECK(n == 0 ||
                  geometry.item_size == percpu_size_class(geometry_of(pools[n - 1]).item_size + 1));
            cached += geometry.cache_items * geometry.slot_size;
            least += 2 * geometry.slot_size;
        }
        CHECK_CASE(cached <= limit + least, "%zu of %zu", cached, limit);
        CHECK(percpu_pool_reserve(pools[count - 1], 1) == 0 && stats_of(pools[0]).ranges == 1);
        CHECK(percpu_pool_reserve(pools[0], 65536 / 8) == 0 && stats_of(pools[0]).ranges == 2);
        errno = 0;
        CHECK(percpu_pool_reserve(pools[5], 65536) == -1 && errno == ENOMEM);
        CHECK(stats_of(pools[5]).virtual_bytes >= stats_of(pools[6]).ranges * 65536 * nr_cpus);
        for (int n = 0; n < count; n++)
            percpu_pool_destroy(pools[n]);
    }
}

/* ---- records of random sizes ---------------------------------------------------------------- */

struct record {
    unsigned char *item;
    size_t size;
    unsigned char mark;
};

static void write_record(struct record *record, size_t stride, unsigned copies)
{
    record->mark = (unsigned char)(1 + below(255));
    memset(record->item, record->mark, record->size);
    memset(record->item + (copies - 1) * stride, record->mark, record->size);
}

static void check_record(const struct record *record, size_t stride, unsigned copies)
{
    const unsigned char *last = record->item + (copies - 1) * stride;
    for (size_t i = 0; i < record->size; i++)
        CHECK(record->item[i] == record->mark && last[i] == record->mark);
}

static void allocate(struct percpu_pool_set *set, struct record *record, size_t stride)
{
    unsigned char bytes[4200];
    record->size = 1 + (below(4) == 0 ? below(4200) : below(300));
    memset(bytes, (int)below(256), record->size);
    size_t way = below(3);
    record->item = way == 0   ? percpu_pool_set_alloc(set, record->size)
                   : way == 1 ? percpu_pool_set_zalloc(set, record->size)
                              : percpu_pool_set_alloc_init(set, bytes, record->size);
    CHECK(record->item != NULL);
    struct percpu_pool *pool = percpu_pool_of(record->item, stride);
    size_t class = geometry_of(pool).item_size, alignment = class & -class;
    CHECK(class == percpu_size_class(record->size) && percpu_pool_owns(pool, record->item));
    CHECK(percpu_pool_set_find(set, record->item) == pool);
    CHECK((uintptr_t)record->item % (alignment < 64 ? alignment : 64) == 0);
    int wrong = way == 0 ? -1 : wrong_copy(pool, record->item, bytes, way == 1 ? 0 : record->size);
    CHECK_CASE(wrong == -1, "%zu bytes, copy %d", record->size, wrong);
}

static void test_records(struct percpu_pool_attr attr)
{
    enum { RECORDS = 250 };
    static struct record records[RECORDS];
    memset(records, 0, sizeof records);
    struct percpu_pool_set *set = percpu_pool_set_create();
    CHECK(percpu_pool_set_add_classes(set, &attr) == 0);
    struct percpu_pool_geometry geometry = geometry_of(percpu_pool_set_get(set, 0));
    for (long step = effort(4000); step > 0; step--) {
        struct record *record = &records[below(RECORDS)];
        if (record->item == NULL) {
            allocate(set, record, geometry.stride);
            write_record(record, geometry.stride, geometry.cpus);
        } else {
            check_record(record, geometry.stride, geometry.cpus);
            percpu_pool_set_free(set, record->item);
            record->item = NULL;
        }
        if (below(40) == 0)
            percpu_pool_trim(percpu_pool_set_get(set, (unsigned)below(30)));
    }
    for (unsigned i = 0; i < RECORDS; i++)
        if (records[i].item != NULL) {
            check_record(&records[i], geometry.stride, geometry.cpus);
            percpu_pool_set_free(set, records[i].item);
        }
    struct percpu_pool *pool;
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++) {
        check_pool(pool);
        CHECK(stats_of(pool).live == 0);
        percpu_pool_drain(pool);
    }
    percpu_pool_trim(percpu_pool_set_get(set, 0));
    for (unsigned i = 0; (pool = percpu_pool_set_get(set, i)) != NULL; i++)
        percpu_pool_trim(pool);
    CHECK(stats_of(percpu_pool_set_get(set, 0)).ranges == 0);
    percpu_pool_set_destroy(set);
}

static const void *told_item;
static enum percpu_finding told;

static void tell(void *priv, const struct percpu_report *report)
{
    (void)priv;
    told_item = report->item;
    told = report->finding;
}

/* However a class's items lie, another class knows that they are not its own. */
static void test_items_of_another_class(size_t stride)
{
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_attr attr = {
        .item_size = 64, .stride = stride, .robust = true, .report = tell};
    int count = percpu_pool_create_classes(&attr, pools, ROOM);
    for (int i = 0; i < 20 * count; i++) {
        struct percpu_pool *ours = pools[i % count], *theirs = pools[(i + i / count) % count];
        void *item = percpu_pool_zalloc(ours), *others[4];
        for (unsigned n = 0; n < 4; n++)
            CHECK((others[n] = percpu_pool_zalloc(theirs)) != NULL);
        told = PERCPU_NO_FINDING;
        if (ours != theirs) {
            percpu_pool_free(theirs, item);
            CHECK_CASE(told == PERCPU_WRONG_POOL && told_item == item, "%s",
                       percpu_finding_name(told));
        }
        percpu_pool_free(ours, item);
        for (unsigned n = 0; n < 4; n++)
            percpu_pool_free(theirs, others[n]);
        CHECK(told == (ours != theirs ? PERCPU_WRONG_POOL : PERCPU_NO_FINDING));
        if (i % count == 0)
            CHECK(percpu_pool_trim(theirs) < SIZE_MAX);
    }
    while (count > 0)
        percpu_pool_destroy(pools[--count]);
}

/* ---- what classes give to each other --------------------------------------------------------- */

static struct percpu_pool *class_of(struct percpu_pool **pools, int count, size_t size)
{
    for (int i = 0; i < count; i++)
        if (geometry_of(pools[i]).item_size == size)
            return pools[i];
    CHECK(false);
    return NULL;
}

static void freeze(void)
{
    pid_t pid = fork_child();
    if (pid == 0)
        _exit(0);
    succeeds(pid);
}

/* Fill the range with dirty items of one class; after trim() another one has zeros in its place. */
static void test_blocks_change_hands(unsigned populate, unsigned copies, bool robust)
{
    static void *items[8192];
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_attr attr = {.item_size = 4096,
                                    .stride = 32 * page,
                                    .max_ranges = 1,
                                    .populate = populate,
                                    .cpus = copies,
                                    .robust = robust};
    int count = percpu_pool_create_classes(&attr, pools, ROOM);
    CHECK(count > 0);
    size_t stride = geometry_of(pools[0]).stride;
    struct percpu_pool *small = class_of(pools, count, 64), *tiny = class_of(pools, count, 8);
    struct percpu_pool *large = class_of(pools, count, 4096);
    void *kept = percpu_pool_alloc_init(tiny, "kept", 5);
    size_t filled = 0;
    while ((items[filled] = percpu_pool_alloc_init(small, &filled, sizeof filled)) != NULL) {
        memset((char *)items[filled] + (filled % copies) * stride, 0xdd, 64);
        CHECK(++filled < COUNT_OF(items));
    }
    CHECK(errno == ENOMEM && percpu_pool_alloc(large) == NULL);
    while (filled > 0)
        percpu_pool_free(small, items[--filled]);
    CHECK(percpu_pool_alloc(large) == NULL); /* still the other one's */
    CHECK(percpu_pool_trim(small) == 0);
    while ((items[filled] = percpu_pool_zalloc(large)) != NULL) {
        int wrong = wrong_copy(large, items[filled], NULL, 0);
        CHECK_CASE(wrong == -1, "item %zu, copy %d", filled, wrong);
        memset(items[filled++], 0xee, 4096);
    }
    CHECK(filled >= (robust ? 13 : 24));
    CHECK(wrong_copy(tiny, kept, "kept", 5) == -1 && stats_of(tiny).ranges == 1);
    for (int i = 0; i < count; i++)
        check_pool(pools[i]);
    while (filled > 0)
        percpu_pool_free(large, items[--filled]);
    percpu_pool_free(tiny, kept);
    percpu_pool_drain(tiny);
    CHECK(percpu_pool_trim(large) > 0 && stats_of(tiny).ranges == 0);
    while (count > 0)
        percpu_pool_destroy(pools[--count]);
}

/* Asked for other bytes where the file is frozen, a class does not take the others' room. */
static void test_frozen_range_is_left_to_others(void)
{
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_attr attr = {
        .item_size = 4096, .stride = 32 * page, .max_ranges = 1, .populate = PERCPU_POPULATE_INIT};
    int count = percpu_pool_create_classes(&attr, pools, ROOM);
    struct percpu_pool *small = class_of(pools, count, 64), *large = class_of(pools, count, 4096);
    CHECK(percpu_pool_alloc(small) != NULL);
    freeze();
    for (unsigned i = 0; i < 10; i++) {
        void *item = percpu_pool_alloc_init(small, &(unsigned){i + 1}, sizeof i);
        CHECK(item != NULL && wrong_copy(small, item, &(unsigned){i + 1}, sizeof i) == -1);
    }
    for (unsigned i = 0; i < 20; i++) {
        void *item = percpu_pool_zalloc(large);
        CHECK_CASE(item != NULL && wrong_copy(large, item, NULL, 0) == -1, "item %u", i);
    }
    while (count > 0)
        percpu_pool_destroy(pools[--count]);
}

/* In any order, with items handed out; what is left goes on, and gets the room. */
static void test_destroyed_in_any_order(unsigned populate, bool frozen)
{
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_attr attr = {
        .item_size = 512, .stride = 16 * page, .max_ranges = 2, .populate = populate};
    long mapped = mapped_pages();
    int count = percpu_pool_create_classes(&attr, pools, ROOM);
    struct percpu_pool *last = pools[count - 1];
    void *kept = percpu_pool_alloc_init(last, "kept", 4);
    for (int i = 0; i < count - 1; i++)
        for (unsigned n = 0; n < 20; n++) {
            void *item = percpu_pool_alloc(pools[i]);
            CHECK(item != NULL || errno == ENOMEM);
            if (item != NULL)
                memset(item, 0xff, geometry_of(pools[i]).item_size);
        }
    if (frozen)
        freeze();
    for (int i = count - 2, n = 0; i >= 0; i--, n++) {
        int at = (int)below((size_t)i + 1);
        percpu_pool_destroy(pools[at]);
        pools[at] = pools[i];
        check_pool(last);
    }
    CHECK(wrong_copy(last, kept, "kept", 4) == -1);
    size_t got = 0;
    for (void *item; (item = percpu_pool_zalloc(last)) != NULL; got++)
        CHECK(wrong_copy(last, item, NULL, 0) == -1);
    CHECK_CASE(got + 1 == 2 * 16 * page / 512 || (frozen && populate != 0), "%zu", got);
    check_pool(last);
    percpu_pool_destroy(last);
    CHECK(mapped_pages() == mapped || SLOW);
}

/* What a destroyed class held does not keep a range that is idle otherwise. */
static void test_lost_blocks_go_with_the_range(void)
{
    struct percpu_pool *pools[ROOM];
    struct percpu_pool_attr attr = {
        .item_size = 512, .stride = 16 * page, .populate = PERCPU_POPULATE_INIT, .lazy = true};
    int count = percpu_pool_create_classes(&attr, pools, ROOM);
    void *item = percpu_pool_alloc(pools[count - 1]);
    CHECK(percpu_pool_alloc(pools[0]) != NULL);
    freeze();
    percpu_pool_destroy(pools[0]); /* with an item handed out, in a file that stays as it is */
    CHECK(percpu_pool_trim(pools[count - 1]) == 0);
    percpu_pool_free(pools[count - 1], item);
    CHECK(percpu_pool_trim(pools[count - 1]) > 0 && stats_of(pools[1]).ranges == 0);
    while (count > 1)
        percpu_pool_destroy(pools[--count]);
}

int main(void)
{
    deadline(100);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    CHECK(pin((unsigned)percpu_current_cpu()));
    test_sizes();
    test_what_is_refused();
    test_limits();
    for (unsigned kind = 0; kind < 16; kind++)
        test_records((struct percpu_pool_attr){
            .item_size = 4200,
            .stride = 64 * page,
            .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
            .robust = kind & 2,
            .guard = kind & 4 && !emulated(),
            .poison_set = kind & 8,
            .poison = 0x77,
            .cache_bytes = kind & 4 ? 1 : 0,
        });
    for (unsigned kind = 0; kind < 8; kind++)
        test_blocks_change_hands(kind % 2, kind & 2 ? nr_cpus + 20 : nr_cpus, kind & 4);
    test_items_of_another_class(page);
    test_items_of_another_class(64 * page);
    test_frozen_range_is_left_to_others();
    for (unsigned kind = 0; kind < 4; kind++)
        test_destroyed_in_any_order(kind % 2, kind / 2);
    test_lost_blocks_go_with_the_range();
    return 0;
}
