/* SPDX-License-Identifier: MIT */
/*
 * x86_64.h - the critical sections of arch.h for x86-64.
 *
 * Shape of each: publish the descriptor in area->rseq_cs (the area is reached through %fs, so the
 * thread pointer costs nothing), then between labels 771 and 772 load the id, compare it with the
 * gate, turn it into an offset in rax, and do the work. The store before 772 commits. The kernel
 * sends an aborted attempt to 773, which the signature glibc registered must precede. Loads are
 * acquires on x86, which is all that rseq.h's step R2 asks for.
 */
#ifndef PERCPU_ARCH_X86_64_H
#define PERCPU_ARCH_X86_64_H

#define PERCPU_RSEQ_SIGNATURE 0x53053053

#define PERCPU_CS_START                                                                            \
    ".pushsection __rseq_cs, \"aw?\"\n\t"                                                          \
    ".balign 32\n"                                                                                 \
    "770:\n\t"                                                                                     \
    ".long 0, 0\n\t"                                                                               \
    ".quad 771f, 772f - 771f, 773f\n\t"                                                            \
    ".popsection\n\t"                                                                              \
    "leaq 770b(%%rip), %%rax\n\t"                                                                  \
    "movq %%rax, %%fs:8(%[area])\n"                                                                \
    "771:\n\t"                                                                                     \
    "movl %%fs:(%[area], %[index]), %%eax\n\t"                                                     \
    "cmpl %[limit], %%eax\n\t"                                                                     \
    "jae %l[closed]\n\t"                                                                           \
    "imulq %[stride], %%rax\n\t"

/* The same, with the address of the copy in rax instead of its offset. */
#define PERCPU_CS_START_AT PERCPU_CS_START "addq %[base], %%rax\n\t"

#define PERCPU_CS_END                                                                              \
    "772:\n\t"                                                                                     \
    ".pushsection __rseq_failure, \"ax?\"\n\t"                                                     \
    ".byte 0x0f, 0xb9, 0x3d\n\t" /* ud1 signature(%rip), %edi: harmless to disassemblers */        \
    ".long 0x53053053\n"                                                                           \
    "773:\n\t"                                                                                     \
    "jmp %l[aborted]\n\t"                                                                          \
    ".popsection\n\t"

#define PERCPU_CS_INPUTS                                                                           \
    [area] "r"(percpu_runtime.area), [limit] "m"(percpu_runtime.limit), [index] "r"(p.index),      \
        [stride] "r"(p.stride), [base] "r"(p.base)

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

/* One store, nothing to hand back. */
#define PERCPU_X86_STORE(W, S, M, name, insn)                                                      \
    PERCPU_INLINE enum percpu_outcome percpu_cs_##name##_u##W(percpu_ptr p, uint##W##_t x)         \
    {                                                                                              \
        PERCPU_ASM_GOTO(PERCPU_CS_START insn #S " %" #M "[x], (%[base], %%rax)\n" PERCPU_CS_END    \
                        :                                                                          \
                        : PERCPU_CS_INPUTS, [x] "er"(x)                                            \
                        : "rax", "memory", "cc"                                                    \
                        : aborted, closed);                                                        \
        return PERCPU_COMMITTED;                                                                   \
        PERCPU_CS_EXITS;                                                                           \
    }

/* old = v; v = `compute`(old, x), which leaves the new value in the operand `out`. */
#define PERCPU_X86_FETCH(W, S, M, load, name, compute, out)                                        \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_##name##_u##W(percpu_ptr p, uint##W##_t x,    \
                                                                   uint##W##_t *old)               \
    {                                                                                              \
        uint64_t was, next;                                                                        \
        PERCPU_ASM_GOTO(PERCPU_CS_START load "[was]\n\t" compute                                   \
                        "mov" #S " %" #M "[" out "], (%[base], %%rax)\n" PERCPU_CS_END             \
                        : [was] "=&r"(was), [next] "=&r"(next)                                     \
                        : PERCPU_CS_INPUTS, [x] "r"((uint64_t)x)                                   \
                        : "rax", "memory", "cc"                                                    \
                        : aborted, closed);                                                        \
        (void)next;                                                                                \
        *old = (uint##W##_t)was;                                                                   \
        return PERCPU_COMMITTED;                                                                   \
        PERCPU_CS_EXITS;                                                                           \
    }

#define PERCPU_X86_WORD(W, S, M, load)                                                             \
    PERCPU_X86_STORE(W, S, M, store, "mov")                                                        \
    PERCPU_X86_STORE(W, S, M, add_store, "add")                                                    \
    PERCPU_X86_FETCH(W, S, M, load, add_store, "leaq (%[was], %[x]), %[next]\n\t", "next")         \
    PERCPU_X86_FETCH(W, S, M, load, and_store,                                                     \
                     "movq %[x], %[next]\n\tandq %[was], %[next]\n\t", "next")                     \
    PERCPU_X86_FETCH(W, S, M, load, or_store,                                                      \
                     "movq %[x], %[next]\n\torq %[was], %[next]\n\t", "next")                      \
    PERCPU_X86_FETCH(W, S, M, load, store, "", "x")                                                \
    PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_u##W(                              \
        percpu_ptr p, uint##W##_t expect, uint##W##_t x, uint##W##_t *old)                         \
    {                                                                                              \
        uint64_t was;                                                                              \
        PERCPU_ASM_GOTO(PERCPU_CS_START load "[was]\n\t"                                           \
                        "cmp" #S " %" #M "[expect], %" #M "[was]\n\t"                              \
                        "jne 772f\n\t"                                                             \
                        "mov" #S " %" #M "[x], (%[base], %%rax)\n" PERCPU_CS_END                   \
                        : [was] "=&r"(was)                                                         \
                        : PERCPU_CS_INPUTS, [expect] "er"(expect), [x] "er"(x)                     \
                        : "rax", "memory", "cc"                                                    \
                        : aborted, closed);                                                        \
        *old = (uint##W##_t)was;                                                                   \
        return *old == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;                                 \
        PERCPU_CS_EXITS;                                                                           \
    }

PERCPU_X86_WORD(8, b, b, "movzbl (%[base], %%rax), %k")
PERCPU_X86_WORD(16, w, w, "movzwl (%[base], %%rax), %k")
PERCPU_X86_WORD(32, l, k, "movl (%[base], %%rax), %k")
PERCPU_X86_WORD(64, q, q, "movq (%[base], %%rax), %q")

#undef PERCPU_X86_WORD
#undef PERCPU_X86_FETCH
#undef PERCPU_X86_STORE

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_f64(percpu_ptr p, double n, double *sum)
{
    double next;
    PERCPU_ASM_GOTO(PERCPU_CS_START "movsd (%[base], %%rax), %[next]\n\t"
                                    "addsd %[n], %[next]\n\t"
                                    "movsd %[next], (%[base], %%rax)\n" PERCPU_CS_END
                    : [next] "=&x"(next)
                    : PERCPU_CS_INPUTS, [n] "x"(n)
                    : "rax", "memory", "cc"
                    : aborted, closed);
    *sum = next;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_add_store_at(percpu_ptr p, uint64_t n,
                                                              uint64_t *sum, void **copy)
{
    uint64_t next;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[next]\n\t"
                                       "addq %[n], %[next]\n\t"
                                       "movq %[next], (%%rax)\n" PERCPU_CS_END
                    : [next] "=&r"(next), [at] "=&a"(at)
                    : PERCPU_CS_INPUTS, [n] "er"(n)
                    : "memory", "cc"
                    : aborted, closed);
    *sum = next;
    *copy = at;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_store_at(percpu_ptr p, uint64_t expect,
                                                               uint64_t x, void **copy)
{
    uint64_t was;
    void *at;
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[was]\n\t"
                                       "cmpq %[expect], %[was]\n\t"
                                       "jne 772f\n\t"
                                       "movq %[x], (%%rax)\n" PERCPU_CS_END
                    : [was] "=&r"(was), [at] "=&a"(at)
                    : PERCPU_CS_INPUTS, [expect] "er"(expect), [x] "er"(x)
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
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[was]\n\t"
                                       "cmpq %[expect], %[was]\n\t"
                                       "jne 772f\n\t"
                                       "movq %[x2], (%%rax, %[offset2])\n\t"
                                       "movq %[x], (%%rax)\n" PERCPU_CS_END
                    : [was] "=&r"(was)
                    : PERCPU_CS_INPUTS, [expect] "er"(expect), [x] "er"(x), [x2] "er"(x2),
                      [offset2] "r"(offset2)
                    : "rax", "memory", "cc"
                    : aborted, closed);
    return was == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbne_memcpy_store(percpu_ptr p, uint64_t expect,
                                                                   uint64_t x, size_t offset2,
                                                                   const void *src, size_t n)
{
    uint64_t was;
    size_t to = offset2; /* becomes the destination's address */
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[was]\n\t"
                                       "cmpq %[expect], %[was]\n\t"
                                       "jne 772f\n\t"
                                       "addq %%rax, %[to]\n\t"
                                       "rep movsb\n\t"
                                       "movq %[x], (%%rax)\n" PERCPU_CS_END
                    : [was] "=&r"(was), [to] "+&D"(to), [from] "+&S"(src), [n] "+&c"(n)
                    : PERCPU_CS_INPUTS, [expect] "er"(expect), [x] "er"(x)
                    : "rax", "memory", "cc"
                    : aborted, closed);
    return was == expect ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_load_cbout_add_store(percpu_ptr p, uint64_t mask,
                                                                 uint64_t low, uint64_t span,
                                                                 uint64_t n)
{
    uint64_t part;
    PERCPU_ASM_GOTO(PERCPU_CS_START "movq (%[base], %%rax), %[part]\n\t"
                                    "andq %[mask], %[part]\n\t"
                                    "subq %[low], %[part]\n\t"
                                    "cmpq %[span], %[part]\n\t"
                                    "jae %l[outside]\n\t"
                                    "addq %[n], (%[base], %%rax)\n" PERCPU_CS_END
                    : [part] "=&r"(part)
                    : PERCPU_CS_INPUTS, [mask] "er"(mask), [low] "er"(low), [span] "er"(span),
                      [n] "er"(n)
                    : "rax", "memory", "cc"
                    : aborted, closed, outside);
    (void)part;
    return PERCPU_COMMITTED;
outside:
    __asm__ __volatile__("");
    return PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_push(percpu_ptr p, void *node)
{
    void *head;
    PERCPU_ASM_GOTO(PERCPU_CS_START "movq (%[base], %%rax), %[head]\n\t"
                                    "movq %[head], (%[node])\n\t"
                                    "movq %[node], (%[base], %%rax)\n" PERCPU_CS_END
                    : [head] "=&r"(head)
                    : PERCPU_CS_INPUTS, [node] "r"(node)
                    : "rax", "memory", "cc"
                    : aborted, closed);
    (void)head;
    return PERCPU_COMMITTED;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_list_pop(percpu_ptr p, void **node)
{
    void *head, *next;
    PERCPU_ASM_GOTO(PERCPU_CS_START "movq (%[base], %%rax), %[head]\n\t"
                                    "testq %[head], %[head]\n\t"
                                    "je 772f\n\t"
                                    "movq (%[head]), %[next]\n\t"
                                    "movq %[next], (%[base], %%rax)\n" PERCPU_CS_END
                    : [head] "=&r"(head), [next] "=&r"(next)
                    : PERCPU_CS_INPUTS
                    : "rax", "memory", "cc"
                    : aborted, closed);
    (void)next;
    *node = head;
    return head != NULL ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_push(percpu_ptr p, uint64_t x, uint64_t capacity)
{
    uint64_t count, next;
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[count]\n\t"
                                       "cmpq %[capacity], %[count]\n\t"
                                       "jae 772f\n\t"
                                       "movq %[x], 8(%%rax, %[count], 8)\n\t"
                                       "leaq 1(%[count]), %[next]\n\t"
                                       "movq %[next], (%%rax)\n" PERCPU_CS_END
                    : [count] "=&r"(count), [next] "=&r"(next)
                    : PERCPU_CS_INPUTS, [capacity] "er"(capacity), [x] "r"(x)
                    : "rax", "memory", "cc"
                    : aborted, closed);
    (void)next;
    return count < capacity ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE enum percpu_outcome percpu_cs_stack_pop(percpu_ptr p, uint64_t *x)
{
    uint64_t count, next, top;
    PERCPU_ASM_GOTO(PERCPU_CS_START_AT "movq (%%rax), %[count]\n\t"
                                       "testq %[count], %[count]\n\t"
                                       "je 772f\n\t"
                                       "movq (%%rax, %[count], 8), %[x]\n\t"
                                       "leaq -1(%[count]), %[next]\n\t"
                                       "movq %[next], (%%rax)\n" PERCPU_CS_END
                    : [count] "=&r"(count), [next] "=&r"(next), [x] "=&r"(top)
                    : PERCPU_CS_INPUTS
                    : "rax", "memory", "cc"
                    : aborted, closed);
    (void)next;
    *x = top;
    return count != 0 ? PERCPU_COMMITTED : PERCPU_UNEQUAL;
    PERCPU_CS_EXITS;
}

PERCPU_INLINE uint32_t percpu_cs_id(size_t index)
{
    uint32_t id;
    __asm__ __volatile__("movl %%fs:(%[area], %[index]), %[id]"
                         : [id] "=r"(id)
                         : [area] "r"(percpu_runtime.area), [index] "r"(index));
    return id;
}

PERCPU_INLINE uintptr_t percpu_thread_pointer(void)
{
    uintptr_t pointer; /* the thread control block begins with its own address */
    __asm__("movq %%fs:0, %[pointer]" : [pointer] "=r"(pointer));
    return pointer;
}

PERCPU_INLINE void percpu_own_add_u64(uint64_t *word, uint64_t n)
{
    __asm__ __volatile__("addq %[n], %[word]" : [word] "+m"(*word) : [n] "er"(n) : "cc");
}

PERCPU_INLINE void percpu_cpu_relax(void)
{
    __asm__ __volatile__("pause" ::: "memory");
}

#undef PERCPU_CS_START
#undef PERCPU_CS_START_AT
#undef PERCPU_CS_END
#undef PERCPU_CS_INPUTS
#undef PERCPU_CS_EXITS

#endif
