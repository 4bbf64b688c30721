/* SPDX-License-Identifier: MIT */
/*
 * test_pool_attributes.c - each member of struct percpu_pool_attr does what pool.h says, and what
 * it refuses is refused. Functions: test_pool_callbacks.c,
 * test_pool_constructed.c.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "pool_tools.h"

static size_t page;
static unsigned nr_cpus;

static int construct(void *priv, void *item)
{
    (void)priv, (void)item;
    return 0;
}

static void destruct(void *priv, void *item)
{
    (void)priv, (void)item;
}

/* ---- what is refused -------------------------------------------------------------------- */

static const char name_of_64[] = "0123456789012345678901234567890123456789012345678901234567890123";

static void refuses(struct percpu_pool_attr attr, unsigned number)
{
    for (unsigned lazy = 0; lazy < 2; lazy++) {
        attr.lazy = lazy;
        errno = 0;
        CHECK_CASE(percpu_pool_create(&attr) == NULL, "case %u", number);
        CHECK_CASE(errno == EINVAL, "case %u: errno %d", number, errno);
    }
}

static void test_what_is_refused(void)
{
    static const char eight[8];
    const struct percpu_pool_attr bad[] = {
        {.item_size = 0},
        {.item_size = 2 * page, .stride = page},
        {.item_size = page, .stride = page, .guard = true},
        {.item_size = page, .stride = page, .robust = true}, /* 8 bytes more */
        {.item_size = page - 8, .stride = page, .slot_size = 2 * page},
        {.item_size = ((size_t)1 << 30) + 1},
        {.item_size = 1 << 30, .guard = true},
        {.item_size = 8, .stride = page / 2},
        {.item_size = 8, .stride = 3 * page},
        {.item_size = 8, .stride = (size_t)1 << 31},
        {.item_size = 8, .stride = (size_t)1 << 30, .cpus = (1 << 16) + 1, .global = true},
        {.item_size = 8, .cpus = PERCPU_MAX_CPUS + 1},
        {.item_size = 8, .cpus = PERCPU_MAX_CPUS + 1, .global = true},
        {.item_size = 8, .cpus = nr_cpus > 1 ? nr_cpus - 1 : UINT32_MAX},
        {.item_size = 8, .init = eight, .init_size = 9},
        {.item_size = 8, .init_size = 1},
        {.item_size = 16, .slot_size = 8},
        {.item_size = 16, .slot_size = 20},
        {.item_size = 16, .slot_size = SIZE_MAX - 7},
        {.item_size = 8, .ctor = construct},
        {.item_size = 8, .dtor = destruct},
        {.item_size = 8, .constructed = true, .poison_set = true},
        {.item_size = 8, .index = (enum percpu_index)5},
        {.item_size = 8, .index = (enum percpu_index) - 1},
        {.item_size = 8, .populate = (enum percpu_populate)2},
        {.item_size = 8, .populate = (enum percpu_populate) - 1},
        {.item_size = 8, .name = name_of_64},
        {.item_size = 8, .name = "tab\t"},
        {.item_size = 8, .name = "\xc3\xa4"},
        {.item_size = 8, .name = "a[b"},
        {.item_size = 8, .name = "a]b"},
        {.item_size = 8, .name = "a\\b"},
        {.item_size = 8, .name = "a$b"},
        {.item_size = 8, .name = "a`b"},
        {.item_size = 8, .name = "\x7f"},
    };
    for (unsigned i = 0; i < COUNT_OF(bad); i++)
        refuses(bad[i], i);
    if (percpu_index_check(PERCPU_INDEX_CID) != 0) {
        errno = 0;
        struct percpu_pool_attr attr = {.item_size = 8, .index = PERCPU_INDEX_CID};
        CHECK(percpu_pool_create(&attr) == NULL && errno == ENOTSUP);
    }
}

/* ---- sizes ------------------------------------------------------------------------------ */

static struct percpu_pool_geometry geometry_with(struct percpu_pool_attr attr)
{
    struct percpu_pool *pool = make_pool(attr);
    struct percpu_pool_geometry geometry = geometry_of(pool);
    void *item = percpu_pool_alloc(pool);
    CHECK(item != NULL);
    percpu_pool_free(pool, item);
    percpu_pool_destroy(pool);
    return geometry;
}

static void test_largest_and_smallest(void)
{
    struct percpu_pool_geometry geometry;
    geometry = geometry_with((struct percpu_pool_attr){.item_size = page, .stride = page});
    CHECK(geometry.capacity == 1 && geometry.stride == page && geometry.header_size >= page);
    geometry = geometry_with((struct percpu_pool_attr){.item_size = (size_t)1 << 30});
    CHECK(geometry.capacity == 1 && geometry.stride == (size_t)1 << 30);
    geometry = geometry_with((struct percpu_pool_attr){.item_size = 1});
    CHECK(geometry.capacity == 65536 && geometry.slot_size == 1);
    geometry = geometry_with((struct percpu_pool_attr){.item_size = 65536, .guard = true});
    CHECK(geometry.stride == 131072 && geometry.capacity == 1 && geometry.guard);
    geometry = geometry_with((struct percpu_pool_attr){.item_size = 8, .cpus = PERCPU_MAX_CPUS});
    CHECK(geometry.cpus == PERCPU_MAX_CPUS && geometry.max_ranges == 0);
    CHECK(geometry.populate == PERCPU_POPULATE_ZERO && geometry.index == PERCPU_INDEX_CPU);
    CHECK(!geometry.global && !geometry.robust && !geometry.guard && !geometry.constructed);
}

/* Items are slot_size apart; in a robust pool there are 8 bytes at least that are nobody's. */
static void test_slot_size(void)
{
    static const size_t sizes[][2] = {{1, 8}, {16, 16}, {16, 24}, {24, 64}, {100, 4096}};
    for (unsigned i = 0; i < 2 * COUNT_OF(sizes); i++) {
        size_t item_size = sizes[i / 2][0], slot_size = sizes[i / 2][1];
        struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
            .item_size = item_size, .slot_size = slot_size, .robust = i % 2, .max_ranges = 1});
        struct percpu_pool_geometry geometry = geometry_of(pool);
        CHECK(geometry.slot_size == slot_size && geometry.capacity == 65536 / slot_size);
        CHECK(geometry.robust == i % 2 && geometry.max_ranges == 1);
        void *item = percpu_pool_alloc(pool);
        uintptr_t first = (uintptr_t)item & ~(uintptr_t)65535;
        for (size_t n = 0; n < geometry.capacity; n++)
            CHECK(percpu_pool_owns(pool, (void *)(first + n * slot_size)));
        CHECK(!percpu_pool_owns(pool, (void *)(first + geometry.capacity * slot_size)));
        percpu_pool_free(pool, item);
        percpu_pool_destroy(pool);
    }
    for (size_t item_size = 1; item_size < 200; item_size++) {
        struct percpu_pool_geometry geometry = geometry_with(
            (struct percpu_pool_attr){.item_size = item_size, .robust = true});
        CHECK(geometry.slot_size >= item_size + 8 && geometry.slot_size <= item_size + 72);
    }
}

/* What one CPU keeps is at most cache_bytes, or two items. */
static void test_cache_bytes(void)
{
    enum { ITEMS = 2000 };
    static const size_t sizes[] = {8, 100, 5000};
    static const size_t limits[] = {1, 100, 1000, 10000, 0, 1 << 20};
    static void *items[ITEMS];
    for (size_t i = 0; i < COUNT_OF(sizes) * COUNT_OF(limits); i++) {
        size_t limit = limits[i % COUNT_OF(limits)];
        struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
            .item_size = sizes[i / COUNT_OF(limits)], .cache_bytes = limit});
        struct percpu_pool_geometry geometry = geometry_of(pool);
        limit = limit != 0 ? limit : 65536;
        CHECK(geometry.cache_items >= 2);
        CHECK(geometry.cache_items == 2 || geometry.cache_items * geometry.slot_size <= limit);
        for (unsigned n = 0; n < ITEMS; n++)
            CHECK((items[n] = percpu_pool_zalloc(pool)) != NULL);
        CHECK(stats_of(pool).cached <= geometry.cache_items);
        for (unsigned n = 0; n < ITEMS; n++)
            percpu_pool_free(pool, items[n]);
        CHECK(stats_of(pool).cached > 0 && stats_of(pool).live == 0);
        CHECK_CASE(stats_of(pool).cached <= geometry.cache_items, "case %zu: %zu of %zu", i,
                   stats_of(pool).cached, geometry.cache_items);
        percpu_pool_destroy(pool);
    }
}

/* ---- ranges ----------------------------------------------------------------------------- */

static void test_lazy(void)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){.item_size = 8, .lazy = true});
    CHECK(stats_of(pool).ranges == 0 && stats_of(pool).virtual_bytes < 65536 * nr_cpus);
    check_pool(pool);
    CHECK(!percpu_pool_owns(pool, &pool) && percpu_pool_trim(pool) == 0);
    unsigned char own;
    CHECK(percpu_pool_pages(pool, 0, 0, &own, 1) == 0 && percpu_pool_resident(pool, 0) == 0);
    CHECK(percpu_pool_alloc(pool) != NULL && stats_of(pool).ranges == 1);
    percpu_pool_destroy(pool);
    pool = make_pool((struct percpu_pool_attr){.item_size = 8});
    CHECK(stats_of(pool).ranges == 1 && stats_of(pool).live == 0);
    percpu_pool_destroy(pool);
    percpu_pool_destroy(make_pool((struct percpu_pool_attr){.item_size = 8, .lazy = true}));
}

/* What was reserved is there when no map can be made any more. */
static void test_reserve(enum percpu_populate populate)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = 64, .stride = page, .lazy = true, .populate = populate});
    size_t capacity = geometry_of(pool).capacity;
    CHECK(percpu_pool_reserve(pool, 0) == 0 && stats_of(pool).ranges == 0);
    CHECK(percpu_pool_reserve(pool, 1) == 0 && stats_of(pool).ranges == 1);
    CHECK(percpu_pool_reserve(pool, capacity) == 0 && stats_of(pool).ranges == 1);
    CHECK(percpu_pool_reserve(pool, 4 * capacity + 1) == 0 && stats_of(pool).ranges == 5);
    percpu_pool_fail_maps(0);
    for (size_t i = 0; i < 4 * capacity + 1; i++)
        CHECK(percpu_pool_zalloc(pool) != NULL);
    errno = 0;
    CHECK(percpu_pool_reserve(pool, capacity) == -1 && errno == ENOMEM);
    percpu_pool_fail_maps(-1);
    CHECK(stats_of(pool).ranges == 5);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* At the limit, free items in the CPUs' caches count: they can be had. */
static void test_reserve_at_the_limit(void)
{
    struct percpu_pool *pool = make_pool(
        (struct percpu_pool_attr){.item_size = 64, .stride = page, .max_ranges = 2});
    size_t capacity = geometry_of(pool).capacity;
    errno = 0;
    CHECK(percpu_pool_reserve(pool, 2 * capacity + 1) == -1 && errno == ENOMEM);
    void *item = percpu_pool_alloc(pool);
    CHECK(stats_of(pool).cached > 0);
    CHECK(percpu_pool_reserve(pool, 2 * capacity - 1) == 0);
    CHECK(percpu_pool_reserve(pool, 2 * capacity) == -1 && errno == ENOMEM);
    percpu_pool_free(pool, item);
    CHECK(percpu_pool_reserve(pool, 2 * capacity) == 0);
    for (size_t i = 0; i < 2 * capacity; i++)
        CHECK(percpu_pool_alloc(pool) != NULL);
    CHECK(percpu_pool_alloc(pool) == NULL && errno == ENOMEM);
    percpu_pool_destroy(pool);
}

/* ---- where and what it is called -------------------------------------------------------- */

static unsigned mappings_with(const char *text)
{
    char line[512];
    unsigned found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        found += strstr(line, text) != NULL;
    fclose(file);
    return found;
}

/* CONFIG_ANON_VMA_NAME: the file's name is shown anyway. */
static bool kernel_names_memory(void)
{
    void *memory = map_copies(1, page);
    return prctl(0x53564d41, 0, memory, page, "probe") == 0 && mappings_with("[anon:probe]") == 1;
}

static void test_names(void)
{
    char name[64], longest[64];
    memcpy(longest, name_of_64, 63);
    longest[63] = '\0';
    const char *const names[] = {"a b!~{}<>\"'()*+,-./:;=?@^_|%#&", longest};
    for (unsigned i = 0; i < 4; i++) {
        enum percpu_populate populate = i % 2 == 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO;
        strcpy(name, names[i / 2]);
        struct percpu_pool *pool = make_pool(
            (struct percpu_pool_attr){.item_size = 8, .name = name, .populate = populate});
        memset(name, 'x', sizeof name - 1);
        CHECK(strcmp(percpu_pool_name(pool), names[i / 2]) == 0);
        char shown[80] = "percpu:";
        strcat(shown, names[i / 2]);
        if (populate == PERCPU_POPULATE_INIT)
            CHECK_CASE(mappings_with(shown) >= nr_cpus + 1, "%s", shown);
        else if (kernel_names_memory())
            CHECK_CASE(mappings_with(shown) >= 1, "%s", shown);
        percpu_pool_destroy(pool);
        CHECK(mappings_with(shown) == 0);
    }
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){.item_size = 8});
    CHECK(strcmp(percpu_pool_name(pool), "") == 0);
    percpu_pool_destroy(pool);
}

/* The node that memory at `address` is to come from first; -1: anywhere. */
static int preferred_node(const void *address)
{
    enum { AT_ADDRESS = 2, NODES = 1024 };
    unsigned long mask[NODES / 64] = {0};
    int mode = -1;
    CHECK(syscall(SYS_get_mempolicy, &mode, mask, NODES, address, AT_ADDRESS) == 0);
    for (int node = 0; mode != 0 && node < NODES; node++)
        if (mask[node / 64] >> node % 64 & 1)
            return node;
    return -1;
}

static int node_of(unsigned cpu)
{
    struct percpu_cpuset nodes, cpus;
    percpu_topology_read(PERCPU_NODES_ONLINE, &nodes);
    for (unsigned node = 0; node < percpu_cpuset_limit(&nodes); node++)
        if (percpu_cpuset_has(&nodes, node) && percpu_topology_node_cpus(node, &cpus) == 0 &&
            percpu_cpuset_has(&cpus, cpu))
            return (int)node;
    return -1;
}

static void test_numa(void)
{
    struct percpu_pool *pool = make_pool(
        (struct percpu_pool_attr){.item_size = 8, .numa = true, .cpus = nr_cpus + 3});
    const char *item = percpu_pool_alloc(pool);
    size_t stride = geometry_of(pool).stride;
    int mode;
    if (syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0)
        for (unsigned cpu = 0; cpu < nr_cpus + 3; cpu++)
            CHECK_CASE(preferred_node(item + cpu * stride) == node_of(cpu), "CPU %u", cpu);
    percpu_pool_destroy(pool);
    pool = make_pool((struct percpu_pool_attr){
        .item_size = 8, .numa = true, .populate = PERCPU_POPULATE_INIT, .guard = true});
    CHECK(percpu_pool_zalloc(pool) != NULL);
    percpu_pool_destroy(pool);
}

/* ---- copies ----------------------------------------------------------------------------- */

static void test_global(void)
{
    static const unsigned counts[] = {0, 1, 3, 100};
    for (unsigned i = 0; i < 2 * COUNT_OF(counts); i++) {
        unsigned copies = counts[i / 2] != 0 ? counts[i / 2] : 1;
        struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
            .item_size = 64,
            .cpus = counts[i / 2],
            .global = true,
            .populate = i % 2 == 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        });
        struct percpu_pool_geometry geometry = geometry_of(pool);
        CHECK(geometry.global && geometry.cpus == copies);
        char *item = percpu_pool_alloc_init(pool, "abc", 3);
        CHECK(item != NULL && wrong_copy(pool, item, "abc", 3) == -1);
        percpu_ptr p = percpu_pool_ptr(pool, item);
        CHECK(p.base == NULL && p.stride == geometry.stride);
        memset(item + (copies - 1) * geometry.stride, 0xff, 64);
        percpu_pool_free(pool, item);
        for (size_t n = 0; n < geometry.capacity; n++) {
            CHECK((item = percpu_pool_zalloc(pool)) != NULL);
            CHECK(wrong_copy(pool, item, NULL, 0) == -1);
        }
        check_pool(pool);
        percpu_pool_destroy(pool);
    }
}

/* Dense ids choose the copy, and the cache. */
static void test_index(void)
{
    if (percpu_index_check(PERCPU_INDEX_CID) != 0)
        return;
    struct percpu_pool *pool = make_pool(
        (struct percpu_pool_attr){.item_size = 8, .index = PERCPU_INDEX_CID});
    CHECK(geometry_of(pool).index == PERCPU_INDEX_CID);
    uint64_t *item = percpu_pool_zalloc(pool);
    percpu_ptr p = percpu_pool_ptr(pool, item);
    CHECK(p.index == PERCPU_INDEX_CID);
    percpu_this_inc_u64(p);
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        sum += percpu_cpu_read_u64(p, cpu);
    CHECK(sum == 1);
    percpu_pool_free(pool, item);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    test_what_is_refused();
    test_largest_and_smallest();
    test_slot_size();
    test_lazy();
    test_reserve(PERCPU_POPULATE_ZERO);
    test_reserve(PERCPU_POPULATE_INIT);
    test_names();
    test_numa();
    test_global();
    test_index();
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    CHECK(pin((unsigned)percpu_current_cpu()));
    test_cache_bytes();
    test_reserve_at_the_limit();
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    return 0;
}
