/* SPDX-License-Identifier: MIT */
/* pool_tools.h - what the tests of the pool share: making one, looking at all copies of an item,
 * what the process has mapped and opened, and children. */
#ifndef PERCPU_TESTS_POOL_TOOLS_H
#define PERCPU_TESTS_POOL_TOOLS_H

#include <dirent.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <percpu/percpu.h>

#include "pool_check.h"
#include "threads.h"

/* Copies: so many that the kernel is asked which of their pages to look at, for one item too. */
enum { MORE = 1100 };

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

#ifdef __SANITIZE_THREAD__
enum { SLOW = true }; /* and its shadow memory is the process's */
#else
enum { SLOW = false };
#endif

/* Under an emulator system calls that the kernel has may be missing, and mappings be others'. */
static inline bool emulated(void)
{
    return getenv("PERCPU_TEST_EMULATED") != NULL;
}

/* Whether initial bytes may be stored while other threads write: see percpu_range_settle(). */
static inline bool file_settles(void)
{
    return !emulated(); /* qemu-user ignores that madvise() */
}

static inline struct percpu_pool *make_pool(struct percpu_pool_attr attr)
{
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK_CASE(pool != NULL, "errno %d", errno);
    return pool;
}

static inline struct percpu_pool_stats stats_of(struct percpu_pool *pool)
{
    struct percpu_pool_stats stats;
    percpu_pool_stats(pool, &stats);
    return stats;
}

static inline struct percpu_pool_geometry geometry_of(const struct percpu_pool *pool)
{
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    return geometry;
}

/* The walker finds nothing, and the numbers agree with each other. */
static inline void check_pool(struct percpu_pool *pool)
{
    const char *broken = pool_broken(pool);
    CHECK_CASE(broken == NULL, "%s", broken);
    struct percpu_pool_stats stats = stats_of(pool);
    CHECK(stats.resident_bytes <= stats.virtual_bytes);
}

/* Whether `copy` starts with `size` bytes as at `bytes`, and goes on with zeros to `item_size`. */
static inline bool holds(const unsigned char *copy, const void *bytes, size_t size,
                         size_t item_size)
{
    if (size > 0 && memcmp(copy, bytes, size) != 0)
        return false;
    for (size_t at = size; at < item_size; at++)
        if (copy[at] != 0)
            return false;
    return true;
}

/* The first copy of the item that does not; -1 if all do. */
static inline int wrong_copy(struct percpu_pool *pool, const void *item, const void *bytes,
                             size_t size)
{
    struct percpu_pool_geometry geometry = geometry_of(pool);
    const unsigned char *copy = item;
    for (unsigned cpu = 0; cpu < geometry.cpus; cpu++, copy += geometry.stride)
        if (!holds(copy, bytes, size, geometry.item_size))
            return (int)cpu;
    return -1;
}

/* Pages that are CPUs' own, all copies and ranges together. */
static inline size_t own_pages(struct percpu_pool *pool)
{
    size_t bytes = 0;
    for (unsigned cpu = 0; cpu < geometry_of(pool).cpus; cpu++)
        bytes += percpu_pool_resident(pool, cpu);
    return bytes / (size_t)sysconf(_SC_PAGESIZE);
}

/* Whether pages that were only read can be told from pages that were written: Linux 6.7. */
static inline bool pages_are_told_apart(void)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){.item_size = 8});
    const volatile char *item = percpu_pool_zalloc(pool);
    bool told = item[0] == 0 && percpu_pool_resident(pool, 0) == 0;
    percpu_pool_destroy(pool);
    return told;
}

/* ---- the process ------------------------------------------------------------------------ */

static inline unsigned lines_of_maps(void)
{
    static char text[1 << 16];
    unsigned lines = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    for (size_t got; (got = fread(text, 1, sizeof text, file)) > 0;)
        for (size_t i = 0; i < got; i++)
            lines += text[i] == '\n';
    fclose(file);
    return lines;
}

/* Pages of address space that are mapped; under an emulator or the address sanitizer, which map
 * memory for themselves as they go, always 0. */
static inline long mapped_pages(void)
{
    long pages = 0;
#ifdef __SANITIZE_ADDRESS__
    return pages;
#endif
    if (emulated())
        return 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return pages;
}

static inline unsigned open_files(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* ---- children --------------------------------------------------------------------------- */

static inline int status_of(pid_t pid)
{
    int status;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == pid);
    return status;
}

static inline void succeeds(pid_t pid)
{
    int status = status_of(pid);
    CHECK_CASE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", (unsigned)status);
}

/* fork(), with a deadline for the child. What the parent printed is not printed twice. */
static inline pid_t fork_child(void)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        deadline(60);
    return pid;
}

#endif
