/* SPDX-License-Identifier: MIT */
/*
 * test_pool_robust.c - frees that are wrong, and items that nobody frees, in a robust pool: each is
 * found by the call that can find it, with the right item and offset, whoever is told; a bad free
 * does nothing, and the pool goes on.
 */
#define _GNU_SOURCE
#include "pool_robust.h"

static void double_free(struct percpu_pool *pool)
{
    void *item = allocate_here(pool);
    percpu_pool_free(pool, item);
    CHECK(reports == 0);
    percpu_pool_free(pool, item);
    expect(PERCPU_DOUBLE_FREE, pool, item);
    CHECK(seen.cpu == -1);
}

/* Not in a CPU's cache any more. */
static void double_free_of_the_range(struct percpu_pool *pool)
{
    void *item = allocate_here(pool);
    percpu_pool_free(pool, item);
    percpu_pool_drain(pool);
    check_pool(pool);
    percpu_pool_free(pool, item);
    expect(PERCPU_DOUBLE_FREE, pool, item);
}

static void foreign_free(struct percpu_pool *pool)
{
    int local, *heap = malloc(64);
    void *const foreign[] = {
        &local,
        heap,
        pool,
        (void *)8,
        (void *)-8,
        (void *)((uintptr_t)1 << 47),
        (void *)(uintptr_t)&seen,
    };
    for (unsigned i = 0; i < COUNT_OF(foreign); i++) {
        percpu_pool_free(pool, foreign[i]);
        CHECK(reports == i + 1);
        expect(PERCPU_FOREIGN_FREE, pool, foreign[i]);
    }
    free(heap);
    reports = 1;
}

static void interior_free(struct percpu_pool *pool)
{
    struct percpu_pool_geometry geometry = geometry_of(pool);
    unsigned char *item = allocate_here(pool);
    unsigned char *base = (unsigned char *)((uintptr_t)item & ~(uintptr_t)(geometry.stride - 1));
    size_t slot = geometry.slot_size, index = (size_t)(item - base) / slot, end = geometry.capacity;
    unsigned char *const inside[] = {
        item + 1,
        item + 8,
        item + SIZE,
        item + slot - 1,
        end > index + 127 ? base + (end - 1) * slot : item + 1, /* never handed out */
        base + end * slot,
        base + geometry.stride - 1,
        copy_of(pool, item, 1),
        copy_of(pool, item + 16, last_copy(pool)),
        base + geometry.cpus * geometry.stride - 1,
    };
    static const size_t offsets[] = {1, 8, SIZE, 0, 0, 0, 0, 0, 16, 0};
    for (unsigned i = 0; i < COUNT_OF(inside); i++) {
        percpu_pool_free(pool, inside[i]);
        CHECK(reports == i + 1);
        expect(PERCPU_INTERIOR_FREE, pool, inside[i]);
        CHECK(seen.cpu == -1 && (offsets[i] == 0 || seen.offset == offsets[i]));
    }
    CHECK(wrong_copy(pool, item, NULL, 0) == -1);
    percpu_pool_free(pool, item);
    CHECK(reports == COUNT_OF(inside));
    reports = 1;
}

static void wrong_pool(struct percpu_pool *pool)
{
    struct percpu_pool *other = make_pool((struct percpu_pool_attr){.item_size = SIZE});
    void *item = percpu_pool_alloc(other);
    percpu_pool_free(pool, item);
    expect(PERCPU_WRONG_POOL, pool, item);
    percpu_pool_free(other, item);
    CHECK(stats_of(other).live == 0);
    percpu_pool_destroy(other);
}

static const struct scenario scenarios[] = {
    {"double free", PERCPU_DOUBLE_FREE, double_free, false},
    {"double free", PERCPU_DOUBLE_FREE, double_free_of_the_range, false},
    {"foreign free", PERCPU_FOREIGN_FREE, foreign_free, false},
    {"interior free", PERCPU_INTERIOR_FREE, interior_free, false},
    {"wrong pool", PERCPU_WRONG_POOL, wrong_pool, false},
};

/* ---- the end of the pool ------------------------------------------------------------------ */

static void test_leaks(struct percpu_pool_attr attr)
{
    for (unsigned leaks = 0; leaks < 4; leaks++) {
        attr.report = tell_pool;
        attr.priv = &seen;
        reports = 0;
        struct percpu_pool *pool = robust_pool(attr);
        void *items[5], *leaked = NULL;
        for (unsigned i = 0; i < 5; i++)
            items[i] = i < 3 ? allocate_here(pool) : allocate_there(pool);
        for (unsigned i = leaks; i < 5; i++)
            percpu_pool_free(pool, items[i]);
        check_pool(pool);
        percpu_pool_destroy(pool);
        CHECK(reports == (leaks > 0));
        if (leaks == 0)
            continue;
        CHECK(seen.finding == PERCPU_LEAK && seen.pool == pool && seen.count == leaks);
        for (unsigned i = 0; i < leaks; i++)
            leaked = seen.item == items[i] ? items[i] : leaked;
        CHECK(leaked != NULL && is_in(seen.site, allocate_here));
    }
}

int main(void)
{
    deadline(100);
    CHECK(pin((unsigned)percpu_current_cpu()));
    for (unsigned kind = 0; kind < 8; kind++) {
        test_scenarios(scenarios, COUNT_OF(scenarios), robust_kind(kind));
        test_leaks(robust_kind(kind));
    }
    return 0;
}
