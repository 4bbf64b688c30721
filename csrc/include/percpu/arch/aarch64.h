/* SPDX-License-Identifier: MIT */
/*
 * aarch64.h - the critical sections of arch.h for aarch64, little and big endian.
 *
 * Shape of each: publish the descriptor in area->rseq_cs, then between labels 771 and 772 load the
 * id, compare it with the gate, turn it into the address of the copy, `at`, and do the work, for
 * which `was` is the first free register. The store before 772 commits. The kernel sends an
 * aborted attempt to 773, which the signature glibc registered must precede.
 *
 * Step R2 of rseq.h needs a load-acquire here (ldar), unlike on x86: a plain load of the gate could
 * be followed by a load of the copy that was satisfied earlier. The id needs no order of its own:
 * when it changes, the attempt is aborted.
 *
 * A conditional branch reaches 1 MiB, and the compiler may place the C labels in a section further
 * away than that. So it goes to 774, at the end of this file's part of the same section, from
 * where an unconditional one reaches 128 MiB.
 */
#ifndef PERCPU_ARCH_AARCH64_H
#define PERCPU_ARCH_AARCH64_H

/* The instruction `brk #0x45e0`. Code is little endian always, the word that the kernel compares
 * with it has the byte order of data. */
#ifdef __AARCH64EB__
#define PERCPU_RSEQ_SIGNATURE 0x00bc28d4
#else
#define PERCPU_RSEQ_SIGNATURE 0xd428bc00
#endif

#define PERCPU_CS_START                                                                            \
    ".pushsection __rseq_cs, \"aw?\"\n\t"                                                          \
    ".balign 32\n"                                                                                 \
    "770:\n\t"                                                                                     \
    ".long 0, 0\n\t"                                                                               \
    ".quad 771f, 772f - 771f, 773f\n\t"                                                            \
    ".popsection\n\t"                                                                              \
    "adrp %x[at], 770b\n\t"                                                                        \
    "add %x[at], %x[at], :lo12:770b\n\t"                                                           \
    "str %x[at], [%x[area], #8]\n"                                                                 \
    "771:\n\t"                                                                                     \
    "ldr %w[at], [%x[area], %x[index]]\n\t"                                                        \
    "ldar %w[was], %[limit]\n\t"                                                                   \
    "cmp %w[at], %w[was]\n\t"                                                                      \
    "b.hs 774f\n\t"                                                                                \
    "madd %x[at], %x[at], %x[stride], %x[base]\n\t"

#define PERCPU_CS_END                                                                              \
    "772:\n\t"                                                                                     \
    ".subsection 1\n\t"                                                                            \
    ".inst 0xd428bc00\n"                                                                           \
    "773:\n\t"                                                                                     \
    "b %l[aborted]\n"                                                                              \
    "774:\n\t"                                                                                     \
    "b %l[closed]\n\t"                                                                             \
    ".previous\n\t"

/* Every function has the two: the address of the copy, and a register that holds the gate first
 * and then, where there is one, the old value. */
#define PERCPU_CS_OUTPUTS [at] "=&r"(at), [was] "=&r"(was)

#define PERCPU_CS_INPUTS                                                                           \
    [area] "r"((char *)__builtin_thread_pointer() + percpu_runtime.area),                          \
        [limit] "Q"(percpu_runtime.limit), [index] "r"(p.index), [stride] "r"(p.stride),           \
        [base] "r"(p.base)

/*
 * Where the kernel or the gate sent us: the end of every function below. The empty asm gives each
 * of these edges a block of its own: gcc 12.2 loses what a caller chooses for an output there
 * (`section(p, &old) == PERCPU_COMMITTED ? old : 0`) if it has to put it on the edge itself.
 */
#define PERCPU_CS_EXITS                                                                            \
aborted:                                                                                           \
    __asm__ __volatile__("");                                                                      \
    return PERCPU_ABORTED;                                                                         \
closed:                                                                                            \
    __asm__ __volatile__("");                                                                      \
    return PERCPU_CLOSED

/*
 * Words. M is the register of the word (w or x) and B the suffix of its loads and stores. The
 * registers of words below 4 bytes may hold anything above the word, which only a comparison sees.
 */

/* One store, nothing to hand back; `compute` leaves the new value in the operand `out`. */
#define PERCPU_A64_STORE(W, M, B, name, compute, out, constraint)                                  \
    PERCPU_INLINE enum percpu_outcome percpu_cs_##name##_u##W(percpu_ptr p, uint##W##_t x)         \
    {                                                                                              \
        uint64_t was;                                                                              \
        void *at;                                                                                  \
        PERCPU_ASM_GOTO(PERCPU_CS_START compute                                                    \
                        "str" B " %" #M "[" out "], [%x[at]]\n" PERCPU_CS_END                      \
                        : PERCPU_CS_OUTPUTS                                                        \
                        : PERCPU_CS_INPUTS, [x] constraint(x)                                      \
                        : "memory", "cc"                                                           \
                        : aborted, closed);                                                        \
        (void)at, (void)was;                                                                       \
        return PERCPU_COMMITTED;                                                                   \
        PERCPU_CS_EXITS;                                                                           \
    }

/* old = v; v = `compute`(old, x), which leaves the new value in the operand `out`. */
#define PERCPU_A64_FETCH(W, M, B, name, compute, out, constraint)                                  \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_##name##_u##W(percpu_ptr p, uint##W##_t x,    \
                                                                   uint##W##_t *old)               \
    {                                                                                              \
        uint64_t was, next;                                                                        \
        void *at;                                                                                  \
        PERCPU_ASM_GOTO(PERCPU_CS_START "ldr" B " %" #M "[was], [%x[at]]\n\t" compute              \
                        "str" B " %" #M "[" out "], [%x[at]]\n" PERCPU_CS_END                      \
                        : PERCPU_CS_OUTPUTS, [next] "=&r"(next)                                    \
                        : PERCPU_CS_INPUTS, [x] constraint(x)                                      \
                        : "memory", "cc"                                                           \
                        : aborted, closed);                                                        \
        (void)at, (void)next;                                                                      \
        *old = (uint##W##_t)was;                                                                   \
        return PERCPU_COMMITTED;                                                                   \
        PERCPU_CS_EXITS;                                                                           \
    }

#define PERCPU_A64_COMPUTE(insn, M) insn " %" #M "[next], %" #M "[was], %" #M "[x]\n\t"

#define PERCPU_A64_WORD(W, M, B)                                                                   \
    PERCPU_A64_STORE(W, M, B, store, "", "x", "rZ")                                                \
    PERCPU_A64_STORE(W, M, B, add_store,                                                           \
                     "ldr" B " %" #M "[was], [%x[at]]\n\t"                                         \
                     "add %" #M "[was], %" #M "[was], %" #M "[x]\n\t", "was", "rI")                \
    PERCPU_A64_FETCH(W, M, B, add_store, PERCPU_A64_COMPUTE("add", M), "next", "rI")               \
    PERCPU_A64_FETCH(W, M, B, and_store, PERCPU_A64_COMPUTE("and", M), "next", "r")                \
    PERCPU_A64_FETCH(W, M, B, or_store, PERCPU_A64_COMPUTE("orr", M), "next", "r")                 \
    PERCPU_A64_FETCH(W, M, B, store, "", "x", "rZ")                                                \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_u##W(                              \
        percpu_ptr p, uint##W##_t expect, uint##W##_t x, uint##W##_t *old)                         \
    {                                                                                              \
        uint64_t was;                                                                              \
        void *at;                                                                                  \
        PERCPU_ASM_GOTO(PERCPU_CS_START "ldr" B " %" #M "[was], [%x[at]]\n\t"                      \
                        "cmp %" #M "[was], %" #M "[expect]\n\t"                                    \
                        "b.ne 772f\n\t"                                                            \
                        "str" B " %" #M "[x], [%x[at]]\n" PERCPU_CS_END                            \
                        : PERCPU_CS_OUTPUTS                                                        \
                        : PERCPU_CS_INPUTS, [expect] "rI"((uint64_t)expect), [x] "rZ"(x)           \
                        : "memory", "cc"                                                           \
                        : aborted, closed);                                                        \
        (void)at;                                                                                  \
        *old = (uint##W##_t)was;                                                                   \
        return *old == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;                                 \
        PERCPU_CS_EXITS;                                                                           \
    }

PERCPU_A64_WORD(8, w, "b")
PERCPU_A64_WORD(16, w, "h")
PERCPU_A64_WORD(32, w, "")
PERCPU_A64_WORD(64, x, "")

#undef PERCPU_A64_WORD
#undef PERCPU_A64_COMPUTE
#undef PERCPU_A64_FETCH
#undef PERCPU_A64_STORE

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_f64(percpu_ptr p, double n, double *sum)
{
    uint64_t was;
    double next;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %d[next], [%x[at]]\n\t"
                                    "fadd %d[next], %d[next], %d[n]\n\t"
                                    "str %d[next], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS, [next] "=&w"(next)
                    : PERCPU_CS_INPUTS, [n] "w"(n)
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)was;
    *sum = next;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_at(percpu_ptr p, uint64_t n,
                                                              uint64_t *sum, void **copy)
{
    uint64_t was;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "add %x[was], %x[was], %x[n]\n\t"
                                    "str %x[was], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS
                    : PERCPU_CS_INPUTS, [n] "rI"(n)
                    : "memory", "cc"
                    : aborted, closed);
    *sum = was;
    *copy = at;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_at(percpu_ptr p, uint64_t expect,
                                                               uint64_t x, void **copy)
{
    uint64_t was;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cmp %x[was], %x[expect]\n\t"
                                    "b.ne 772f\n\t"
                                    "str %x[x], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS
                    : PERCPU_CS_INPUTS, [expect] "rI"(expect), [x] "rZ"(x)
                    : "memory", "cc"
                    : aborted, closed);
    *copy = at;
    return was == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_store(percpu_ptr p, uint64_t expect,
                                                                  uint64_t x, size_t offset2,
                                                                  uint64_t x2)
{
    uint64_t was;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cmp %x[was], %x[expect]\n\t"
                                    "b.ne 772f\n\t"
                                    "str %x[x2], [%x[at], %x[offset2]]\n\t"
                                    "str %x[x], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS
                    : PERCPU_CS_INPUTS, [expect] "rI"(expect), [x] "rZ"(x), [x2] "rZ"(x2),
                      [offset2] "r"(offset2)
                    : "memory", "cc"
                    : aborted, closed);
    (void)at;
    return was == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

/* Copies words while there are any, then bytes. */
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_memcpy_store(percpu_ptr p, uint64_t expect,
                                                                   uint64_t x, size_t offset2,
                                                                   const void *src, size_t n)
{
    uint64_t was, word;
    size_t to = offset2; /* becomes the destination's address */
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cmp %x[was], %x[expect]\n\t"
                                    "b.ne 772f\n\t"
                                    "add %x[to], %x[to], %x[at]\n\t"
                                    "subs %x[n], %x[n], #8\n\t"
                                    "b.lo 776f\n"
                                    "775:\n\t"
                                    "ldr %x[word], [%x[from]], #8\n\t"
                                    "str %x[word], [%x[to]], #8\n\t"
                                    "subs %x[n], %x[n], #8\n\t"
                                    "b.hs 775b\n"
                                    "776:\n\t"
                                    "adds %x[n], %x[n], #8\n\t"
                                    "b.eq 778f\n"
                                    "777:\n\t"
                                    "ldrb %w[word], [%x[from]], #1\n\t"
                                    "strb %w[word], [%x[to]], #1\n\t"
                                    "subs %x[n], %x[n], #1\n\t"
                                    "b.ne 777b\n"
                                    "778:\n\t"
                                    "str %x[x], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS, [word] "=&r"(word), [to] "+&r"(to), [from] "+&r"(src),
                      [n] "+&r"(n)
                    : PERCPU_CS_INPUTS, [expect] "rI"(expect), [x] "rZ"(x)
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)word;
    return was == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

/* Its third exit is reached as the others are. */
PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbout_add_store(percpu_ptr p, uint64_t mask,
                                                                 uint64_t low, uint64_t span,
                                                                 uint64_t n)
{
    uint64_t was, part;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "and %x[part], %x[was], %x[mask]\n\t"
                                    "sub %x[part], %x[part], %x[low]\n\t"
                                    "cmp %x[part], %x[span]\n\t"
                                    "b.hs 775f\n\t"
                                    "add %x[was], %x[was], %x[n]\n\t"
                                    "str %x[was], [%x[at]]\n" PERCPU_CS_END
                    ".subsection 1\n"
                    "775:\n\t"
                    "b %l[outside]\n\t"
                    ".previous\n\t"
                    : PERCPU_CS_OUTPUTS, [part] "=&r"(part)
                    : PERCPU_CS_INPUTS, [mask] "rL"(mask), [low] "rI"(low), [span] "rI"(span),
                      [n] "rI"(n)
                    : "memory", "cc"
                    : aborted, closed, outside);
    (void)at, (void)was, (void)part;
    return PERCPU_COMMITTED;
outside:
    __asm__ __volatile__("");
    return PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_push(percpu_ptr p, void *node)
{
    void *at, *was; /* the head */
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "str %x[was], [%x[node]]\n\t"
                                    "str %x[node], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS
                    : PERCPU_CS_INPUTS, [node] "r"(node)
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)was;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_pop(percpu_ptr p, void **node)
{
    void *at, *was /* the head */, *next;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cbz %x[was], 772f\n\t"
                                    "ldr %x[next], [%x[was]]\n\t"
                                    "str %x[next], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS, [next] "=&r"(next)
                    : PERCPU_CS_INPUTS
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)next;
    *node = was;
    return was != NULL ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_push(percpu_ptr p, uint64_t x, uint64_t capacity)
{
    uint64_t was /* the count */, next;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cmp %x[was], %x[capacity]\n\t"
                                    "b.hs 772f\n\t"
                                    "add %x[next], %x[at], %x[was], lsl #3\n\t"
                                    "str %x[x], [%x[next], #8]\n\t"
                                    "add %x[next], %x[was], #1\n\t"
                                    "str %x[next], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS, [next] "=&r"(next)
                    : PERCPU_CS_INPUTS, [capacity] "rI"(capacity), [x] "rZ"(x)
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)next;
    return was < capacity ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_pop(percpu_ptr p, uint64_t *x)
{
    uint64_t was /* the count */, next, top;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START "ldr %x[was], [%x[at]]\n\t"
                                    "cbz %x[was], 772f\n\t"
                                    "ldr %x[top], [%x[at], %x[was], lsl #3]\n\t"
                                    "sub %x[next], %x[was], #1\n\t"
                                    "str %x[next], [%x[at]]\n" PERCPU_CS_END
                    : PERCPU_CS_OUTPUTS, [next] "=&r"(next), [top] "=&r"(top)
                    : PERCPU_CS_INPUTS
                    : "memory", "cc"
                    : aborted, closed);
    (void)at, (void)next;
    *x = top;
    return was != 0 ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE uint32_t percpu_cs_id(size_t index)
{
    const char *area = (const char *)__builtin_thread_pointer() + percpu_runtime.area;
    return *(const volatile uint32_t *)(const volatile void *)(area + index);
}

PERCPU_INLINE uintptr_t percpu_thread_pointer(void)
{
    return (uintptr_t)__builtin_thread_pointer();
}

PERCPU_INLINE void percpu_own_add_u64(uint64_t *word, uint64_t n)
{
    /* No single instruction adds to memory but the atomic ones. */
    __atomic_fetch_add(word, n, __ATOMIC_RELAXED);
}

PERCPU_INLINE void percpu_cpu_relax(void)
{
    __asm__ __volatile__("isb" ::: "memory");
}

#undef PERCPU_CS_START
#undef PERCPU_CS_END
#undef PERCPU_CS_OUTPUTS
#undef PERCPU_CS_INPUTS
#undef PERCPU_CS_EXITS

#endif
