/* SPDX-License-Identifier: MIT */
/*
 * test_pool_trim.c - memory goes back: ranges without items, what CPUs cached that nobody runs on
 * any more. And recycled items are zeroed where CPUs wrote, and only there.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

enum { SIZE = 64 };

static size_t page;
static unsigned nr_cpus, more; /* more: so many copies that the kernel is asked what to look at */
static bool told;              /* pages_are_told_apart() */

static struct percpu_pool *small_ranges(unsigned populate, unsigned copies)
{
    return make_pool((struct percpu_pool_attr){.item_size = SIZE,
                                               .stride = page,
                                               .populate = populate,
                                               .cpus = copies,
                                               .lazy = true,
                                               .name = "to be trimmed"});
}

static unsigned named_mappings(void)
{
    char line[512];
    unsigned found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        found += strstr(line, "/memfd:percpu:to be trimmed") != NULL;
    fclose(file);
    return found;
}

static void shuffle(void **items, size_t count, uint64_t seed)
{
    for (size_t i = count; i > 1; i--) {
        size_t other = (size_t)(random_next(&seed) >> 33) % i;
        void *item = items[i - 1];
        items[i - 1] = items[other];
        items[other] = item;
    }
}

/* ---- ranges ------------------------------------------------------------------------------ */

static void test_everything_goes(unsigned populate)
{
    enum { ITEMS = 1000 };
    static void *items[ITEMS];
    struct percpu_pool *pool = small_ranges(populate, nr_cpus);
    CHECK(percpu_pool_trim(pool) == 0);
    size_t virtual_bytes = stats_of(pool).virtual_bytes;
    long mapped = 0;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < ITEMS; i++)
            CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        size_t ranges = stats_of(pool).ranges;
        CHECK(ranges >= ITEMS * SIZE / page && stats_of(pool).virtual_bytes > virtual_bytes);
        CHECK(percpu_pool_trim(pool) == 0 || stats_of(pool).ranges < ranges);
        CHECK(populate == 0 || named_mappings() == (nr_cpus + 1) * stats_of(pool).ranges);
        shuffle(items, ITEMS, round + 1);
        for (unsigned i = 0; i < ITEMS; i++)
            percpu_pool_free(pool, items[i]);
        size_t bytes = stats_of(pool).virtual_bytes - virtual_bytes;
        CHECK(percpu_pool_trim(pool) == bytes);
        struct percpu_pool_stats stats = stats_of(pool);
        CHECK(stats.ranges == 0 && stats.cached == 0 && stats.free == 0 && stats.live == 0);
        if (round == 0) /* the table of ranges has grown, and stays */
            mapped = mapped_pages();
        CHECK(stats.virtual_bytes == virtual_bytes && mapped_pages() == mapped);
        CHECK(named_mappings() == 0 && !percpu_pool_owns(pool, items[0]));
        check_pool(pool);
    }
    percpu_pool_destroy(pool);
}

/* A range stays for one item, which does not notice; the others go. */
static void test_what_is_used_stays(unsigned populate)
{
    enum { ITEMS = 1000, KEPT = 7 };
    static void *items[ITEMS];
    struct percpu_pool *pool = small_ranges(populate, nr_cpus + 2);
    size_t stride = geometry_of(pool).stride;
    for (unsigned i = 0; i < ITEMS; i++) {
        CHECK((items[i] = percpu_pool_alloc_init(pool, &i, sizeof i)) != NULL);
        ((unsigned char *)items[i])[(nr_cpus + 1) * stride + SIZE - 1] = 99;
    }
    for (unsigned i = 0; i < ITEMS; i++)
        if (i % (ITEMS / KEPT) != 0 || i / (ITEMS / KEPT) >= KEPT)
            percpu_pool_free(pool, items[i]);
    CHECK(percpu_pool_trim(pool) > 0);
    CHECK(stats_of(pool).live == KEPT && stats_of(pool).ranges <= KEPT);
    CHECK(percpu_pool_trim(pool) == 0);
    for (unsigned i = 0; i < KEPT; i++) {
        unsigned char *item = items[i * (ITEMS / KEPT)];
        unsigned number = i * (ITEMS / KEPT);
        CHECK(percpu_pool_owns(pool, item));
        CHECK(wrong_copy(pool, item, &number, sizeof number) == (int)nr_cpus + 1);
        CHECK(item[(nr_cpus + 1) * stride + SIZE - 1] == 99);
        item[(nr_cpus + 1) * stride + SIZE - 1] = 0;
        CHECK(wrong_copy(pool, item, &number, sizeof number) == -1);
    }
    for (unsigned i = 0; i < ITEMS; i++)
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
    for (unsigned i = 0; i < ITEMS; i++)
        CHECK(wrong_copy(pool, items[i], NULL, 0) == -1);
    CHECK(stats_of(pool).live == ITEMS + KEPT);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* ---- beside threads ----------------------------------------------------------------------- */

static struct percpu_pool *shared;
static _Atomic(void *) stale; /* some item, free again by now or not */

static uint64_t *last_word(void *item)
{
    return percpu_ptr_cpu(percpu_pool_ptr(shared, item), nr_cpus - 1);
}

static void user(struct worker *worker)
{
    enum { HELD = 150 };
    uint64_t *items[HELD];
    while (!stopping()) {
        for (uint64_t i = 0; i < HELD; i++) {
            CHECK((items[i] = percpu_pool_zalloc(shared)) != NULL);
            CHECK(wrong_copy(shared, items[i], NULL, 0) == -1);
            *last_word(items[i]) = worker->id * HELD + i + 1;
        }
        atomic_store(&stale, items[worker->done % HELD]);
        for (uint64_t i = 0; i < HELD; i++) {
            CHECK(*last_word(items[i]) == worker->id * HELD + i + 1);
            percpu_pool_free(shared, items[i]);
        }
        worker->done++;
    }
}

static void trimmer(struct worker *worker)
{
    while (!stopping()) {
        worker->done += percpu_pool_trim(shared) > 0;
        struct percpu_pool_stats stats = stats_of(shared);
        CHECK(stats.resident_bytes <= stats.virtual_bytes);
        (void)percpu_pool_resident(shared, 0);
        sched_yield();
    }
}

/* Any address may be asked about, at any time. */
static void asker(struct worker *worker)
{
    unsigned char own[4];
    while (!stopping()) {
        (void)percpu_pool_owns(shared, atomic_load(&stale));
        (void)percpu_pool_pages(shared, worker->done % 8, 0, own, sizeof own);
        worker->done++;
    }
}

static void test_beside_threads(unsigned populate)
{
    static void (*const bodies[])(struct worker *) = {user, trimmer, user, asker};
    shared = small_ranges(populate, nr_cpus);
    CHECK(run_workers(4, bodies, 4, 0, 300) > 0);
    CHECK(stats_of(shared).live == 0);
    check_pool(shared);
    (void)percpu_pool_trim(shared);
    CHECK(stats_of(shared).ranges == 0);
    percpu_pool_destroy(shared);
}

/* ---- CPUs that nobody runs on --------------------------------------------------------------- */

/* What a thread left on the CPUs that it hopped over is used before another range is mapped. */
static void test_abandoned_caches_are_drained(unsigned populate)
{
    enum { ITEMS = 60 };
    void *items[ITEMS];
    struct percpu_pool *pool = small_ranges(populate, nr_cpus);
    struct percpu_cpuset allowed;
    CHECK(percpu_topology_allowed(&allowed) == 0);
    unsigned hops = 0, first = nr_cpus;
    for (unsigned cpu = nr_cpus; cpu-- > 0;) {
        if (!percpu_cpuset_has(&allowed, cpu) || !pin(cpu))
            continue;
        first = cpu;
        if (++hops > 8)
            break;
        for (unsigned i = 0; i < ITEMS; i++)
            CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        for (unsigned i = 0; i < ITEMS; i++) {
            memset(items[i], 0xff, SIZE);
            percpu_pool_free(pool, items[i]);
        }
        CHECK(stats_of(pool).cached >= ITEMS / 2);
    }
    CHECK(first < nr_cpus && pin(first));
    size_t ranges = stats_of(pool).ranges, items_there = ranges * geometry_of(pool).capacity;
    for (size_t i = 0; i < items_there; i++) {
        void *item = percpu_pool_zalloc(pool);
        CHECK(item != NULL && wrong_copy(pool, item, NULL, 0) == -1);
        CHECK_CASE(stats_of(pool).ranges == ranges, "item %zu of %zu", i, items_there);
    }
    CHECK(stats_of(pool).free == 0 && stats_of(pool).cached == 0);
    CHECK(percpu_pool_zalloc(pool) != NULL && stats_of(pool).ranges == ranges + 1);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* ---- restoring ------------------------------------------------------------------------------ */

/* Pages of the stride that the process has looked at. */
static size_t pages_seen(const char *stride_start, size_t stride)
{
    unsigned char seen[64];
    size_t count = 0;
    CHECK(stride / page <= sizeof seen);
    CHECK(mincore((void *)(uintptr_t)stride_start, stride, seen) == 0);
    for (size_t i = 0; i < stride / page; i++)
        count += seen[i] & 1;
    return count;
}

/* Dirty items of several ranges come back zeroed wherever they were written. CPUs that never wrote
 * are given nothing; and where many items of a range come at once, they are not even looked at. */
static void test_restores_follow_the_writers(size_t size, unsigned writers, bool shuffled)
{
    static void *items[400];
    size_t count = size > SIZE ? 40 : COUNT_OF(items);
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = size, .stride = size > SIZE ? 8 * page : page, .cpus = more + nr_cpus});
    size_t stride = geometry_of(pool).stride;
    for (unsigned i = 0; i < count; i++) {
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        for (unsigned w = 0; w < writers; w++) {
            unsigned cpu = w * (more / 4) + (i % 3 == 0);
            memset((char *)items[i] + cpu * stride, (int)i + 1, size);
        }
    }
    size_t written = own_pages(pool), ranges = stats_of(pool).ranges;
    CHECK(ranges >= 2);
    char *base = (char *)((uintptr_t)items[count / 2] & ~(uintptr_t)(stride - 1));
    if (shuffled)
        shuffle(items, count, size + writers);
    for (unsigned i = 0; i < count; i++)
        percpu_pool_free(pool, items[i]);
    uint64_t restores = stats_of(pool).restores;
    for (unsigned i = 0; i < count; i++)
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
    CHECK(stats_of(pool).ranges == ranges && stats_of(pool).restores - restores >= count / 2);
    CHECK(!told || own_pages(pool) == written);
    for (unsigned cpu = more - 10; told && cpu < more; cpu++) {
        CHECK(percpu_pool_resident(pool, cpu) == 0);
        if (!shuffled && size <= SIZE)
            CHECK_CASE(pages_seen(base + cpu * stride, stride) == 0, "CPU %u", cpu);
    }
    for (unsigned i = 0; i < count; i++)
        CHECK_CASE(wrong_copy(pool, items[i], NULL, 0) == -1, "item %u, copy %d", i,
                   wrong_copy(pool, items[i], NULL, 0));
    CHECK(!told || own_pages(pool) == written);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    more = emulated() || SLOW ? 40 : MORE;
    told = pages_are_told_apart();
    for (unsigned populate = 0; populate < 2; populate++) {
        test_what_is_used_stays(populate);
        test_beside_threads(populate);
    }
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (unsigned populate = 0; populate < 2; populate++) {
        test_abandoned_caches_are_drained(populate);
        CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    }
    CHECK(pin((unsigned)percpu_current_cpu()));
    test_everything_goes(PERCPU_POPULATE_ZERO);
    test_everything_goes(PERCPU_POPULATE_INIT);
    static const size_t sizes[] = {SIZE, 24, 1000, 5000};
    for (unsigned i = 0; i < COUNT_OF(sizes); i++)
        for (unsigned kind = 0; kind < 4; kind++)
            test_restores_follow_the_writers(sizes[i], kind < 2 ? 1 : 3, kind % 2);
    return 0;
}
