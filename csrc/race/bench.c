/* SPDX-License-Identifier: MIT */
/* bench.c - see bench.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "internal.h"

static struct percpu_pool *create(unsigned cpus)
{
    struct percpu_pool_attr attr = {.item_size = PERCPU_BENCH_ITEM, .cpus = cpus};
    return percpu_pool_create(&attr);
}

/* Allocate items of a new pool, all that its first range has but one. Returns how many, 0 with
 * errno ENOMEM. The first allocation, which fills this CPU's cache, is not timed. */
static size_t allocate_fresh(struct percpu_pool *pool, uint64_t *elapsed)
{
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    size_t items = geometry.capacity - 1, failed = percpu_pool_zalloc(pool) == NULL;
    uint64_t start = percpu_race_clock();
    for (size_t i = 0; i < items; i++)
        failed += percpu_pool_zalloc(pool) == NULL;
    *elapsed += percpu_race_clock() - start;
    return failed == 0 ? items : 0;
}

int percpu_bench_fresh(unsigned cpus, uint64_t min_ns, double *ns)
{
    uint64_t elapsed = 0, items = 0;
    do {
        struct percpu_pool *pool = create(cpus);
        if (pool == NULL)
            return -1;
        size_t more = allocate_fresh(pool, &elapsed);
        percpu_pool_destroy(pool);
        if (more == 0) {
            errno = ENOMEM;
            return -1;
        }
        items += more;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)items;
    return 0;
}

int percpu_bench_create(unsigned cpus, uint64_t min_ns, double *ns, size_t *length)
{
    struct percpu_pool_stats stats;
    struct percpu_pool *pool = create(cpus);
    if (pool == NULL)
        return -1;
    percpu_pool_stats(pool, &stats);
    percpu_pool_destroy(pool);
    *length = stats.virtual_bytes;

    uint64_t start = percpu_race_clock(), elapsed, pools = 0;
    do {
        if ((pool = create(cpus)) == NULL)
            return -1;
        percpu_pool_destroy(pool);
        pools++;
        elapsed = percpu_race_clock() - start;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)pools;
    return 0;
}

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

/* Distinct pages of one stride that the items lie in, times the page size. */
static size_t pages_of(char *const *items, unsigned count, size_t stride, unsigned char *seen)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t offset = (uintptr_t)items[i] & (stride - 1);
        bytes += seen[offset / page] ? 0 : page; /* an item divides a page: it lies in one */
        seen[offset / page] = 1;
    }
    return bytes;
}

static int write_items(struct percpu_pool *pool, char **items, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        items[i] = percpu_pool_zalloc(pool);
        if (items[i] == NULL)
            return -1;
        for (unsigned cpu = 0; cpu < PERCPU_BENCH_WRITERS; cpu++)
            memset(percpu_ptr_cpu(percpu_pool_ptr(pool, items[i]), cpu), 1, PERCPU_BENCH_ITEM);
    }
    return 0;
}

/* What the process has in memory, by a walk of its page tables. 0; -1 with errno kept. */
static int resident_now(size_t *bytes)
{
    static const char key[] = "\nRss:";
    char text[4096];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, text, sizeof text - 1);
    int error = length < 0 ? errno : 0;
    close(fd);
    text[length < 0 ? 0 : length] = '\0';
    const char *found = strstr(text, key);
    if (found == NULL) {
        errno = error != 0 ? error : ENOTSUP;
        return -1;
    }
    *bytes = (size_t)strtoull(found + sizeof key - 1, NULL, 10) * 1024;
    return 0;
}

static int fill_and_measure(unsigned cpus, unsigned count, char **items, size_t *grown,
                            size_t *written)
{
    size_t before, after;
    if (resident_now(&before) != 0 || resident_now(&before) != 0) /* the first for its own pages */
        return -1;
    struct percpu_pool *pool = create(cpus);
    if (pool == NULL)
        return -1;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    unsigned char *seen = NULL;
    int failed = -1;
    if (count > geometry.capacity || geometry.cpus < PERCPU_BENCH_WRITERS)
        errno = EINVAL;
    else if (write_items(pool, items, count) == 0 && resident_now(&after) == 0 &&
             (seen = calloc(geometry.stride, 1)) != NULL)
        failed = 0;
    if (failed == 0) {
        *grown = after > before ? after - before : 0;
        *written = PERCPU_BENCH_WRITERS * pages_of(items, count, geometry.stride, seen);
    }
    int error = errno;
    free(seen);
    percpu_pool_destroy(pool);
    errno = error;
    return failed;
}

int percpu_bench_resident(unsigned cpus, unsigned items, size_t *resident, size_t *written)
{
    size_t size = items * sizeof(char *);
    char **addresses = malloc(size);
    if (addresses == NULL)
        return -1;
    memset(addresses, 1, size); /* in memory before anything is measured */
    int failed = fill_and_measure(cpus, items, addresses, resident, written), error = errno;
    free(addresses);
    errno = error;
    return failed;
}
