/* SPDX-License-Identifier: MIT */
/*
 * test_registration.c - threads that come and go: thousands of short ones, operations as the very
 * first and the very last thing a thread does, detached threads whose stacks are used again.
 *
 * In mode own a thread that ends while the kernel still knows its area gets the process killed, as
 * does one that registers twice. `test_registration mode` prints the mode instead, for a test of
 * the environment variables.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "threads.h"

enum { THREADS = 1500, ROUNDS = 20 };

static uint64_t *copies;
static percpu_ptr object;
static unsigned nr_cpus;
static pthread_key_t early_key, late_key;
static atomic_uint destructor_runs, detached_done, forgotten;

static uint64_t sum(void)
{
    uint64_t total = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        total += percpu_cpu_read_u64(object, cpu);
    return total;
}

static void operations(void)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        percpu_this_inc_u64(object);
}

/* After the core's own clean-up, and until the next operation, the kernel must not know the area:
 * it would write into memory that is somebody else's by then. */
static void check_the_kernel_forgot_us(void)
{
    char *area = (char *)__builtin_thread_pointer() + percpu_runtime.area;
    if (percpu_rseq_info()->mode != PERCPU_MODE_OWN || percpu_cs_id(PERCPU_INDEX_CPU) != UINT32_MAX)
        return;
    CHECK(syscall(SYS_rseq, area, 32, 1 /* unregister */, PERCPU_RSEQ_SIGNATURE) == -1);
    atomic_fetch_add(&forgotten, 1);
}

/* Runs at thread exit, before or after the core's own clean-up, up to three times a thread. */
static void at_exit(void *value)
{
    uintptr_t left = (uintptr_t)value;
    check_the_kernel_forgot_us();
    operations();
    if (pin(nr_cpus - 1)) /* an id from before the clean-up would be out of date now */
        CHECK(percpu_current_cpu() == (int)nr_cpus - 1);
    atomic_fetch_add(&destructor_runs, 1);
    if (left > 1) {
        CHECK(pthread_setspecific(early_key, (void *)(left - 1)) == 0);
        CHECK(pthread_setspecific(late_key, (void *)(left - 1)) == 0);
    }
}

static void *short_thread(void *unused)
{
    operations();
    return unused;
}

static void *thread_with_destructors(void *unused)
{
    CHECK(pthread_setspecific(early_key, (void *)1) == 0);
    CHECK(pthread_setspecific(late_key, (void *)3) == 0);
    operations();
    return unused;
}

static void *detached_thread(void *unused)
{
    CHECK(pthread_setspecific(late_key, (void *)1) == 0);
    operations();
    atomic_fetch_add(&detached_done, 1);
    return unused;
}

static void *only_a_remote_write(void *unused)
{
    (void)percpu_cpu_add_return_u64(object, nr_cpus - 1, ROUNDS);
    return unused;
}

static void run_one(void *(*body)(void *))
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void test_threads_come_and_go(void)
{
    uint64_t before = sum();
    for (unsigned i = 0; i < THREADS; i++)
        run_one(i % 8 == 0 ? only_a_remote_write : short_thread);
    CHECK(sum() - before == (uint64_t)THREADS * ROUNDS);
}

static void test_operations_in_destructors(void)
{
    uint64_t before = sum();
    unsigned runs_before = atomic_load(&destructor_runs);
    for (unsigned i = 0; i < 100; i++)
        run_one(thread_with_destructors);
    unsigned runs = atomic_load(&destructor_runs) - runs_before;
    CHECK(runs >= 200);
    CHECK(sum() - before == (uint64_t)(100 + runs) * ROUNDS);
}

static void test_detached_threads(void)
{
    uint64_t before = sum();
    unsigned runs_before = atomic_load(&destructor_runs);
    pthread_attr_t detached;
    CHECK(pthread_attr_init(&detached) == 0);
    CHECK(pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED) == 0);
    for (unsigned i = 0; i < THREADS / 4; i++) {
        pthread_t thread;
        int error;
        while ((error = pthread_create(&thread, &detached, detached_thread, NULL)) == EAGAIN)
            sched_yield();
        CHECK(error == 0);
    }
    while (atomic_load(&detached_done) < THREADS / 4 ||
           atomic_load(&destructor_runs) - runs_before < THREADS / 4)
        sched_yield();
    CHECK(sum() - before == (uint64_t)THREADS / 4 * 2 * ROUNDS);
    CHECK(pthread_attr_destroy(&detached) == 0);
}

/* What percpu_rseq_info() says agrees with itself. */
static void test_info(void)
{
    const struct percpu_rseq_info *info = percpu_rseq_info();
    CHECK(info->reason != NULL && info->reason[0] != '\0');
    CHECK(percpu_current_cpu() >= 0 && (unsigned)percpu_current_cpu() < nr_cpus);
    CHECK(percpu_current_node() >= 0);
    if (info->mode == PERCPU_MODE_NONE) {
        CHECK(percpu_runtime.limit == 0 && info->feature_size == 0);
        CHECK(!info->mm_cid && !info->node_id);
    } else {
        CHECK(percpu_runtime.limit == nr_cpus && info->fence);
        CHECK(info->feature_size >= 20 && info->feature_size <= 32);
        CHECK(info->node_id == (info->feature_size >= 24));
        CHECK(info->mm_cid == (info->feature_size >= 28));
    }
    percpu_rseq_clear();
    operations();
}

static int print_mode(void)
{
    static const char *const names[] = {
        [PERCPU_MODE_NONE] = "none", [PERCPU_MODE_GLIBC] = "glibc", [PERCPU_MODE_OWN] = "own"};
    const struct percpu_rseq_info *info = percpu_rseq_info();
    printf("%s\n%s\n%s\n", names[info->mode], info->reason,
           info->bad_environment != NULL ? info->bad_environment : "(good)");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "mode") == 0)
        return print_mode();
    deadline(60);
    nr_cpus = percpu_nr_cpus();
    copies = map_copies(nr_cpus, 4096);
    object = (percpu_ptr){(char *)copies, 4096, PERCPU_INDEX_CPU};
    CHECK(pthread_key_create(&early_key, at_exit) == 0);
    test_threads_come_and_go();
    CHECK(pthread_key_create(&late_key, at_exit) == 0);
    test_operations_in_destructors();
    test_detached_threads();
    CHECK(forgotten > 0 || percpu_rseq_info()->mode != PERCPU_MODE_OWN);
    test_info();
    return 0;
}
