/* SPDX-License-Identifier: MIT */
/*
 * gate.c - the fence, the gate of rseq.h, and what fork() does to them.
 *
 * Locks, outermost first: a pool's, then the gate's or the stand-in's (never both). Both are held
 * only with all signals blocked, and no code of others runs meanwhile. fork() takes both, so the
 * child finds them free; it starts with an open gate and a new fork generation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include <percpu/rseq.h>
#include <percpu/topology.h>

/* linux/membarrier.h of Linux 5.10, for builds against older headers. */
enum {
    RSEQ_FENCE = 1 << 7,
    REGISTER_RSEQ_FENCE = 1 << 8,
    FENCE_ONE_CPU = 1 << 0,
};

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t stand_in = PTHREAD_MUTEX_INITIALIZER;
static sigset_t forking_mask; /* of the thread that forks; written under the gate's lock */

uint32_t percpu_fork_generation;

static long membarrier(int command, unsigned flags, int cpu)
{
    return syscall(SYS_membarrier, command, flags, cpu);
}

bool percpu_fence_register(void)
{
    long commands = membarrier(MEMBARRIER_CMD_QUERY, 0, 0);
    return commands >= 0 && (commands & RSEQ_FENCE) && membarrier(REGISTER_RSEQ_FENCE, 0, 0) == 0;
}

static int fence_one(int cpu)
{
    if (membarrier(RSEQ_FENCE, FENCE_ONE_CPU, cpu) == 0)
        return 0;
    /* A child made without fork()'s handlers is not registered yet. */
    if (errno == EPERM && percpu_fence_register())
        return (int)membarrier(RSEQ_FENCE, FENCE_ONE_CPU, cpu);
    return -1;
}

static int fence_all(void)
{
    if (membarrier(RSEQ_FENCE, 0, 0) == 0)
        return 0;
    /* Unlike the fence of one CPU it allocates memory, and may fail for the lack of it. */
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        if (fence_one((int)cpu) != 0)
            return -1;
    return 0;
}

int percpu_rseq_fence(int cpu)
{
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE) {
        errno = ENOTSUP;
        return -1;
    }
    return cpu < 0 ? fence_all() : fence_one(cpu);
}

static void hold_signals(sigset_t *saved)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, saved);
}

static void release_signals(const sigset_t *saved)
{
    pthread_sigmask(SIG_SETMASK, saved, NULL);
}

void percpu_gate_enter(struct percpu_gate_hold *hold, int cpu)
{
    hold_signals(&hold->signals);
    pthread_mutex_lock(&gate);
    /* W1 and W2 of rseq.h. Sequentially consistent: the store may not sink into the fence. */
    __atomic_store_n(&percpu_runtime.limit, 0u, __ATOMIC_SEQ_CST);
    if (percpu_rseq_fence(cpu) != 0) {
        /* It was granted at start-up. Going on would lose counts, and there is no way back. */
        fputs("percpu: the kernel no longer grants membarrier (a seccomp filter installed late?)\n",
              stderr);
        abort();
    }
}

void percpu_gate_leave(struct percpu_gate_hold *hold)
{
    /* W4: pairs with R2, the load of the limit inside every section. */
    __atomic_store_n(&percpu_runtime.limit, percpu_nr_cpus(), __ATOMIC_RELEASE);
    pthread_mutex_unlock(&gate);
    release_signals(&hold->signals);
}

bool percpu_stop(void (*function)(void *argument), void *argument)
{
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        return false;
    struct percpu_gate_hold hold;
    percpu_gate_enter(&hold, -1);
    function(argument);
    percpu_gate_leave(&hold);
    return true;
}

void percpu_gate_wait(void)
{
    sigset_t saved;
    hold_signals(&saved);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    release_signals(&saved);
}

void percpu_stand_in_lock(struct percpu_gate_hold *hold)
{
    hold_signals(&hold->signals);
    pthread_mutex_lock(&stand_in);
}

void percpu_stand_in_unlock(struct percpu_gate_hold *hold)
{
    pthread_mutex_unlock(&stand_in);
    release_signals(&hold->signals);
}

void percpu_exclude_fork(void (*function)(void *argument), void *argument)
{
    struct percpu_gate_hold hold;
    percpu_stand_in_lock(&hold);
    function(argument);
    percpu_stand_in_unlock(&hold);
}

static void before_fork(void)
{
    sigset_t saved;
    hold_signals(&saved);
    pthread_mutex_lock(&gate);
    pthread_mutex_lock(&stand_in);
    forking_mask = saved;
}

static void after_fork(void)
{
    sigset_t saved = forking_mask;
    pthread_mutex_unlock(&stand_in);
    pthread_mutex_unlock(&gate);
    release_signals(&saved);
}

static void after_fork_in_child(void)
{
    if (percpu_rseq_info()->mode != PERCPU_MODE_NONE)
        percpu_fence_register();
    __atomic_add_fetch(&percpu_fork_generation, 1, __ATOMIC_RELEASE);
    after_fork();
}

void percpu_gate_start(bool open)
{
    if (pthread_atfork(before_fork, after_fork, after_fork_in_child) != 0) {
        fputs("percpu: no memory to register fork handlers\n", stderr);
        abort();
    }
    __atomic_store_n(&percpu_runtime.limit, open ? percpu_nr_cpus() : 0u, __ATOMIC_RELEASE);
}
