/* SPDX-License-Identifier: MIT */
/*
 * scheme.h - a scheme: one way for many threads to count together. Every scheme is one short file
 * with the same verbs, so that they can be read, raced and replaced alike.
 *
 * How a thread uses one, between create() and destroy():
 *
 *      enter(); add() ...; leave();        sum() and read() from any thread, at any time
 */
#ifndef PERCPU_RACE_SCHEME_H
#define PERCPU_RACE_SCHEME_H

#include <percpu/percpu.h>

enum percpu_scheme_promise {
    PERCPU_SCHEME_EXACT,  /* sum() misses no add that returned before the call */
    PERCPU_SCHEME_RACY,   /* adds may be lost */
    PERCPU_SCHEME_NO_SUM, /* it counts nothing; sum() is how many of its operations failed */
};

struct percpu_scheme {
    const char *name;  /* what the command line calls it */
    const char *title; /* what it is, in a few words */
    enum percpu_scheme_promise promise;
    unsigned threads; /* how many it is for; 0: any number */

    /* Make a counter of 0 for `cpus` = percpu_nr_cpus(); NULL with errno kept. */
    void *(*create)(unsigned cpus);
    void (*destroy)(void *state);

    /* A thread begins and ends to use it. NULL: there is nothing to do. */
    void (*enter)(void *state);
    void (*leave)(void *state);

    /* Add 1, `times` times: the loop of add_loop.h. `times` is a multiple of PERCPU_RACE_UNROLL. */
    void (*add)(void *state, uint64_t times);

    int64_t (*sum)(void *state);

    /* A cheaper value that may be off; NULL where there is none. And how far it may be off while
     * `threads` threads add ones. */
    int64_t (*read)(void *state);
    int64_t (*read_error)(const void *state, unsigned threads);

    /* Bytes that one counter takes on a machine with `cpus` CPUs and with `threads` threads
     * counting: its own words, without what an allocator adds. */
    size_t (*bytes)(unsigned cpus, unsigned threads);
};

/* How many adds one turn of every timed loop has. */
#define PERCPU_RACE_UNROLL 8

/* All schemes in the order of a report, NULL at the end; and the one called `name`, or NULL. */
extern const struct percpu_scheme *const percpu_schemes[];
const struct percpu_scheme *percpu_scheme_find(const char *name);

extern const struct percpu_scheme percpu_scheme_empty, percpu_scheme_racy, percpu_scheme_mutex,
    percpu_scheme_atomic, percpu_scheme_packed, percpu_scheme_padded, percpu_scheme_tls,
    percpu_scheme_var, percpu_scheme_counter_32, percpu_scheme_counter_1024,
    percpu_scheme_counter_lazy, percpu_scheme_counter_upgraded, percpu_scheme_pool,
    percpu_scheme_robust, percpu_scheme_handover, percpu_scheme_ring, percpu_scheme_limiter,
    percpu_scheme_atomic_pair;

/* Zeroed memory that starts a cache line and shares its last one with nothing: what is timed must
 * not depend on what malloc() puts beside it. Free it with free(). NULL with errno ENOMEM. */
void *percpu_scheme_alloc(size_t size);

/* Add 1 atomically. The old value is asked for, so that x86 compilers choose `lock xadd`. */
PERCPU_INLINE void percpu_scheme_fetch_add(int64_t *word)
{
    int64_t old = __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
    __asm__ __volatile__("" : : "r"(old));
}

#endif
