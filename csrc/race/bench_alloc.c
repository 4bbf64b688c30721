/* SPDX-License-Identifier: MIT */
/* bench_alloc.c - what allocating from a pool costs. See bench.h. */
#include <errno.h>
#include <string.h>

#include "bench.h"
#include "internal.h"

enum {
    BATCH = 64,         /* items between two looks at the clock */
    WORKING_SET = 1000, /* items in use at once: more than one CPU's caches hold */
};

/* For items with initial bytes: 16384 of them, so that the pool prepares some more than once. */
#define INIT_STRIDE ((size_t)1 << 20)

static int out_of_memory(void)
{
    errno = ENOMEM;
    return -1;
}

/* Destroy the pool, keep errno. */
static int end(struct percpu_pool *pool, int failed)
{
    int error = errno;
    percpu_pool_destroy(pool);
    errno = error;
    return failed;
}

/* fresh items -------------------------------------------------------------------------------- */

enum bytes { ZEROS, SAME_BYTES, OTHER_BYTES };

struct fresh {
    enum bytes bytes;
    unsigned cpus;
    uint64_t deadline;
    uint64_t elapsed, items; /* what came of it */
};

static struct percpu_pool *create(const struct fresh *fresh)
{
    struct percpu_pool_attr attr = {
        .item_size = PERCPU_BENCH_ITEM,
        .stride = INIT_STRIDE,
        .cpus = fresh->cpus,
        .populate = PERCPU_POPULATE_INIT,
    };
    return fresh->bytes == ZEROS ? percpu_bench_pool(fresh->cpus, PERCPU_POPULATE_ZERO)
                                 : percpu_pool_create(&attr);
}

static bool allocate(struct percpu_pool *pool, enum bytes bytes, uint64_t number)
{
    uint64_t init[PERCPU_BENCH_ITEM / 8] = {1, 2, 3, 4, 5, 6, 7, 8};
    if (bytes == ZEROS)
        return percpu_pool_zalloc(pool) != NULL;
    if (bytes == OTHER_BYTES)
        init[0] = number;
    return percpu_pool_alloc_init(pool, init, sizeof init) != NULL;
}

/* Allocate the items of a new pool's first range, or as many as there is time for. */
static int allocate_fresh(struct percpu_pool *pool, struct fresh *fresh)
{
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    size_t item = 0, failed = 0;
    uint64_t start = percpu_race_clock(), now;
    do {
        for (int i = 0; i < BATCH && item < geometry.capacity; i++)
            failed += !allocate(pool, fresh->bytes, item++);
        now = percpu_race_clock();
    } while (item < geometry.capacity && now < fresh->deadline);
    fresh->elapsed += now - start;
    fresh->items += item;
    return failed == 0 ? 0 : out_of_memory();
}

static int sample_fresh(enum bytes bytes, unsigned cpus, uint64_t min_ns, double *ns)
{
    struct fresh fresh = {.bytes = bytes, .cpus = cpus, .deadline = percpu_race_clock() + min_ns};
    do {
        struct percpu_pool *pool = create(&fresh);
        if (pool == NULL || end(pool, allocate_fresh(pool, &fresh)) != 0)
            return -1;
    } while (percpu_race_clock() < fresh.deadline);
    *ns = (double)fresh.elapsed / (double)fresh.items;
    return 0;
}

int percpu_bench_fresh(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_fresh(ZEROS, cpus, min_ns, ns);
}

int percpu_bench_fresh_same(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_fresh(SAME_BYTES, cpus, min_ns, ns);
}

int percpu_bench_fresh_other(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_fresh(OTHER_BYTES, cpus, min_ns, ns);
}

/* recycled items ----------------------------------------------------------------------------- */

/* Allocate the working set, write two copies of each item, free it. 0; -1 with errno. */
static int use_all(struct percpu_pool *pool, unsigned cpus)
{
    void *items[WORKING_SET];
    size_t count = 0;
    for (; count < WORKING_SET && (items[count] = percpu_pool_zalloc(pool)) != NULL; count++) {
        percpu_ptr p = percpu_pool_ptr(pool, items[count]);
        memset(percpu_ptr_cpu(p, 0), 1, PERCPU_BENCH_ITEM);
        memset(percpu_ptr_cpu(p, cpus - 1), 1, PERCPU_BENCH_ITEM);
    }
    for (size_t i = 0; i < count; i++)
        percpu_pool_free(pool, items[i]);
    return count == WORKING_SET ? 0 : out_of_memory();
}

/* The first use of the items is not timed: they are fresh. */
int percpu_bench_recycled(unsigned cpus, uint64_t min_ns, double *ns)
{
    struct percpu_pool *pool = percpu_bench_pool(cpus, PERCPU_POPULATE_ZERO);
    if (pool == NULL)
        return -1;
    int failed = use_all(pool, cpus);
    uint64_t start = percpu_race_clock(), elapsed, items = 0;
    do {
        failed = failed != 0 ? failed : use_all(pool, cpus);
        items += WORKING_SET;
        elapsed = percpu_race_clock() - start;
    } while (failed == 0 && elapsed < min_ns);
    *ns = (double)elapsed / (double)items;
    return end(pool, failed);
}
