/* SPDX-License-Identifier: MIT */
/*
 * bench.h - what a pool costs, and what it is compared with. What has the shape of an add (one
 * operation, many times, by many threads) is a scheme and is timed by harness.h instead.
 *
 * Each returns 0; -1 with errno kept. Those with `min_ns` time their operation until so much time
 * has passed, without what has to be done between, and store ns per operation. Thread-safe.
 */
#ifndef PERCPU_RACE_BENCH_H
#define PERCPU_RACE_BENCH_H

#include <percpu/percpu.h>

/* Bytes of an item in all of these. */
#define PERCPU_BENCH_ITEM 64

/* percpu_pool_zalloc() of an item that was never handed out, from a pool with `cpus` copies. */
int percpu_bench_fresh(unsigned cpus, uint64_t min_ns, double *ns);

/* Create a pool with `cpus` copies, and destroy it. `length`: bytes of address space it had. */
int percpu_bench_create(unsigned cpus, uint64_t min_ns, double *ns, size_t *length);

/* Map `length` bytes, write one, unmap. */
int percpu_bench_map(size_t length, uint64_t min_ns, double *ns);

/*
 * Write `items` items of a new pool with `cpus` copies, two copies of each; EINVAL if they do not
 * fit one range. `resident`: bytes by which the memory of the process has grown since before there
 * was a pool; `written`: of those, the pages that were written, each counted once. It asks
 * /proc/self/smaps_rollup, which does not count the shared page of zeros that mere reading maps:
 * mincore() does. What other threads allocate meanwhile is counted too.
 */
#define PERCPU_BENCH_WRITERS 2u
int percpu_bench_resident(unsigned cpus, unsigned items, size_t *resident, size_t *written);

#endif
