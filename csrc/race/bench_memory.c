/* SPDX-License-Identifier: MIT */
/* bench_memory.c - what memory a pool takes. See bench.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

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

static int write_items(struct percpu_pool *pool, char **items, unsigned count, size_t size)
{
    for (unsigned i = 0; i < count; i++) {
        items[i] = percpu_pool_zalloc(pool);
        if (items[i] == NULL)
            return -1;
        for (unsigned cpu = 0; cpu < PERCPU_BENCH_WRITERS; cpu++)
            memset(percpu_ptr_cpu(percpu_pool_ptr(pool, items[i]), cpu), 1, size);
    }
    return 0;
}

static int compare_addresses(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    return (x > y) - (x < y);
}

/* Distinct pages that the items' first copies lie in, times the page size. Sorts the items. */
static size_t pages_of(char **items, unsigned count, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), next = 0; /* next: not counted so far */
    size_t bytes = 0;
    qsort(items, count, sizeof *items, compare_addresses);
    for (unsigned i = 0; i < count; i++) {
        uintptr_t first = (uintptr_t)items[i] / page,
                  last = ((uintptr_t)items[i] + size - 1) / page;
        first = first > next ? first : next;
        bytes += last >= first ? (last - first + 1) * page : 0;
        next = last + 1;
    }
    return bytes;
}

static int fill_and_measure(const struct percpu_pool_attr *attr, unsigned count, char **items,
                            struct percpu_bench_memory *memory)
{
    size_t before, after;
    struct percpu_pool_stats stats;
    if (resident_now(&before) != 0 || resident_now(&before) != 0) /* the first for its own pages */
        return -1;
    struct percpu_pool *pool = percpu_pool_create(attr);
    if (pool == NULL)
        return -1;
    int failed = write_items(pool, items, count, attr->item_size) != 0 ? -1 : resident_now(&after);
    if (failed == 0) {
        percpu_pool_stats(pool, &stats);
        memory->resident = after > before ? after - before : 0;
        memory->written = PERCPU_BENCH_WRITERS * pages_of(items, count, attr->item_size);
        memory->counted = stats.resident_bytes;
    }
    int error = errno;
    percpu_pool_destroy(pool);
    errno = error;
    return failed;
}

int percpu_bench_resident(unsigned cpus, unsigned items, size_t item_size,
                          struct percpu_bench_memory *memory)
{
    struct percpu_pool_attr attr = {.item_size = item_size, .cpus = cpus};
    size_t size = items * sizeof(char *);
    char **addresses = malloc(size);
    if (cpus < PERCPU_BENCH_WRITERS)
        errno = EINVAL;
    if (addresses == NULL || cpus < PERCPU_BENCH_WRITERS) {
        free(addresses);
        return -1;
    }
    memset(addresses, 1, size); /* in memory before anything is measured */
    int failed = fill_and_measure(&attr, items, addresses, memory), error = errno;
    free(addresses);
    errno = error;
    return failed;
}
