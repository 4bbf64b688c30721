/* SPDX-License-Identifier: MIT */
/*
 * sections.h - operations on this CPU's copy that take more than one word, or look before they
 * commit: conditional commits, lists, stacks and locks.
 *
 * The retry is inside; what is handed back is whether it was done. In mode none those of several
 * words take one process-wide lock, with signals blocked. All are thread-safe and async-signal-safe; nothing
 * here fails. Pseudo-code: arch.h.
 */
#ifndef PERCPU_SECTIONS_H
#define PERCPU_SECTIONS_H

#include "arch.h"
#include "platform.h"
#include "ptr.h"
#include "slow.h"

/*
 * If the 8-byte word v at `p` is `expect`: store `x2` in the 8-byte word `offset2` bytes from the
 * start of the copy, then commit with v = x. Returns whether it was equal. The second word must
 * be looked at only by those whom v told to: an attempt that fails may have stored it.
 */
PERCPU_INLINE bool percpu_this_cbne_store_store(percpu_ptr p, uint64_t expect, uint64_t x,
                                                size_t offset2, uint64_t x2)
{
    enum percpu_outcome outcome = percpu_cs_load_cbne_store_store(p, expect, x, offset2, x2);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL)) {
        struct percpu_op op = {.code = PERCPU_OP_CBNE_STORE_STORE,
                               .width = 8,
                               .p = p,
                               .x = x,
                               .expect = expect,
                               .offset2 = offset2,
                               .x2 = x2};
        outcome = percpu_slow(&op);
    }
    return outcome == PERCPU_COMMITTED;
}

/* The same with `size` bytes copied from `src` instead of one word. `src` must not overlap. */
PERCPU_INLINE bool percpu_this_cbne_memcpy_store(percpu_ptr p, uint64_t expect, uint64_t x,
                                                 size_t offset2, const void *src, size_t size)
{
    enum percpu_outcome outcome = percpu_cs_load_cbne_memcpy_store(p, expect, x, offset2, src,
                                                                   size);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL)) {
        struct percpu_op op = {.code = PERCPU_OP_CBNE_MEMCPY_STORE,
                               .width = 8,
                               .p = p,
                               .x = x,
                               .expect = expect,
                               .offset2 = offset2,
                               .src = src,
                               .size = size};
        outcome = percpu_slow(&op);
    }
    return outcome == PERCPU_COMMITTED;
}

/*
 * If low <= (v & mask) < low + span, where v is the 8-byte word at `p`: v += n, modulo 2^64.
 * Returns whether it did. The comparison is that of (v & mask) - low with span, unsigned, so a
 * range may wrap around, and a span of 0 is empty.
 */
PERCPU_INLINE bool percpu_this_add_within(percpu_ptr p, uint64_t mask, uint64_t low, uint64_t span,
                                          uint64_t n)
{
    enum percpu_outcome outcome = percpu_cs_load_cbout_add_store(p, mask, low, span, n);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL))
        return percpu_slow_add_within(p.base, p.stride, p.index, mask, low, span, n);
    return outcome == PERCPU_COMMITTED;
}

/*
 * A list per CPU, last in first out: the object at `p` is one pointer, NULL when the list is
 * empty. A node belongs to whoever popped it; its first word is the link.
 */
struct percpu_list_node {
    struct percpu_list_node *next;
};

/* Put `node` first in this CPU's list. */
PERCPU_INLINE void percpu_list_push(percpu_ptr p, struct percpu_list_node *node)
{
    if (percpu_unlikely(percpu_cs_list_push(p, node) != PERCPU_COMMITTED))
        (void)percpu_slow_section(p.base, p.stride, PERCPU_WHAT(p, PERCPU_OP_LIST_PUSH, 8),
                                  (uintptr_t)node, 0, NULL);
}

/* Take the first node of this CPU's list; NULL if it is empty. */
PERCPU_INLINE struct percpu_list_node *percpu_list_pop(percpu_ptr p)
{
    void *node;
    enum percpu_outcome outcome = percpu_cs_list_pop(p, &node);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL)) {
        uint64_t popped;
        (void)percpu_slow_section(p.base, p.stride, PERCPU_WHAT(p, PERCPU_OP_LIST_POP, 8), 0, 0,
                                  &popped);
        node = (void *)(uintptr_t)popped;
    }
    return (struct percpu_list_node *)node;
}

/* Take all of this CPU's list, or of CPU `cpu`'s (through the gate); NULL if it is empty. */
PERCPU_INLINE struct percpu_list_node *percpu_list_pop_all(percpu_ptr p)
{
    uint64_t head;
    if (percpu_unlikely(percpu_cs_load_store_u64(p, 0, &head) != PERCPU_COMMITTED))
        (void)percpu_slow_section(p.base, p.stride, PERCPU_WHAT(p, PERCPU_OP_LIST_POP_ALL, 8), 0, 0,
                                  &head);
    return (struct percpu_list_node *)(uintptr_t)head;
}

PERCPU_INLINE struct percpu_list_node *percpu_list_pop_all_of(percpu_ptr p, unsigned cpu)
{
    return (struct percpu_list_node *)(uintptr_t)percpu_remote_word(p, cpu, PERCPU_OP_LIST_POP_ALL,
                                                                    8, 0, 0);
}

/*
 * A bounded stack of 8-byte values per CPU: the object at `p` is a count followed by room for
 * `capacity` values.
 */
PERCPU_INLINE bool percpu_stack_push(percpu_ptr p, uint64_t x, uint64_t capacity)
{
    enum percpu_outcome outcome = percpu_cs_stack_push(p, x, capacity);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL))
        return percpu_slow_section(p.base, p.stride, PERCPU_WHAT(p, PERCPU_OP_STACK_PUSH, 8), x,
                                   capacity, NULL);
    return outcome == PERCPU_COMMITTED; /* false: full */
}

PERCPU_INLINE bool percpu_stack_pop(percpu_ptr p, uint64_t *x)
{
    enum percpu_outcome outcome = percpu_cs_stack_pop(p, x);
    if (percpu_unlikely(outcome > PERCPU_UNEQUAL)) {
        uint64_t popped;
        bool done = percpu_slow_section(p.base, p.stride, PERCPU_WHAT(p, PERCPU_OP_STACK_POP, 8), 0,
                                        0, &popped);
        *x = popped;
        return done;
    }
    return outcome == PERCPU_COMMITTED; /* false: empty */
}

/*
 * Empty the stack of CPU `cpu` through the gate: its values, oldest first, go to `values`, which
 * has room for the stack's capacity. Returns how many there were.
 */
PERCPU_INLINE uint64_t percpu_stack_take_all_of(percpu_ptr p, unsigned cpu, uint64_t *values)
{
    return percpu_remote_word(p, cpu, PERCPU_OP_STACK_TAKE_ALL, 8, (uintptr_t)values, 0);
}

/*
 * A lock per CPU: the object at `p` is an 8-byte word, 0 when free. Whoever holds it may be
 * preempted and migrated and still holds it, so it protects data of any size in the copies beside
 * it. Not recursive; a signal handler must not take a lock that its thread may hold.
 *
 * percpu_lock() waits, yielding the CPU, until it got the lock of the CPU it then runs on, and
 * returns which that was; percpu_trylock() returns -1 instead of waiting. percpu_lock_of() locks
 * the copy of CPU `cpu` from anywhere, through the gate. Taking is an acquire that pairs with
 * percpu_unlock()'s release.
 */
PERCPU_API unsigned percpu_lock(percpu_ptr p);
PERCPU_API int percpu_trylock(percpu_ptr p);
PERCPU_API void percpu_lock_of(percpu_ptr p, unsigned cpu);

PERCPU_INLINE void percpu_unlock(percpu_ptr p, unsigned cpu)
{
    __atomic_store_n((uint64_t *)percpu_ptr_cpu(p, cpu), (uint64_t)0, __ATOMIC_RELEASE);
}

#endif
