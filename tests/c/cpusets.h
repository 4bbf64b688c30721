/* SPDX-License-Identifier: MIT */
/* cpusets.h - sets of CPUs for the topology tests: made from text, printed, compared. */
#ifndef TEST_CPUSETS_H
#define TEST_CPUSETS_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <percpu/topology.h>

#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* A set with ids in it that nobody put there, for a function that must replace them all. */
static inline struct percpu_cpuset *dirty(struct percpu_cpuset *set)
{
    memset(set, 0xa5, sizeof *set);
    return set;
}

static inline bool same(const struct percpu_cpuset *a, const struct percpu_cpuset *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static inline struct percpu_cpuset set_of(const char *text)
{
    struct percpu_cpuset set;
    CHECK_CASE(percpu_cpuset_parse(text, strlen(text), dirty(&set)) == 0, "%s", text);
    return set;
}

/* What the kernel would print for `set`: ranges, in order. */
static inline size_t print_list(const struct percpu_cpuset *set, char *text)
{
    char *at = text;
    for (unsigned first = 0; first < PERCPU_MAX_CPUS; first++) {
        unsigned last = first;
        if (!percpu_cpuset_has(set, first))
            continue;
        while (percpu_cpuset_has(set, last + 1))
            last++;
        at += sprintf(at, "%s%u", at == text ? "" : ",", first);
        if (last > first)
            at += sprintf(at, "-%u", last);
        first = last;
    }
    *at++ = '\n';
    return (size_t)(at - text);
}

#endif
