/* SPDX-License-Identifier: MIT */
/*
 * platform.h - what every other header needs from the compiler.
 *
 * PERCPU_API marks a symbol that code outside the core may link to. Inside the core the symbol is
 * `protected`: exported, yet reached without a detour through the global offset table.
 */
#ifndef PERCPU_PLATFORM_H
#define PERCPU_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#error "percpu's headers are C: call them from a .c file, and that from C++"
#endif
#if !defined(__linux__)
#error "percpu needs Linux: restartable sequences and membarrier are Linux system calls"
#endif
#if !defined(__GNUC__)
#error "percpu needs gcc >= 11 or clang >= 14: asm goto with outputs"
#endif
_Static_assert(sizeof(void *) == 8, "percpu needs a 64-bit process");

#ifdef PERCPU_BUILDING_CORE
#define PERCPU_API __attribute__((visibility("protected")))
#else
#define PERCPU_API __attribute__((visibility("default")))
#endif

#define percpu_likely(x) __builtin_expect(!!(x), 1)
#define percpu_unlikely(x) __builtin_expect(!!(x), 0)
#define PERCPU_COLD __attribute__((cold, noinline))
#define PERCPU_INLINE static inline __attribute__((always_inline, unused))

/* Bytes between two words that different CPUs write, to keep them off one cache line. */
#define PERCPU_CACHE_LINE 64

#endif
