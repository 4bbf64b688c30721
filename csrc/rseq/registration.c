/* SPDX-License-Identifier: MIT */
/*
 * registration.c - which rseq area this process uses: the mode, decided once, and the registration
 * of threads in mode own.
 *
 * Facts this rests on. glibc (>= 2.35) exports where its area lies from the thread pointer and
 * whether it registered it (__rseq_size 0: it did not). Its size says nothing about which fields
 * the kernel fills: getauxval(AT_RSEQ_FEATURE_SIZE) does, and a kernel that does not know that
 * entry fills 20 bytes. The kernel owns every field but rseq_cs while the area is registered.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include <percpu/arch.h>
#include <percpu/rseq.h>
#include <percpu/topology.h>

#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#endif
#define FIRST_FEATURE_SIZE 20u /* what the first kernels with rseq fill */
#define UNREGISTER 1

enum { NODE_ID = 20 }; /* byte offset in the area, beside those in enum percpu_index */

/* The kernel's struct rseq, as far as 32 bytes go. */
struct area {
    uint32_t cpu_id_start;
    uint32_t cpu_id;
    uint64_t rseq_cs;
    uint32_t flags;
    uint32_t node_id;
    uint32_t mm_cid;
    uint32_t unused;
} __attribute__((aligned(32)));
_Static_assert(sizeof(struct area) == 32, "the size that every kernel registers");
_Static_assert(offsetof(struct area, cpu_id) == PERCPU_INDEX_CPU, "kernel ABI");
_Static_assert(offsetof(struct area, mm_cid) == PERCPU_INDEX_CID, "kernel ABI");
_Static_assert(offsetof(struct area, node_id) == NODE_ID, "kernel ABI");

#define NO_ID UINT32_MAX         /* not registered (yet) */
#define REFUSED (UINT32_MAX - 1) /* the kernel would not register this thread */

/*
 * Initial-exec, so that one offset from the thread pointer serves all threads and the sections
 * need not know whose area it is. Both ids say "no" until the kernel fills them in.
 */
static __thread struct area own_area
    __attribute__((tls_model("initial-exec"))) = {.cpu_id = NO_ID, .mm_cid = NO_ID};

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

struct percpu_runtime percpu_runtime;
static struct percpu_rseq_info info;
static pthread_key_t exit_key;

const struct percpu_rseq_info *percpu_rseq_info(void)
{
    return &info;
}

static struct area *thread_area(void)
{
    return (struct area *)((char *)__builtin_thread_pointer() + percpu_runtime.area);
}

/* 0, or the error with which the kernel refused. */
static int register_own_area(void)
{
    own_area.rseq_cs = 0; /* a section that was turned away may have left its descriptor */
    if (syscall(SYS_rseq, &own_area, sizeof own_area, 0, PERCPU_RSEQ_SIGNATURE) == 0 ||
        errno == EBUSY) /* a signal handler was faster */
        return 0;
    return errno;
}

/*
 * Runs at thread exit. Without signals: the kernel leaves 0 in mm_cid, which is somebody's id, and
 * no handler may run a section until that is mended.
 */
static void unregister_own_area(void *unused)
{
    (void)unused;
    sigset_t all, saved;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    if (syscall(SYS_rseq, &own_area, sizeof own_area, UNREGISTER, PERCPU_RSEQ_SIGNATURE) == 0) {
        own_area.cpu_id = NO_ID;
        own_area.mm_cid = NO_ID;
    }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

bool percpu_thread_register(void)
{
    if (info.mode == PERCPU_MODE_NONE)
        return false;
    uint32_t id = percpu_cs_id(PERCPU_INDEX_CPU);
    if (id != NO_ID || info.mode != PERCPU_MODE_OWN)
        return (int32_t)id >= 0;
    int saved = errno;
    if (register_own_area() != 0)
        own_area.cpu_id = own_area.mm_cid = REFUSED; /* not registered, so ours to write */
    else /* may fail: then the kernel forgets the area when the thread has gone */
        pthread_setspecific(exit_key, &own_area);
    errno = saved;
    return own_area.cpu_id != REFUSED;
}

unsigned percpu_thread_slot(size_t index)
{
    uint32_t id = percpu_thread_register() ? percpu_cs_id(index) : NO_ID;
    if (id < percpu_nr_cpus())
        return id;
    return (unsigned)percpu_current_cpu() % percpu_nr_cpus();
}

int percpu_current_cpu(void)
{
    if (percpu_thread_register())
        return (int)percpu_cs_id(PERCPU_INDEX_CPU);
    int saved = errno, cpu = sched_getcpu();
    errno = saved;
    return cpu < 0 ? 0 : cpu; /* no such system call: everybody shares one copy, atomically */
}

int percpu_current_cid(void)
{
    if (info.mm_cid && percpu_thread_register())
        return (int)percpu_cs_id(PERCPU_INDEX_CID);
    errno = ENOTSUP;
    return -1;
}

int percpu_current_node(void)
{
    if (info.node_id && percpu_thread_register())
        return (int)percpu_cs_id(NODE_ID);
    unsigned node = 0;
    int saved = errno;
    if (syscall(SYS_getcpu, NULL, &node, NULL) != 0)
        node = 0;
    errno = saved;
    return (int)node;
}

int percpu_index_check(enum percpu_index index)
{
    if (index == PERCPU_INDEX_CPU)
        return 0;
    if (index != PERCPU_INDEX_CID)
        errno = EINVAL;
    else if (info.mode == PERCPU_MODE_NONE || info.mm_cid)
        return 0; /* in mode none any slot will do: all accesses are atomic */
    else
        errno = ENOTSUP;
    return -1;
}

void percpu_rseq_clear(void)
{
    __atomic_store_n(&thread_area()->rseq_cs, (uint64_t)0, __ATOMIC_RELAXED);
}

static void settle(enum percpu_mode mode, const char *reason)
{
    info.mode = mode;
    info.reason = reason;
    if (mode == PERCPU_MODE_NONE) {
        /* The sections still publish descriptors: in memory that the kernel does not look at. */
        percpu_runtime.area = (char *)&own_area - (char *)__builtin_thread_pointer();
        info.feature_size = 0;
        return;
    }
    unsigned long filled = getauxval(AT_RSEQ_FEATURE_SIZE);
    if (filled == 0)
        filled = FIRST_FEATURE_SIZE;
    info.feature_size = filled < sizeof(struct area) ? (unsigned)filled : sizeof(struct area);
    info.node_id = info.feature_size >= NODE_ID + 4;
    info.mm_cid = info.feature_size >= PERCPU_INDEX_CID + 4;
}

static void decide(const char *asked)
{
    bool any = asked == NULL || *asked == '\0';
    if (!any && strcmp(asked, "none") == 0) {
        settle(PERCPU_MODE_NONE, "PERCPU_RSEQ=none asks for it");
        return;
    }
    bool want_own = !any && strcmp(asked, "own") == 0;
    bool want_glibc = !any && strcmp(asked, "glibc") == 0;
    if (!any && !want_own && !want_glibc)
        info.bad_environment = asked;
    if (PERCPU_RSEQ_SIGNATURE == 0) {
        settle(PERCPU_MODE_NONE, "percpu has no critical sections for this architecture");
        return;
    }
    info.fence = percpu_fence_register();
    if (!info.fence) {
        settle(PERCPU_MODE_NONE, "the kernel offers no membarrier that restarts rseq sections "
                                 "(Linux 5.10 does)");
        return;
    }
    if (!want_own && &__rseq_size != NULL && &__rseq_offset != NULL && __rseq_size != 0) {
        percpu_runtime.area = __rseq_offset;
        if ((int32_t)percpu_cs_id(PERCPU_INDEX_CPU) >= 0) {
            settle(PERCPU_MODE_GLIBC, "glibc registered every thread with the kernel");
            return;
        }
    }
    if (want_glibc) {
        settle(PERCPU_MODE_NONE, "PERCPU_RSEQ=glibc, but glibc has not registered its threads");
        return;
    }
    percpu_runtime.area = (char *)&own_area - (char *)__builtin_thread_pointer();
    int refused = register_own_area();
    if (refused == 0 && pthread_key_create(&exit_key, unregister_own_area) == 0)
        settle(PERCPU_MODE_OWN, want_own ? "PERCPU_RSEQ=own asks for it"
                                         : "glibc has not registered its threads, so we do");
    else if (refused == ENOSYS)
        settle(PERCPU_MODE_NONE, "the kernel has no restartable sequences");
    else
        settle(PERCPU_MODE_NONE, "the kernel refused to register this thread: something else in "
                                 "the process has registered it already");
}

/* Before main(), and before any constructor that might use the operations. */
__attribute__((constructor(101))) static void start(void)
{
    int saved = errno;
    (void)percpu_nr_cpus();
    decide(secure_getenv("PERCPU_RSEQ"));
    percpu_gate_start(info.mode != PERCPU_MODE_NONE);
    errno = saved;
}
