/* SPDX-License-Identifier: MIT */
/* internal.h - what harness.c and sampler.c share: a race while it is being run. */
#ifndef PERCPU_RACE_INTERNAL_H
#define PERCPU_RACE_INTERNAL_H

#include <pthread.h>
#include <time.h>

#include "harness.h"

#define PERCPU_RACE_POLL_NS UINT64_C(50000000)

/* Adds between two looks at the stop flag. */
enum { PERCPU_RACE_CHUNK = 1024 };
_Static_assert(PERCPU_RACE_CHUNK % PERCPU_RACE_UNROLL == 0, "a chunk is whole turns of the loop");

/* One thread. On cache lines of its own: `done` is written after each chunk. */
struct percpu_race_worker {
    uint64_t done __attribute__((aligned(PERCPU_CACHE_LINE))); /* adds that have returned */
    struct percpu_race *race;
    pthread_t thread;
    int cpu; /* to pin it to; -1: not */
    bool pinned;
    uint64_t start_ns, end_ns;
    uint64_t cpu_ns; /* of that, time on a CPU */
};

enum percpu_race_phase { PERCPU_RACE_GATHERING, PERCPU_RACE_RUNNING, PERCPU_RACE_CALLED_OFF };

struct percpu_race {
    const struct percpu_scheme *scheme;
    void *state;
    const struct percpu_race_options *options;
    struct percpu_race_worker *workers;
    unsigned started; /* workers that have a thread */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned ready;                                       /* under the lock: workers at the start */
    enum percpu_race_phase phase;                         /* under the lock */
    int stop __attribute__((aligned(PERCPU_CACHE_LINE))); /* read after each chunk */
};

PERCPU_INLINE uint64_t percpu_race_read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

PERCPU_INLINE uint64_t percpu_race_clock(void)
{
    return percpu_race_read_clock(CLOCK_MONOTONIC);
}

/* What the calling thread does while the others add, until `deadline`: wait, or sample.
 * Return 0, ECANCELED (poll() said so) or ENOMEM. */
int percpu_race_wait(struct percpu_race *race, uint64_t deadline);
int percpu_race_sample(struct percpu_race *race, uint64_t deadline,
                       struct percpu_race_reads *reads);

#endif
