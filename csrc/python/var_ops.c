/* SPDX-License-Identifier: MIT */
/*
 * var_ops.c - one table of operations per type code, made from this_cpu.h.
 */
#include "var_ops.h"

#include <percpu/this_cpu.h>
#include <percpu/topology.h>

/* Functions of type T with suffix S; TO and FROM convert to and from the 64 bits that travel. A
 * copy beyond this machine's CPUs belongs to no thread, so it needs no gate. */
#define COMMON(S, T, TO, FROM)                                                                     \
    static uint64_t read_##S(const percpu_ptr *p)                                                  \
    {                                                                                              \
        return TO(percpu_this_read_##S(*p));                                                       \
    }                                                                                              \
    static void write_##S(const percpu_ptr *p, uint64_t x)                                         \
    {                                                                                              \
        percpu_this_write_##S(*p, FROM(x));                                                        \
    }                                                                                              \
    static void add_##S(const percpu_ptr *p, uint64_t n)                                           \
    {                                                                                              \
        percpu_this_add_##S(*p, FROM(n));                                                          \
    }                                                                                              \
    static void sub_##S(const percpu_ptr *p, uint64_t n)                                           \
    {                                                                                              \
        percpu_this_sub_##S(*p, FROM(n));                                                          \
    }                                                                                              \
    static uint64_t add_return_##S(const percpu_ptr *p, uint64_t n)                                \
    {                                                                                              \
        return TO(percpu_this_add_return_##S(*p, FROM(n)));                                        \
    }                                                                                              \
    static uint64_t xchg_##S(const percpu_ptr *p, uint64_t x)                                      \
    {                                                                                              \
        return TO(percpu_this_xchg_##S(*p, FROM(x)));                                              \
    }                                                                                              \
    static uint64_t cmpxchg_##S(const percpu_ptr *p, uint64_t expect, uint64_t x)                  \
    {                                                                                              \
        return TO(percpu_this_cmpxchg_##S(*p, FROM(expect), FROM(x)));                             \
    }                                                                                              \
    static uint64_t get_##S(const percpu_ptr *p, unsigned cpu)                                     \
    {                                                                                              \
        return TO(percpu_cpu_read_##S(*p, cpu));                                                   \
    }                                                                                              \
    static void set_##S(const percpu_ptr *p, unsigned cpu, uint64_t x)                             \
    {                                                                                              \
        T value = FROM(x);                                                                         \
        if (cpu < percpu_nr_cpus())                                                                \
            percpu_cpu_write_##S(*p, cpu, value);                                                  \
        else                                                                                       \
            __atomic_store((T *)percpu_ptr_cpu(*p, cpu), &value, __ATOMIC_RELAXED);                \
    }

#define BITWISE(S)                                                                                 \
    static uint64_t and_##S(const percpu_ptr *p, uint64_t mask)                                    \
    {                                                                                              \
        return (uint64_t)percpu_this_and_##S(*p, mask);                                            \
    }                                                                                              \
    static uint64_t or_##S(const percpu_ptr *p, uint64_t mask)                                     \
    {                                                                                              \
        return (uint64_t)percpu_this_or_##S(*p, mask);                                             \
    }

#define INTEGER(S, T)                                                                              \
    COMMON(S, T, (uint64_t), (T))                                                                  \
    BITWISE(S)

INTEGER(i8, int8_t)
INTEGER(u8, uint8_t)
INTEGER(i16, int16_t)
INTEGER(u16, uint16_t)
INTEGER(i32, int32_t)
INTEGER(u32, uint32_t)
INTEGER(i64, int64_t)
INTEGER(u64, uint64_t)
COMMON(f64, double, percpu_f64_bits, percpu_f64_from_bits)

#define FUNCTIONS(S)                                                                               \
    .read = read_##S, .write = write_##S, .add = add_##S, .sub = sub_##S,                          \
    .add_return = add_return_##S, .xchg = xchg_##S, .cmpxchg = cmpxchg_##S, .get = get_##S,        \
    .set = set_##S

#define INTEGER_OPS(CODE, KIND, S, T, MIN, MAX)                                                    \
    {                                                                                              \
        .format = CODE, .of = " for code '" CODE "'", .kind = KIND, .width = sizeof(T),            \
        .min = MIN, .max = MAX, .one = 1, FUNCTIONS(S), .and_ = and_##S, .or_ = or_##S             \
    }

static const struct percpu_py_var_ops tables[] = {
    INTEGER_OPS("b", PERCPU_PY_SIGNED, i8, int8_t, INT8_MIN, INT8_MAX),
    INTEGER_OPS("B", PERCPU_PY_UNSIGNED, u8, uint8_t, 0, UINT8_MAX),
    INTEGER_OPS("h", PERCPU_PY_SIGNED, i16, int16_t, INT16_MIN, INT16_MAX),
    INTEGER_OPS("H", PERCPU_PY_UNSIGNED, u16, uint16_t, 0, UINT16_MAX),
    INTEGER_OPS("i", PERCPU_PY_SIGNED, i32, int32_t, INT32_MIN, INT32_MAX),
    INTEGER_OPS("I", PERCPU_PY_UNSIGNED, u32, uint32_t, 0, UINT32_MAX),
    INTEGER_OPS("q", PERCPU_PY_SIGNED, i64, int64_t, INT64_MIN, INT64_MAX),
    INTEGER_OPS("Q", PERCPU_PY_UNSIGNED, u64, uint64_t, 0, UINT64_MAX),
    {
        .format = "d",
        .of = " for code 'd'",
        .kind = PERCPU_PY_FLOAT,
        .width = sizeof(double),
        .one = UINT64_C(0x3ff0000000000000), /* the bits of 1.0 */
        FUNCTIONS(f64),
    },
};

const struct percpu_py_var_ops *percpu_py_var_ops_of(uint32_t code)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if ((unsigned char)tables[i].format[0] == code)
            return &tables[i];
    return NULL;
}
