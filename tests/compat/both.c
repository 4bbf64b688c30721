/* SPDX-License-Identifier: MIT */
/*
 * both.c - a program that uses librseq's names beside our own, which is also built as a library:
 * one core serves both. load.c loads the library.
 */
#include <percpu/percpu.h>
#include <rseq/mempool.h>

int use(void);

/* 42, if a counter and an item of a librseq pool that was counted in agree. */
int use(void)
{
    struct rseq_mempool *pool = rseq_mempool_create("both", sizeof(int64_t), NULL);
    int64_t *item = pool != NULL ? rseq_mempool_percpu_zmalloc(pool) : NULL;
    struct percpu_counter counter;
    if (item == NULL || percpu_counter_init(&counter, NULL, 0, 0) != 0)
        return -1;
    percpu_ptr p = {(char *)item, RSEQ_MEMPOOL_STRIDE, PERCPU_INDEX_CPU};
    for (int i = 0; i < 42; i++) {
        percpu_counter_inc(&counter);
        percpu_this_add_i64(p, 1);
    }
    int64_t sum = 0;
    for (int cpu = 0; cpu < rseq_mempool_get_max_nr_cpus(pool); cpu++)
        sum += *rseq_percpu_ptr(item, cpu);
    bool equal = sum == percpu_counter_sum(&counter);
    percpu_counter_destroy(&counter);
    rseq_mempool_percpu_free(item);
    return rseq_mempool_destroy(pool) == 0 && equal ? (int)sum : -1;
}

int main(void)
{
    return use() == 42 ? 0 : 1;
}
