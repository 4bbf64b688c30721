/* SPDX-License-Identifier: MIT */
/*
 * numa.c - librseq's helper that moves a CPU's memory to the CPU's node.
 *
 * It moves pages, and sets no policy for those to come: CPUs that share a file of initial values
 * share the file's policy too, and the last one's node would be everybody's. A page that comes
 * later is put on the node of the CPU that first writes it anyway.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <percpu/compat/rseq/mempool.h>
#include <percpu/topology.h>

enum { BATCH = 512 }; /* pages in one system call */

static long move_pages(unsigned long count, void **pages, const int *nodes, int *status, int flags)
{
    return syscall(SYS_move_pages, 0, count, pages, nodes, status, flags);
}

/* The node of `cpu`; -1 with errno EINVAL. */
static int node_of(int cpu)
{
    struct percpu_cpuset nodes, cpus;
    percpu_topology_read(PERCPU_NODES_ONLINE, &nodes);
    for (unsigned node = 0; cpu >= 0 && node < percpu_cpuset_limit(&nodes); node++)
        if (percpu_cpuset_has(&nodes, node) && percpu_topology_node_cpus(node, &cpus) == 0 &&
            percpu_cpuset_has(&cpus, (unsigned)cpu))
            return (int)node;
    errno = EINVAL;
    return -1;
}

static int move(char *memory, size_t length, int node, int flags)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *pages[BATCH];
    int nodes[BATCH], status[BATCH];
    for (size_t at = 0; at < length;) {
        unsigned long count = 0;
        for (; count < BATCH && at < length; count++, at += page) {
            pages[count] = memory + at;
            nodes[count] = node;
        }
        /* Above 0: so many pages could not be moved, and stay where they are. */
        if (move_pages(count, pages, nodes, status, flags) < 0)
            return -1;
    }
    return 0;
}

int rseq_mempool_range_init_numa(void *addr, size_t len, int cpu, int numa_flags)
{
    /* Without pages it only says what it thinks of the flags, and whether it is there at all. */
    if (move_pages(0, NULL, NULL, NULL, numa_flags) != 0)
        return -1;
    int node = numa_flags != 0 ? node_of(cpu) : (errno = EINVAL, -1);
    return node < 0 ? -1 : move(addr, len, node, numa_flags);
}
