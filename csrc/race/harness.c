/* SPDX-License-Identifier: MIT */
/* harness.c - the life of a race: threads, their start and end, and the count of what they did. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define STACK_BYTES ((size_t)256 << 10)

/* ---- in each thread --------------------------------------------------------------------- */

/* A CPU may have gone offline since it was chosen: then the thread runs where it can. */
static bool pin_to(int cpu)
{
    struct percpu_cpuset one = {{0}};
    if (cpu < 0)
        return false;
    one.words[cpu / 64] = UINT64_C(1) << (cpu % 64);
    return sched_setaffinity(0, sizeof one, (const cpu_set_t *)(const void *)&one) == 0;
}

/* Wait for the start. False: there will be none. */
static bool line_up(struct percpu_race *race)
{
    pthread_mutex_lock(&race->lock);
    race->ready++;
    pthread_cond_broadcast(&race->changed);
    while (race->phase == PERCPU_RACE_GATHERING)
        pthread_cond_wait(&race->changed, &race->lock);
    bool running = race->phase == PERCPU_RACE_RUNNING;
    pthread_mutex_unlock(&race->lock);
    return running;
}

static void *work(void *data)
{
    struct percpu_race_worker *worker = data;
    struct percpu_race *race = worker->race;
    const struct percpu_scheme *scheme = race->scheme;
    uint64_t done = 0;

    worker->pinned = pin_to(worker->cpu);
    if (!line_up(race))
        return NULL;
    if (scheme->enter != NULL)
        scheme->enter(race->state);
    worker->cpu_ns = percpu_race_read_clock(CLOCK_THREAD_CPUTIME_ID);
    worker->start_ns = percpu_race_clock();
    do {
        scheme->add(race->state, PERCPU_RACE_CHUNK);
        done += PERCPU_RACE_CHUNK;
        /* Release: pairs with the sampler's acquire, which must then find these adds in a sum. The
         * fence keeps the next chunk's adds from being seen before it. */
        __atomic_store_n(&worker->done, done, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    } while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED));
    worker->end_ns = percpu_race_clock();
    worker->cpu_ns = percpu_race_read_clock(CLOCK_THREAD_CPUTIME_ID) - worker->cpu_ns;
    if (scheme->leave != NULL)
        scheme->leave(race->state);
    return NULL;
}

/* ---- in the calling thread -------------------------------------------------------------- */

int percpu_race_wait(struct percpu_race *race, uint64_t deadline)
{
    const struct percpu_race_options *options = race->options;
    uint64_t now;
    while ((now = percpu_race_clock()) < deadline) {
        uint64_t until = deadline - now < PERCPU_RACE_POLL_NS ? deadline
                                                              : now + PERCPU_RACE_POLL_NS;
        struct timespec at = {.tv_sec = (time_t)(until / 1000000000u),
                              .tv_nsec = (long)(until % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        if (options->poll != NULL && options->poll(options->poll_data) != 0)
            return ECANCELED;
    }
    return 0;
}

/* Choose a CPU for each worker, in turn, if there is one for each. Returns how many there are. */
static unsigned choose_cpus(struct percpu_race *race)
{
    const struct percpu_race_options *options = race->options;
    struct percpu_cpuset allowed;
    unsigned cpus = percpu_topology_allowed(&allowed) == 0 ? percpu_cpuset_count(&allowed) : 1;
    bool pin = options->pin && options->threads <= cpus;
    unsigned cpu = 0;
    for (unsigned i = 0; i < options->threads; i++) {
        race->workers[i].cpu = -1;
        if (!pin)
            continue;
        while (!percpu_cpuset_has(&allowed, cpu) && cpu < PERCPU_MAX_CPUS)
            cpu++;
        race->workers[i].cpu = cpu < PERCPU_MAX_CPUS ? (int)cpu++ : -1;
    }
    return cpus;
}

/* The threads take no signals: handlers run where the program expects them. */
static int start_threads(struct percpu_race *race)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (race->started < race->options->threads && error == 0) {
        struct percpu_race_worker *worker = &race->workers[race->started];
        worker->race = race;
        error = pthread_create(&worker->thread, &attributes, work, worker);
        race->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

static void announce(struct percpu_race *race, enum percpu_race_phase phase)
{
    pthread_mutex_lock(&race->lock);
    while (race->ready < race->started)
        pthread_cond_wait(&race->changed, &race->lock);
    race->phase = phase;
    pthread_cond_broadcast(&race->changed);
    pthread_mutex_unlock(&race->lock);
}

static void add_up(const struct percpu_race *race, struct percpu_race_result *result)
{
    uint64_t start = UINT64_MAX, end = 0;
    for (unsigned i = 0; i < race->started; i++) {
        const struct percpu_race_worker *worker = &race->workers[i];
        start = worker->start_ns < start ? worker->start_ns : start;
        end = worker->end_ns > end ? worker->end_ns : end;
        result->adds += worker->done;
        result->cpu_ns += worker->cpu_ns;
        result->pinned += worker->pinned;
    }
    result->wall_ns = end - start;
    result->sum = race->scheme->sum(race->state);
}

/* Returns 0 or an errno value. */
static int run(struct percpu_race *race, struct percpu_race_result *result)
{
    int error = start_threads(race);
    announce(race, error == 0 ? PERCPU_RACE_RUNNING : PERCPU_RACE_CALLED_OFF);
    if (error == 0) {
        uint64_t deadline = percpu_race_clock() + race->options->duration_ns;
        error = race->options->read ? percpu_race_sample(race, deadline, &result->reads)
                                    : percpu_race_wait(race, deadline);
    }
    __atomic_store_n(&race->stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < race->started; i++)
        pthread_join(race->workers[i].thread, NULL);
    if (error == 0)
        add_up(race, result);
    return error;
}

int percpu_race_run(const struct percpu_scheme *scheme, const struct percpu_race_options *options,
                    struct percpu_race_result *result)
{
    struct percpu_race race = {.scheme = scheme, .options = options};
    int error = ENOMEM;
    memset(result, 0, sizeof *result);
    if (options->threads < 1 || options->threads > PERCPU_RACE_MAX_THREADS ||
        (scheme->threads != 0 && scheme->threads != options->threads)) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_init(&race.lock, NULL);
    pthread_cond_init(&race.changed, NULL);
    race.workers = percpu_scheme_alloc(options->threads * sizeof *race.workers);
    race.state = race.workers != NULL ? scheme->create(percpu_nr_cpus()) : NULL;
    if (race.state != NULL) {
        result->cpus = choose_cpus(&race);
        error = run(&race, result);
        scheme->destroy(race.state);
    }
    free(race.workers);
    pthread_cond_destroy(&race.changed);
    pthread_mutex_destroy(&race.lock);
    if (error != 0)
        errno = error;
    return error == 0 ? 0 : -1;
}
