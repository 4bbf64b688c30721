/* SPDX-License-Identifier: MIT */
/*
 * test_counter_lazy.c - lazy counters: when they take memory, that nothing is lost while they do,
 * and that signal handlers and forks may come at any point of it.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>
#include <sys/wait.h>

#include "threads.h"

enum { WORKERS = 6, ROUND_ADDS = 100 };

static struct percpu_counter counter;

static void check_sum(struct percpu_counter *c, int64_t expected)
{
    const char *broken = percpu_counter_check(c);
    CHECK_CASE(broken == NULL, "%s", broken);
    int64_t sum = percpu_counter_sum(c);
    CHECK_CASE(sum == expected, "%lld, not %lld", (long long)sum, (long long)expected);
}

static void *add_ones(void *times)
{
    for (uintptr_t i = 0; i < (uintptr_t)times; i++)
        percpu_counter_inc(&counter);
    return NULL;
}

static void add_in_a_thread(uintptr_t times)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, add_ones, (void *)times) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static size_t live(struct percpu_pool *pool)
{
    struct percpu_pool_stats stats;
    percpu_pool_stats(pool, &stats);
    return stats.live;
}

static void test_one_thread_takes_no_memory(void)
{
    struct percpu_pool *pool = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 16});
    CHECK(pool != NULL && percpu_counter_init_lazy(&counter, pool, 5, 4) == 0);
    for (unsigned i = 0; i < 1000; i++)
        percpu_counter_add(&counter, 3);
    CHECK(percpu_counter_is_lazy(&counter) && live(pool) == 0);
    CHECK(percpu_counter_read(&counter) == 3005 && percpu_counter_error(&counter) == 0);
    check_sum(&counter, 3005);
    CHECK(percpu_counter_on(&counter, 0) == 0);
    CHECK(percpu_counter_upgrade(&counter) == 0 && percpu_counter_upgrade(&counter) == 0);
    CHECK(!percpu_counter_is_lazy(&counter) && live(pool) == 1);
    CHECK(percpu_counter_error(&counter) == 3 * (int64_t)percpu_nr_cpus());
    percpu_counter_add(&counter, 100);
    check_sum(&counter, 3105);
    percpu_counter_destroy(&counter);
    CHECK(live(pool) == 0);
    percpu_pool_destroy(pool);
}

static void test_others_make_it_upgrade(void)
{
    CHECK(percpu_counter_init_lazy(&counter, NULL, 0, 0) == 0);
    percpu_counter_inc(&counter); /* this thread owns it */
    add_in_a_thread(PERCPU_COUNTER_CONTENDED - 1);
    CHECK(percpu_counter_is_lazy(&counter));
    add_in_a_thread(1);
    CHECK(!percpu_counter_is_lazy(&counter));
    check_sum(&counter, 1 + PERCPU_COUNTER_CONTENDED);
    percpu_counter_destroy(&counter);
    /* The first to add is the owner, not the maker. */
    CHECK(percpu_counter_init_lazy(&counter, NULL, 0, 0) == 0);
    add_in_a_thread(1000);
    CHECK(percpu_counter_is_lazy(&counter));
    check_sum(&counter, 1000);
    percpu_counter_destroy(&counter);
}

static void test_goes_on_without_memory(void)
{
    struct percpu_pool_attr attr = {.item_size = 16, .stride = 4096, .max_ranges = 1};
    struct percpu_pool *pool = percpu_pool_create(&attr);
    CHECK(pool != NULL && percpu_counter_init_lazy(&counter, pool, 0, 0) == 0);
    void *item, *one = NULL;
    while ((item = percpu_pool_alloc(pool)) != NULL)
        one = item;
    percpu_counter_inc(&counter);
    errno = 0;
    CHECK(percpu_counter_upgrade(&counter) == -1 && errno == ENOMEM);
    add_in_a_thread(10 * PERCPU_COUNTER_CONTENDED);
    CHECK(percpu_counter_is_lazy(&counter));
    percpu_pool_free(pool, one);
    add_in_a_thread(PERCPU_COUNTER_CONTENDED);
    CHECK(!percpu_counter_is_lazy(&counter));
    check_sum(&counter, 1 + 11 * PERCPU_COUNTER_CONTENDED);
    percpu_counter_destroy(&counter);
    percpu_pool_destroy(pool);
}

/* rounds: all workers fall upon a new counter at once ------------------------------------------ */

static pthread_barrier_t round_begins, round_ends;
static atomic_llong handler_adds;
static atomic_bool rounds_over;

/* Between rounds there is no counter; a sanitizer may bring signals as late as that. */
static __thread volatile sig_atomic_t in_round;

static void add_in_handler(void)
{
    if (!in_round)
        return;
    percpu_counter_inc(&counter);
    atomic_fetch_add(&handler_adds, 1);
}

static void *round_worker(void *storm)
{
    bool wait = true;
    while (wait) {
        pthread_barrier_wait(&round_begins);
        wait = !atomic_load(&rounds_over);
        timer_t timer = NULL;
        if (wait && storm != NULL)
            timer = storm_begin(50);
        in_round = wait;
        for (unsigned i = 0; wait && i < ROUND_ADDS; i++)
            percpu_counter_add(&counter, i % 2 == 0 ? 3 : -1);
        in_round = false;
        if (timer != NULL)
            storm_end(timer);
        pthread_barrier_wait(&round_ends);
    }
    return NULL;
}

static void test_nothing_is_lost_in_an_upgrade(bool storm)
{
    pthread_t threads[WORKERS];
    CHECK(pthread_barrier_init(&round_begins, NULL, WORKERS + 1) == 0);
    CHECK(pthread_barrier_init(&round_ends, NULL, WORKERS + 1) == 0);
    atomic_store(&rounds_over, false);
    storm_work = add_in_handler;
    for (unsigned i = 0; i < WORKERS; i++)
        CHECK(pthread_create(&threads[i], NULL, round_worker, storm ? "" : NULL) == 0);
    unsigned upgraded = 0;
    for (long round = effort(storm ? 300 : 1000); round >= 0; round--) {
        CHECK(percpu_counter_init_lazy(&counter, NULL, 7, 1 + round % 40) == 0);
        handler_adds = 0;
        atomic_store(&rounds_over, round == 0);
        pthread_barrier_wait(&round_begins);
        if (round % 3 == 0)
            CHECK(percpu_counter_upgrade(&counter) == 0);
        int64_t low = percpu_counter_sum(&counter);
        CHECK(low >= 7 - WORKERS && low <= 7 + WORKERS * ROUND_ADDS * 3 + 1000);
        pthread_barrier_wait(&round_ends);
        if (round > 0)
            check_sum(&counter, 7 + WORKERS * ROUND_ADDS + handler_adds);
        upgraded += !percpu_counter_is_lazy(&counter);
        percpu_counter_destroy(&counter);
    }
    CHECK(upgraded > 0);
    for (unsigned i = 0; i < WORKERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* a handler that upgrades ---------------------------------------------------------------------- */

enum { HANDLED = 2000 };
static struct percpu_counter handled[HANDLED];
static atomic_uint handled_next;

/* Each hit makes one counter upgrade, whatever was interrupted. */
static void upgrade_in_handler(void)
{
    unsigned i = atomic_fetch_add(&handled_next, 1);
    for (unsigned n = 0; i < HANDLED && n < PERCPU_COUNTER_CONTENDED; n++)
        percpu_counter_inc(&handled[i]);
}

static void *own_all(void *unused)
{
    for (unsigned i = 0; i < HANDLED; i++)
        percpu_counter_inc(&handled[i]);
    return unused;
}

/* Fails by its deadline if the handler waits for a lock that its own thread holds. */
static void test_a_handler_may_interrupt_the_pool(void)
{
    struct percpu_pool_attr attr = {.item_size = 16, .stride = 4096, .cache_bytes = 32};
    struct percpu_pool *pool = percpu_pool_create(&attr); /* takes the lock at every turn */
    enum { HELD = 64 };
    void *items[HELD];
    CHECK(pool != NULL);
    for (unsigned i = 0; i < HANDLED; i++)
        CHECK(percpu_counter_init_lazy(&handled[i], pool, 0, 0) == 0);
    pthread_t owner; /* so that the handler adds beside an owner */
    CHECK(pthread_create(&owner, NULL, own_all, NULL) == 0 && pthread_join(owner, NULL) == 0);
    unsigned upgraded = 0;
    storm_work = upgrade_in_handler;
    timer_t timer = storm_begin(60);
    for (long turn = effort(4000); turn > 0 && atomic_load(&handled_next) < HANDLED; turn--) {
        for (unsigned i = 0; i < HELD; i++)
            CHECK((items[i] = percpu_pool_zalloc(pool)) != NULL);
        for (unsigned i = 0; i < HELD; i++)
            percpu_pool_free(pool, items[i]);
        percpu_pool_drain(pool);
    }
    storm_end(timer);
    CHECK(atomic_load(&handled_next) > 0);
    for (unsigned i = 0; i < HANDLED; i++) {
        check_sum(&handled[i], i < atomic_load(&handled_next) ? 1 + PERCPU_COUNTER_CONTENDED : 1);
        upgraded += !percpu_counter_is_lazy(&handled[i]);
        percpu_counter_destroy(&handled[i]);
    }
    CHECK(upgraded > 0 && live(pool) == 0);
    percpu_pool_destroy(pool);
}

/* fork ------------------------------------------------------------------------------------------ */

static void adder(struct worker *worker)
{
    while (!stopping()) {
        percpu_counter_inc(&counter);
        worker->done++;
    }
}

static void add_in_child(uintptr_t times)
{
#if defined(__SANITIZE_THREAD__) || defined(__aarch64__) /* it, and qemu, allow no threads here */
    add_ones((void *)times);
#else
    add_in_a_thread(times);
#endif
}

static void forker(struct worker *worker)
{
    while (!stopping()) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            deadline(20);
            percpu_counter_inc(&counter); /* mends */
            int64_t sum = percpu_counter_sum(&counter);
            for (unsigned i = 0; i < 100; i++)
                percpu_counter_add(&counter, 2);
            add_in_child(100);
            check_sum(&counter, sum + 300);
            CHECK(percpu_counter_upgrade(&counter) == 0);
            add_in_child(100);
            check_sum(&counter, sum + 400);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        worker->done = 0;
    }
}

static void test_fork(void)
{
    static void (*const bodies[])(struct worker *) = {adder, forker, adder};
    for (long round = effort(20); round > 0; round--) {
        CHECK(percpu_counter_init_lazy(&counter, NULL, 0, 1 + round % 3) == 0);
        uint64_t done = run_workers(3, bodies, 3, 0, 15);
        check_sum(&counter, (int64_t)done);
        percpu_counter_destroy(&counter);
    }
}

int main(void)
{
    deadline(100);
    test_one_thread_takes_no_memory();
    test_others_make_it_upgrade();
    test_goes_on_without_memory();
    test_nothing_is_lost_in_an_upgrade(false);
    test_nothing_is_lost_in_an_upgrade(true);
    test_a_handler_may_interrupt_the_pool();
    test_fork();
    return 0;
}
