/* SPDX-License-Identifier: MIT */
/*
 * stats.c - percpu_stats: making, summing and adding in bulk.
 *
 * There is nothing to protect but single words. Each CPU's word is written by sections on that CPU
 * (or under the gate), and read with relaxed loads: who called add() and then learns that it
 * returned, by whatever synchronizes threads, has the store before the reader's load.
 */
#include <errno.h>
#include <string.h>

#include <percpu/stats.h>

int percpu_stats_init(struct percpu_stats *stats, struct percpu_pool *pool, size_t n)
{
    memset(stats, 0, sizeof *stats);
    if (n == 0 || n > SIZE_MAX / 8 || (pool == NULL && n > PERCPU_STATS_MAX)) {
        errno = EINVAL;
        return -1;
    }
    if (pool == NULL && (pool = percpu_pool_shared_for(8 * n)) == NULL)
        return -1;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    if (geometry.global || geometry.item_size < 8 * n) { /* which are aligned to 8 */
        errno = EINVAL;
        return -1;
    }
    void *item = percpu_pool_zalloc(pool);
    if (item == NULL)
        return -1;
    stats->counts = percpu_pool_ptr(pool, item);
    stats->n = n;
    stats->cpus = geometry.cpus;
    stats->pool = pool;
    return 0;
}

void percpu_stats_destroy(struct percpu_stats *stats)
{
    percpu_pool_free(stats->pool, stats->counts.base);
    memset(stats, 0, sizeof *stats);
}

static const uint64_t *counts_of(const struct percpu_stats *stats, unsigned cpu)
{
    return percpu_ptr_cpu(stats->counts, cpu);
}

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

int64_t percpu_stats_sum(const struct percpu_stats *stats, size_t i)
{
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < stats->cpus; cpu++)
        sum += load(&counts_of(stats, cpu)[i]);
    return (int64_t)sum;
}

void percpu_stats_read_cpu(const struct percpu_stats *stats, unsigned cpu, int64_t *counts)
{
    const uint64_t *words = counts_of(stats, cpu);
    for (size_t i = 0; i < stats->n; i++)
        counts[i] = (int64_t)load(&words[i]);
}

void percpu_stats_sum_all(const struct percpu_stats *stats, int64_t *sums)
{
    percpu_stats_read_cpu(stats, 0, sums);
    for (unsigned cpu = 1; cpu < stats->cpus; cpu++) {
        const uint64_t *words = counts_of(stats, cpu);
        for (size_t i = 0; i < stats->n; i++)
            sums[i] = (int64_t)((uint64_t)sums[i] + load(&words[i]));
    }
}

size_t percpu_stats_add_at(const struct percpu_stats *stats, const uint64_t *indices,
                           const int64_t *weights, size_t count)
{
    for (size_t k = 0; k < count; k++)
        if (indices[k] >= stats->n)
            return k;
    for (size_t k = 0; k < count; k++)
        percpu_stats_add(stats, indices[k], weights != NULL ? weights[k] : 1);
    return count;
}

const char *percpu_stats_check(const struct percpu_stats *stats)
{
    struct percpu_pool_geometry geometry;
    if (!percpu_pool_owns(stats->pool, stats->counts.base))
        return "the counts are no item of their pool";
    percpu_pool_geometry(stats->pool, &geometry);
    if (stats->cpus != geometry.cpus || stats->counts.stride != geometry.stride ||
        8 * stats->n > geometry.item_size)
        return "the counts and the items of their pool differ in shape";
    for (unsigned cpu = 0; cpu < stats->cpus; cpu++) {
        const char *bytes = percpu_ptr_cpu(stats->counts, cpu);
        for (size_t at = 8 * stats->n; at < geometry.item_size; at++)
            if (__atomic_load_n(&bytes[at], __ATOMIC_RELAXED) != 0)
                return "something was written behind the last count";
    }
    return NULL;
}
