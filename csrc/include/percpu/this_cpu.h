/* SPDX-License-Identifier: MIT */
/*
 * this_cpu.h - the kernel's this_cpu_*() vocabulary: operations on this CPU's copy of a word.
 *
 * For each type T with suffix S, one of (i8 u8 i16 u16 i32 u32 i64 u64 f64):
 *
 *   T    percpu_this_read_S(p)              the value
 *   void percpu_this_write_S(p, x)          v = x
 *   void percpu_this_add_S(p, n)            v += n
 *   void percpu_this_sub_S(p, n)            v -= n
 *   void percpu_this_inc_S(p)               v += 1
 *   void percpu_this_dec_S(p)               v -= 1
 *   T    percpu_this_add_return_S(p, n)     v += n, returns the new v
 *   T    percpu_this_sub_return_S(p, n)     v -= n, returns the new v
 *   T    percpu_this_inc_return_S(p)        v += 1, returns the new v
 *   T    percpu_this_dec_return_S(p)        v -= 1, returns the new v
 *   T    percpu_this_xchg_S(p, x)           returns the old v, v = x
 *   T    percpu_this_cmpxchg_S(p, e, x)     returns the old v; v = x if it was e
 *                                           (f64: if its bits were those of e)
 *   bool percpu_this_try_cmpxchg_S(p, &e, x)   the same; returns whether v was e, and stores the
 *                                           old v in e if not
 *   T    percpu_this_and_S(p, m)            v &= m, returns the old v    (not f64)
 *   T    percpu_this_or_S(p, m)             v |= m, returns the old v    (not f64)
 *
 *   T    percpu_cpu_read_S(p, cpu)          that CPU's copy; always allowed
 *   void percpu_cpu_write_S(p, cpu, x)      through the gate: microseconds
 *   T    percpu_cpu_xchg_S(p, cpu, x)
 *   T    percpu_cpu_add_return_S(p, cpu, n)
 *   T    percpu_cpu_cmpxchg_S(p, cpu, e, x)
 *
 * Arithmetic is modulo 2^W, whatever the sign. `p` must point to an object of T, aligned to its
 * size, with at least percpu_nr_cpus() copies; `cpu` must be below the number of copies. Nothing
 * here fails, takes a lock on the fast path, or orders other memory. All are thread-safe and
 * async-signal-safe. Which CPU it was may be out of date when the call returns.
 */
#ifndef PERCPU_THIS_CPU_H
#define PERCPU_THIS_CPU_H

#include "arch.h"
#include "platform.h"
#include "ptr.h"
#include "slow.h"

/* The copy to read: the one of the CPU that this thread ran on at some instant of the call. */
PERCPU_INLINE void *percpu_this_copy(percpu_ptr p)
{
    uint32_t id = percpu_cs_id(p.index);
    if (percpu_likely(id < __atomic_load_n(&percpu_runtime.limit, __ATOMIC_RELAXED)))
        return p.base + id * p.stride;
    return percpu_slow_copy(p.base, p.stride, p.index);
}

/* A double as the 64-bit word that it is stored as, and back. */
PERCPU_INLINE uint64_t percpu_f64_bits(double x)
{
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

PERCPU_INLINE double percpu_f64_from_bits(uint64_t bits)
{
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

#define PERCPU_SLOW_WORD(p, code, width, x, expect)                                                \
    percpu_slow_word((p).base, (p).stride, PERCPU_WHAT(p, code, width), x, expect)

/* T is stored as the unsigned word of W bits that TO_WORD makes of it. */
#define PERCPU_THIS_COMMON(S, T, W, TO_WORD, FROM_WORD)                                            \
    PERCPU_INLINE T percpu_this_read_##S(percpu_ptr p)                                             \
    {                                                                                              \
        return FROM_WORD(                                                                          \
            __atomic_load_n((const uint##W##_t *)percpu_this_copy(p), __ATOMIC_RELAXED));          \
    }                                                                                              \
    PERCPU_INLINE void percpu_this_write_##S(percpu_ptr p, T x)                                    \
    {                                                                                              \
        if (percpu_unlikely(percpu_cs_store_u##W(p, TO_WORD(x)) != PERCPU_COMMITTED))              \
            PERCPU_SLOW_WORD(p, PERCPU_OP_STORE, W / 8, TO_WORD(x), 0);                            \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_xchg_##S(percpu_ptr p, T x)                                        \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        if (percpu_unlikely(percpu_cs_load_store_u##W(p, TO_WORD(x), &old) != PERCPU_COMMITTED))   \
            old = (uint##W##_t)PERCPU_SLOW_WORD(p, PERCPU_OP_XCHG, W / 8, TO_WORD(x), 0);          \
        return FROM_WORD(old);                                                                     \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_cmpxchg_##S(percpu_ptr p, T expect, T x)                           \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        if (percpu_unlikely(percpu_cs_load_cbne_store_u##W(p, TO_WORD(expect), TO_WORD(x), &old) > \
                            PERCPU_UNEQUAL))                                                       \
            old = (uint##W##_t)PERCPU_SLOW_WORD(p, PERCPU_OP_CMPXCHG, W / 8, TO_WORD(x),           \
                                                TO_WORD(expect));                                  \
        return FROM_WORD(old);                                                                     \
    }                                                                                              \
    PERCPU_INLINE bool percpu_this_try_cmpxchg_##S(percpu_ptr p, T *expect, T x)                   \
    {                                                                                              \
        T old = percpu_this_cmpxchg_##S(p, *expect, x);                                            \
        bool same = TO_WORD(old) == TO_WORD(*expect);                                              \
        *expect = old;                                                                             \
        return same;                                                                               \
    }                                                                                              \
    PERCPU_INLINE T percpu_cpu_read_##S(percpu_ptr p, unsigned cpu)                                \
    {                                                                                              \
        return FROM_WORD(                                                                          \
            __atomic_load_n((const uint##W##_t *)percpu_ptr_cpu(p, cpu), __ATOMIC_RELAXED));       \
    }                                                                                              \
    PERCPU_INLINE void percpu_cpu_write_##S(percpu_ptr p, unsigned cpu, T x)                       \
    {                                                                                              \
        percpu_remote_word(p, cpu, PERCPU_OP_STORE, W / 8, TO_WORD(x), 0);                         \
    }                                                                                              \
    PERCPU_INLINE T percpu_cpu_xchg_##S(percpu_ptr p, unsigned cpu, T x)                           \
    {                                                                                              \
        return FROM_WORD(                                                                          \
            (uint##W##_t)percpu_remote_word(p, cpu, PERCPU_OP_XCHG, W / 8, TO_WORD(x), 0));        \
    }                                                                                              \
    PERCPU_INLINE T percpu_cpu_cmpxchg_##S(percpu_ptr p, unsigned cpu, T expect, T x)              \
    {                                                                                              \
        return FROM_WORD((uint##W##_t)percpu_remote_word(p, cpu, PERCPU_OP_CMPXCHG, W / 8,         \
                                                         TO_WORD(x), TO_WORD(expect)));            \
    }                                                                                              \
    PERCPU_INLINE void percpu_this_inc_##S(percpu_ptr p)                                           \
    {                                                                                              \
        percpu_this_add_##S(p, (T)1);                                                              \
    }                                                                                              \
    PERCPU_INLINE void percpu_this_dec_##S(percpu_ptr p)                                           \
    {                                                                                              \
        percpu_this_add_##S(p, (T)-1);                                                             \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_inc_return_##S(percpu_ptr p)                                       \
    {                                                                                              \
        return percpu_this_add_return_##S(p, (T)1);                                                \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_dec_return_##S(percpu_ptr p)                                       \
    {                                                                                              \
        return percpu_this_add_return_##S(p, (T)-1);                                               \
    }

#define PERCPU_THIS_INTEGER(S, T, W)                                                               \
    PERCPU_INLINE void percpu_this_add_##S(percpu_ptr p, T n)                                      \
    {                                                                                              \
        if (percpu_unlikely(percpu_cs_add_store_u##W(p, (uint##W##_t)n) != PERCPU_COMMITTED))      \
            PERCPU_SLOW_WORD(p, PERCPU_OP_ADD, W / 8, (uint##W##_t)n, 0);                          \
    }                                                                                              \
    PERCPU_INLINE void percpu_this_sub_##S(percpu_ptr p, T n)                                      \
    {                                                                                              \
        percpu_this_add_##S(p, (T)(0 - (uint##W##_t)n));                                           \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_add_return_##S(percpu_ptr p, T n)                                  \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        if (percpu_unlikely(percpu_cs_load_add_store_u##W(p, (uint##W##_t)n, &old) !=              \
                            PERCPU_COMMITTED))                                                     \
            old = (uint##W##_t)PERCPU_SLOW_WORD(p, PERCPU_OP_ADD, W / 8, (uint##W##_t)n, 0);       \
        return (T)(uint##W##_t)(old + (uint##W##_t)n);                                             \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_sub_return_##S(percpu_ptr p, T n)                                  \
    {                                                                                              \
        return percpu_this_add_return_##S(p, (T)(0 - (uint##W##_t)n));                             \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_and_##S(percpu_ptr p, T m)                                         \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        if (percpu_unlikely(percpu_cs_load_and_store_u##W(p, (uint##W##_t)m, &old) !=              \
                            PERCPU_COMMITTED))                                                     \
            old = (uint##W##_t)PERCPU_SLOW_WORD(p, PERCPU_OP_AND, W / 8, (uint##W##_t)m, 0);       \
        return (T)old;                                                                             \
    }                                                                                              \
    PERCPU_INLINE T percpu_this_or_##S(percpu_ptr p, T m)                                          \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        if (percpu_unlikely(percpu_cs_load_or_store_u##W(p, (uint##W##_t)m, &old) !=               \
                            PERCPU_COMMITTED))                                                     \
            old = (uint##W##_t)PERCPU_SLOW_WORD(p, PERCPU_OP_OR, W / 8, (uint##W##_t)m, 0);        \
        return (T)old;                                                                             \
    }                                                                                              \
    PERCPU_INLINE T percpu_cpu_add_return_##S(percpu_ptr p, unsigned cpu, T n)                     \
    {                                                                                              \
        return (T)(uint##W##_t)(                                                                   \
            percpu_remote_word(p, cpu, PERCPU_OP_ADD, W / 8, (uint##W##_t)n, 0) + (uint##W##_t)n); \
    }                                                                                              \
    PERCPU_THIS_COMMON(S, T, W, (uint##W##_t), (T))

PERCPU_THIS_INTEGER(i8, int8_t, 8)
PERCPU_THIS_INTEGER(u8, uint8_t, 8)
PERCPU_THIS_INTEGER(i16, int16_t, 16)
PERCPU_THIS_INTEGER(u16, uint16_t, 16)
PERCPU_THIS_INTEGER(i32, int32_t, 32)
PERCPU_THIS_INTEGER(u32, uint32_t, 32)
PERCPU_THIS_INTEGER(i64, int64_t, 64)
PERCPU_THIS_INTEGER(u64, uint64_t, 64)

PERCPU_INLINE double percpu_this_add_return_f64(percpu_ptr p, double n)
{
    double sum;
    if (percpu_unlikely(percpu_cs_load_add_store_f64(p, n, &sum) != PERCPU_COMMITTED))
        sum = percpu_f64_from_bits(
            PERCPU_SLOW_WORD(p, PERCPU_OP_ADD_F64, 8, percpu_f64_bits(n), 0));
    return sum;
}

PERCPU_INLINE void percpu_this_add_f64(percpu_ptr p, double n)
{
    (void)percpu_this_add_return_f64(p, n);
}

PERCPU_INLINE double percpu_this_sub_return_f64(percpu_ptr p, double n)
{
    return percpu_this_add_return_f64(p, -n);
}

PERCPU_INLINE void percpu_this_sub_f64(percpu_ptr p, double n)
{
    percpu_this_add_f64(p, -n);
}

PERCPU_INLINE double percpu_cpu_add_return_f64(percpu_ptr p, unsigned cpu, double n)
{
    return percpu_f64_from_bits(
        percpu_remote_word(p, cpu, PERCPU_OP_ADD_F64, 8, percpu_f64_bits(n), 0));
}

PERCPU_THIS_COMMON(f64, double, 64, percpu_f64_bits, percpu_f64_from_bits)

#undef PERCPU_THIS_INTEGER
#undef PERCPU_THIS_COMMON
#undef PERCPU_SLOW_WORD

#endif
