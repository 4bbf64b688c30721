/* SPDX-License-Identifier: MIT */
/*
 * map.c - the system calls behind a range.
 *
 * Address space is reserved once per range; nothing is touched but the header, so header pages and
 * a stride's pages come to exist when they are first written. With a file of initial values each
 * stride is a private mapping of the same file, and the file itself is mapped, shared, behind the
 * last one. The descriptor is closed at once: the mappings keep the file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* From headers newer than we ask for. */
enum { GUARD_INSTALL = 102, SET_VMA = 0x53564d41, SET_VMA_NAME = 0, PREFERRED = 1 };

static int fail_after = -1; /* percpu_pool_fail_maps() */

void percpu_pool_fail_maps(int after)
{
    __atomic_store_n(&fail_after, after, __ATOMIC_RELAXED);
}

static bool told_to_fail(void)
{
    int after = __atomic_load_n(&fail_after, __ATOMIC_RELAXED);
    if (after > 0)
        __atomic_store_n(&fail_after, after - 1, __ATOMIC_RELAXED);
    if (after == 0)
        errno = ENOMEM;
    return after == 0;
}

/* Kernels without CONFIG_ANON_VMA_NAME say EINVAL: then there is no name. */
static void give_name(void *memory, size_t length, const char *name)
{
    char text[80];
    if (name[0] == '\0')
        return;
    snprintf(text, sizeof text, "percpu:%s", name);
    prctl(SET_VMA, SET_VMA_NAME, memory, length, text);
}

void *percpu_map(size_t length, const char *name)
{
    void *memory = told_to_fail() ? MAP_FAILED
                                  : mmap(NULL, length, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* A huge page would give memory to CPUs that never wrote. Kernels without them say EINVAL. */
    madvise(memory, length, MADV_NOHUGEPAGE);
    give_name(memory, length, name);
    return memory;
}

/* `length` bytes of which the one at `header` is aligned to the stride. */
static char *map_aligned(size_t length, size_t header, size_t stride, const char *name)
{
    size_t slack = stride;
    char *memory = percpu_map(length + slack, name);
    if (memory == NULL)
        return NULL;
    uintptr_t base = ((uintptr_t)memory + header + stride - 1) & ~(uintptr_t)(stride - 1);
    size_t before = base - header - (uintptr_t)memory;
    if (before > 0)
        munmap(memory, before);
    if (slack > before)
        munmap(memory + before + length, slack - before);
    return memory + before;
}

size_t percpu_range_length(const struct space *space)
{
    return space->header_size + percpu_copies_length(space) + (space->initial ? space->stride : 0);
}

static int file_of_initial_values(const struct space *space)
{
    char name[80];
    snprintf(name, sizeof name, "percpu:%s", space->name);
    int file = memfd_create(name, MFD_CLOEXEC);
    if (file >= 0 && ftruncate(file, (off_t)space->stride) != 0) {
        int error = errno;
        close(file);
        errno = error;
        return -1;
    }
    return file;
}

static bool map_file(int file, char *at, size_t length, int flags)
{
    return !told_to_fail() &&
           mmap(at, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, file, 0) != MAP_FAILED;
}

static int map_initial(const struct space *space, struct range *range)
{
    int file = file_of_initial_values(space);
    if (file < 0)
        return -1;
    range->initial = range->base + percpu_copies_length(space);
    bool mapped = map_file(file, range->initial, space->stride, MAP_SHARED);
    for (unsigned copy = 0; mapped && copy < space->copies; copy++)
        mapped = map_file(file, range->base + copy * space->stride, space->stride,
                          MAP_PRIVATE | MAP_NORESERVE);
    int error = errno;
    close(file);
    errno = error;
    return mapped ? 0 : -1;
}

/* Markers in the page table where the kernel has them (Linux 6.13; in files 6.15): no VMA more. */
static int guard(const struct space *space, const struct range *range)
{
    size_t length = space->stride - space->usable;
    bool light = true;
    for (unsigned copy = 0; copy < space->copies; copy++) {
        char *page = range->base + copy * space->stride + space->usable;
        light = light && madvise(page, length, GUARD_INSTALL) == 0;
        if (!light && mprotect(page, length, PROT_NONE) != 0)
            return -1;
    }
    return 0;
}

/* One call for CPUs that follow each other on a node. What a kernel without NUMA says is no error:
 * placement is a wish. Not for mappings of a file: they all have the policy of the file. There, as
 * without `numa`, the CPU that first writes a page gets it near. */
static void place(const struct space *space, const struct range *range)
{
    for (unsigned first = 0, end; first < space->copies; first = end) {
        int node = space->nodes[first];
        for (end = first + 1; end < space->copies && space->nodes[end] == node;)
            end++;
        if (node < 0 || node >= 1024)
            continue;
        unsigned long mask[1024 / 64] = {0};
        mask[node / 64] = 1UL << node % 64;
        syscall(SYS_mbind, range->base + first * space->stride, (end - first) * space->stride,
                PREFERRED, mask, 1024UL + 1, 0);
    }
}

/* The first call of range_init that fails ends it. */
static int run_range_init(const struct space *space, struct range *range)
{
    for (unsigned copy = 0; copy < space->copies; copy++)
        if (space->range_init(space->priv, range->base + copy * space->stride, space->usable,
                              space->global && space->copies == 1 ? -1 : (int)copy) != 0)
            return -1;
    return 0;
}

struct range *percpu_range_map(struct space *space)
{
    char *mapping = map_aligned(percpu_range_length(space), space->header_size, space->stride,
                                space->name);
    if (mapping == NULL)
        return NULL;
    char *base = mapping + space->header_size;
    struct range *range = (struct range *)base - 1;
    range->magic = RANGE_MAGIC;
    range->space = space;
    range->base = base;
    if (space->initial && map_initial(space, range) != 0)
        goto failed;
    if (space->guard && guard(space, range) != 0)
        goto failed;
    if (space->nodes != NULL && !space->initial)
        place(space, range);
    if (space->range_init == NULL || run_range_init(space, range) == 0)
        return range;
failed:;
    int error = errno;
    percpu_range_unmap(range);
    errno = error;
    return NULL;
}

void percpu_range_unmap(struct range *range)
{
    struct space *space = range->space;
    munmap(range->base - space->header_size, percpu_range_length(space));
}

/*
 * A CPU that first writes a page of a private file mapping makes a copy of the file's page: the
 * kernel reads the old page, and only later makes the copy visible. An initial value stored in the
 * file meanwhile can be missing from that copy, and nothing shows it yet. To change a mapping's
 * flags the kernel waits until no fault is using it, so after this call every copy begun before
 * is in place to be found, and every later one has the value.
 */
void percpu_range_settle(struct range *range)
{
    struct space *space = range->space;
    percpu_space_lock(space);
    range->advice = range->advice == MADV_RANDOM ? MADV_NORMAL : MADV_RANDOM;
    madvise(range->base, percpu_copies_length(space), range->advice);
    percpu_space_unlock(space);
}
