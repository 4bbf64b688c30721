/* SPDX-License-Identifier: MIT */
/*
 * test_pool_guard.c - what is written past the usable end of a CPU's stride faults, at once and at
 * that address, and reaches no other CPU: with both ways to make guard pages, in ranges that were
 * made early and late, here and in a child.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <sys/prctl.h>

#include "pool_tools.h"

enum { SIZE = 72, GUARD_INSTALL = 102 };

static size_t page;
static unsigned nr_cpus;

static sigjmp_buf after_fault;
static void *volatile fault_address;

static void on_fault(int signal, siginfo_t *details, void *context)
{
    (void)signal, (void)context;
    fault_address = details->si_addr;
    siglongjmp(after_fault, 1);
}

/* Fill `length` bytes; returns where it faulted, NULL if it did not. */
static void *fill(char *start, size_t length, int value)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, former;
    CHECK(sigaction(SIGSEGV, &action, &former) == 0);
    fault_address = NULL;
    if (sigsetjmp(after_fault, 1) == 0)
        for (volatile char *at = start; at < start + length; at++)
            *at = (char)value;
    CHECK(sigaction(SIGSEGV, &former, NULL) == 0);
    return fault_address;
}

static void check_guards(struct percpu_pool *pool, char *item)
{
    struct percpu_pool_geometry geometry = geometry_of(pool);
    char *base = (char *)((uintptr_t)item & ~(uintptr_t)(geometry.stride - 1));
    for (unsigned cpu = 0; cpu < geometry.cpus; cpu++) {
        char *copy = item + cpu * geometry.stride;
        char *end = base + (cpu + 1) * geometry.stride - page;
        CHECK(fill(copy, SIZE, 1) == NULL);
        CHECK(fill(copy, 2 * geometry.stride, 2) == end);
        CHECK(fill(end - 1, 1, 3) == NULL);
        CHECK(fill(end + page / 2, 1, 3) == end + page / 2);
        CHECK(fill(end + page - 1, 1, 3) == end + page - 1);
        CHECK(!percpu_pool_owns(pool, end));
        if (cpu + 1 < geometry.cpus)
            CHECK(wrong_copy(pool, item, item, SIZE) == (int)cpu + 1);
    }
}

/* One range of the pool after the other, used up by the way. */
static void test_guards(struct percpu_pool_attr attr)
{
    attr.item_size = SIZE;
    attr.stride = 4 * page;
    attr.guard = true;
    struct percpu_pool *pool = make_pool(attr);
    struct percpu_pool_geometry geometry = geometry_of(pool);
    CHECK(geometry.guard && geometry.capacity == (4 * page - page) / geometry.slot_size);
    for (unsigned range = 1; range <= 3; range++) {
        char *last = NULL;
        for (size_t i = 0; i < geometry.capacity; i++)
            CHECK((last = percpu_pool_zalloc(pool)) != NULL);
        CHECK(stats_of(pool).ranges == range);
        pid_t pid = fork_child();
        check_guards(pool, last);
        if (pid == 0)
            _exit(0);
        succeeds(pid);
    }
    unsigned char own[4];
    for (unsigned cpu = 0; cpu < geometry.cpus; cpu++) {
        CHECK(percpu_pool_pages(pool, 2, cpu, own, sizeof own) == 4);
        CHECK(own[2] == 1 && own[3] == 0);
    }
    CHECK(stats_of(pool).resident_bytes <= stats_of(pool).virtual_bytes);
    percpu_pool_destroy(pool);
}

/* Looking for pages that CPUs have written must not touch the guards; nor giving ranges back. */
static void test_recycling_between_guards(unsigned populate, unsigned copies)
{
    enum { ITEMS = 100 };
    char *items[ITEMS];
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){.item_size = SIZE,
                                                                   .stride = 2 * page,
                                                                   .guard = true,
                                                                   .populate = populate,
                                                                   .cpus = copies});
    size_t stride = geometry_of(pool).stride;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < ITEMS; i++) {
            CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
            CHECK(wrong_copy(pool, items[i], NULL, 0) == -1);
            memset(items[i] + (i % copies) * stride, 0xff, SIZE);
        }
        for (unsigned i = 0; i < ITEMS; i++)
            percpu_pool_free(pool, items[i]);
        CHECK(round == 1 ? percpu_pool_trim(pool) > 0 : true);
        check_pool(pool);
    }
    percpu_pool_destroy(pool);
}

/* ---- a kernel without light guard pages --------------------------------------------------- */

/* From now on `call`, with this third argument, says `error`. False where there are no filters. */
static bool forbid(long call, unsigned argument, unsigned error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(code), .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static unsigned forbidden_mappings(void)
{
    char line[512];
    unsigned found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        found += strstr(line, " ---") != NULL;
    fclose(file);
    return found;
}

static void in_child_with_old_kernel(void)
{
    if (!forbid(SYS_madvise, GUARD_INSTALL, EINVAL)) {
        puts("no seccomp filters: the guards of older kernels were not tested");
        fflush(stdout);
        return;
    }
    unsigned before = forbidden_mappings();
    struct percpu_pool *pool = make_pool(
        (struct percpu_pool_attr){.item_size = SIZE, .guard = true, .cpus = nr_cpus + 2});
    CHECK(forbidden_mappings() >= before + nr_cpus + 2);
    percpu_pool_destroy(pool);
    for (unsigned populate = 0; populate < 2; populate++) {
        test_guards((struct percpu_pool_attr){.populate = populate});
        test_recycling_between_guards(populate, nr_cpus + MORE);
    }
    /* And where that fails too, there is no pool. */
    long mapped = mapped_pages();
    struct percpu_pool_attr attr = {.item_size = SIZE, .guard = true};
    CHECK(forbid(SYS_mprotect, PROT_NONE, ENOMEM));
    errno = 0;
    CHECK(percpu_pool_create(&attr) == NULL && errno == ENOMEM);
    CHECK(mapped_pages() == mapped);
}

int main(void)
{
    if (emulated()) {
        puts("qemu-user ignores the madvise() that makes guard pages");
        return TEST_SKIPPED;
    }
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    CHECK(pin((unsigned)percpu_current_cpu())); /* one cache, which is used up */
    for (unsigned kind = 0; kind < 8; kind++)
        test_guards((struct percpu_pool_attr){
            .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
            .global = kind & 2,
            .numa = kind & 4,
            .cpus = kind & 4 ? nr_cpus + 2 : nr_cpus,
            .cache_bytes = 1,
        });
    for (unsigned populate = 0; populate < 2; populate++) {
        test_recycling_between_guards(populate, nr_cpus);
        test_recycling_between_guards(populate, nr_cpus + MORE);
    }
    pid_t pid = fork_child();
    if (pid == 0) {
        in_child_with_old_kernel();
        _exit(0);
    }
    succeeds(pid);
    return 0;
}
