/* SPDX-License-Identifier: MIT */
/* bench_make.c - what making a pool costs, and what the kernel takes for as much. See bench.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "internal.h"

/* pools -------------------------------------------------------------------------------------- */

static int sample_make(unsigned cpus, enum percpu_populate populate, uint64_t min_ns, double *ns)
{
    uint64_t start = percpu_race_clock(), elapsed, pools = 0;
    do {
        struct percpu_pool *pool = percpu_bench_pool(cpus, populate);
        if (pool == NULL)
            return -1;
        percpu_pool_destroy(pool);
        pools++;
        elapsed = percpu_race_clock() - start;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)pools;
    return 0;
}

int percpu_bench_make(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_make(cpus, PERCPU_POPULATE_ZERO, min_ns, ns);
}

int percpu_bench_make_init(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_make(cpus, PERCPU_POPULATE_INIT, min_ns, ns);
}

int percpu_bench_length(unsigned cpus, size_t *length)
{
    struct percpu_pool_stats stats;
    struct percpu_pool *pool = percpu_bench_pool(cpus, PERCPU_POPULATE_ZERO);
    if (pool == NULL)
        return -1;
    percpu_pool_stats(pool, &stats);
    percpu_pool_destroy(pool);
    *length = stats.virtual_bytes;
    return 0;
}

/* bare mappings ------------------------------------------------------------------------------ */

/* MAP_STACK keeps huge pages away (Linux 6.7), at no cost: clearing one would make the comparison
 * flatter the pool, whose memory has none. */
int percpu_bench_map(size_t length, uint64_t min_ns, double *ns)
{
    uint64_t start = percpu_race_clock(), elapsed, mappings = 0;
    do {
        char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (memory == MAP_FAILED)
            return -1;
        *(volatile char *)memory = 1;
        munmap(memory, length);
        mappings++;
        elapsed = percpu_race_clock() - start;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)mappings;
    return 0;
}

/* Mapping each wherever the kernel likes, and unmapping one by one, costs more than this. */
static int map_and_unmap(int file, unsigned maps, size_t length)
{
    char *area = mmap(NULL, maps * length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
    bool failed = area == MAP_FAILED;
    for (unsigned i = 0; i < maps && !failed; i++)
        failed = mmap(area + i * length, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, file, 0) == MAP_FAILED;
    int error = errno;
    if (area != MAP_FAILED)
        munmap(area, maps * length);
    errno = error;
    return failed ? -1 : 0;
}

static int sample_file_maps(int file, unsigned maps, size_t length, uint64_t min_ns, double *ns)
{
    uint64_t start = percpu_race_clock(), elapsed, rounds = 0;
    do {
        if (map_and_unmap(file, maps, length) != 0)
            return -1;
        rounds++;
        elapsed = percpu_race_clock() - start;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)rounds;
    return 0;
}

int percpu_bench_file_maps(unsigned cpus, uint64_t min_ns, double *ns)
{
    struct percpu_pool_geometry geometry;
    struct percpu_pool *pool = percpu_bench_pool(cpus, PERCPU_POPULATE_INIT);
    if (pool == NULL)
        return -1;
    percpu_pool_geometry(pool, &geometry);
    percpu_pool_destroy(pool);

    int file = memfd_create("percpu-bench", MFD_CLOEXEC);
    if (file < 0)
        return -1;
    int failed = ftruncate(file, (off_t)geometry.stride) != 0
                     ? -1
                     : sample_file_maps(file, cpus, geometry.stride, min_ns, ns);
    int error = errno;
    close(file);
    errno = error;
    return failed;
}
