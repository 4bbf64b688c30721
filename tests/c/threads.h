/* SPDX-License-Identifier: MIT */
/*
 * threads.h - for tests with threads: a barrier start, a deadline for the join, a signal storm, and
 * the CPUs to run on. A test that hangs dies of its deadline and says so.
 */
#ifndef TEST_THREADS_H
#define TEST_THREADS_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

/* Exit status of a test that cannot run here; its reason is the last line of stdout. */
#define TEST_SKIPPED 77

#define MAX_WORKERS 64

/* ---- deadlines -------------------------------------------------------------------------- */

static inline void deadline_passed(int signal)
{
    static const char message[] = "deadline passed: a thread or a child hangs\n";
    (void)signal;
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0)
        _exit(2);
    _exit(1);
}

/* End the process with a failure `seconds` from now; 0 takes that back. A forked child has none
 * until it sets its own. */
static inline void deadline(unsigned seconds)
{
    struct sigaction action = {.sa_handler = deadline_passed};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(seconds);
}

/* ---- the signal storm ------------------------------------------------------------------- */

/* Signals handled in storms so far, and what a handler does. Set the latter before a storm. */
static atomic_ulong storm_hits;
static void (*storm_work)(void);

static inline void storm_handler(int signal)
{
    int saved = errno;
    (void)signal;
    if (storm_work != NULL)
        storm_work();
    atomic_fetch_add_explicit(&storm_hits, 1, memory_order_relaxed);
    errno = saved;
}

#define STORM_SIGNAL (SIGRTMIN + 1)

/* Interrupt the calling thread every `microseconds` until storm_end(). */
static inline timer_t storm_begin(long microseconds)
{
    struct sigaction action = {.sa_handler = storm_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(STORM_SIGNAL, &action, NULL) == 0);
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = STORM_SIGNAL;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct timespec period = {.tv_nsec = microseconds * 1000};
    struct itimerspec spec = {.it_interval = period, .it_value = period};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    return timer;
}

static inline void storm_end(timer_t timer)
{
    CHECK(timer_delete(timer) == 0);
}

/* ---- workers ---------------------------------------------------------------------------- */

/* One worker of run_workers(). `done` is what the worker says it did. */
struct worker {
    pthread_t thread;
    unsigned id;
    uint64_t done;
    void (*body)(struct worker *worker);
    long storm_period; /* microseconds between two signals; 0: none */
    pthread_barrier_t *start;
};

/* Raised when the workers should finish. */
static atomic_bool workers_stop;

static inline bool stopping(void)
{
    return atomic_load_explicit(&workers_stop, memory_order_relaxed);
}

static inline void *worker_main(void *argument)
{
    struct worker *worker = argument;
    pthread_barrier_wait(worker->start);
    timer_t timer = NULL;
    if (worker->storm_period != 0)
        timer = storm_begin(worker->storm_period);
    worker->body(worker);
    if (worker->storm_period != 0)
        storm_end(timer);
    return NULL;
}

static inline void sleep_ms(long milliseconds)
{
    struct timespec rest = {.tv_sec = milliseconds / 1000,
                            .tv_nsec = milliseconds % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0)
        CHECK(errno == EINTR);
}

/* PERCPU_TEST_EFFORT, in percent of what a test does when it is not set. */
static inline long effort(long full)
{
    const char *percent = getenv("PERCPU_TEST_EFFORT");
    long wanted = percent == NULL ? full : full * atol(percent) / 100;
    return wanted > 0 ? wanted : 1;
}

/*
 * Run `count` workers, worker i with bodies[i % kinds], for `milliseconds` at full effort; a body
 * loops until stopping(). Returns the sum of what the workers say they did.
 */
static inline uint64_t run_workers(unsigned count, void (*const *bodies)(struct worker *),
                                   unsigned kinds, long storm_period, long milliseconds)
{
    struct worker workers[MAX_WORKERS];
    pthread_barrier_t start;
    CHECK(count <= MAX_WORKERS);
    memset(workers, 0, sizeof workers);
    atomic_store(&workers_stop, false);
    CHECK(pthread_barrier_init(&start, NULL, count + 1) == 0);
    for (unsigned i = 0; i < count; i++) {
        workers[i].id = i;
        workers[i].body = bodies[i % kinds];
        workers[i].storm_period = storm_period;
        workers[i].start = &start;
        CHECK(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0);
    }
    pthread_barrier_wait(&start);
    sleep_ms(effort(milliseconds));
    atomic_store(&workers_stop, true);
    uint64_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        done += workers[i].done;
    }
    CHECK(pthread_barrier_destroy(&start) == 0);
    return done;
}

/* ---- CPUs ------------------------------------------------------------------------------- */

/* Let the calling thread run on `cpu` alone; whether it may. */
static inline bool pin(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

/* Small, fast, per-thread pseudo-random numbers (xorshift64*, Vigna 2016). `state` must not be 0. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* ---- per-CPU memory without the pool ---------------------------------------------------- */

/* `copies` zeroed copies of `stride` bytes, never given back. */
static inline void *map_copies(unsigned copies, size_t stride)
{
    void *memory = mmap(NULL, (size_t)copies * stride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

#endif
