/* SPDX-License-Identifier: MIT */
/*
 * bench.h - what pools and counters cost, and what they are compared with. What has the shape of an add (one
 * operation, many times, by many threads) is a scheme and is timed by harness.h instead.
 *
 *   bench.c          the list, and what they share
 *   bench_alloc.c    allocating
 *   bench_make.c     making and closing; bare mappings to compare with
 *   bench_memory.c   memory
 *   bench_counter.c  making and summing counters
 *
 * Each returns 0; -1 with errno kept. Thread-safe.
 */
#ifndef PERCPU_RACE_BENCH_H
#define PERCPU_RACE_BENCH_H

#include <percpu/percpu.h>

/* Bytes of an item, where nothing else is said. */
#define PERCPU_BENCH_ITEM 64

/* How many CPUs' copies are written. */
#define PERCPU_BENCH_WRITERS 2u

/*
 * Something done with pools or counters that have `cpus` copies, or with as much memory. It is repeated until
 * `min_ns` have passed; of those the time of the operation itself is counted, without what has to
 * be done between. Stores ns per operation.
 *
 *   fresh         percpu_pool_zalloc() of an item never handed out, from a new pool's first on
 *   fresh same    percpu_pool_alloc_init() of such an item in a pool populated by `init`, always
 *                 with the same bytes, which the pool was not made with
 *   fresh other   the same with other bytes for each item
 *   recycled      percpu_pool_zalloc() of an item used before, written on two CPUs, the first and
 *                 the last; percpu_pool_free(). The writes are part of it
 *   make          create a pool and destroy it
 *   make init     the same, populated by `init`
 *   file maps     reserve addresses, map one file privately there for each copy, unmap it all
 *   counter       make a counter with memory for each CPU, and destroy it
 *   counter lazy  the same without that memory
 *   sum           sum a counter that was written on two CPUs, the first and the last
 *   bare sum      add up the same words in a loop
 */
struct percpu_bench {
    const char *name;
    int (*sample)(unsigned cpus, uint64_t min_ns, double *ns);
};

/* All of them, a NULL name at the end; and the one called `name`, or NULL. */
extern const struct percpu_bench percpu_benches[];
const struct percpu_bench *percpu_bench_find(const char *name);

int percpu_bench_fresh(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_fresh_same(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_fresh_other(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_recycled(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_make(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_make_init(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_file_maps(unsigned cpus, uint64_t min_ns, double *ns);

int percpu_bench_counter(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_counter_lazy(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_sum(unsigned cpus, uint64_t min_ns, double *ns);
int percpu_bench_bare_sum(unsigned cpus, uint64_t min_ns, double *ns);

/* A pool with `cpus` copies as these use it; NULL with errno. */
struct percpu_pool *percpu_bench_pool(unsigned cpus, enum percpu_populate populate);

/* Bytes of address space that a new pool with `cpus` copies has. */
int percpu_bench_length(unsigned cpus, size_t *length);

/* Map `length` bytes, write one, unmap. As the samples above. */
int percpu_bench_map(size_t length, uint64_t min_ns, double *ns);

/*
 * Write `items` items of `item_size` bytes of a new pool with `cpus` copies, two copies of each.
 * Stores bytes: by how much the memory of the process has grown since before there was a pool; of
 * those, the pages that were written, each counted once; and what percpu_pool_stats() says. The
 * first asks /proc/self/smaps_rollup, which does not count the shared page of zeros that mere
 * reading maps: mincore() does. What other threads allocate meanwhile is counted too. EINVAL for
 * one copy.
 */
struct percpu_bench_memory {
    size_t resident, written, counted;
};
int percpu_bench_resident(unsigned cpus, unsigned items, size_t item_size,
                          struct percpu_bench_memory *memory);

#endif
