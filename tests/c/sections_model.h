/* SPDX-License-Identifier: MIT */
/*
 * sections_model.h - every section of arch.h as a row of one table, and their pseudo-code as one
 * function, for test_sections_plain.c.
 */
#ifndef TEST_SECTIONS_MODEL_H
#define TEST_SECTIONS_MODEL_H

#include <string.h>

#include <percpu/arch.h>

enum kind {
    STORE,
    ADD,
    LOAD_ADD,
    LOAD_AND,
    LOAD_OR,
    LOAD_STORE,
    CBNE,
    ADD_F64,
    ADD_AT,
    CBNE_AT,
    STORE_STORE,
    MEMCPY,
    ADD_WITHIN,
    LIST_PUSH,
    LIST_POP,
    STACK_PUSH,
    STACK_POP,
};

/* Arguments and results of any section. */
struct args {
    uint64_t v;      /* the word at first */
    uint64_t x;      /* the new value, addend, mask, node, or value to push */
    uint64_t expect; /* or the capacity, or the low end of a range */
    size_t offset2;  /* of the second store, or of the node that lies in the copy */
    uint64_t x2;     /* or the span of a range */
    uint64_t mask;   /* of what is compared with a range */
    const void *src;
    size_t size;
    uint64_t old; /* out: the old value, the sum, or what was popped */
    void *copy;   /* out */
};

struct section {
    const char *name;
    enum kind kind;
    unsigned width; /* bytes of the word */
    enum percpu_outcome (*run)(percpu_ptr p, struct args *a);
    const uint64_t *constant; /* from which `run` takes its arguments (args_of()); or NULL */
};

static inline uint64_t narrow(uint64_t x, unsigned width)
{
    return width == 8 ? x : x & ((UINT64_C(1) << 8 * width) - 1);
}

/* Results are stored only where the contract defines them: elsewhere both sides keep what they
 * started with. */
static inline bool finished(enum percpu_outcome outcome)
{
    return outcome == PERCPU_COMMITTED || outcome == PERCPU_UNEQUAL;
}

/* ---- words: seven sections of four widths, with variables and with constants ---------------- */

#define RUN_PLAIN(W, tag, name, section, X)                                                        \
    static enum percpu_outcome run_##name##_##tag##W(percpu_ptr p, struct args *a)                 \
    {                                                                                              \
        (void)a;                                                                                   \
        return percpu_cs_##section##_u##W(p, (uint##W##_t)(X));                                    \
    }
#define RUN_FETCH(W, tag, name, section, ...)                                                      \
    static enum percpu_outcome run_##name##_##tag##W(percpu_ptr p, struct args *a)                 \
    {                                                                                              \
        uint##W##_t old;                                                                           \
        enum percpu_outcome outcome = percpu_cs_##section##_u##W(p, __VA_ARGS__, &old);            \
        if (finished(outcome))                                                                     \
            a->old = old;                                                                          \
        return outcome;                                                                            \
    }
#define RUN_WORDS(W, tag, X, EXPECT)                                                               \
    RUN_PLAIN(W, tag, store, store, X)                                                             \
    RUN_PLAIN(W, tag, add, add_store, X)                                                           \
    RUN_FETCH(W, tag, load_add, load_add_store, (uint##W##_t)(X))                                  \
    RUN_FETCH(W, tag, load_and, load_and_store, (uint##W##_t)(X))                                  \
    RUN_FETCH(W, tag, load_or, load_or_store, (uint##W##_t)(X))                                    \
    RUN_FETCH(W, tag, load_store, load_store, (uint##W##_t)(X))                                    \
    RUN_FETCH(W, tag, cbne, load_cbne_store, (uint##W##_t)(EXPECT), (uint##W##_t)(X))
#define WORD_ROWS(W, tag, constant)                                                                \
    {"store " #tag #W, STORE, W / 8, run_store_##tag##W, constant},                                \
        {"add " #tag #W, ADD, W / 8, run_add_##tag##W, constant},                                  \
        {"load_add " #tag #W, LOAD_ADD, W / 8, run_load_add_##tag##W, constant},                   \
        {"load_and " #tag #W, LOAD_AND, W / 8, run_load_and_##tag##W, constant},                   \
        {"load_or " #tag #W, LOAD_OR, W / 8, run_load_or_##tag##W, constant},                      \
        {"load_store " #tag #W, LOAD_STORE, W / 8, run_load_store_##tag##W, constant},             \
        {"cbne " #tag #W, CBNE, W / 8, run_cbne_##tag##W, constant},

RUN_WORDS(8, u, a->x, a->expect)
RUN_WORDS(16, u, a->x, a->expect)
RUN_WORDS(32, u, a->x, a->expect)
RUN_WORDS(64, u, a->x, a->expect)

/* Values of `expect` that a compiler makes immediate operands of, or only just not; the value or
 * its complement is x. */
#define CONSTANTS(_)                                                                               \
    _(zero_u, 0)                                                                                   \
    _(one_u, 1)                                                                                    \
    _(i8_max_u, 0x7f)                                                                              \
    _(i8_min_u, 0x80)                                                                              \
    _(u8_max_u, 0xff)                                                                              \
    _(u12_max_u, 0xfff)                                                                            \
    _(u12_over_u, 0x1000)                                                                          \
    _(i16_max_u, 0x7fff)                                                                           \
    _(u16_max_u, 0xffff)                                                                           \
    _(i32_max_u, 0x7fffffff)                                                                       \
    _(i32_over_u, 0x80000000)                                                                      \
    _(u32_max_u, 0xffffffff)                                                                       \
    _(u32_over_u, 0x100000000)                                                                     \
    _(i64_max_u, 0x7fffffffffffffff)

/* The same with all arguments of a range made of one value. */
#define RUN_WITHIN(tag, C)                                                                         \
    static enum percpu_outcome run_within_##tag(percpu_ptr p, struct args *a)                      \
    {                                                                                              \
        (void)a;                                                                                   \
        return percpu_cs_load_cbout_add_store(p, C, C, ~(C) | 1, ~(C));                            \
    }

static inline struct args args_of(uint64_t constant)
{
    return (struct args){.x = ~constant, .expect = constant, .x2 = ~constant | 1, .mask = constant};
}

#define RUN_CONSTANT(tag, value)                                                                   \
    static const uint64_t constant_##tag = UINT64_C(value);                                        \
    static const uint64_t constant_not_##tag = ~UINT64_C(value);                                   \
    RUN_WORDS(8, tag, ~UINT64_C(value), UINT64_C(value))                                           \
    RUN_WORDS(16, tag, ~UINT64_C(value), UINT64_C(value))                                          \
    RUN_WORDS(32, tag, ~UINT64_C(value), UINT64_C(value))                                          \
    RUN_WORDS(64, tag, ~UINT64_C(value), UINT64_C(value))                                          \
    RUN_WORDS(8, not_##tag, UINT64_C(value), ~UINT64_C(value))                                     \
    RUN_WORDS(16, not_##tag, UINT64_C(value), ~UINT64_C(value))                                    \
    RUN_WORDS(32, not_##tag, UINT64_C(value), ~UINT64_C(value))                                    \
    RUN_WORDS(64, not_##tag, UINT64_C(value), ~UINT64_C(value))                                    \
    RUN_WITHIN(tag, UINT64_C(value))                                                               \
    RUN_WITHIN(not_##tag, ~UINT64_C(value))
CONSTANTS(RUN_CONSTANT)

#define CONSTANT_ROWS(tag, value)                                                                  \
    WORD_ROWS(8, tag, &constant_##tag)                                                             \
    WORD_ROWS(16, tag, &constant_##tag)                                                            \
    WORD_ROWS(32, tag, &constant_##tag)                                                            \
    WORD_ROWS(64, tag, &constant_##tag)                                                            \
    WORD_ROWS(8, not_##tag, &constant_not_##tag)                                                   \
    WORD_ROWS(16, not_##tag, &constant_not_##tag)                                                  \
    WORD_ROWS(32, not_##tag, &constant_not_##tag)                                                  \
    WORD_ROWS(64, not_##tag, &constant_not_##tag){"within " #tag, ADD_WITHIN, 8, run_within_##tag, \
                                                  &constant_##tag},                                \
        {"within not_" #tag, ADD_WITHIN, 8, run_within_not_##tag, &constant_not_##tag},

/* ---- the others ----------------------------------------------------------------------------- */

static enum percpu_outcome run_add_f64(percpu_ptr p, struct args *a)
{
    double n, sum;
    memcpy(&n, &a->x, sizeof n);
    enum percpu_outcome outcome = percpu_cs_load_add_store_f64(p, n, &sum);
    if (finished(outcome))
        memcpy(&a->old, &sum, sizeof sum);
    return outcome;
}

static enum percpu_outcome run_add_at(percpu_ptr p, struct args *a)
{
    return percpu_cs_load_add_store_at(p, a->x, &a->old, &a->copy);
}

static enum percpu_outcome run_cbne_at(percpu_ptr p, struct args *a)
{
    return percpu_cs_load_cbne_store_at(p, a->expect, a->x, &a->copy);
}

static enum percpu_outcome run_store_store(percpu_ptr p, struct args *a)
{
    return percpu_cs_load_cbne_store_store(p, a->expect, a->x, a->offset2, a->x2);
}

static enum percpu_outcome run_memcpy(percpu_ptr p, struct args *a)
{
    return percpu_cs_load_cbne_memcpy_store(p, a->expect, a->x, a->offset2, a->src, a->size);
}

static enum percpu_outcome run_within(percpu_ptr p, struct args *a)
{
    return percpu_cs_load_cbout_add_store(p, a->mask, a->expect, a->x2, a->x);
}

static enum percpu_outcome run_list_push(percpu_ptr p, struct args *a)
{
    return percpu_cs_list_push(p, (void *)(uintptr_t)a->x);
}

static enum percpu_outcome run_list_pop(percpu_ptr p, struct args *a)
{
    void *node;
    enum percpu_outcome outcome = percpu_cs_list_pop(p, &node);
    if (finished(outcome))
        a->old = (uintptr_t)node;
    return outcome;
}

static enum percpu_outcome run_stack_push(percpu_ptr p, struct args *a)
{
    return percpu_cs_stack_push(p, a->x, a->expect);
}

static enum percpu_outcome run_stack_pop(percpu_ptr p, struct args *a)
{
    uint64_t x;
    enum percpu_outcome outcome = percpu_cs_stack_pop(p, &x);
    if (outcome == PERCPU_COMMITTED)
        a->old = x;
    return outcome;
}

static const struct section sections[] = {
    WORD_ROWS(8, u, NULL) WORD_ROWS(16, u, NULL) WORD_ROWS(32, u, NULL) WORD_ROWS(64, u, NULL)
        CONSTANTS(CONSTANT_ROWS){"add_f64", ADD_F64, 8, run_add_f64, NULL},
    {"add_at", ADD_AT, 8, run_add_at, NULL},
    {"cbne_at", CBNE_AT, 8, run_cbne_at, NULL},
    {"store_store", STORE_STORE, 8, run_store_store, NULL},
    {"memcpy", MEMCPY, 8, run_memcpy, NULL},
    {"within", ADD_WITHIN, 8, run_within, NULL},
    {"list_push", LIST_PUSH, 8, run_list_push, NULL},
    {"list_pop", LIST_POP, 8, run_list_pop, NULL},
    {"stack_push", STACK_PUSH, 8, run_stack_push, NULL},
    {"stack_pop", STACK_POP, 8, run_stack_pop, NULL},
};

/* ---- pseudo-code ---------------------------------------------------------------------------- */

static inline uint64_t get_word(const void *at, unsigned width)
{
    uint8_t w1;
    uint16_t w2;
    uint32_t w4;
    uint64_t w8;
    switch (width) {
    case 1:
        return memcpy(&w1, at, 1), w1;
    case 2:
        return memcpy(&w2, at, 2), w2;
    case 4:
        return memcpy(&w4, at, 4), w4;
    default:
        return memcpy(&w8, at, 8), w8;
    }
}

static inline void put_word(void *at, unsigned width, uint64_t x)
{
    uint8_t w1 = (uint8_t)x;
    uint16_t w2 = (uint16_t)x;
    uint32_t w4 = (uint32_t)x;
    switch (width) {
    case 1:
        memcpy(at, &w1, 1);
        break;
    case 2:
        memcpy(at, &w2, 2);
        break;
    case 4:
        memcpy(at, &w4, 4);
        break;
    default:
        memcpy(at, &x, 8);
    }
}

static inline uint64_t add_doubles(uint64_t v, uint64_t n)
{
    double a, b, sum;
    memcpy(&a, &v, 8);
    memcpy(&b, &n, 8);
    sum = a + b;
    memcpy(&v, &sum, 8);
    return v;
}

/* Run `section` on the object at `word`, whose real address is `copy`. */
static inline enum percpu_outcome model(const struct section *section, char *word, void *copy,
                                        struct args *a)
{
    unsigned width = section->width;
    uint64_t v = get_word(word, width), x = narrow(a->x, width);
    uint64_t expect = narrow(a->expect, width);
    switch (section->kind) {
    case STORE:
        put_word(word, width, x);
        return PERCPU_COMMITTED;
    case ADD:
        put_word(word, width, v + x);
        return PERCPU_COMMITTED;
    case LOAD_ADD:
        a->old = v;
        put_word(word, width, v + x);
        return PERCPU_COMMITTED;
    case LOAD_AND:
        a->old = v;
        put_word(word, width, v & x);
        return PERCPU_COMMITTED;
    case LOAD_OR:
        a->old = v;
        put_word(word, width, v | x);
        return PERCPU_COMMITTED;
    case LOAD_STORE:
        a->old = v;
        put_word(word, width, x);
        return PERCPU_COMMITTED;
    case CBNE:
        a->old = v;
        break;
    case ADD_F64:
        a->old = add_doubles(v, x);
        put_word(word, 8, a->old);
        return PERCPU_COMMITTED;
    case ADD_AT:
        a->old = v + x;
        a->copy = copy;
        put_word(word, 8, v + x);
        return PERCPU_COMMITTED;
    case CBNE_AT:
        a->copy = copy;
        break;
    case STORE_STORE:
        if (v == expect)
            put_word(word + a->offset2, 8, a->x2);
        break;
    case MEMCPY:
        if (v == expect)
            memcpy(word + a->offset2, a->src, a->size);
        break;
    case ADD_WITHIN:
        if ((v & a->mask) - expect >= a->x2)
            return PERCPU_UNEQUAL;
        put_word(word, 8, v + x);
        return PERCPU_COMMITTED;
    case LIST_PUSH:
        put_word(word + a->offset2, 8, v);
        put_word(word, 8, x);
        return PERCPU_COMMITTED;
    case LIST_POP:
        a->old = v;
        if (v == 0)
            return PERCPU_UNEQUAL;
        put_word(word, 8, get_word(word + a->offset2, 8));
        return PERCPU_COMMITTED;
    case STACK_PUSH:
        if (v >= expect)
            return PERCPU_UNEQUAL;
        put_word(word + 8 + 8 * v, 8, x);
        put_word(word, 8, v + 1);
        return PERCPU_COMMITTED;
    case STACK_POP:
        if (v == 0)
            return PERCPU_UNEQUAL;
        a->old = get_word(word + 8 * v, 8);
        put_word(word, 8, v - 1);
        return PERCPU_COMMITTED;
    }
    /* The conditional ones: */
    if (v != expect)
        return PERCPU_UNEQUAL;
    put_word(word, width, x);
    return PERCPU_COMMITTED;
}

#endif
