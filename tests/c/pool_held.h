/* SPDX-License-Identifier: MIT */
/* pool_held.h - for the tests of pools and fork(): items of which it is known what they hold. */
#ifndef PERCPU_TESTS_POOL_HELD_H
#define PERCPU_TESTS_POOL_HELD_H

#include "pool_tools.h"

enum { SIZE = 72, OLD = 60, NEW = 120 };

struct held {
    unsigned char *item;
    unsigned char bytes[SIZE];
    size_t size;
};

static inline void obtain(struct percpu_pool *pool, struct held *held, unsigned number,
                          unsigned who)
{
    held->size = 8 + number % (SIZE - 7);
    memset(held->bytes, (int)(1 + who * 16 + number % 16), held->size);
    held->item = percpu_pool_alloc_init(pool, held->bytes, held->size);
    CHECK(held->item != NULL);
}

static inline void check_all(struct percpu_pool *pool, const struct held *held, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int wrong = wrong_copy(pool, held[i].item, held[i].bytes, held[i].size);
        CHECK_CASE(wrong == -1, "item %u of %u, copy %d", i, count, wrong);
    }
}

/* Every copy of every third item gets another first byte; then that is what it holds. */
static inline void write_some(struct percpu_pool *pool, struct held *held, unsigned count,
                              unsigned value)
{
    struct percpu_pool_geometry geometry = geometry_of(pool);
    for (unsigned i = 0; i < count; i += 3) {
        held[i].bytes[0] = (unsigned char)value;
        for (unsigned cpu = 0; cpu < geometry.cpus; cpu++)
            held[i].item[cpu * geometry.stride] = (unsigned char)value;
    }
}

/* Half of the items that are free at the fork have been used before it. */
static inline struct percpu_pool *pool_with_a_past(struct percpu_pool_attr attr, struct held *old)
{
    static struct held past[NEW];
    attr.item_size = SIZE;
    attr.stride = 4 * (size_t)sysconf(_SC_PAGESIZE);
    struct percpu_pool *pool = make_pool(attr);
    for (unsigned i = 0; i < NEW; i++)
        obtain(pool, &past[i], i, 15);
    write_some(pool, past, NEW, 0xfe);
    for (unsigned i = 0; i < NEW; i++)
        percpu_pool_free(pool, past[i].item);
    for (unsigned i = 0; i < OLD; i++)
        obtain(pool, &old[i], i, 10);
    write_some(pool, old, OLD / 2, 0xfd);
    return pool;
}

/* 24 of them: populations, copies, caches and guards; robust, poisoned, or neither. */
static inline struct percpu_pool_attr fork_kind(unsigned kind)
{
    return (struct percpu_pool_attr){
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .cpus = kind & 2 ? percpu_nr_cpus() + (emulated() ? 8 : 60) : 0,
        .robust = kind / 8 == 1,
        .poison_set = kind / 8 == 2,
        .poison = 0xabab,
        .guard = kind & 4 && !emulated(),
        .cache_bytes = kind & 4 ? 1 : 0,
    };
}

#endif
