/* SPDX-License-Identifier: MIT */
/*
 * harness.h - threads that add to one scheme, all at once, and what came of it.
 *
 * All threads start together, add in chunks until they are told to stop, and each knows how many
 * adds it did. Time is CLOCK_MONOTONIC, from the first thread's start to the last one's end.
 */
#ifndef PERCPU_RACE_HARNESS_H
#define PERCPU_RACE_HARNESS_H

#include "scheme.h"

#define PERCPU_RACE_MAX_THREADS 4096u

struct percpu_race_options {
    unsigned threads;     /* 1 to PERCPU_RACE_MAX_THREADS */
    uint64_t duration_ns; /* how long they add, at least */
    bool pin;             /* each thread on a CPU of its own, while there are enough CPUs */
    bool read;            /* read the counter meanwhile: see struct percpu_race_reads */
    /* Called in the calling thread about 20 times a second: nonzero calls the run off. May be NULL. */
    int (*poll)(void *poll_data);
    void *poll_data;
};

/*
 * What a reader beside the adding threads saw. It competes with them for the CPUs, so the times of
 * adds in such a run mean nothing. Each read time is the median of bursts, in ns per read.
 *
 * A sum is wrong if it misses adds that had returned before it, or has adds that began after it.
 * The threads publish their progress after each chunk, so this is known to within a chunk.
 *
 * A read is taken between two sums. The true count was between them, whatever the threads did; how
 * far outside of them the read lies is the least that it was off, and never an exaggeration.
 */
struct percpu_race_reads {
    uint64_t sums_checked, sums_wrong;
    double sum_ns;
    uint64_t reads_checked; /* this and the rest: 0 for a scheme without read() */
    double read_ns;
    int64_t worst_error, promised_error;
};

struct percpu_race_result {
    uint64_t adds; /* of all threads together */
    int64_t sum;   /* what the scheme says when all threads are gone */
    uint64_t wall_ns;
    uint64_t cpu_ns; /* time on a CPU, of all threads together */
    unsigned cpus;   /* CPUs that the calling thread was allowed to run on */
    unsigned pinned; /* threads that were bound to a CPU */
    struct percpu_race_reads reads;
};

/*
 * Race one scheme once. Returns 0; -1 with errno EINVAL (bad options, or a number of threads that
 * the scheme is not for), ENOMEM, EAGAIN (the system
 * has no room for so many threads) or ECANCELED (poll() called it off). All threads are gone when
 * it returns. Thread-safe, but runs at the same time disturb each other.
 */
int percpu_race_run(const struct percpu_scheme *scheme, const struct percpu_race_options *options,
                    struct percpu_race_result *result);

#endif
