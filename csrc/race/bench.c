/* SPDX-License-Identifier: MIT */
/* bench.c - see bench.h. */
#include <string.h>

#include "bench.h"

const struct percpu_bench percpu_benches[] = {
    {"fresh", percpu_bench_fresh},
    {"fresh same", percpu_bench_fresh_same},
    {"fresh other", percpu_bench_fresh_other},
    {"recycled", percpu_bench_recycled},
    {"make", percpu_bench_make},
    {"make init", percpu_bench_make_init},
    {"file maps", percpu_bench_file_maps},
    {"counter", percpu_bench_counter},
    {"counter lazy", percpu_bench_counter_lazy},
    {"sum", percpu_bench_sum},
    {"bare sum", percpu_bench_bare_sum},
    {NULL, NULL},
};

const struct percpu_bench *percpu_bench_find(const char *name)
{
    for (const struct percpu_bench *bench = percpu_benches; bench->name != NULL; bench++)
        if (strcmp(bench->name, name) == 0)
            return bench;
    return NULL;
}

struct percpu_pool *percpu_bench_pool(unsigned cpus, enum percpu_populate populate)
{
    struct percpu_pool_attr attr = {
        .item_size = PERCPU_BENCH_ITEM,
        .cpus = cpus,
        .populate = populate,
    };
    return percpu_pool_create(&attr);
}
