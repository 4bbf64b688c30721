/* SPDX-License-Identifier: MIT */
/*
 * topology.h - which CPUs and NUMA nodes this machine has, and which of them this thread may use.
 *
 * Sets of CPUs are bitmaps of 64-bit words; bit c % 64 of word c / 64 stands for CPU c. Masks may
 * be sparse ("0-3,8,64-127"). The parser is a pure function over a buffer, so it can be tested
 * without a machine that looks like the text.
 */
#ifndef PERCPU_TOPOLOGY_H
#define PERCPU_TOPOLOGY_H

#include "platform.h"

/* More CPU or node ids than Linux can be configured for (NR_CPUS is at most 8192). */
#define PERCPU_MAX_CPUS 8192u

/* A set of CPU or node ids, each below PERCPU_MAX_CPUS. */
struct percpu_cpuset {
    uint64_t words[PERCPU_MAX_CPUS / 64];
};

/*
 * Parse the kernel's list format ("0-3,8\n"; empty means no id) of `length` bytes into `set`.
 * Returns 0; or -1 with errno EINVAL (not a list) or ERANGE (an id >= PERCPU_MAX_CPUS), leaving
 * `set` empty. Thread-safe.
 */
PERCPU_API int percpu_cpuset_parse(const char *text, size_t length, struct percpu_cpuset *set);

/* Whether `id` is in `set`; false for an id out of range. */
PERCPU_INLINE bool percpu_cpuset_has(const struct percpu_cpuset *set, unsigned id)
{
    return id < PERCPU_MAX_CPUS && (set->words[id / 64] >> (id % 64) & 1);
}

/* How many ids are in `set`. */
PERCPU_API unsigned percpu_cpuset_count(const struct percpu_cpuset *set);

/* One more than the highest id in `set`; 0 for the empty set. */
PERCPU_API unsigned percpu_cpuset_limit(const struct percpu_cpuset *set);

/* The lists that sysfs keeps. */
enum percpu_topology_list {
    PERCPU_CPUS_POSSIBLE, /* fixed at boot: no thread ever runs on another CPU */
    PERCPU_CPUS_ONLINE,   /* changes with hotplug */
    PERCPU_NODES_ONLINE,
};

/*
 * Read one of the kernel's lists. Where sysfs cannot be read, CPUs fall back to what
 * sched_getaffinity() and sysconf() know, nodes to node 0. Returns 0 when sysfs answered, 1 when
 * `set` holds the fallback. Thread-safe; reads the file again at every call.
 */
PERCPU_API int percpu_topology_read(enum percpu_topology_list list, struct percpu_cpuset *set);

/* The CPUs that the calling thread's affinity mask allows. Returns 0; -1 with errno kept. */
PERCPU_API int percpu_topology_allowed(struct percpu_cpuset *set);

/* The CPUs of NUMA node `node`. Returns 0; -1 with errno ENOENT and an empty set if unknown. */
PERCPU_API int percpu_topology_node_cpus(unsigned node, struct percpu_cpuset *set);

/*
 * One more than the highest possible CPU id: how many copies a per-CPU object has. At least 1.
 * Read once, when the core is loaded, and constant from then on.
 */
PERCPU_API unsigned percpu_nr_cpus(void);

/*
 * Test hook: read sysfs below `root` instead of "/sys" (NULL: "/sys" again). `root` must outlive
 * its use. Not thread-safe.
 */
PERCPU_API void percpu_topology_set_root(const char *root);

#endif
