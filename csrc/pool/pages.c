/* SPDX-License-Identifier: MIT */
/*
 * pages.c - which pages are really there.
 *
 * A page that was read but never written maps the kernel's shared page of zeros, or a file's page,
 * and is no memory of its own. Linux 6.7 tells such pages apart (PAGEMAP_SCAN); before that
 * mincore() counts them too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
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
enum { FILE_PAGE = 1 << 2, PRESENT = 1 << 3, SWAPPED = 1 << 4, ZERO_PAGE = 1 << 5 };

/* Regions of pages that are in none of the categories `without`, and in one of `any`. */
static bool scan(int pagemap, struct scan *scan, uint64_t without, uint64_t any, int *found)
{
    scan->size = sizeof *scan;
    scan->category_mask = without;
    scan->category_inverted = without;
    scan->category_anyof_mask = any;
    scan->return_mask = any;
    *found = ioctl(pagemap, SCAN, scan);
    return *found >= 0;
}

static int open_pagemap(void)
{
    return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

/* A region may go from one copy's pages on to the next copy's: visit them one by one. */
static void visit_region(const struct range *range, const struct region *region,
                         percpu_pages_visit *visit, void *context)
{
    const struct space *space = range->space;
    size_t at = region->start - (uintptr_t)range->base;
    size_t end = region->end - (uintptr_t)range->base;
    for (size_t next; at < end; at = next) {
        size_t copy = at >> space->stride_shift, start = copy << space->stride_shift;
        next = start + space->stride < end ? start + space->stride : end;
        size_t last = next - start < space->usable ? next - start : space->usable;
        if (at - start < last) /* guard pages look as if they were swapped out */
            visit(context, (unsigned)copy, at - start, last);
    }
}

bool percpu_pages_walk(const struct range *range, percpu_pages_visit *visit, void *context)
{
    struct region regions[256];
    struct scan area = {
        .start = (uintptr_t)range->base,
        .end = (uintptr_t)range->base + percpu_copies_length(range->space),
        .regions = (uintptr_t)regions,
        .regions_length = sizeof regions / sizeof regions[0],
    };
    int pagemap = open_pagemap(), found;
    bool known = pagemap >= 0;
    uint64_t others = range->initial != NULL ? FILE_PAGE : ZERO_PAGE;
    for (; known && area.start < area.end; area.start = area.walk_end) {
        known = scan(pagemap, &area, others, PRESENT | SWAPPED, &found);
        for (int i = 0; known && i < found; i++)
            visit_region(range, &regions[i], visit, context);
    }
    if (pagemap >= 0)
        close(pagemap);
    return known;
}

/* Regions of one call, handed to `visit_run`, until the area is walked. */
typedef void visit_run(void *context, size_t start, size_t end);

static bool scan_runs(const char *start, size_t length, bool own, visit_run *visit, void *context)
{
    struct region regions[64];
    struct scan area = {
        .start = (uintptr_t)start,
        .end = (uintptr_t)start + length,
        .regions = (uintptr_t)regions,
        .regions_length = sizeof regions / sizeof regions[0],
    };
    int pagemap = open_pagemap(), found;
    bool known = pagemap >= 0;
    for (; known && area.start < area.end; area.start = area.walk_end) {
        known = scan(pagemap, &area, ZERO_PAGE | (own ? FILE_PAGE : 0), PRESENT, &found);
        for (const struct region *region = regions; known && region < regions + found; region++)
            visit(context, region->start - (uintptr_t)start, region->end - (uintptr_t)start);
    }
    if (pagemap >= 0)
        close(pagemap);
    return known;
}

/* The same from mincore(), which counts more: see above. */
static void ask_mincore(const char *start, size_t length, visit_run *visit, void *context)
{
    unsigned char pages[512];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < length; at += sizeof pages * page) {
        size_t step = length - at < sizeof pages * page ? length - at : sizeof pages * page;
        if (mincore((void *)(uintptr_t)(start + at), step, pages) != 0)
            continue;
        for (size_t i = 0; i < step / page; i++)
            if (pages[i] & 1)
                visit(context, at + i * page, at + (i + 1) * page);
    }
}

static void add_run(void *context, size_t start, size_t end)
{
    *(size_t *)context += end - start;
}

size_t percpu_resident(const char *start, size_t length, bool own)
{
    size_t bytes = 0;
    if (!scan_runs(start, length, own, add_run, &bytes)) {
        bytes = 0;
        ask_mincore(start, length, add_run, &bytes);
    }
    return bytes;
}

struct flags {
    unsigned char *flags;
    size_t pages, page;
};

static void mark_run(void *context, size_t start, size_t end)
{
    struct flags *flags = context;
    for (size_t i = start / flags->page; i < end / flags->page && i < flags->pages; i++)
        flags->flags[i] = 1;
}

size_t percpu_resident_pages(const char *start, size_t length, bool own, unsigned char *flags,
                             size_t pages)
{
    struct flags context = {flags, pages, (size_t)sysconf(_SC_PAGESIZE)};
    memset(flags, 0, pages);
    if (!scan_runs(start, length, own, mark_run, &context))
        ask_mincore(start, length, mark_run, &context);
    return length / context.page;
}
