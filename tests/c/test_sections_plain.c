/* SPDX-License-Identifier: MIT */
/*
 * test_sections_plain.c - every section of arch.h against its pseudo-code, with no rseq in the
 * kernel. In a build with PERCPU_ARCH_GENERIC the same cases must all end with PERCPU_CLOSED.
 *
 * Each case runs a section on one of the copies in `actual` and the model on a duplicate of them:
 * the two must then be equal to the last byte, which covers neighbours and other copies too. Each
 * is repeated for both kinds of index, with the gate open, and with it closed in several ways.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* REG_RIP */
#endif
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>

#include "fake_rseq.h"
#include "sections_model.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define HAS_SECTIONS (PERCPU_RSEQ_SIGNATURE != 0)

enum { COPIES = 4, STRIDE = 200, WORD = 40 /* where in a copy the object lies */ };

static union {
    char bytes[COPIES * STRIDE];
    uint64_t aligned;
} actual, duplicate;

static unsigned long cases;

/* ---- one case ------------------------------------------------------------------------------- */

/* Where the two kinds of index say that we are, and whether the gate lets them pass. */
static const struct place {
    uint32_t cpu_id, mm_cid, limit;
    bool cpu_open, cid_open;
} places[] = {
    {1, 2, 3, true, true},
    {2, 1, 3, true, true},
    {0, 3, 4, true, true},
    {1, 2, 2, true, false},
    /* a CPU that nobody counted */ {3, 0, 3, false, true},
    {1, 2, 0, false, false},                           /* the gate is closed */
    {UINT32_MAX, UINT32_MAX, 4, false, false},         /* not registered */
    {UINT32_MAX - 1, UINT32_MAX - 1, 4, false, false}, /* registration failed */
};

static void fill(unsigned width, uint64_t v)
{
    for (unsigned i = 0; i < sizeof actual.bytes; i++)
        actual.bytes[i] = (char)(i * 37 + 11);
    for (unsigned copy = 0; copy < COPIES; copy++)
        put_word(actual.bytes + copy * STRIDE + WORD, width, v + (copy << 4));
}

static void check_place(const struct section *section, const struct args *arguments,
                        const struct place *place, enum percpu_index index)
{
    bool open = HAS_SECTIONS && (index == PERCPU_INDEX_CPU ? place->cpu_open : place->cid_open);
    uint32_t id = index == PERCPU_INDEX_CPU ? place->cpu_id : place->mm_cid;
    percpu_ptr p = {actual.bytes + WORD, STRIDE, index};
    struct args done = *arguments, expected;
    enum percpu_outcome outcome = PERCPU_CLOSED;

    fill(section->width, done.v);
    if (id < COPIES) { /* only here is v what the case says it is, whatever the copy */
        char *copy = percpu_ptr_cpu(p, id);
        put_word(copy, section->width, done.v);
        if (section->kind == LIST_PUSH)
            done.x = (uintptr_t)(copy + done.offset2);
        if (section->kind == LIST_POP && done.v != 0)
            put_word(copy, 8, (uintptr_t)(copy + done.offset2));
    }
    expected = done;
    duplicate = actual;
    if (open) {
        size_t at = WORD + (size_t)id * STRIDE;
        outcome = model(section, duplicate.bytes + at, actual.bytes + at, &expected);
    }

    area = (struct fake_area){.cpu_id_start = 7,
                              .cpu_id = place->cpu_id,
                              .flags = 8,
                              .node_id = 9,
                              .mm_cid = place->mm_cid,
                              .unused = 10};
    percpu_runtime.limit = place->limit;
    enum percpu_outcome got = section->run(p, &done);
    cases++;

#define CHECK_HERE(condition)                                                                      \
    CHECK_CASE(condition,                                                                          \
               "%s: v=%#llx x=%#llx expect=%#llx offset2=%zu size=%zu; id=%#x limit=%u index=%u: " \
               "outcome %d (not %d), old %#llx (not %#llx)",                                       \
               section->name, (unsigned long long)arguments->v, (unsigned long long)done.x,        \
               (unsigned long long)done.expect, done.offset2, done.size, id, place->limit,         \
               (unsigned)index, (int)got, (int)outcome, (unsigned long long)done.old,              \
               (unsigned long long)expected.old)

    CHECK_HERE(got == outcome);
    CHECK_HERE(memcmp(&actual, &duplicate, sizeof actual) == 0);
    CHECK_HERE(done.old == expected.old);
    CHECK_HERE(done.copy == expected.copy);
    CHECK_HERE(area.cpu_id_start == 7 && area.cpu_id == place->cpu_id && area.flags == 8 &&
               area.node_id == 9 && area.mm_cid == place->mm_cid && area.unused == 10);
    if (HAS_SECTIONS)
        published();
    else
        CHECK_HERE(area.rseq_cs == 0);
}

static void check_case(const struct section *section, struct args arguments)
{
    arguments.old = 0x0123456789abcdef;
    arguments.copy = &arguments;
    for (unsigned i = 0; i < COUNT(places); i++) {
        check_place(section, &arguments, &places[i], PERCPU_INDEX_CPU);
        check_place(section, &arguments, &places[i], PERCPU_INDEX_CID);
    }
}

/* ---- cases ---------------------------------------------------------------------------------- */

/* Borders of every width, as signed and as unsigned numbers. */
static const uint64_t values[] = {
    0,
    1,
    2,
    0x55,
    0x7f,
    0x80,
    0xfe,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0xfffffffe,
    0xffffffff,
    0x100000000,
    0x123456789abcdef0,
    INT64_MAX,
    1ull << 63,
    UINT64_MAX - 0x80000000,
    UINT64_MAX - 0x7fffffff,
    UINT64_MAX - 0x7f,
    UINT64_MAX - 1,
    UINT64_MAX,
};

/* What to compare v with: equal, and different in one bit of the word or in its sign. */
static void check_expectations(const struct section *section, struct args a)
{
    const uint64_t flips[] = {0, 1, UINT64_C(1) << (8 * section->width - 1), UINT64_MAX};
    for (unsigned i = 0; i < COUNT(flips); i++) {
        a.expect = a.v ^ flips[i];
        check_case(section, a);
    }
}

static void check_constant(const struct section *section)
{
    struct args a = args_of(*section->constant);
    for (unsigned i = 0; i < COUNT(values); i++) {
        a.v = values[i];
        check_case(section, a);
    }
    a.v = *section->constant;
    check_case(section, a);
}

static void check_words(const struct section *section)
{
    for (unsigned i = 0; i < COUNT(values); i++) {
        for (unsigned j = 0; j < COUNT(values); j++) {
            struct args a = {.v = values[i], .x = values[j]};
            if (section->kind == CBNE || section->kind == CBNE_AT)
                check_expectations(section, a);
            else
                check_case(section, a);
        }
    }
}

static void check_doubles(const struct section *section)
{
    const double numbers[] = {
        0.0,      -0.0,   1.0,       -1.0,   0.1,      1e-300,    DBL_MIN,     DBL_MAX,
        -DBL_MAX, 0x1p53, 0x1p-1074, 3.5e17, INFINITY, -INFINITY, DBL_EPSILON, -DBL_EPSILON / 2};
    for (unsigned i = 0; i < COUNT(numbers); i++) {
        for (unsigned j = 0; j < COUNT(numbers); j++) {
            struct args a = {0};
            if (isinf(numbers[i]) && isinf(numbers[j]) && i != j)
                continue; /* a NaN, whose bits are the processor's own business */
            memcpy(&a.v, &numbers[i], 8);
            memcpy(&a.x, &numbers[j], 8);
            check_case(section, a);
        }
    }
}

static void check_store_store(const struct section *section)
{
    for (unsigned i = 0; i < COUNT(values); i++) {
        for (size_t offset2 = 8; offset2 <= 64; offset2 += 8) {
            struct args a = {.v = values[i],
                             .x = ~values[i],
                             .offset2 = offset2,
                             .x2 = values[(i + offset2) % COUNT(values)]};
            check_expectations(section, a);
        }
    }
}

static void check_memcpy(const struct section *section)
{
    static char source[96];
    for (unsigned i = 0; i < sizeof source; i++)
        source[i] = (char)(i * 101 + 3);
    for (size_t size = 0; size <= 42; size++) {
        for (size_t offset2 = 8; offset2 < 17; offset2++) {
            struct args a = {.v = 0xfffffffff,
                             .x = size,
                             .offset2 = offset2,
                             .src = source + offset2 * 3,
                             .size = size};
            check_expectations(section, a);
        }
    }
}

/* Ranges that begin or end just at, before and after the part of v that the mask leaves. */
static void check_within(const struct section *section)
{
    const uint64_t masks[] = {UINT64_MAX, UINT32_MAX, ~(uint64_t)UINT32_MAX, 0xff00, 0};
    const uint64_t spans[] = {
        0, 1, 2, 0x80, 0x80000000, 0x100000000, INT64_MAX, 1ull << 63, UINT64_MAX,
    };
    for (unsigned i = 0; i < COUNT(values); i++) {
        for (unsigned j = 0; j < COUNT(masks) * COUNT(spans); j++) {
            uint64_t mask = masks[j / COUNT(spans)], span = spans[j % COUNT(spans)];
            uint64_t part = values[i] & mask, end = part - span;
            const uint64_t lows[] = {0, part - 1, part, part + 1, end, end + 1};
            for (unsigned k = 0; k < COUNT(lows); k++)
                check_case(section, (struct args){.v = values[i],
                                                  .x = values[(i + j + k) % COUNT(values)],
                                                  .expect = lows[k],
                                                  .x2 = span,
                                                  .mask = mask});
        }
    }
}

static void check_list(const struct section *section)
{
    for (unsigned i = 0; i < COUNT(values); i++) {
        for (size_t offset2 = 8; offset2 <= 64; offset2 += 8)
            check_case(section, (struct args){.v = values[i], .offset2 = offset2});
    }
}

static void check_stack(const struct section *section)
{
    const uint64_t capacities[] = {0, 1, 4, 8, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX};
    for (unsigned i = 0; i < COUNT(capacities); i++) {
        for (uint64_t count = 0; count <= 9; count++)
            check_case(section,
                       (struct args){.v = count, .x = values[count], .expect = capacities[i]});
    }
    if (section->kind == STACK_PUSH) { /* a count that cannot be is full, not an index */
        check_case(section, (struct args){.v = UINT64_MAX, .x = 5, .expect = 8});
        check_case(section, (struct args){.v = UINT64_C(1) << 63, .x = 5, .expect = 8});
    }
}

static void check_section(const struct section *section)
{
    if (section->constant != NULL) {
        check_constant(section);
        return;
    }
    switch (section->kind) {
    case ADD_F64:
        check_doubles(section);
        break;
    case STORE_STORE:
        check_store_store(section);
        break;
    case MEMCPY:
        check_memcpy(section);
        break;
    case ADD_WITHIN:
        check_within(section);
        break;
    case LIST_PUSH:
    case LIST_POP:
        check_list(section);
        break;
    case STACK_PUSH:
    case STACK_POP:
        check_stack(section);
        break;
    default:
        check_words(section);
    }
}

/* ---- aborted attempts ----------------------------------------------------------------------- */

/* A section whose first store is refused, so that the handler aborts it there. */
static void check_abort(const struct section *section, char *forbidden)
{
    static const char source[16] = "sixteen bytes...";
    percpu_ptr p = {forbidden, 64, PERCPU_INDEX_CPU};
    uint64_t v = section->constant != NULL ? *section->constant : 0;
    struct args a = {.x = 1,
                     .expect = v,
                     .offset2 = 8,
                     .x2 = 1,
                     .mask = UINT64_MAX,
                     .src = source,
                     .size = sizeof source,
                     .old = 0x0123456789abcdef};
    char *copy = percpu_ptr_cpu(p, 1);
    sig_atomic_t before = aborts;

    if (section->kind == LIST_POP)
        v = (uintptr_t)copy;
    if (section->kind == LIST_PUSH)
        a.x = (uintptr_t)copy + 8;
    if (section->kind == STACK_PUSH || section->kind == STACK_POP)
        v = 1, a.expect = 2;
    CHECK(mprotect(forbidden, 4096, PROT_READ | PROT_WRITE) == 0);
    put_word(copy, 8, v);
    put_word(copy + 8, 8, 0);
    if (section->width < 8)
        put_word(copy, section->width, v);
    CHECK(mprotect(forbidden, 4096, PROT_READ) == 0);

    area = (struct fake_area){.cpu_id = 1, .mm_cid = 1};
    percpu_runtime.limit = 2;
    enum percpu_outcome got = section->run(p, &a);
    cases++;
    CHECK_CASE(got == (HAS_SECTIONS ? PERCPU_ABORTED : PERCPU_CLOSED), "%s: outcome %d",
               section->name, (int)got);
    CHECK_CASE(aborts - before == HAS_SECTIONS, "%s: %d aborts", section->name,
               (int)(aborts - before));
    CHECK_CASE(get_word(copy, section->width) == narrow(v, section->width) &&
                   get_word(copy + 8, 8) == 0 && a.old == 0x0123456789abcdef && a.copy == NULL,
               "%s: an aborted attempt left something behind", section->name);
}

int main(void)
{
    char *forbidden = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(forbidden != MAP_FAILED);
    fake_rseq_begin();
    for (unsigned i = 0; i < COUNT(sections); i++) {
        check_section(&sections[i]);
        check_abort(&sections[i], forbidden);
    }
    area = (struct fake_area){.cpu_id = 5, .mm_cid = 6};
    CHECK(percpu_cs_id(PERCPU_INDEX_CPU) == (HAS_SECTIONS ? 5u : UINT32_MAX));
    CHECK(percpu_cs_id(PERCPU_INDEX_CID) == (HAS_SECTIONS ? 6u : UINT32_MAX));
    fake_rseq_end();
    printf("%zu sections, %lu cases, %d aborts\n", COUNT(sections), cases, (int)aborts);
    return 0;
}
