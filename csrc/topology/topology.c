/* SPDX-License-Identifier: MIT */
/*
 * topology.c - what the kernel says about CPUs and NUMA nodes: sysfs, the affinity mask, and the
 * number of copies that every per-CPU object has.
 *
 * Runs before main() and perhaps in a process short of memory, so it allocates nothing and uses
 * no stdio. Nothing is kept but percpu_nr_cpus(): the rest may change at any time.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity, O_PATH */
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <percpu/topology.h>

/* The longest list there can be names every id by itself: "0,1,...,8191\n", 5 bytes each at most. */
#define LIST_BYTES (5 * PERCPU_MAX_CPUS + 1)

/* sched_getaffinity() wants room for all CPUs that the kernel is configured for, and fills an
 * array of unsigned long: a struct percpu_cpuset is both. */
_Static_assert(sizeof(unsigned long) == sizeof(uint64_t), "affinity masks are arrays of our words");

static const char *sysfs_root = "/sys";

static int open_retrying(int directory, const char *path, int flags)
{
    int fd;
    do
        fd = openat(directory, path, flags | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Read all of `fd`. Returns how many bytes; -1 with errno kept, EFBIG if they do not fit. */
static ssize_t read_all(int fd, char *buffer, size_t size)
{
    size_t filled = 0;
    for (;;) {
        ssize_t got = read(fd, buffer + filled, size - filled);
        if (got == 0)
            return (ssize_t)filled;
        if (got < 0 && errno != EINTR)
            return -1;
        if (got > 0)
            filled += (size_t)got;
        if (filled == size) {
            errno = EFBIG;
            return -1;
        }
    }
}

/* Read and parse the list in the file `path` below the root of sysfs. Returns 0; -1 with errno
 * kept and an empty set. */
static int read_list(const char *path, struct percpu_cpuset *set)
{
    char text[LIST_BYTES + 1]; /* one more, so that a file which does not fit is noticed */
    ssize_t length = -1;
    int root, file, error;

    *set = (struct percpu_cpuset){{0}};
    root = open_retrying(AT_FDCWD, sysfs_root, O_PATH | O_DIRECTORY);
    if (root < 0)
        return -1;
    file = open_retrying(root, path, O_RDONLY);
    if (file >= 0)
        length = read_all(file, text, sizeof text);
    error = errno;
    if (file >= 0)
        close(file);
    close(root);
    errno = error;
    return length < 0 ? -1 : percpu_cpuset_parse(text, (size_t)length, set);
}

static int read_affinity(pid_t thread, struct percpu_cpuset *set)
{
    *set = (struct percpu_cpuset){{0}};
    return sched_getaffinity(thread, sizeof set->words, (cpu_set_t *)(void *)set->words);
}

static void unite(struct percpu_cpuset *set, const struct percpu_cpuset *other)
{
    for (unsigned i = 0; i < PERCPU_MAX_CPUS / 64; i++)
        set->words[i] |= other->words[i];
}

/* The CPUs that this thread or the process's first thread may run on. A thread that was pinned
 * before it loaded the core knows less than the process does. */
static void affinity_of_process(struct percpu_cpuset *set)
{
    struct percpu_cpuset own;
    read_affinity(getpid(), set);
    read_affinity(0, &own);
    unite(set, &own);
}

static void cpus_without_sysfs(struct percpu_cpuset *set)
{
    long configured = sysconf(_SC_NPROCESSORS_CONF);
    affinity_of_process(set);
    for (unsigned id = 0; (long)id < configured && id < PERCPU_MAX_CPUS; id++)
        set->words[id / 64] |= UINT64_C(1) << id % 64;
    set->words[0] |= percpu_cpuset_limit(set) == 0; /* there is always one CPU */
}

int percpu_topology_read(enum percpu_topology_list list, struct percpu_cpuset *set)
{
    static const char *const files[] = {
        [PERCPU_CPUS_POSSIBLE] = "devices/system/cpu/possible",
        [PERCPU_CPUS_ONLINE] = "devices/system/cpu/online",
        [PERCPU_NODES_ONLINE] = "devices/system/node/online",
    };
    /* An empty list is no answer: something runs this code. */
    if (read_list(files[list], set) == 0 && percpu_cpuset_limit(set) > 0)
        return 0;
    if (list == PERCPU_NODES_ONLINE)
        set->words[0] = 1;
    else
        cpus_without_sysfs(set);
    return 1;
}

int percpu_topology_allowed(struct percpu_cpuset *set)
{
    return read_affinity(0, set);
}

/* Write "devices/system/node/node<node>/cpulist" to `path`. */
static void node_path(unsigned node, char path[64])
{
    char digits[10], *at;
    unsigned count = 0;
    do
        digits[count++] = (char)('0' + node % 10);
    while ((node /= 10) != 0);
    at = stpcpy(path, "devices/system/node/node");
    while (count > 0)
        *at++ = digits[--count];
    strcpy(at, "/cpulist");
}

int percpu_topology_node_cpus(unsigned node, struct percpu_cpuset *set)
{
    struct percpu_cpuset nodes;
    char path[64];

    node_path(node, path);
    if (read_list(path, set) == 0)
        return 0;
    /* Where node 0 is only assumed (a kernel without NUMA has no node directory) it has all CPUs. */
    if (node == 0 && percpu_topology_read(PERCPU_NODES_ONLINE, &nodes) == 1) {
        percpu_topology_read(PERCPU_CPUS_ONLINE, set);
        return 0;
    }
    errno = ENOENT;
    return -1;
}

/* Whatever sysfs says, a CPU that we may run on is possible. */
static unsigned count_copies(void)
{
    struct percpu_cpuset possible, usable;
    unsigned limit;
    percpu_topology_read(PERCPU_CPUS_POSSIBLE, &possible);
    affinity_of_process(&usable);
    unite(&possible, &usable);
    limit = percpu_cpuset_limit(&possible);
    return limit > 0 ? limit : 1;
}

/*
 * Other constructors may come first and ask, so the first caller computes it. Should two threads
 * do so at once, the first to finish decides for both. Relaxed is enough: the number is all there
 * is to publish.
 */
unsigned percpu_nr_cpus(void)
{
    static unsigned nr_cpus;
    unsigned known = __atomic_load_n(&nr_cpus, __ATOMIC_RELAXED);
    if (percpu_unlikely(known == 0)) {
        int error = errno;
        unsigned counted = count_copies();
        if (__atomic_compare_exchange_n(&nr_cpus, &known, counted, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            known = counted;
        errno = error;
    }
    return known;
}

static __attribute__((constructor(101))) void read_nr_cpus_at_load(void)
{
    percpu_nr_cpus();
}

void percpu_topology_set_root(const char *root)
{
    sysfs_root = root != NULL ? root : "/sys";
}
