/* SPDX-License-Identifier: MIT */
/*
 * rseq.h - this thread's rseq area, the process-wide mode, and the gate.
 *
 * Mode. Decided once, before main() or when the core is loaded:
 *   glibc  glibc (>= 2.35) registered every thread's area with the kernel; we use it.
 *   own    nobody did; each thread registers 32 bytes of ours at its first operation.
 *   none   no rseq, or no rseq membarrier: every operation is an atomic on the slot of getcpu().
 * PERCPU_RSEQ=glibc|own|none in the environment asks for one; what cannot be had becomes none,
 * and percpu_rseq_info() says why.
 *
 * Gate. A critical section compares its CPU id with percpu_runtime.limit *inside* the section and
 * commits only if the id is below. The limit is percpu_nr_cpus() when the gate is open and 0 when
 * it is closed, so one unsigned comparison refuses a thread that is not registered (id -1 or -2),
 * an id we have no copy for, and everybody while a remote writer is at work. Protocol:
 *
 *   remote writer                                section on the CPU whose copy is written
 *   ------------------------------------------   ----------------------------------------------
 *   block signals; lock the gate mutex           (R1) id = area->cpu_id
 *   (W1) limit = 0                               (R2) load-acquire limit; id >= limit: leave
 *   (W2) membarrier RSEQ: restarts every         (R3) load, compute, store: the store commits
 *        section under way on that CPU
 *   (W3) plain access to the other CPU's copy
 *   (W4) store-release limit = nr_cpus
 *   unlock; restore signals
 *
 * A section that passed R2 before W2 is restarted by W2 or has committed before it, and then W3
 * sees its store (W2 is a full barrier on that CPU). One that starts after W2 reads 0 at R2 until
 * W4; R2 pairs with W4, so it sees W3's stores. Signals are blocked so that no handler can need
 * the gate that its own thread holds; pthread_atfork() holds it across fork().
 */
#ifndef PERCPU_RSEQ_H
#define PERCPU_RSEQ_H

#include "platform.h"

/* How a thread's copy is chosen; the value is the byte offset of the id in the rseq area. */
enum percpu_index {
    PERCPU_INDEX_CPU = 4,  /* cpu_id: also exclusive between processes */
    PERCPU_INDEX_CID = 24, /* mm_cid (Linux >= 6.3): dense ids, exclusive inside one process */
};

enum percpu_mode { PERCPU_MODE_NONE, PERCPU_MODE_GLIBC, PERCPU_MODE_OWN };

/* Read by every critical section. Written by the core alone. */
struct percpu_runtime {
    intptr_t area;  /* from a thread's thread pointer to its rseq area; constant after start-up */
    uint32_t limit; /* the gate: see above */
};
extern PERCPU_API struct percpu_runtime percpu_runtime;

/* What was decided, and from what. */
struct percpu_rseq_info {
    enum percpu_mode mode;
    const char *reason;          /* why this mode: one sentence, static storage */
    unsigned feature_size;       /* bytes of the area that the kernel fills; 0 without rseq */
    bool node_id;                /* the area has node_id */
    bool mm_cid;                 /* the area has mm_cid, so PERCPU_INDEX_CID can be had */
    bool fence;                  /* membarrier can restart critical sections */
    const char *bad_environment; /* the value of PERCPU_RSEQ if it is not one of ours, else NULL */
};
PERCPU_API const struct percpu_rseq_info *percpu_rseq_info(void);

/*
 * The id of the CPU that runs this thread, its concurrency id, and the NUMA node of that CPU, at
 * some instant during the call. The concurrency id is -1 with errno ENOTSUP where the kernel gives
 * none; the others never fail. Async-signal-safe.
 */
PERCPU_API int percpu_current_cpu(void);
PERCPU_API int percpu_current_cid(void);
PERCPU_API int percpu_current_node(void);

/* Whether objects can be indexed so in this process: 0, or -1 with errno EINVAL or ENOTSUP. */
PERCPU_API int percpu_index_check(enum percpu_index index);

/*
 * Restart every critical section of this process that runs on `cpu` (-1: on any CPU), with a full
 * memory barrier there. Returns 0; -1 with errno ENOTSUP in mode none. Async-signal-safe.
 */
PERCPU_API int percpu_rseq_fence(int cpu);

/*
 * Run `function(argument)` at one instant of this process's sections, as the kernel's
 * stop_machine() does: the gate is closed, every CPU is fenced and the calling thread's signals
 * are blocked, so no section of the process and no operation through the gate is under way or can
 * begin, and what those before it stored is seen. `function` may read and write every copy with
 * plain accesses. It must be short, and must not call an operation on per-CPU data, fork(), or
 * anything that waits for another thread: they would wait for the gate for ever. Sections of other
 * processes on memory that they share go on. Costs microseconds and interrupts the CPUs that run
 * the process. Returns true; in mode none, which has no section to stop, false without a call.
 * Thread-safe, async-signal-safe if `function` is; of several calls one runs at a time.
 */
PERCPU_API bool percpu_stop(void (*function)(void *argument), void *argument);

/*
 * Run `function(argument)` while this process cannot fork and the calling thread's signals are
 * blocked: a child has all of what it does, or nothing. It stops no operation, so it is for mode
 * none, where operations on words are atomics and percpu_stop() does nothing. `function` must be
 * short, and must not fork(), wait for another thread, or call an operation of sections.h on
 * several words: that would wait for ever. Thread-safe, async-signal-safe if `function` is; of
 * several calls one runs at a time.
 */
PERCPU_API void percpu_exclude_fork(void (*function)(void *argument), void *argument);

/*
 * Forget the last critical section's descriptor in this thread's area. Before dlclose() of a
 * library that inlined the operations, every thread that ran one must call it: the kernel may
 * otherwise read the unmapped descriptor. The core itself must never be unloaded (link a library
 * that contains it with -z nodelete): threads are registered, and handlers of fork() installed.
 */
PERCPU_API void percpu_rseq_clear(void);

/*
 * How often the slow path tries a section before it takes the gate to make progress (default 100).
 * 0 makes every slow operation take the gate, for tests. Returns the former value. Thread-safe.
 */
PERCPU_API unsigned percpu_set_max_attempts(unsigned attempts);

/* Events of the slow path since start-up, all threads together. */
struct percpu_slow_stats {
    uint64_t restarts; /* sections that the kernel aborted or the gate turned away */
    uint64_t gated;    /* operations done under the gate because sections kept failing */
    uint64_t remote;   /* remote operations */
};
PERCPU_API void percpu_slow_stats(struct percpu_slow_stats *stats);

/*
 * How many times this process has been forked from the one that loaded the core: objects that
 * must mend themselves in a child compare it with the generation they last saw.
 */
extern PERCPU_API uint32_t percpu_fork_generation;

#endif
