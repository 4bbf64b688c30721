/* SPDX-License-Identifier: MIT */
/* hot_add.c - the hot path alone, for a test that disassembles it. */
#include <percpu/this_cpu.h>

void hot_add(percpu_ptr p, int64_t n);

void hot_add(percpu_ptr p, int64_t n)
{
    percpu_this_add_i64(p, n);
}
