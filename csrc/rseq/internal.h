/* SPDX-License-Identifier: MIT */
/* internal.h - what the files of the rseq layer share: registration, and the gate's lock. */
#ifndef PERCPU_RSEQ_INTERNAL_H
#define PERCPU_RSEQ_INTERNAL_H

#include <signal.h>

#include <percpu/rseq.h>

/*
 * Make sure that the calling thread is registered, so that a section can commit in it. Returns
 * false if it cannot be (and always in mode none). Async-signal-safe.
 */
bool percpu_thread_register(void);

/* A value of the thread's rseq area: which CPU, or concurrency id, below percpu_nr_cpus(). */
unsigned percpu_thread_slot(size_t index);

/* Whoever holds the gate may touch the copies of the fenced CPU. Lives on the holder's stack. */
struct percpu_gate_hold {
    sigset_t signals; /* the caller's mask, put back on leaving */
};

/* Close the gate, and restart the sections under way on `cpu` (-1: everywhere). */
void percpu_gate_enter(struct percpu_gate_hold *hold, int cpu);
void percpu_gate_leave(struct percpu_gate_hold *hold);

/* Wait until whoever holds the gate now has left. */
void percpu_gate_wait(void);

/* The lock that stands in for sections of several words in mode none. */
void percpu_stand_in_lock(struct percpu_gate_hold *hold);
void percpu_stand_in_unlock(struct percpu_gate_hold *hold);

/* Called once at start-up, when a mode with rseq was chosen: the gate opens. */
void percpu_gate_start(bool open);

/* Ask the kernel for the RSEQ membarrier, for this process. False if there is none. */
bool percpu_fence_register(void);

#endif
