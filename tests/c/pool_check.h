/* SPDX-License-Identifier: MIT */
/* pool_check.h - percpu_pool_check() for the tests. */
#ifndef PERCPU_TESTS_POOL_CHECK_H
#define PERCPU_TESTS_POOL_CHECK_H

#include <percpu/pool.h>
#include <percpu/report.h>

/* NULL, or what is wrong with the pool. */
static inline const char *pool_broken(struct percpu_pool *pool)
{
    struct percpu_report report;
    return percpu_pool_check(pool, &report) == 0 ? NULL : report.detail;
}

#endif
