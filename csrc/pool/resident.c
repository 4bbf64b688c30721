/* SPDX-License-Identifier: MIT */
/*
 * resident.c - how much of a mapping is really in memory.
 *
 * A page that was read but never written maps the kernel's shared page of zeros and costs nothing.
 * Linux 6.7 tells such pages apart (PAGEMAP_SCAN); before that mincore() counts them too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

/* linux/fs.h of Linux 6.7, for builds against older headers. */
struct scan {
    uint64_t size, flags, start, end, walk_end;
    uint64_t regions, regions_length, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct region {
    uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
enum { PRESENT = 1 << 3, ZERO_PAGE = 1 << 5 };

static bool scan(int pagemap, const char *start, size_t length, size_t *bytes)
{
    struct region regions[64];
    struct scan scan = {
        .size = sizeof scan,
        .start = (uintptr_t)start,
        .end = (uintptr_t)start + length,
        .regions = (uintptr_t)regions,
        .regions_length = sizeof regions / sizeof regions[0],
        .category_mask = PRESENT | ZERO_PAGE,
        .category_inverted = ZERO_PAGE,
        .return_mask = PRESENT,
    };
    for (*bytes = 0; scan.start < scan.end; scan.start = scan.walk_end) {
        int found = ioctl(pagemap, SCAN, &scan);
        if (found < 0)
            return false;
        for (int i = 0; i < found; i++)
            *bytes += regions[i].end - regions[i].start;
    }
    return true;
}

static size_t count_in_core(const char *start, size_t length)
{
    unsigned char pages[512];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), in_memory = 0;
    while (length > 0) {
        size_t step = length < sizeof pages * page ? length : sizeof pages * page;
        if (mincore((void *)(uintptr_t)start, step, pages) == 0)
            for (size_t i = 0; i < step / page; i++)
                in_memory += pages[i] & 1;
        start += step;
        length -= step;
    }
    return in_memory * page;
}

size_t percpu_resident(const char *start, size_t length)
{
    size_t bytes;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool known = pagemap >= 0 && scan(pagemap, start, length, &bytes);
    if (pagemap >= 0)
        close(pagemap);
    return known ? bytes : count_in_core(start, length);
}
