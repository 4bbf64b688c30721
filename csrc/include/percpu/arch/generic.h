/* SPDX-License-Identifier: MIT */
/*
 * generic.h - arch.h on an architecture with no assembly of ours (or with PERCPU_ARCH_GENERIC).
 *
 * No attempt ever commits: each answers PERCPU_CLOSED, as a thread without rseq would, and the
 * slow path then works in mode none, with atomics. The prototypes are those of every other
 * implementation, so they cannot drift unseen: a test compiles and runs the core this way.
 */
#ifndef PERCPU_ARCH_GENERIC_H
#define PERCPU_ARCH_GENERIC_H

#include <errno.h>

/* There is nothing to register with: mode none. */
#define PERCPU_RSEQ_SIGNATURE 0

#define PERCPU_GENERIC_WORD(W)                                                                     \
    PERCPU_INLINE enum percpu_outcome percpu_cs_store_u##W(percpu_ptr p, uint##W##_t x)            \
    {                                                                                              \
        (void)p, (void)x;                                                                          \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_add_store_u##W(percpu_ptr p, uint##W##_t n)        \
    {                                                                                              \
        (void)p, (void)n;                                                                          \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_u##W(percpu_ptr p, uint##W##_t n,   \
                                                                    uint##W##_t *old)              \
    {                                                                                              \
        (void)p, (void)n, (void)old;                                                               \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_and_store_u##W(percpu_ptr p, uint##W##_t m,   \
                                                                    uint##W##_t *old)              \
    {                                                                                              \
        (void)p, (void)m, (void)old;                                                               \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_or_store_u##W(percpu_ptr p, uint##W##_t m,    \
                                                                   uint##W##_t *old)               \
    {                                                                                              \
        (void)p, (void)m, (void)old;                                                               \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_store_u##W(percpu_ptr p, uint##W##_t x,       \
                                                                uint##W##_t *old)                  \
    {                                                                                              \
        (void)p, (void)x, (void)old;                                                               \
        return PERCPU_CLOSED;                                                                      \
    }                                                                                              \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_u##W(                              \
        percpu_ptr p, uint##W##_t expect, uint##W##_t x, uint##W##_t *old)                         \
    {                                                                                              \
        (void)p, (void)expect, (void)x, (void)old;                                                 \
        return PERCPU_CLOSED;                                                                      \
    }

PERCPU_GENERIC_WORD(8)
PERCPU_GENERIC_WORD(16)
PERCPU_GENERIC_WORD(32)
PERCPU_GENERIC_WORD(64)
#undef PERCPU_GENERIC_WORD

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_f64(percpu_ptr p, double n, double *sum)
{
    (void)p, (void)n, (void)sum;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_at(percpu_ptr p, uint64_t n,
                                                              uint64_t *sum, void **copy)
{
    (void)p, (void)n, (void)sum, (void)copy;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_at(percpu_ptr p, uint64_t expect,
                                                               uint64_t x, void **copy)
{
    (void)p, (void)expect, (void)x, (void)copy;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_store(percpu_ptr p, uint64_t expect,
                                                                  uint64_t x, size_t offset2,
                                                                  uint64_t x2)
{
    (void)p, (void)expect, (void)x, (void)offset2, (void)x2;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_memcpy_store(percpu_ptr p, uint64_t expect,
                                                                   uint64_t x, size_t offset2,
                                                                   const void *src, size_t n)
{
    (void)p, (void)expect, (void)x, (void)offset2, (void)src, (void)n;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbout_add_store(percpu_ptr p, uint64_t mask,
                                                                 uint64_t low, uint64_t span,
                                                                 uint64_t n)
{
    (void)p, (void)mask, (void)low, (void)span, (void)n;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_push(percpu_ptr p, void *node)
{
    (void)p, (void)node;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_pop(percpu_ptr p, void **node)
{
    (void)p, (void)node;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_push(percpu_ptr p, uint64_t x, uint64_t capacity)
{
    (void)p, (void)x, (void)capacity;
    return PERCPU_CLOSED;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_pop(percpu_ptr p, uint64_t *x)
{
    (void)p, (void)x;
    return PERCPU_CLOSED;
}

PERCPU_INLINE uint32_t percpu_cs_id(size_t index)
{
    (void)index;
    return UINT32_MAX;
}

PERCPU_INLINE uintptr_t percpu_thread_pointer(void)
{
    return (uintptr_t)&errno;
}

PERCPU_INLINE void percpu_own_add_u64(uint64_t *word, uint64_t n)
{
    __atomic_fetch_add(word, n, __ATOMIC_RELAXED);
}

PERCPU_INLINE void percpu_cpu_relax(void)
{
    __asm__ __volatile__("" ::: "memory");
}

#endif
