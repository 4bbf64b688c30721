/* SPDX-License-Identifier: MIT */
/*
 * test_pool_faults.c - memory and descriptors running out at every point of a pool's life: the call
 * that needed them says ENOMEM or EMFILE, what was there before goes on working, and no mapping and
 * no descriptor is left behind.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include <percpu/pool_set.h>

#include "pool_tools.h"

enum { ITEMS = 400, ITEM = 64 };

static size_t page;
static unsigned nr_cpus;

static uint64_t *obtain(struct percpu_pool *pool, uint64_t number)
{
    return number % 2 == 0 ? percpu_pool_zalloc(pool)
                           : percpu_pool_alloc_init(pool, &number, sizeof number);
}

static void check_fresh(struct percpu_pool *pool, const uint64_t *item, uint64_t number)
{
    CHECK(wrong_copy(pool, item, &number, number % 2 == 0 ? 0 : sizeof number) == -1);
}

/* Use a pool while maps fail from the `after`-th on. Returns how many calls failed. */
static unsigned life_of_a_pool(struct percpu_pool_attr attr, int after)
{
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
        items[i] = obtain(pool, i);
        if (items[i] == NULL) {
            CHECK(errno == ENOMEM);
            failures++;
            continue;
        }
        check_fresh(pool, items[i], i);
        *items[i] = i + 1;
    }
    CHECK(percpu_pool_reserve(pool, 10 * ITEMS) == 0 || (errno == ENOMEM && ++failures));
    CHECK(pool_broken(pool) == NULL);
    percpu_pool_fail_maps(-1);
    for (uint64_t i = 0; i < ITEMS; i++) {
        if (items[i] == NULL) {
            CHECK((items[i] = obtain(pool, i)) != NULL);
            check_fresh(pool, items[i], i);
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

static void test_every_map_may_fail(struct percpu_pool_attr attr)
{
    attr.item_size = ITEM;
    attr.stride = 4 * page;
    CHECK(life_of_a_pool(attr, -1) == 0); /* malloc() has grown now */
    long before = mapped_pages();
    unsigned files = open_files();
    int after = 0;
    while (life_of_a_pool(attr, after) > 0) {
        CHECK_CASE(mapped_pages() == before, "map %d: %ld pages left", after,
                   mapped_pages() - before);
        CHECK(open_files() == files);
        CHECK(++after < 1000);
    }
    /* One for the caches and one for each range at least; and one more for each copy of a file. */
    int ranges = 11 * ITEMS * ITEM / (int)attr.stride;
    CHECK(after > ranges * (attr.populate == PERCPU_POPULATE_INIT ? (int)nr_cpus + 1 : 1));
    CHECK(mapped_pages() == before);
}

static void test_every_map_of_classes_may_fail(unsigned populate)
{
    struct percpu_pool_attr attr = {.item_size = 1000, .stride = 16 * page, .populate = populate};
    unsigned files = open_files();
    long before = 0;
    for (int after = -1, result = -1; result != 0; after++) {
        struct percpu_pool_set *set = percpu_pool_set_create();
        percpu_pool_fail_maps(after);
        errno = 0;
        result = percpu_pool_set_add_classes(set, &attr);
        CHECK(result == 0 || errno == ENOMEM);
        CHECK((percpu_pool_set_get(set, 0) == NULL) == (result != 0));
        percpu_pool_fail_maps(-1);
        percpu_pool_set_destroy(set);
        result = after == -1 ? -1 : result; /* malloc() has grown now */
        before = after == -1 ? mapped_pages() : before;
        CHECK(mapped_pages() == before && open_files() == files && after < 1000);
    }
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

/* ---- the kernel's own refusals -------------------------------------------------------------- */

static struct rlimit limit_to(int resource, rlim_t most)
{
    struct rlimit former, low;
    CHECK(getrlimit((unsigned)resource, &former) == 0);
    low = former;
    low.rlim_cur = most;
    CHECK(setrlimit((unsigned)resource, &low) == 0);
    return former;
}

/* Allocate until the pool refuses; what there is stays as it is. */
static size_t fill_up(struct percpu_pool *pool, uint64_t **items, size_t most, int error)
{
    size_t count = 0;
    errno = 0;
    while (count < most && (items[count] = obtain(pool, count)) != NULL) {
        items[count][1] = count;
        count++;
    }
    CHECK(count < most && errno == error);
    errno = 0;
    CHECK(percpu_pool_reserve(pool, 100000) == -1 && errno == error);
    for (size_t i = 0; i < count; i++)
        CHECK(items[i][0] == (i % 2 == 0 ? 0 : i) && items[i][1] == i);
    check_pool(pool);
    return count;
}

static void test_address_space_runs_out(unsigned populate)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)populate; /* the sanitizers' shadow memory is larger than any sensible limit */
#else
    static uint64_t *items[100000];
    if (emulated())
        return; /* the limit would be the emulator's */
    struct percpu_pool_attr large = {
        .item_size = ITEM, .cpus = PERCPU_MAX_CPUS, .populate = populate};
    struct percpu_pool_attr medium = {
        .item_size = ITEM, .cpus = nr_cpus + 100, .populate = populate};
    struct percpu_pool *pool = make_pool(medium);
    long mapped = mapped_pages();
    struct rlimit former = limit_to(RLIMIT_AS, (rlim_t)mapped * page + (64 << 20));
    errno = 0;
    CHECK(percpu_pool_create(&large) == NULL && errno == ENOMEM && mapped_pages() == mapped);
    size_t count = fill_up(pool, items, COUNT_OF(items), ENOMEM);
    CHECK(setrlimit(RLIMIT_AS, &former) == 0);
    CHECK((items[count] = obtain(pool, count)) != NULL);
    for (size_t i = 0; i <= count; i++)
        percpu_pool_free(pool, items[i]);
    percpu_pool_trim(pool);
    CHECK(mapped_pages() < mapped);
    percpu_pool_destroy(pool);
    pool = make_pool(large);
    percpu_pool_destroy(pool);
#endif
}

/* Without a descriptor there is no new file; ranges of zeros need none. Recycling, which looks into
 * a file of the kernel's, is right without. */
static void test_descriptors_run_out(void)
{
    static uint64_t *items[100000];
    struct percpu_pool_attr attr = {
        .item_size = ITEM, .stride = 4 * page, .populate = PERCPU_POPULATE_INIT};
    struct percpu_pool *pool = make_pool(attr);
    unsigned files = open_files();
    long mapped = mapped_pages();
    struct rlimit former = limit_to(RLIMIT_NOFILE, 0);
    errno = 0;
    CHECK(percpu_pool_create(&attr) == NULL && errno == EMFILE);
    size_t count = fill_up(pool, items, COUNT_OF(items), EMFILE);
    CHECK(count == geometry_of(pool).capacity);
    attr.populate = PERCPU_POPULATE_ZERO;
    attr.cpus = nr_cpus + (emulated() ? 20 : MORE);
    struct percpu_pool *zeros = make_pool(attr);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 100; i++) {
            CHECK((items[count + i] = obtain(zeros, i)) != NULL);
            check_fresh(zeros, items[count + i], i);
            memset((char *)items[count + i] + (i % attr.cpus) * attr.stride, 0xcc, ITEM);
        }
        for (unsigned i = 0; i < 100; i++)
            percpu_pool_free(zeros, items[count + i]);
    }
    check_pool(zeros);
    percpu_pool_destroy(zeros);
    CHECK(setrlimit(RLIMIT_NOFILE, &former) == 0);
    CHECK(open_files() == files && mapped_pages() == mapped);
    CHECK((items[count] = obtain(pool, count)) != NULL && stats_of(pool).ranges == 2);
    CHECK(open_files() == files);
    percpu_pool_destroy(pool);
}

/* A frozen file, and no other to be had: the bytes go to every copy. */
static void test_no_descriptor_after_fork(void)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = ITEM, .populate = PERCPU_POPULATE_INIT, .cpus = nr_cpus + 10});
    pid_t pid = fork_child();
    if (pid == 0)
        _exit(0);
    succeeds(pid);
    struct rlimit former = limit_to(RLIMIT_NOFILE, 0);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t *item = obtain(pool, i);
        CHECK(item != NULL);
        check_fresh(pool, item, i);
        if (i % 3 != 0)
            percpu_pool_free(pool, item);
    }
    CHECK(stats_of(pool).ranges == 1);
    check_pool(pool);
    CHECK(setrlimit(RLIMIT_NOFILE, &former) == 0);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    test_counter_without_memory();
    for (unsigned kind = 0; kind < 8; kind++)
        test_every_map_may_fail((struct percpu_pool_attr){
            .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
            .robust = kind & 2,
            .guard = kind & 4,
            .numa = kind & 4,
        });
    for (unsigned populate = 0; populate < 2; populate++) {
        test_every_map_of_classes_may_fail(populate);
        test_address_space_runs_out(populate);
    }
    test_descriptors_run_out();
    test_no_descriptor_after_fork();
    return 0;
}
