/* SPDX-License-Identifier: MIT */
/*
 * fake_rseq.h - an rseq area that the kernel does not know, for tests with one thread.
 *
 * The test decides which CPU it is on, and what the kernel would do to abort a section, a handler
 * of SIGSEGV does to one that touches forbidden memory. So sections can be tested under valgrind
 * and under qemu, where there is no rseq.
 */
#ifndef TEST_FAKE_RSEQ_H
#define TEST_FAKE_RSEQ_H

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <percpu/arch.h>

#include "check.h"

/* The kernel's struct rseq. */
struct fake_area {
    uint32_t cpu_id_start, cpu_id;
    uint64_t rseq_cs;
    uint32_t flags, node_id, mm_cid, unused;
} __attribute__((aligned(32)));

/* The kernel's struct rseq_cs. */
struct descriptor {
    uint32_t version, flags;
    uint64_t start, length, abort;
};

static _Thread_local struct fake_area area;
static volatile sig_atomic_t aborts; /* sections aborted so far */
static struct percpu_runtime real_runtime;

/* The descriptor that the last section published, if it is one that the kernel would believe. */
static inline const struct descriptor *published(void)
{
    const struct descriptor *cs = (const struct descriptor *)(uintptr_t)area.rseq_cs;
    uint32_t signature;
    CHECK(cs != NULL && (uintptr_t)cs % 32 == 0);
    CHECK(cs->version == 0 && cs->flags == 0);
    CHECK(cs->start != 0 && cs->length > 0 && cs->abort - cs->start >= cs->length);
    memcpy(&signature, (const char *)(uintptr_t)cs->abort - sizeof signature, sizeof signature);
    CHECK(signature == (uint32_t)PERCPU_RSEQ_SIGNATURE);
    return cs;
}

/* Where a signal interrupted us. */
#if defined(__x86_64__)
static inline uint64_t interrupted(const ucontext_t *user)
{
    return (uint64_t)user->uc_mcontext.gregs[REG_RIP];
}
static inline void resume_at(ucontext_t *user, uint64_t address)
{
    user->uc_mcontext.gregs[REG_RIP] = (greg_t)address;
}
#elif defined(__aarch64__)
static inline uint64_t interrupted(const ucontext_t *user)
{
    return user->uc_mcontext.pc;
}
static inline void resume_at(ucontext_t *user, uint64_t address)
{
    user->uc_mcontext.pc = address;
}
#else /* there are no sections to interrupt */
static inline uint64_t interrupted(const ucontext_t *user)
{
    (void)user;
    return 0;
}
static inline void resume_at(ucontext_t *user, uint64_t address)
{
    (void)user, (void)address;
}
#endif

/* Send the section that faulted to its abort handler, as the kernel sends one it preempted. */
static inline void abort_section(int signal, siginfo_t *details, void *context)
{
    const struct descriptor *cs = published();
    (void)signal, (void)details;
    CHECK(interrupted(context) - cs->start < cs->length);
    area.rseq_cs = 0;
    aborts++;
    resume_at(context, cs->abort);
}

static inline void fake_rseq_begin(void)
{
    struct sigaction action = {.sa_sigaction = abort_section, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    real_runtime = percpu_runtime;
    percpu_runtime.area = (char *)&area - (char *)__builtin_thread_pointer();
}

static inline void fake_rseq_end(void)
{
    percpu_runtime = real_runtime;
}

#endif
