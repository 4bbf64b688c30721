/* SPDX-License-Identifier: MIT */
/* hot_add.c - the hot path alone, for a test that disassembles it. */
#include <percpu/this_cpu.h>

void hot_add(char *base, size_t stride, size_t index, int64_t n);

void hot_add(char *base, size_t stride, size_t index, int64_t n)
{
    percpu_this_add_i64((percpu_ptr){base, stride, index}, n);
}
