/* SPDX-License-Identifier: MIT */
/*
 * test_fork.c - fork() while threads count, allocate, take the gate and handle signals: the child
 * can do all of that at once, sees sums that never go back, and owns its copies alone. Programs
 * started by posix_spawn() and vfork() leave everything as it is.
 *
 * A lock that some other thread held at the fork, a fence that the child did not register again,
 * or a flush that was under way, makes the child hang (its deadline ends it) or count wrong.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <sys/wait.h>

#include <percpu/percpu.h>

#include "slow_word.h"
#include "pool_check.h"
#include "threads.h"

enum { WORKERS = 6, FORKS = 25, CHILD_ADDS = 1000 };

static struct percpu_counter counter;
static struct percpu_pool *pool;
static percpu_ptr word, list, lock;
static unsigned nr_cpus;
static atomic_ullong finished; /* adds to `word` that returned */
extern char **environ;

static uint64_t sum(percpu_ptr p)
{
    uint64_t total = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        total += percpu_cpu_read_u64(p, cpu);
    return total;
}

static void in_handler(void)
{
    percpu_counter_inc(&counter);
    percpu_this_inc_u64(word);
    atomic_fetch_add(&finished, 1);
}

static void counting(struct worker *worker)
{
    while (!stopping()) {
        percpu_counter_add(&counter, 3);
        percpu_this_inc_u64(word);
        atomic_fetch_add(&finished, 1);
        worker->done++;
    }
}

static void allocating(struct worker *worker)
{
    void *items[100];
    while (!stopping()) {
        for (unsigned i = 0; i < 100; i++)
            CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        for (unsigned i = 0; i < 100; i++)
            percpu_pool_free(pool, items[i]);
        worker->done++;
    }
}

static void at_the_gate(struct worker *worker)
{
    static struct percpu_list_node nodes[MAX_WORKERS];
    while (!stopping()) {
        unsigned cpu = (unsigned)worker->done % nr_cpus;
        (void)percpu_cpu_add_return_u64(word, cpu, 1);
        atomic_fetch_add(&finished, 1);
        percpu_list_push(list, &nodes[worker->id]);
        for (unsigned i = 0; i < nr_cpus; i++)
            (void)percpu_list_pop_all_of(list, i);
        (void)slow_word(word, PERCPU_OP_ADD, 8, 1, 0);
        atomic_fetch_add(&finished, 1);
        worker->done++;
    }
}

static void *in_the_childs_thread(void *unused)
{
    for (unsigned i = 0; i < CHILD_ADDS; i++) {
        percpu_this_inc_u64(word);
        percpu_counter_inc(&counter);
    }
    return unused;
}

/* The child of a storm. `low`: adds that had returned before the fork. */
static void child(uint64_t low, unsigned generation)
{
    deadline(20);
    CHECK(percpu_fork_generation == generation + 1);
    uint64_t begun = sum(word);
    int64_t counted = percpu_counter_sum(&counter);
    CHECK(begun >= low);
    /* The gate, the fence, sections, memory and threads, all of them at once. */
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
        uint64_t was = percpu_cpu_read_u64(word, cpu);
        CHECK(percpu_cpu_add_return_u64(word, cpu, 5) == was + 5);
        (void)percpu_list_pop_all_of(list, cpu);
    }
    CHECK(percpu_rseq_info()->mode == PERCPU_MODE_NONE || percpu_rseq_fence(-1) == 0);
    in_the_childs_thread(NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_the_childs_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(sum(word) == begun + 5 * nr_cpus + 2 * CHILD_ADDS);
    CHECK(percpu_counter_sum(&counter) == counted + 2 * CHILD_ADDS);
    CHECK(percpu_counter_check(&counter) == NULL);
    int64_t apart = percpu_counter_read(&counter) - percpu_counter_sum(&counter);
    CHECK(apart <= percpu_counter_error(&counter) && apart >= -percpu_counter_error(&counter));
    unsigned locked = percpu_lock(lock);
    percpu_unlock(lock, locked);
    void *items[300];
    for (unsigned i = 0; i < 300; i++) {
        CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
            CHECK(percpu_cpu_read_u64(percpu_pool_ptr(pool, items[i]), cpu) == 0);
        memset(items[i], 0xff, 64);
    }
    for (unsigned i = 0; i < 300; i++)
        percpu_pool_free(pool, items[i]);
    CHECK(pool_broken(pool) == NULL);
    struct percpu_pool *another = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 8});
    CHECK(another != NULL);
    percpu_pool_destroy(another);
    percpu_pool_drain(pool);
}

static void wait_for(pid_t pid)
{
    int status;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == pid);
    CHECK_CASE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", (unsigned)status);
}

/* Forks, and children of children, from a thread of the storm. */
static void forking(struct worker *worker)
{
    for (unsigned i = 0; i < FORKS && !stopping(); i++) {
        uint64_t low = atomic_load(&finished);
        unsigned generation = percpu_fork_generation;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            child(low, generation);
            if (i % 5 == 0) {
                pid_t grandchild = fork();
                CHECK(grandchild >= 0);
                if (grandchild == 0) {
                    child(low, generation + 1);
                    _exit(0);
                }
                wait_for(grandchild);
            }
            _exit(0);
        }
        wait_for(pid);
        CHECK(percpu_fork_generation == generation);
        worker->done++;
    }
}

static void spawning(struct worker *worker)
{
    char *argv[] = {"true", NULL};
    while (!stopping() && worker->done < 20) {
        unsigned generation = percpu_fork_generation;
        pid_t pid;
        CHECK(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
        wait_for(pid);
        pid = vfork();
        CHECK(pid >= 0);
        if (pid == 0)
            _exit(0);
        wait_for(pid);
        CHECK(percpu_fork_generation == generation);
        worker->done++;
    }
}

static void test_storm(void (*last)(struct worker *))
{
    void (*const bodies[])(struct worker *) = {counting,    allocating, at_the_gate,
                                               at_the_gate, counting,   last};
    uint64_t before = atomic_load(&finished);
    CHECK(run_workers(WORKERS, bodies, 6, 400, 700) > 0);
    CHECK(atomic_load(&finished) > before);
    CHECK(sum(word) == atomic_load(&finished));
    const char *broken = percpu_counter_check(&counter);
    CHECK_CASE(broken == NULL, "%s", broken);
    broken = pool_broken(pool);
    CHECK_CASE(broken == NULL, "%s", broken);
    struct percpu_pool_stats stats;
    percpu_pool_stats(pool, &stats);
    CHECK_CASE(stats.live == 3, "%zu live", stats.live);
}

/* After fork() parent and child write copies of their own. */
static void test_memory_is_private(void)
{
    percpu_ptr p = percpu_pool_ptr(pool, percpu_pool_zalloc(pool));
    percpu_cpu_write_u64(p, 0, 11);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        deadline(20);
        CHECK(percpu_cpu_read_u64(p, 0) == 11);
        percpu_cpu_write_u64(p, 0, 22);
        percpu_pool_free(pool, p.base);
        _exit(0);
    }
    wait_for(pid);
    CHECK(percpu_cpu_read_u64(p, 0) == 11);
    percpu_pool_free(pool, p.base);
}

int main(void)
{
    deadline(100);
    nr_cpus = percpu_nr_cpus();
    pool = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 64});
    CHECK(pool != NULL);
    word = percpu_pool_ptr(pool, percpu_pool_zalloc(pool));
    list = percpu_pool_ptr(pool, percpu_pool_zalloc(pool));
    lock = percpu_pool_ptr(pool, percpu_pool_zalloc(pool));
    CHECK(word.base != NULL && list.base != NULL && lock.base != NULL);
    CHECK(percpu_counter_init(&counter, NULL, 0, 2) == 0);
    CHECK(percpu_fork_generation == 0);
    test_memory_is_private();
    storm_work = in_handler;
    test_storm(forking);
    test_storm(spawning);
    return 0;
}
