/* SPDX-License-Identifier: MIT */
/*
 * slow.c - operations as data: retried, under the gate, remote, or (mode none) with atomics.
 *
 * attempt() is one critical section. apply() works on a given copy with atomics: alone on it under
 * the gate, or beside other apply()s in mode none, where words need no more and everything of
 * several words holds the stand-in lock. The commit is a compare-and-swap there, because words of
 * the same object may be changed beside it without that lock.
 */
#define _GNU_SOURCE
#include <string.h>

#include "internal.h"
#include <percpu/sections.h>
#include <percpu/slow.h>
#include <percpu/this_cpu.h>
#include <percpu/topology.h>

static unsigned max_attempts = 100;
static struct percpu_slow_stats events;

unsigned percpu_set_max_attempts(unsigned attempts)
{
    return __atomic_exchange_n(&max_attempts, attempts, __ATOMIC_RELAXED);
}

static void count(uint64_t *event)
{
    __atomic_add_fetch(event, 1, __ATOMIC_RELAXED);
}

void percpu_slow_stats(struct percpu_slow_stats *stats)
{
    stats->restarts = __atomic_load_n(&events.restarts, __ATOMIC_RELAXED);
    stats->gated = __atomic_load_n(&events.gated, __ATOMIC_RELAXED);
    stats->remote = __atomic_load_n(&events.remote, __ATOMIC_RELAXED);
}

/* attempt_u<W>(): a word operation as a section; apply_u<W>(): the same with atomics at `copy`. Adding
 * is sequentially consistent for counters, which look at another word afterwards. */
#define WORD_OPERATIONS(W)                                                                         \
    static enum percpu_outcome attempt_u##W(struct percpu_op *op)                                  \
    {                                                                                              \
        uint##W##_t old = 0, x = (uint##W##_t)op->x;                                               \
        enum percpu_outcome outcome = PERCPU_ABORTED;                                              \
        switch (op->code) {                                                                        \
        case PERCPU_OP_STORE:                                                                      \
            outcome = percpu_cs_store_u##W(op->p, x);                                              \
            break;                                                                                 \
        case PERCPU_OP_ADD:                                                                        \
            outcome = percpu_cs_load_add_store_u##W(op->p, x, &old);                               \
            break;                                                                                 \
        case PERCPU_OP_AND:                                                                        \
            outcome = percpu_cs_load_and_store_u##W(op->p, x, &old);                               \
            break;                                                                                 \
        case PERCPU_OP_OR:                                                                         \
            outcome = percpu_cs_load_or_store_u##W(op->p, x, &old);                                \
            break;                                                                                 \
        case PERCPU_OP_XCHG:                                                                       \
            outcome = percpu_cs_load_store_u##W(op->p, x, &old);                                   \
            break;                                                                                 \
        default: /* PERCPU_OP_CMPXCHG: attempt() lets nothing else through */                      \
            outcome = percpu_cs_load_cbne_store_u##W(op->p, (uint##W##_t)op->expect, x, &old);     \
        }                                                                                          \
        op->old = old;                                                                             \
        return outcome;                                                                            \
    }                                                                                              \
    static enum percpu_outcome apply_u##W(struct percpu_op *op, uint##W##_t *word)                 \
    {                                                                                              \
        uint##W##_t old = (uint##W##_t)op->expect, x = (uint##W##_t)op->x;                         \
        enum percpu_outcome outcome = PERCPU_COMMITTED;                                            \
        switch (op->code) {                                                                        \
        case PERCPU_OP_STORE:                                                                      \
            __atomic_store_n(word, x, __ATOMIC_RELAXED);                                           \
            break;                                                                                 \
        case PERCPU_OP_ADD:                                                                        \
            old = __atomic_fetch_add(word, x, __ATOMIC_SEQ_CST);                                   \
            break;                                                                                 \
        case PERCPU_OP_AND:                                                                        \
            old = __atomic_fetch_and(word, x, __ATOMIC_RELAXED);                                   \
            break;                                                                                 \
        case PERCPU_OP_OR:                                                                         \
            old = __atomic_fetch_or(word, x, __ATOMIC_RELAXED);                                    \
            break;                                                                                 \
        case PERCPU_OP_XCHG:                                                                       \
            old = __atomic_exchange_n(word, x, __ATOMIC_RELAXED);                                  \
            break;                                                                                 \
        default:                                                                                   \
            if (!__atomic_compare_exchange_n(word, &old, x, false, __ATOMIC_RELAXED,               \
                                             __ATOMIC_RELAXED))                                    \
                outcome = PERCPU_UNEQUAL;                                                          \
        }                                                                                          \
        op->old = old;                                                                             \
        return outcome;                                                                            \
    }

WORD_OPERATIONS(8)
WORD_OPERATIONS(16)
WORD_OPERATIONS(32)
WORD_OPERATIONS(64)

static enum percpu_outcome attempt(struct percpu_op *op)
{
    enum percpu_outcome outcome;
    uint64_t sum = 0;
    double f64_sum = 0;
    void *node = NULL;
    switch (op->code) {
    case PERCPU_OP_ADD_F64:
        outcome = percpu_cs_load_add_store_f64(op->p, percpu_f64_from_bits(op->x), &f64_sum);
        op->old = percpu_f64_bits(f64_sum);
        return outcome;
    case PERCPU_OP_ADD_WITHIN:
        return percpu_cs_load_cbout_add_store(op->p, op->mask, op->expect, op->x2, op->x);
    case PERCPU_OP_CBNE_STORE_STORE:
        return percpu_cs_load_cbne_store_store(op->p, op->expect, op->x, op->offset2, op->x2);
    case PERCPU_OP_CBNE_MEMCPY_STORE:
        return percpu_cs_load_cbne_memcpy_store(op->p, op->expect, op->x, op->offset2, op->src,
                                                op->size);
    case PERCPU_OP_LIST_PUSH:
        return percpu_cs_list_push(op->p, (void *)(uintptr_t)op->x);
    case PERCPU_OP_LIST_POP:
        outcome = percpu_cs_list_pop(op->p, &node);
        op->old = (uintptr_t)node;
        return outcome;
    case PERCPU_OP_LIST_POP_ALL:
        return percpu_cs_load_store_u64(op->p, 0, &op->old);
    case PERCPU_OP_STACK_PUSH:
        return percpu_cs_stack_push(op->p, op->x, op->expect);
    case PERCPU_OP_STACK_POP:
        return percpu_cs_stack_pop(op->p, &op->old);
    default:
        break;
    }
    if (op->code == PERCPU_OP_ADD && op->width == 8) {
        outcome = percpu_cs_load_add_store_at(op->p, op->x, &sum, &op->copy);
        op->old = sum - op->x;
        return outcome;
    }
    switch (op->width) {
    case 1:
        return attempt_u8(op);
    case 2:
        return attempt_u16(op);
    case 4:
        return attempt_u32(op);
    default:
        return attempt_u64(op);
    }
}

static bool commit(uint64_t *word, uint64_t expect, uint64_t x)
{
    return __atomic_compare_exchange_n(word, &expect, x, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static enum percpu_outcome apply_add_f64(struct percpu_op *op, uint64_t *word)
{
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED), sum;
    do {
        sum = percpu_f64_bits(percpu_f64_from_bits(old) + percpu_f64_from_bits(op->x));
    } while (
        !__atomic_compare_exchange_n(word, &old, sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    op->old = sum;
    return PERCPU_COMMITTED;
}

/* Acquire and release: what this counts may be handed over with it. */
static enum percpu_outcome apply_add_within(struct percpu_op *op, uint64_t *word)
{
    uint64_t v = __atomic_load_n(word, __ATOMIC_RELAXED);
    do {
        if ((v & op->mask) - op->expect >= op->x2)
            return PERCPU_UNEQUAL;
    } while (!__atomic_compare_exchange_n(word, &v, v + op->x, false, __ATOMIC_ACQ_REL,
                                          __ATOMIC_RELAXED));
    return PERCPU_COMMITTED;
}

/* The operations of several words: nobody else runs one of them. */
static enum percpu_outcome apply_section(struct percpu_op *op, uint64_t *word)
{
    bool done = false;
    for (;;) {
        uint64_t v = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        switch (op->code) {
        case PERCPU_OP_CBNE_STORE_STORE:
            if (v == op->expect) {
                __atomic_store_n((uint64_t *)((char *)word + op->offset2), op->x2,
                                 __ATOMIC_RELAXED);
                done = commit(word, v, op->x);
            }
            return done ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
        case PERCPU_OP_CBNE_MEMCPY_STORE:
            if (v == op->expect) {
                memcpy((char *)word + op->offset2, op->src, op->size);
                done = commit(word, v, op->x);
            }
            return done ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
        case PERCPU_OP_LIST_PUSH:
            ((struct percpu_list_node *)(uintptr_t)op->x)
                ->next = (struct percpu_list_node *)(uintptr_t)v;
            done = commit(word, v, op->x);
            break;
        case PERCPU_OP_LIST_POP:
            op->old = v;
            if (v == 0)
                return PERCPU_UNEQUAL;
            done = commit(word, v, (uintptr_t)((struct percpu_list_node *)(uintptr_t)v)->next);
            break;
        case PERCPU_OP_LIST_POP_ALL: /* not a word: a pop under way reads a node that is in it */
            op->old = v;
            done = commit(word, v, 0);
            break;
        case PERCPU_OP_STACK_PUSH:
            if (v >= op->expect)
                return PERCPU_UNEQUAL;
            word[1 + v] = op->x;
            done = commit(word, v, v + 1);
            break;
        case PERCPU_OP_STACK_POP:
            if (v == 0)
                return PERCPU_UNEQUAL;
            op->old = word[v];
            done = commit(word, v, v - 1);
            break;
        default: /* PERCPU_OP_STACK_TAKE_ALL */
            memcpy((uint64_t *)(uintptr_t)op->x, word + 1, v * sizeof *word);
            op->old = v;
            done = commit(word, v, 0);
        }
        if (done)
            return PERCPU_COMMITTED;
    }
}

static bool is_section(enum percpu_opcode code)
{
    return code >= PERCPU_OP_CBNE_STORE_STORE;
}

static enum percpu_outcome apply(struct percpu_op *op, void *copy)
{
    op->copy = copy;
    if (is_section(op->code))
        return apply_section(op, copy);
    if (op->code == PERCPU_OP_ADD_F64)
        return apply_add_f64(op, copy);
    if (op->code == PERCPU_OP_ADD_WITHIN)
        return apply_add_within(op, copy);
    switch (op->width) {
    case 1:
        return apply_u8(op, copy);
    case 2:
        return apply_u16(op, copy);
    case 4:
        return apply_u32(op, copy);
    default:
        return apply_u64(op, copy);
    }
}

static enum percpu_outcome apply_without_rseq(struct percpu_op *op, unsigned cpu)
{
    void *copy = percpu_ptr_cpu(op->p, cpu);
    if (!is_section(op->code))
        return apply(op, copy);
    struct percpu_gate_hold hold;
    percpu_stand_in_lock(&hold);
    enum percpu_outcome outcome = apply(op, copy);
    percpu_stand_in_unlock(&hold);
    return outcome;
}

static enum percpu_outcome apply_gated(struct percpu_op *op, unsigned slot)
{
    struct percpu_gate_hold hold;
    /* A concurrency id may be in use on any CPU. */
    percpu_gate_enter(&hold, op->p.index == PERCPU_INDEX_CPU ? (int)slot : -1);
    enum percpu_outcome outcome = apply(op, percpu_ptr_cpu(op->p, slot));
    percpu_gate_leave(&hold);
    return outcome;
}

enum percpu_outcome percpu_slow(struct percpu_op *op)
{
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        return apply_without_rseq(op, percpu_thread_slot(op->p.index));
    unsigned limit = __atomic_load_n(&max_attempts, __ATOMIC_RELAXED);
    for (unsigned tries = 0; tries < limit && percpu_thread_register(); tries++) {
        enum percpu_outcome outcome = attempt(op);
        if (outcome == PERCPU_COMMITTED || outcome == PERCPU_UNEQUAL)
            return outcome;
        count(&events.restarts);
        if (outcome == PERCPU_CLOSED)
            percpu_gate_wait();
    }
    count(&events.gated);
    return apply_gated(op, percpu_thread_slot(op->p.index));
}

static struct percpu_op unpack(char *base, size_t stride, unsigned what, uint64_t x,
                               uint64_t expect)
{
    return (struct percpu_op){
        .code = what & 0xff,
        .width = what >> 8 & 0xff,
        .p = {.base = base, .stride = stride, .index = what >> 16},
        .x = x,
        .expect = expect,
    };
}

uint64_t percpu_slow_word(char *base, size_t stride, unsigned what, uint64_t x, uint64_t expect)
{
    struct percpu_op op = unpack(base, stride, what, x, expect);
    percpu_slow(&op);
    return op.old;
}

bool percpu_slow_section(char *base, size_t stride, unsigned what, uint64_t x, uint64_t expect,
                         uint64_t *result)
{
    struct percpu_op op = unpack(base, stride, what, x, expect);
    enum percpu_outcome outcome = percpu_slow(&op);
    if (result != NULL)
        *result = op.old;
    return outcome == PERCPU_COMMITTED;
}

bool percpu_slow_add_within(char *base, size_t stride, size_t index, uint64_t mask, uint64_t low,
                            uint64_t span, uint64_t n)
{
    struct percpu_op op = {
        .code = PERCPU_OP_ADD_WITHIN,
        .width = 8,
        .p = {.base = base, .stride = stride, .index = index},
        .x = n,
        .expect = low,
        .x2 = span,
        .mask = mask,
    };
    return percpu_slow(&op) == PERCPU_COMMITTED;
}

void *percpu_slow_copy(char *base, size_t stride, size_t index)
{
    return base + percpu_thread_slot(index) * stride;
}

enum percpu_outcome percpu_remote(struct percpu_op *op, unsigned cpu)
{
    count(&events.remote);
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        return apply_without_rseq(op, cpu);
    return apply_gated(op, cpu);
}

uint64_t percpu_remote_word(percpu_ptr p, unsigned cpu, enum percpu_opcode code, unsigned width,
                            uint64_t x, uint64_t expect)
{
    struct percpu_op op = {.code = code, .width = width, .p = p, .x = x, .expect = expect};
    percpu_remote(&op, cpu);
    return op.old;
}
