/* SPDX-License-Identifier: MIT */
/*
 * test_this_cpu.c - every operation of this_cpu.h, for every type, by cpu_id and by mm_cid.
 *
 * One thread. All copies start with the same value, so whichever copy the thread has, the answer
 * and the one changed copy are known. Every pair of values from a table of borders goes through
 * every operation, as variables (register operands) and, for the awkward ones, as constants
 * (immediate operands, where sign extension hides). Bytes around each copy must stay as they were.
 */
#define _GNU_SOURCE
#include <math.h>

#include <percpu/percpu.h>
#include "slow_word.h"
#include "threads.h"

/* One copy: the word, and what no operation may touch. */
struct copy {
    uint64_t before;
    uint64_t word;
    uint64_t after;
};
#define SENTINEL UINT64_C(0xa5a5a5a5a5a5a5a5)

static struct copy *copies;
static unsigned nr_cpus;
static percpu_ptr object;

static uint64_t mask_of(unsigned width)
{
    return width == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * width)) - 1;
}

/* Every copy becomes `value` in its low `width` bytes and the sentinel in the others. */
static void fill(unsigned width, uint64_t value)
{
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        copies[cpu].before = copies[cpu].after = SENTINEL;
        copies[cpu].word = (SENTINEL & ~mask_of(width)) | (value & mask_of(width));
    }
}

/* Exactly one copy went from `was` to `now`; nothing else changed. */
static bool one_changed(unsigned width, uint64_t was, uint64_t now)
{
    unsigned changed = 0;
    was = (SENTINEL & ~mask_of(width)) | (was & mask_of(width));
    now = (SENTINEL & ~mask_of(width)) | (now & mask_of(width));
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        if (copies[cpu].before != SENTINEL || copies[cpu].after != SENTINEL)
            return false;
        if (copies[cpu].word != was) {
            if (copies[cpu].word != now)
                return false;
            changed++;
        }
    }
    return changed == (was != now);
}

/* From `was`, `statement` makes one copy `now` and leaves all else alone. */
#define OP(W, was, statement, now)                                                                 \
    do {                                                                                           \
        fill(W / 8, (uint64_t)(was));                                                              \
        statement;                                                                                 \
        CHECK(one_changed(W / 8, (uint64_t)(was), (uint64_t)(now)));                               \
    } while (0)

/* Values where carries, signs and widths show. */
/* clang-format off */
static const uint64_t borders[] = {
    0, 1, 2, 7, 0x55, 0x7f, 0x80, 0x81, 0xaa, 0xfe, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x5555555555555555, 0x7fffffffffffffff,
    0x8000000000000000, 0xaaaaaaaaaaaaaaaa, 0xffffffff80000000, 0xfffffffffffffffe,
    0xffffffffffffffff,
};
/* clang-format on */
#define BORDERS (sizeof borders / sizeof borders[0])

/* The operations on one pair of values, and with one constant. */
#define TEST_PAIR(S, T, W)                                                                         \
    static void pair_##S(T v, T n)                                                                 \
    {                                                                                              \
        uint64_t a = (uint##W##_t)v, b = (uint##W##_t)n;                                           \
        OP(W, a, CHECK(percpu_this_read_##S(object) == v), a);                                     \
        OP(W, a, percpu_this_write_##S(object, n), b);                                             \
        OP(W, a, percpu_this_add_##S(object, n), a + b);                                           \
        OP(W, a, percpu_this_sub_##S(object, n), a - b);                                           \
        OP(W, a, CHECK(percpu_this_add_return_##S(object, n) == (T)(uint##W##_t)(a + b)), a + b);  \
        OP(W, a, CHECK(percpu_this_sub_return_##S(object, n) == (T)(uint##W##_t)(a - b)), a - b);  \
        T was = v;                                                                                 \
        OP(W, a, CHECK(percpu_this_try_cmpxchg_##S(object, &was, n) && was == v), b);              \
        was = n;                                                                                   \
        OP(W, a, CHECK(percpu_this_try_cmpxchg_##S(object, &was, (T)1) == (a == b) && was == v),   \
           a == b ? 1 : a);                                                                        \
        OP(W, a, CHECK(percpu_this_xchg_##S(object, n) == v), b);                                  \
        OP(W, a, CHECK(percpu_this_and_##S(object, n) == v), a &b);                                \
        OP(W, a, CHECK(percpu_this_or_##S(object, n) == v), a | b);                                \
        OP(W, a, CHECK(percpu_this_cmpxchg_##S(object, v, n) == v), b);                            \
        OP(W, a, CHECK(percpu_this_cmpxchg_##S(object, n, (T)1) == v), a == b ? 1 : a);            \
        unsigned cpu = (unsigned)(a ^ b) % nr_cpus;                                                \
        OP(W, a, CHECK(percpu_cpu_read_##S(object, cpu) == v), a);                                 \
        OP(W, a, percpu_cpu_write_##S(object, cpu, n), b);                                         \
        CHECK(percpu_cpu_read_##S(object, cpu) == n);                                              \
        OP(W, a, CHECK(percpu_cpu_xchg_##S(object, cpu, n) == v), b);                              \
        CHECK(percpu_cpu_read_##S(object, cpu) == n);                                              \
        OP(W, a, CHECK(percpu_cpu_add_return_##S(object, cpu, n) == (T)(uint##W##_t)(a + b)),      \
           a + b);                                                                                 \
        CHECK((uint##W##_t)percpu_cpu_read_##S(object, cpu) == (uint##W##_t)(a + b));              \
        OP(W, a, CHECK(percpu_cpu_cmpxchg_##S(object, cpu, v, n) == v), b);                        \
        OP(W, a, CHECK(percpu_cpu_cmpxchg_##S(object, cpu, n, (T)1) == v), a == b ? 1 : a);        \
    }

#define CONSTANT(S, W, a, c)                                                                       \
    do {                                                                                           \
        OP(W, a, percpu_this_add_##S(object, (c)), (a) + (uint64_t)(c));                           \
        OP(W, a, percpu_this_sub_##S(object, (c)), (a) - (uint64_t)(c));                           \
        OP(W, a, (void)percpu_this_add_return_##S(object, (c)), (a) + (uint64_t)(c));              \
        OP(W, a, percpu_this_write_##S(object, (c)), (uint64_t)(c));                               \
        OP(W, a, (void)percpu_this_xchg_##S(object, (c)), (uint64_t)(c));                          \
        OP(W, a, (void)percpu_this_and_##S(object, (c)), (a) & (uint64_t)(c));                     \
        OP(W, a, (void)percpu_this_or_##S(object, (c)), (a) | (uint64_t)(c));                      \
        OP(W, (uint64_t)(c), (void)percpu_this_cmpxchg_##S(object, (c), 3), 3);                    \
    } while (0)

#define TEST_CONSTANTS(S, T, W)                                                                    \
    static void constants_##S(uint64_t a)                                                          \
    {                                                                                              \
        CONSTANT(S, W, a, (T)-1);                                                                  \
        CONSTANT(S, W, a, (T)-128);                                                                \
        CONSTANT(S, W, a, (T)127);                                                                 \
        CONSTANT(S, W, a, (T)(UINT64_C(1) << (W - 1)));                                            \
        CONSTANT(S, W, a, (T)((UINT64_C(1) << (W - 1)) - 1));                                      \
        CONSTANT(S, W, a, (T)(UINT64_C(0xffffffff) & (UINT64_MAX >> (64 - W))));                   \
        CONSTANT(S, W, a, (T)(UINT64_C(0x80000000) & (UINT64_MAX >> (64 - W))));                   \
        OP(W, a, percpu_this_inc_##S(object), a + 1);                                              \
        OP(W, a, percpu_this_dec_##S(object), a - 1);                                              \
        OP(W, a, CHECK(percpu_this_inc_return_##S(object) == (T)(uint##W##_t)(a + 1)), a + 1);     \
        OP(W, a, CHECK(percpu_this_dec_return_##S(object) == (T)(uint##W##_t)(a - 1)), a - 1);     \
    }

#define TEST_INTEGER(S, T, W)                                                                      \
    TEST_PAIR(S, T, W)                                                                             \
    TEST_CONSTANTS(S, T, W)                                                                        \
    static void test_##S(void)                                                                     \
    {                                                                                              \
        for (size_t i = 0; i < BORDERS; i++) {                                                     \
            for (size_t j = 0; j < BORDERS; j++)                                                   \
                pair_##S((T)borders[i], (T)borders[j]);                                            \
            constants_##S(borders[i]);                                                             \
        }                                                                                          \
    }

TEST_INTEGER(i8, int8_t, 8)
TEST_INTEGER(u8, uint8_t, 8)
TEST_INTEGER(i16, int16_t, 16)
TEST_INTEGER(u16, uint16_t, 16)
TEST_INTEGER(i32, int32_t, 32)
TEST_INTEGER(u32, uint32_t, 32)
TEST_INTEGER(i64, int64_t, 64)
TEST_INTEGER(u64, uint64_t, 64)

/* Doubles compare by their bits, so that -0.0 and NaN count. */
#define BITS(x) percpu_f64_bits(x)

static void test_f64(void)
{
    static const double values[] = {0.0,   -0.0,    1.0,      -1.5,      0.1,
                                    1e300, -1e-300, INFINITY, -INFINITY, 4.9e-324};
    const size_t count = sizeof values / sizeof values[0];
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            double v = values[i], n = values[j], sum = v + n;
            if (sum != sum) /* which NaN it is depends on the order of the operands */
                continue;
            uint64_t a = BITS(v), b = BITS(n);
            OP(64, a, CHECK(BITS(percpu_this_read_f64(object)) == a), a);
            OP(64, a, percpu_this_write_f64(object, n), b);
            OP(64, a, percpu_this_add_f64(object, n), BITS(sum));
            OP(64, a, percpu_this_sub_f64(object, -n), BITS(sum));
            OP(64, a, CHECK(BITS(percpu_this_add_return_f64(object, n)) == BITS(sum)), BITS(sum));
            OP(64, a, CHECK(BITS(percpu_this_sub_return_f64(object, -n)) == BITS(sum)), BITS(sum));
            OP(64, a, CHECK(BITS(percpu_this_inc_return_f64(object)) == BITS(v + 1)), BITS(v + 1));
            OP(64, a, CHECK(BITS(percpu_this_dec_return_f64(object)) == BITS(v - 1)), BITS(v - 1));
            OP(64, a, CHECK(BITS(percpu_this_xchg_f64(object, n)) == a), b);
            OP(64, a, CHECK(BITS(percpu_this_cmpxchg_f64(object, v, n)) == a), b);
            double was = v;
            OP(64, a, CHECK(percpu_this_try_cmpxchg_f64(object, &was, n) && BITS(was) == a), b);
            was = n;
            OP(64, a, CHECK(percpu_this_try_cmpxchg_f64(object, &was, 7.0) == (a == b)),
               a == b ? BITS(7.0) : a);
            CHECK(BITS(was) == a);
            OP(64, a, CHECK(BITS(percpu_this_cmpxchg_f64(object, n, 7.0)) == a),
               a == b ? BITS(7.0) : a);
            unsigned cpu = (unsigned)(i + j) % nr_cpus;
            OP(64, a, percpu_cpu_write_f64(object, cpu, n), b);
            OP(64, a, CHECK(BITS(percpu_cpu_xchg_f64(object, cpu, n)) == a), b);
            OP(64, a, CHECK(BITS(percpu_cpu_add_return_f64(object, cpu, n)) == BITS(sum)),
               BITS(sum));
            OP(64, a, CHECK(BITS(percpu_cpu_cmpxchg_f64(object, cpu, v, n)) == a), b);
            CHECK(BITS(percpu_cpu_read_f64(object, cpu)) == b);
        }
        OP(64, BITS(values[i]), percpu_this_inc_f64(object), BITS(values[i] + 1.0));
        OP(64, BITS(values[i]), percpu_this_dec_f64(object), BITS(values[i] - 1.0));
    }
    OP(64, BITS(1.0), percpu_this_write_f64(object, NAN), BITS(NAN));
    OP(64, BITS(NAN), percpu_this_cmpxchg_f64(object, NAN, 2.0), BITS(2.0));
}

/* The slow path is one function for all types: the same table, straight into it. */
static void test_slow_words(void)
{
    for (unsigned width = 1; width <= 8; width *= 2) {
        for (size_t i = 0; i < BORDERS; i++) {
            for (size_t j = 0; j < BORDERS; j++) {
                uint64_t a = borders[i] & mask_of(width), b = borders[j] & mask_of(width);
                uint64_t e = (a ^ 1) & mask_of(width);
#define SLOW(code, x, expect, now)                                                                 \
    do {                                                                                           \
        fill(width, a);                                                                            \
        uint64_t old = slow_word(object, code, width, x, expect);                                  \
        CHECK(old == a || (code) == PERCPU_OP_STORE);                                              \
        CHECK(one_changed(width, a, now));                                                         \
    } while (0)
                SLOW(PERCPU_OP_STORE, b, 0, b);
                SLOW(PERCPU_OP_ADD, b, 0, a + b);
                SLOW(PERCPU_OP_AND, b, 0, a & b);
                SLOW(PERCPU_OP_OR, b, 0, a | b);
                SLOW(PERCPU_OP_XCHG, b, 0, b);
                SLOW(PERCPU_OP_CMPXCHG, b, a, b);
                SLOW(PERCPU_OP_CMPXCHG, b, e, a);
#undef SLOW
            }
        }
    }
    fill(8, BITS(1.5));
    uint64_t sum = slow_word(object, PERCPU_OP_ADD_F64, 8, BITS(2.25), 0);
    CHECK(sum == BITS(3.75) && one_changed(8, BITS(1.5), BITS(3.75)));
}

static void test_everything(void)
{
    test_i8();
    test_u8();
    test_i16();
    test_u16();
    test_i32();
    test_u32();
    test_i64();
    test_u64();
    test_f64();
    test_slow_words();
    unsigned former = percpu_set_max_attempts(0);
    test_slow_words();
    CHECK(percpu_set_max_attempts(former) == 0);
}

/* By cpu_id, a pinned thread has the copy of the CPU that it is pinned to. */
static void test_the_copy_is_that_of_the_cpu(void)
{
    unsigned visited = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        if (!pin(cpu))
            continue;
        visited++;
        fill(8, 5);
        CHECK(percpu_current_cpu() == (int)cpu);
        percpu_this_add_u64(object, 2);
        CHECK(copies[cpu].word == 7 && one_changed(8, 5, 7));
        CHECK(percpu_this_read_u64(object) == 7);
        CHECK(slow_word(object, PERCPU_OP_ADD, 8, 1, 0) == 7 && copies[cpu].word == 8);
        CHECK(percpu_this_xchg_u64(object, 9) == 8 && copies[cpu].word == 9);
    }
    CHECK(visited > 0);
}

int main(void)
{
    deadline(120);
    nr_cpus = percpu_nr_cpus();
    copies = map_copies(nr_cpus, sizeof *copies);
    object = (percpu_ptr){(char *)&copies->word, sizeof *copies, PERCPU_INDEX_CPU};
    CHECK(percpu_index_check(PERCPU_INDEX_CPU) == 0);
    test_everything();
    if (percpu_index_check(PERCPU_INDEX_CID) == 0) {
        object.index = PERCPU_INDEX_CID;
        test_everything();
    } else {
        CHECK(errno == ENOTSUP);
    }
    errno = 0;
    int cid = percpu_current_cid();
    CHECK(percpu_rseq_info()->mm_cid ? cid >= 0 : cid == -1 && errno == ENOTSUP);
    CHECK(percpu_index_check((enum percpu_index)8) == -1 && errno == EINVAL);
    object.index = PERCPU_INDEX_CPU;
    test_the_copy_is_that_of_the_cpu();
    return 0;
}
