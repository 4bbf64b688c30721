/* SPDX-License-Identifier: MIT */
/*
 * slow.h - an operation as data: what the inlined operations fall back on when their one attempt
 * did not commit, and what a remote operation is made of.
 *
 * percpu_slow() ends in bounded time: after percpu_set_max_attempts() restarts it takes the gate
 * (rseq.h) and does the operation with no section at all, so that a debugger that single-steps, or
 * a thread that the kernel refuses to register, makes progress and stays exact.
 */
#ifndef PERCPU_SLOW_H
#define PERCPU_SLOW_H

#include "arch.h"
#include "platform.h"
#include "ptr.h"

/* What to do, in terms of arch.h's pseudo-code. The first six work on words of 1, 2, 4 or 8
 * bytes, all others on words of 8. */
enum percpu_opcode {
    PERCPU_OP_STORE,
    PERCPU_OP_ADD,
    PERCPU_OP_AND,
    PERCPU_OP_OR,
    PERCPU_OP_XCHG,
    PERCPU_OP_CMPXCHG,
    PERCPU_OP_ADD_F64,    /* x is the bits of a double; old becomes those of the sum */
    PERCPU_OP_ADD_WITHIN, /* load_cbout_add_store: x is n, expect is low, x2 is span */
    PERCPU_OP_CBNE_STORE_STORE,
    PERCPU_OP_CBNE_MEMCPY_STORE,
    PERCPU_OP_LIST_PUSH,      /* x is the node's address */
    PERCPU_OP_LIST_POP,       /* old is the node's address */
    PERCPU_OP_LIST_POP_ALL,   /* old is the first node's address */
    PERCPU_OP_STACK_PUSH,     /* expect is the capacity */
    PERCPU_OP_STACK_POP,      /* old is the value popped */
    PERCPU_OP_STACK_TAKE_ALL, /* percpu_remote() alone: x is the address of room for all values,
                                 old how many there were */
};

struct percpu_op {
    enum percpu_opcode code;
    unsigned width; /* bytes of the word: 1, 2, 4 or 8 */
    percpu_ptr p;
    uint64_t x; /* the new value, addend, mask, node or value to push */
    uint64_t expect;
    size_t offset2; /* where the second store goes, from the start of the copy */
    uint64_t x2;
    uint64_t mask; /* which bits of the word are compared */
    const void *src;
    size_t size;  /* bytes at src */
    uint64_t old; /* out: the word before, zero-extended; or what the opcode says */
    void *copy;   /* out, after PERCPU_OP_ADD of 8 bytes: the copy that was worked on */
};

/* Do `op` on this thread's copy, however long it takes. Returns PERCPU_COMMITTED or PERCPU_UNEQUAL.
 * Async-signal-safe. */
PERCPU_API enum percpu_outcome percpu_slow(struct percpu_op *op) PERCPU_COLD;

/*
 * percpu_slow() for the inlined operations, in registers: handing over a struct would make the
 * compiler keep the pointer in memory on the fast path too. `what` is a PERCPU_WHAT(). For a word
 * the result is the old value. For a list or a stack it is whether it was done, and `*result`
 * (which may be NULL) is what was popped.
 */
#define PERCPU_WHAT(p, code, width) ((unsigned)(code) | (width) << 8 | (unsigned)(p).index << 16)
PERCPU_API uint64_t percpu_slow_word(char *base, size_t stride, unsigned what, uint64_t x,
                                     uint64_t expect) PERCPU_COLD;
PERCPU_API bool percpu_slow_section(char *base, size_t stride, unsigned what, uint64_t x,
                                    uint64_t expect, uint64_t *result) PERCPU_COLD;

/* The same for PERCPU_OP_ADD_WITHIN: returns whether it was done. */
PERCPU_API bool percpu_slow_add_within(char *base, size_t stride, size_t index, uint64_t mask,
                                       uint64_t low, uint64_t span, uint64_t n) PERCPU_COLD;

/* The copy that a thread would read whose id is not below the gate. */
PERCPU_API void *percpu_slow_copy(char *base, size_t stride, size_t index) PERCPU_COLD;

/*
 * Do `op` on the copy of CPU `cpu`, whoever runs there: see the gate in rseq.h. In mode none it is
 * an atomic. Costs microseconds and interrupts that CPU. Returns PERCPU_COMMITTED or
 * PERCPU_UNEQUAL. `cpu` must be below the number of copies. Async-signal-safe.
 */
PERCPU_API enum percpu_outcome percpu_remote(struct percpu_op *op, unsigned cpu);

/* percpu_remote() for a word: returns the old value. */
PERCPU_API uint64_t percpu_remote_word(percpu_ptr p, unsigned cpu, enum percpu_opcode code,
                                       unsigned width, uint64_t x, uint64_t expect);

#endif
