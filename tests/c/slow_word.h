/* SPDX-License-Identifier: MIT */
/* slow_word.h - straight into the slow path, which the inlined operations seldom take. */
#ifndef TEST_SLOW_WORD_H
#define TEST_SLOW_WORD_H

#include <percpu/slow.h>

static inline uint64_t slow_word(percpu_ptr p, enum percpu_opcode code, unsigned width, uint64_t x,
                                 uint64_t expect)
{
    return percpu_slow_word(p.base, p.stride, PERCPU_WHAT(p, code, width), x, expect);
}

#endif
