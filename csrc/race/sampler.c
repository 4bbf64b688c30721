/* SPDX-License-Identifier: MIT */
/*
 * sampler.c - reading a counter while others add to it: how long it takes, whether sums are right,
 * and how far off the rough value is. See struct percpu_race_reads.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

enum {
    BURST = 32,        /* reads between two looks at the clock */
    MAX_BURSTS = 4096, /* times kept; a longer run goes on checking */
    CHECKS = 8,        /* checks of each kind between two bursts */
};

struct times {
    double ns[MAX_BURSTS];
    unsigned count;
};

static void time_burst(struct times *times, int64_t (*read)(void *), void *state)
{
    uint64_t start = percpu_race_clock();
    for (int i = 0; i < BURST; i++)
        (void)read(state);
    uint64_t end = percpu_race_clock();
    if (times->count < MAX_BURSTS)
        times->ns[times->count++] = (double)(end - start) / BURST;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct times *times)
{
    if (times->count == 0)
        return 0;
    qsort(times->ns, times->count, sizeof times->ns[0], compare_doubles);
    unsigned middle = times->count / 2;
    return times->count % 2 ? times->ns[middle] : (times->ns[middle - 1] + times->ns[middle]) / 2;
}

/* Adds that have returned. Acquire: pairs with the workers' release. */
static int64_t adds_done(const struct percpu_race *race)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < race->started; i++)
        done += __atomic_load_n(&race->workers[i].done, __ATOMIC_ACQUIRE);
    return (int64_t)done;
}

static void check_sum(const struct percpu_race *race, struct percpu_race_reads *reads)
{
    int64_t least = adds_done(race);
    int64_t sum = race->scheme->sum(race->state);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the words of the sum were read before this */
    int64_t most = adds_done(race) + (int64_t)race->started * PERCPU_RACE_CHUNK;
    reads->sums_checked++;
    reads->sums_wrong += sum < least || sum > most;
}

static void check_read(const struct percpu_race *race, struct percpu_race_reads *reads)
{
    const struct percpu_scheme *scheme = race->scheme;
    int64_t before = scheme->sum(race->state);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int64_t read = scheme->read(race->state);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int64_t after = scheme->sum(race->state);
    int64_t error = read < before ? before - read : read > after ? read - after : 0;
    reads->reads_checked++;
    if (error > reads->worst_error)
        reads->worst_error = error;
}

int percpu_race_sample(struct percpu_race *race, uint64_t deadline, struct percpu_race_reads *reads)
{
    const struct percpu_scheme *scheme = race->scheme;
    const struct percpu_race_options *options = race->options;
    struct times *sums = calloc(2, sizeof *sums);
    uint64_t now, next_poll = percpu_race_clock() + PERCPU_RACE_POLL_NS;
    int error = 0;
    if (sums == NULL)
        return ENOMEM;
    struct times *rough = sums + 1;
    do {
        time_burst(sums, scheme->sum, race->state);
        if (scheme->read != NULL)
            time_burst(rough, scheme->read, race->state);
        for (int i = 0; i < CHECKS; i++) {
            check_sum(race, reads);
            if (scheme->read != NULL)
                check_read(race, reads);
        }
        now = percpu_race_clock();
        if (now >= next_poll && options->poll != NULL) {
            error = options->poll(options->poll_data) != 0 ? ECANCELED : 0;
            next_poll = now + PERCPU_RACE_POLL_NS;
        }
    } while (now < deadline && error == 0);
    reads->sum_ns = median(sums);
    reads->read_ns = median(rough);
    if (scheme->read != NULL)
        reads->promised_error = scheme->read_error(race->state, race->started);
    free(sums);
    return error;
}
