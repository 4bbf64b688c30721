/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of the counter share.
 *
 *   counter.c   making, upgrading, flushing, what fork() leaves behind
 *   value.c     reading, setting, limits
 *   error.c     the batch that follows the value
 */
#ifndef PERCPU_COUNTER_INTERNAL_H
#define PERCPU_COUNTER_INTERNAL_H

#include <percpu/counter.h>

static inline uint64_t counter_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

/* Everything loaded so far is older than what is loaded from here on. */
static inline void counter_loaded(void)
{
#ifdef __SANITIZE_THREAD__ /* does not know fences, and runs where loads stay in order */
    __asm__ __volatile__("" ::: "memory");
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* Of two threads that come here, the one that comes later sees what the other stored before. */
static inline void counter_meet(struct percpu_counter *counter)
{
    __atomic_fetch_add(&counter->remote_adds, 0, __ATOMIC_SEQ_CST);
}

/* The slots as they are now. Acquire: pairs with the release in percpu_counter_upgrade(). */
static inline percpu_ptr counter_slots(const struct percpu_counter *counter)
{
    percpu_ptr slots = counter->slots;
    slots.base = __atomic_load_n(&counter->slots.base, __ATOMIC_ACQUIRE);
    return slots;
}

/* How many copies of a slot there are to look at. */
static inline unsigned counter_copies(const struct percpu_counter *counter, percpu_ptr slots)
{
    return slots.base != NULL ? counter->cpus : 0;
}

static inline struct percpu_counter_slot *counter_slot(percpu_ptr slots, unsigned cpu)
{
    return percpu_ptr_cpu(slots, cpu);
}

/* Whether `total` can be gone by; if not, another thread is mending it after a fork. */
bool percpu_counter_usable(struct percpu_counter *counter);

/* What this thread stored is seen by what adds load from here on, or what they stored is seen by what
 * it loads. In mode none, which has no fence of all CPUs, only if they meet it. errno is kept. */
void percpu_counter_fence(struct percpu_counter *counter);

/* Flush every CPU that has more than the margin. */
void percpu_counter_flush_all(struct percpu_counter *counter);

/* base + local + remote + total: what read() says. */
uint64_t percpu_counter_about(const struct percpu_counter *counter);

/* After the value changed: bring the margin of a counter with a relative error in line with it. */
void percpu_counter_adjust(struct percpu_counter *counter);

#endif
