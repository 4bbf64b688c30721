/* SPDX-License-Identifier: MIT */
/*
 * arch.h - the critical sections: the contract that every architecture implements, and the
 * selector of the implementation.
 *
 * A section is one attempt. It picks this thread's copy *inside* the section, so a preempted,
 * migrated or interrupted attempt never commits. Users call this_cpu.h and sections.h, which retry.
 *
 * Every function is named after its pseudo-code, in which `v` is the word of width W at the start
 * of this CPU's copy and the last store is the commit:
 *
 *   store(x)                 v = x
 *   add_store(n)             v += n
 *   load_add_store(n)        old = v; v = old + n
 *   load_and_store(m)        old = v; v = old & m
 *   load_or_store(m)         old = v; v = old | m
 *   load_store(x)            old = v; v = x
 *   load_cbne_store(e, x)    old = v; if old != e: unequal; v = x
 *
 * for W = u8, u16, u32, u64, and for 64-bit words only
 *
 *   load_add_store_f64(n)    v = new = v + n, a double
 *   load_add_store_at(n)     v = new = v + n, and which copy it was
 *   load_cbne_store_at(e,x)  load_cbne_store, and which copy it was
 *   load_cbne_store_store    if v != e: unequal; *(copy + offset2) = x2; v = x
 *   load_cbne_memcpy_store   if v != e: unequal; memcpy(copy + offset2, src, n); v = x
 *   load_cbout_add_store(mask, low, span, n)
 *                            if (v & mask) - low >= span, unsigned: unequal; v = v + n
 *   list_push(node)          node->next = v; v = node
 *   list_pop()               old = v; if old == NULL: unequal; v = old->next
 *   stack_push(x, capacity)  if v >= capacity: unequal; copy[1 + v] = x; v = v + 1
 *   stack_pop()              if v == 0: unequal; x = copy[v]; v = v - 1
 *
 * ("cbne": compare, branch if not equal; "cbout": branch if outside.) A store before the commit may have happened although
 * the attempt then aborted: nobody may look at such a word before the commit says so.
 *
 * Commits are plain stores: other CPUs must read them with relaxed atomic loads, and may not order
 * other memory by them.
 */
#ifndef PERCPU_ARCH_H
#define PERCPU_ARCH_H

#include "platform.h"
#include "ptr.h"
#include "rseq.h"

/* How one attempt ended. There is no "unsupported": that is a compile error. */
enum percpu_outcome {
    PERCPU_COMMITTED, /* done */
    PERCPU_UNEQUAL,   /* not done: the comparison said no */
    PERCPU_ABORTED,   /* not done: the kernel restarted the section */
    PERCPU_CLOSED,    /* not done: this thread's id is not below percpu_runtime.limit */
};

#define PERCPU_CS_WORD_CONTRACT(W)                                                                 \
    PERCPU_INLINE enum percpu_outcome percpu_cs_store_u##W(percpu_ptr p, uint##W##_t x);           \
    PERCPU_INLINE enum percpu_outcome percpu_cs_add_store_u##W(percpu_ptr p, uint##W##_t n);       \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_u##W(percpu_ptr p, uint##W##_t n,   \
                                                                    uint##W##_t *old);             \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_and_store_u##W(percpu_ptr p, uint##W##_t m,   \
                                                                    uint##W##_t *old);             \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_or_store_u##W(percpu_ptr p, uint##W##_t m,    \
                                                                   uint##W##_t *old);              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_store_u##W(percpu_ptr p, uint##W##_t x,       \
                                                                uint##W##_t *old);                 \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_u##W(                              \
        percpu_ptr p, uint##W##_t expect, uint##W##_t x, uint##W##_t *old)

PERCPU_CS_WORD_CONTRACT(8);
PERCPU_CS_WORD_CONTRACT(16);
PERCPU_CS_WORD_CONTRACT(32);
PERCPU_CS_WORD_CONTRACT(64);
#undef PERCPU_CS_WORD_CONTRACT

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_f64(percpu_ptr p, double n, double *sum);
PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_at(percpu_ptr p, uint64_t n,
                                                              uint64_t *sum, void **copy);
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_at(percpu_ptr p, uint64_t expect,
                                                               uint64_t x, void **copy);
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_store(percpu_ptr p, uint64_t expect,
                                                                  uint64_t x, size_t offset2,
                                                                  uint64_t x2);
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_memcpy_store(percpu_ptr p, uint64_t expect,
                                                                   uint64_t x, size_t offset2,
                                                                   const void *src, size_t n);
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbout_add_store(percpu_ptr p, uint64_t mask,
                                                                 uint64_t low, uint64_t span,
                                                                 uint64_t n);
PERCPU_INLINE enum percpu_outcome percpu_cs_list_push(percpu_ptr p, void *node);
PERCPU_INLINE enum percpu_outcome percpu_cs_list_pop(percpu_ptr p, void **node);
PERCPU_INLINE enum percpu_outcome percpu_cs_stack_push(percpu_ptr p, uint64_t x, uint64_t capacity);
PERCPU_INLINE enum percpu_outcome percpu_cs_stack_pop(percpu_ptr p, uint64_t *x);

/* The id that chooses this thread's copy, and the thread's registration: -1 or -2 as unsigned if
 * it has none. Defined by the implementation: it knows the thread pointer. */
PERCPU_INLINE uint32_t percpu_cs_id(size_t index);

/* What tells this thread from all others that live, in no time: its thread pointer. Never 0. */
PERCPU_INLINE uintptr_t percpu_thread_pointer(void);

/* v += n for a word that this thread alone writes. A signal handler that does the same in between
 * loses nothing. */
PERCPU_INLINE void percpu_own_add_u64(uint64_t *word, uint64_t n);

/* In a loop that waits for another CPU: leave more of this one to whoever shares it. */
PERCPU_INLINE void percpu_cpu_relax(void);

/*
 * asm goto with outputs. The empty asm keeps gcc before 11.5, 12.4 and 13.3 from dropping the
 * outputs (its bug 113921).
 */
#define PERCPU_ASM_GOTO(...)                                                                       \
    do {                                                                                           \
        __asm__ __volatile__ goto(__VA_ARGS__);                                                    \
        __asm__ __volatile__("");                                                                  \
    } while (0)

#if defined(PERCPU_ARCH_GENERIC)
#include "arch/generic.h"
#elif defined(__x86_64__)
#include "arch/x86_64.h"
#elif defined(__aarch64__)
#include "arch/aarch64.h"
#else
#include "arch/generic.h"
#endif

#endif
