/* SPDX-License-Identifier: MIT */
/*
 * test_ptrace.c - a debugger single-steps a child through operations of every kind. The kernel
 * restarts a section at every step, so without the gate no operation would ever end; with it the
 * child makes progress and stays exact.
 */
#define _GNU_SOURCE
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <percpu/percpu.h>

#include "threads.h"

enum { ROUNDS = 100, STEPS_MAX = 20000000 };

struct copy {
    uint64_t word, second;
    uint32_t u32;
    uint8_t u8;
    void *list;
    uint64_t stack[3];
    uint64_t lock, window;
};
static struct copy *copies;

static percpu_ptr field(size_t offset)
{
    return (percpu_ptr){(char *)copies + offset, sizeof(struct copy), PERCPU_INDEX_CPU};
}
#define FIELD(name) field(offsetof(struct copy, name))

/* In the child, on one CPU: eleven operations a round, each with the answer it must have. */
static void operations(unsigned cpu, uint64_t rounds)
{
    struct copy *mine = &copies[cpu];
    static struct percpu_list_node node;
    for (uint64_t i = 0; i < rounds; i++) {
        percpu_this_inc_u64(FIELD(word));
        CHECK(percpu_this_add_return_u32(FIELD(u32), 3) == 3 * (i + 1));
        percpu_this_inc_u8(FIELD(u8));
        CHECK(percpu_this_cbne_store_store(FIELD(word), i + 1, i + 1, offsetof(struct copy, second),
                                           ~i));
        CHECK(mine->second == ~i);
        percpu_list_push(FIELD(list), &node);
        CHECK(percpu_list_pop(FIELD(list)) == &node);
        uint64_t top = 0;
        CHECK(percpu_stack_push(FIELD(stack), i, 2));
        CHECK(percpu_stack_pop(FIELD(stack), &top) && top == i);
        CHECK(percpu_this_add_within(FIELD(window), 0xffff, i & 0xffff, 1, 1));
        CHECK(!percpu_this_add_within(FIELD(window), 0xffff, i & 0xffff, 1, 1));
        unsigned locked = percpu_lock(FIELD(lock));
        CHECK(locked == cpu);
        percpu_unlock(FIELD(lock), locked);
    }
    CHECK(mine->word == rounds && mine->u8 == rounds % 256 && mine->list == NULL);
}

static void child(unsigned cpu, uint64_t rounds)
{
    struct percpu_slow_stats before, after;
    percpu_set_max_attempts(3);
    percpu_slow_stats(&before);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(TEST_SKIPPED);
    raise(SIGSTOP);
    operations(cpu, rounds);
    percpu_slow_stats(&after);
    if (percpu_rseq_info()->mode != PERCPU_MODE_NONE)
        CHECK(after.gated > before.gated && after.restarts > before.restarts);
    _exit(0);
}

int main(void)
{
    deadline(100);
    copies = map_copies(percpu_nr_cpus(), sizeof *copies);
    unsigned cpu = (unsigned)percpu_current_cpu();
    uint64_t rounds = (uint64_t)effort(ROUNDS);
    CHECK(pin(cpu));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        child(cpu, rounds);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED) {
        puts("this process may not trace its children");
        return TEST_SKIPPED;
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    long steps = 0;
    for (; !WIFEXITED(status); steps++) {
        if (steps > STEPS_MAX)
            kill(pid, SIGKILL);
        CHECK(steps <= STEPS_MAX);
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0) {
            printf("no single steps here: %s\n", strerror(errno));
            kill(pid, SIGKILL);
            return TEST_SKIPPED;
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) || (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP));
    }
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(steps > 10 * (long)rounds);
    printf("%ld steps\n", steps);
    return 0;
}
