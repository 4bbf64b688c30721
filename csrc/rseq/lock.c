/* SPDX-License-Identifier: MIT */
/*
 * lock.c - the per-CPU lock of sections.h: a section takes it where this thread runs, a release
 * store gives it back from anywhere.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>

#include "internal.h"
#include <percpu/sections.h>
#include <percpu/topology.h>

enum { FREE = 0, TAKEN = 1 };

/* After taking: pairs with the release in percpu_unlock(). */
static int taken(percpu_ptr p, unsigned cpu)
{
#ifdef __SANITIZE_THREAD__ /* does not know fences */
    (void)__atomic_load_n((uint64_t *)percpu_ptr_cpu(p, cpu), __ATOMIC_ACQUIRE);
#else
    (void)p;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
    return (int)cpu;
}

static bool take_of(percpu_ptr p, unsigned cpu)
{
    return percpu_remote_word(p, cpu, PERCPU_OP_CMPXCHG, 8, TAKEN, FREE) == FREE;
}

int percpu_trylock(percpu_ptr p)
{
    void *copy = NULL;
    switch (percpu_cs_load_cbne_store_at(p, FREE, TAKEN, &copy)) {
    case PERCPU_COMMITTED:
        return taken(p, percpu_ptr_which(p, copy));
    case PERCPU_UNEQUAL:
        return -1;
    default:
        break;
    }
    unsigned cpu = percpu_thread_slot(p.index);
    return take_of(p, cpu) ? taken(p, cpu) : -1;
}

/* The holder may be waiting for the CPU that we are on, at a lower priority than ours. */
static void wait_a_little(unsigned round)
{
    if (round < 16) {
        sched_yield();
        return;
    }
    struct timespec pause = {.tv_nsec = 50000};
    nanosleep(&pause, NULL);
}

unsigned percpu_lock(percpu_ptr p)
{
    for (unsigned round = 0;; round++) {
        int cpu = percpu_trylock(p);
        if (cpu >= 0)
            return (unsigned)cpu;
        wait_a_little(round);
    }
}

void percpu_lock_of(percpu_ptr p, unsigned cpu)
{
    for (unsigned round = 0; !take_of(p, cpu); round++)
        wait_a_little(round);
    taken(p, cpu);
}
