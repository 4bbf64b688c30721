/* SPDX-License-Identifier: MIT */
/*
 * test_counter_threads.c - a counter under more threads than CPUs and a signal storm: nothing is
 * lost, sum() holds every add that returned before the call, exchange() takes each count once.
 */
#define _GNU_SOURCE
#include <limits.h>

#include <percpu/percpu.h>

#include "threads.h"

enum { WORKERS = 6 };

static struct percpu_counter counter;
static unsigned nr_cpus;
static atomic_ullong net, collected, exchanges;

/* What each adder has begun and finished; a line each, for the readers' bounds. */
static struct progress {
    _Alignas(64) atomic_ullong begun, finished;
} progress[MAX_WORKERS];
static atomic_ullong handler_begun, handler_finished;
static uint64_t handled; /* adds of handlers, in all tests */

/* The handler's adds count as those of one more adder. */
static void in_handler(void)
{
    atomic_fetch_add(&handler_begun, 1);
    percpu_counter_inc(&counter);
    atomic_fetch_add(&handler_finished, 1);
}

static void incrementer(struct worker *worker)
{
    struct progress *mine = &progress[worker->id];
    while (!stopping()) {
        worker->done++;
        atomic_store_explicit(&mine->begun, worker->done, memory_order_seq_cst);
        percpu_counter_inc(&counter);
        atomic_store_explicit(&mine->finished, worker->done, memory_order_seq_cst);
    }
    atomic_fetch_add(&net, worker->done);
}

static uint64_t total(bool begun)
{
    uint64_t sum = atomic_load(begun ? &handler_begun : &handler_finished);
    for (unsigned i = 0; i < MAX_WORKERS; i++)
        sum += atomic_load(begun ? &progress[i].begun : &progress[i].finished);
    return sum;
}

/* finished before <= sum() <= begun after, at every instant. */
static void reader(struct worker *worker)
{
    while (!stopping()) {
        uint64_t low = total(false);
        uint64_t seen = (uint64_t)percpu_counter_sum(&counter);
        uint64_t high = total(true);
        CHECK_CASE(low <= seen && seen <= high, "%llu <= %llu <= %llu", (unsigned long long)low,
                   (unsigned long long)seen, (unsigned long long)high);
        CHECK(percpu_counter_compare(&counter, INT64_MAX) == -1);
        CHECK(percpu_counter_compare(&counter, -1) == 1);
        worker->done++;
    }
    worker->done = 0;
}

/* Adds of every size and both signs. */
static void mixed_adder(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    uint64_t sum = 0;
    while (!stopping()) {
        int64_t n = (int64_t)(random_next(&random) >> (1 + worker->done % 63));
        n = random % 2 == 0 ? n : -n;
        percpu_counter_add(&counter, n);
        sum += (uint64_t)n;
        worker->done++;
    }
    atomic_fetch_add(&net, sum);
}

static void exchanger(struct worker *worker)
{
    uint64_t taken = 0;
    do { /* once at least: on a busy machine the others may be done before it begins */
        uint64_t value = worker->done % 7;
        taken += (uint64_t)percpu_counter_exchange(&counter, (int64_t)value) - value;
        worker->done++;
        if (worker->done % 64 == 0)
            sched_yield();
    } while (!stopping());
    atomic_fetch_add(&collected, taken);
    atomic_fetch_add(&exchanges, worker->done);
}

static void begin(enum percpu_index index, int64_t batch, struct percpu_pool **pool)
{
    *pool = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 16, .index = index});
    CHECK(*pool != NULL && percpu_counter_init(&counter, *pool, 0, batch) == 0);
    memset(progress, 0, sizeof progress);
    net = collected = exchanges = handler_begun = handler_finished = 0;
}

static void end(struct percpu_pool *pool, uint64_t expected)
{
    const char *broken = percpu_counter_check(&counter);
    CHECK_CASE(broken == NULL, "%s", broken);
    CHECK(handler_begun == handler_finished);
    handled += handler_finished;
    uint64_t sum = (uint64_t)percpu_counter_sum(&counter);
    CHECK_CASE(sum == expected, "%lld lost", (long long)(expected - sum));
    uint64_t apart = sum - (uint64_t)percpu_counter_read(&counter);
    uint64_t error = (uint64_t)percpu_counter_error(&counter);
    CHECK(apart + error <= 2 * error);
    percpu_counter_destroy(&counter);
    percpu_pool_destroy(pool);
}

static void test_sum_is_exact(enum percpu_index index, int64_t batch)
{
    static void (*const bodies[])(struct worker *) = {incrementer, incrementer, reader};
    struct percpu_pool *pool;
    begin(index, batch, &pool);
    run_workers(WORKERS, bodies, 3, 200, 150);
    end(pool, net + handler_finished);
}

static void test_mixed_adds(enum percpu_index index, int64_t batch)
{
    static void (*const bodies[])(struct worker *) = {mixed_adder};
    struct percpu_pool *pool;
    begin(index, batch, &pool);
    run_workers(WORKERS, bodies, 1, 200, 100);
    end(pool, net + handler_finished);
}

/* Everything added was taken out by one exchanger, net of what they put in, or is still there. */
static void test_exchange_conserves(enum percpu_index index, int64_t batch)
{
    static void (*const bodies[])(struct worker *) = {incrementer, exchanger, incrementer};
    struct percpu_pool *pool;
    begin(index, batch, &pool);
    run_workers(WORKERS, bodies, 3, 200, 150);
    CHECK(exchanges > 0);
    end(pool, net + handler_finished - collected);
}

/*
 * A thread that is moved after its add flushes from elsewhere, beside an add that takes it back: one
 * of the two sees what the other stored, and in the end the CPU is within a batch.
 */
enum { MUCH = 1000 };
static unsigned two_cpus[2];
static atomic_ulong begun, taken_back, checked;

static void wait_for(atomic_ulong *round, unsigned long wanted)
{
    while (atomic_load(round) < wanted)
        percpu_cpu_relax();
}

static void taker_back(struct worker *worker)
{
    CHECK(pin(two_cpus[0]));
    do {
        unsigned long round = ++worker->done;
        percpu_this_add_u64(counter.slots, MUCH); /* and is moved */
        atomic_store(&begun, round);
        for (volatile unsigned long i = 0; i < round % 64; i++)
            ;
        percpu_counter_sub(&counter, MUCH);
        atomic_store(&taken_back, round);
        wait_for(&checked, round);
    } while (!stopping());
    atomic_store(&begun, ULONG_MAX);
}

static void late_flusher(struct worker *worker)
{
    CHECK(pin(two_cpus[1]));
    for (unsigned long round = 1;; round++) {
        wait_for(&begun, round);
        if (atomic_load(&begun) == ULONG_MAX)
            return;
        percpu_counter_flush(&counter, percpu_ptr_cpu(counter.slots, two_cpus[0]));
        wait_for(&taken_back, round);
        const char *broken = percpu_counter_check(&counter);
        CHECK_CASE(broken == NULL, "%s, %lld unflushed, round %lu", broken,
                   (long long)(percpu_counter_sum(&counter) - percpu_counter_read(&counter)),
                   round);
        worker->done = round;
        atomic_store(&checked, round);
    }
}

static void test_flush_from_elsewhere(void)
{
    static void (*const bodies[])(struct worker *) = {taker_back, late_flusher};
    cpu_set_t allowed;
    unsigned found = 0;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (unsigned cpu = 0; cpu < nr_cpus && found < 2; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            two_cpus[found++] = cpu;
    if (found < 2)
        return;
    CHECK(percpu_counter_init(&counter, NULL, 0, 0) == 0);
    CHECK(run_workers(2, bodies, 2, 0, 150) > 0);
    CHECK(percpu_counter_sum(&counter) == 0);
    percpu_counter_destroy(&counter);
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    static const int64_t batches[] = {1, 32, 1024};
    deadline(100);
    nr_cpus = percpu_nr_cpus();
    storm_work = in_handler;
    test_flush_from_elsewhere();
    for (size_t i = 0; i < 2; i++) {
        if (percpu_index_check(indexes[i]) != 0)
            continue;
        for (size_t j = 0; j < 3; j++) {
            test_sum_is_exact(indexes[i], batches[j]);
            test_mixed_adds(indexes[i], batches[j]);
            test_exchange_conserves(indexes[i], batches[j]);
        }
    }
    CHECK(handled > 0);
    return 0;
}
