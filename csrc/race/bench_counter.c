/* SPDX-License-Identifier: MIT */
/* bench_counter.c - what making and summing counters costs. See bench.h. */
#include <errno.h>

#include "bench.h"
#include "internal.h"

enum { BATCH = 64 }; /* operations between two looks at the clock */

static struct percpu_pool *make_pool(unsigned cpus)
{
    struct percpu_pool_attr attr = {.item_size = PERCPU_COUNTER_ITEM, .cpus = cpus};
    return percpu_pool_create(&attr);
}

/* Destroy the pool, keep errno. */
static int end(struct percpu_pool *pool, int failed)
{
    int error = errno;
    percpu_pool_destroy(pool);
    errno = error;
    return failed;
}

/* The compiler is to believe that somebody looks at it. */
static void use(void *object)
{
    __asm__ __volatile__("" : : "r"(object) : "memory");
}

typedef int initializer(struct percpu_counter *, struct percpu_pool *, int64_t, int64_t);

static int sample_make(initializer *init, unsigned cpus, uint64_t min_ns, double *ns)
{
    struct percpu_pool *pool = make_pool(cpus);
    if (pool == NULL)
        return -1;
    int failed = 0;
    uint64_t start = percpu_race_clock(), elapsed, made = 0;
    do {
        for (int i = 0; i < BATCH && failed == 0; i++) {
            struct percpu_counter counter;
            failed = init(&counter, pool, 0, 0);
            use(&counter);
            if (failed == 0)
                percpu_counter_destroy(&counter);
        }
        made += BATCH;
        elapsed = percpu_race_clock() - start;
    } while (failed == 0 && elapsed < min_ns);
    *ns = (double)elapsed / (double)made;
    return end(pool, failed);
}

int percpu_bench_counter(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_make(percpu_counter_init, cpus, min_ns, ns);
}

int percpu_bench_counter_lazy(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_make(percpu_counter_init_lazy, cpus, min_ns, ns);
}

/* summing ------------------------------------------------------------------------------------ */

static int64_t bare_sum(const struct percpu_counter *counter)
{
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < counter->cpus; cpu++) {
        const struct percpu_counter_slot *slot = percpu_ptr_cpu(counter->slots, cpu);
        sum += __atomic_load_n(&slot->count, __ATOMIC_RELAXED);
    }
    return (int64_t)sum;
}

static int sample_sum(int64_t (*sum)(const struct percpu_counter *), unsigned cpus, uint64_t min_ns,
                      double *ns)
{
    struct percpu_counter counter;
    struct percpu_pool *pool = make_pool(cpus);
    if (pool == NULL || percpu_counter_init(&counter, pool, 0, 0) != 0)
        return end(pool, -1);
    for (unsigned writer = 0; writer < PERCPU_BENCH_WRITERS && writer < cpus; writer++)
        *(uint64_t *)percpu_ptr_cpu(counter.slots, writer == 0 ? 0 : cpus - 1) = 1 + writer;
    int64_t seen = 0;
    uint64_t start = percpu_race_clock(), elapsed, sums = 0;
    do {
        for (int i = 0; i < BATCH; i++) {
            seen += sum(&counter);
            use(&seen);
        }
        sums += BATCH;
        elapsed = percpu_race_clock() - start;
    } while (elapsed < min_ns);
    *ns = (double)elapsed / (double)sums;
    percpu_counter_destroy(&counter);
    return end(pool, 0);
}

int percpu_bench_sum(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_sum(percpu_counter_sum, cpus, min_ns, ns);
}

int percpu_bench_bare_sum(unsigned cpus, uint64_t min_ns, double *ns)
{
    return sample_sum(bare_sum, cpus, min_ns, ns);
}
