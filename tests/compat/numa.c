/* SPDX-License-Identifier: MIT */
/*
 * numa.c - the helper that moves a CPU's memory to the CPU's node: as an init function, on pages
 * that are there and that are not, and what it refuses.
 */
#include <rseq/mempool.h>

#include <errno.h>
#include <string.h>

#include "check.h"

/* Of <numaif.h>, which comes with libnuma. */
enum { MPOL_MF_MOVE = 1 << 1, MPOL_MF_LAZY = 1 << 3 };

enum { STRIDE = 4 << 20 }; /* more pages than fit one system call of the helper */

static int init(void *priv, void *memory, size_t length, int cpu)
{
    int *calls = priv;
    ++*calls;
    memset(memory, 6, length / 2);
    errno = 0;
    int result = rseq_mempool_range_init_numa(memory, length, cpu, MPOL_MF_MOVE);
    CHECK_CASE(result == 0 || (result == -1 && errno == ENOSYS), "CPU %d: %s", cpu,
               strerror(errno));
    return 0;
}

static int refusal(int cpu, int flags)
{
    static char page[4096];
    errno = 0;
    CHECK(rseq_mempool_range_init_numa(page, sizeof page, cpu, flags) == -1);
    return errno;
}

int main(void)
{
    int calls = 0;
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_init(attr, init, &calls) == 0);
    CHECK(rseq_mempool_attr_set_percpu(attr, STRIDE, 1) == 0);
    struct rseq_mempool *pool = rseq_mempool_create("numa", 8, attr);
    CHECK(pool != NULL && calls == 1);
    rseq_mempool_attr_destroy(attr);
    uint64_t *item = rseq_mempool_percpu_malloc(pool);
    CHECK(item != NULL && *item == 0x0606060606060606);
    rseq_mempool_percpu_free(item, STRIDE);
    CHECK(rseq_mempool_destroy(pool) == 0);

    int invalid = refusal(0, 0);
    CHECK(invalid == EINVAL || invalid == ENOSYS);
    CHECK(refusal(0, MPOL_MF_LAZY) == invalid);
    CHECK(refusal(-1, MPOL_MF_MOVE) == invalid);
    CHECK(refusal(1 << 20, MPOL_MF_MOVE) == invalid);
    return 0;
}
