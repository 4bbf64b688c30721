/* SPDX-License-Identifier: MIT */
/*
 * test_pool_threads.c - a pool under more threads than CPUs and a signal storm: producers on one
 * CPU, consumers on another, drains and statistics meanwhile. No item has two owners, none is
 * lost, none is handed out with what its last owner left in it.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "pool_check.h"
#include "threads.h"

enum { WORKERS = 6, HELD = 300, QUEUE = 256, ITEM = 32 };

/* The start of each CPU's copy of an item in use. */
struct item {
    uint64_t owner; /* in CPU 0's copy; 0 when free */
    uint64_t adds;  /* in every copy: by this_cpu operations */
};

static struct percpu_pool *pool;
static unsigned nr_cpus;
static percpu_ptr bumped;

static uint64_t sum(percpu_ptr p)
{
    uint64_t total = 0;
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        total += percpu_cpu_read_u64(p, cpu);
    return total;
}

static percpu_ptr adds_of(struct item *item)
{
    return percpu_ptr_field(percpu_pool_ptr(pool, item), offsetof(struct item, adds));
}

static struct item *obtain(uint64_t owner)
{
    struct item *item = percpu_pool_zalloc(pool);
    if (item == NULL) {
        CHECK(errno == ENOMEM);
        return NULL;
    }
    CHECK(__atomic_exchange_n(&item->owner, owner, __ATOMIC_RELAXED) == 0);
    CHECK(sum(adds_of(item)) == 0);
    return item;
}

static void give_back(struct item *item, uint64_t owner)
{
    CHECK(__atomic_exchange_n(&item->owner, (uint64_t)0, __ATOMIC_RELAXED) == owner);
    percpu_pool_free(pool, item);
}

/* Hold a changing set of items, and count in each. */
static void holder(struct worker *worker)
{
    struct item *held[HELD] = {0};
    uint64_t counts[HELD] = {0}, random = worker->id + 1;
    while (!stopping()) {
        unsigned i = (unsigned)(random_next(&random) >> 32) % HELD;
        if (held[i] == NULL) {
            held[i] = obtain(worker->id + 1);
            counts[i] = 0;
        } else if (random % 4 != 0) {
            percpu_this_inc_u64(adds_of(held[i]));
            counts[i]++;
        } else {
            CHECK(sum(adds_of(held[i])) == counts[i]);
            give_back(held[i], worker->id + 1);
            held[i] = NULL;
            worker->done++;
        }
    }
    for (unsigned i = 0; i < HELD; i++)
        if (held[i] != NULL)
            give_back(held[i], worker->id + 1);
}

static void looker_on(struct worker *worker)
{
    while (!stopping()) {
        struct percpu_pool_stats stats;
        percpu_pool_stats(pool, &stats);
        CHECK(stats.ranges > 0 && stats.resident_bytes <= stats.virtual_bytes);
        percpu_pool_drain(pool);
        CHECK(!percpu_pool_owns(pool, &stats) && percpu_pool_owns(pool, bumped.base));
        sleep_ms(1);
        worker->done++;
    }
}

/* ---- from producers to consumers -------------------------------------------------------- */

static struct item *queue[QUEUE];
static unsigned queued;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_ullong produced, consumed;

static bool enqueue(struct item *item)
{
    CHECK(pthread_mutex_lock(&queue_lock) == 0);
    bool room = queued < QUEUE;
    if (room)
        queue[queued++] = item;
    CHECK(pthread_mutex_unlock(&queue_lock) == 0);
    return room;
}

static struct item *dequeue(void)
{
    CHECK(pthread_mutex_lock(&queue_lock) == 0);
    struct item *item = queued > 0 ? queue[--queued] : NULL;
    CHECK(pthread_mutex_unlock(&queue_lock) == 0);
    return item;
}

static void producer(struct worker *worker)
{
    pin((unsigned)(worker->id / 2) % nr_cpus);
    while (!stopping()) {
        struct item *item = obtain(1000);
        if (item == NULL || !enqueue(item)) {
            if (item != NULL)
                give_back(item, 1000);
            sched_yield();
            continue;
        }
        worker->done++;
    }
    atomic_fetch_add(&produced, worker->done);
}

static void consumer(struct worker *worker)
{
    pin((unsigned)(worker->id / 2 + 1) % nr_cpus);
    while (!stopping()) {
        struct item *item = dequeue();
        if (item == NULL) {
            sched_yield();
            continue;
        }
        give_back(item, 1000);
        worker->done++;
    }
    atomic_fetch_add(&consumed, worker->done);
}

static void in_handler(void)
{
    percpu_this_inc_u64(bumped);
}

static void test_workers(void (*const *bodies)(struct worker *), unsigned kinds)
{
    struct percpu_pool_stats stats;
    unsigned long before = atomic_load(&storm_hits);
    uint64_t bumped_before = sum(bumped);
    CHECK(run_workers(WORKERS, bodies, kinds, 300, 300) > 0);
    CHECK(atomic_load(&storm_hits) > before);
    CHECK(sum(bumped) - bumped_before == atomic_load(&storm_hits) - before);
    for (struct item *item; (item = dequeue()) != NULL;) {
        give_back(item, 1000);
        atomic_fetch_add(&consumed, 1);
    }
    const char *broken = pool_broken(pool);
    CHECK_CASE(broken == NULL, "%s", broken);
    percpu_pool_stats(pool, &stats);
    CHECK_CASE(stats.live == 1, "%zu live", stats.live); /* the handler's */
    percpu_pool_drain(pool);
    CHECK(pool_broken(pool) == NULL);
}

/* Exhausted in every thread at once, the pool refuses, and every item comes back. */
static void exhauster(struct worker *worker)
{
    static struct item *items[WORKERS][1 << 12];
    while (!stopping()) {
        unsigned count = 0;
        while (count < 1 << 12 && (items[worker->id][count] = obtain(worker->id + 1)) != NULL)
            count++;
        worker->done += count;
        while (count > 0)
            give_back(items[worker->id][--count], worker->id + 1);
    }
}

static void test_pool(size_t max_ranges, enum percpu_index index)
{
    static void (*const holders[])(struct worker *) = {holder, holder, looker_on};
    static void (*const across[])(struct worker *) = {producer, consumer};
    static void (*const greedy[])(struct worker *) = {exhauster};
    struct percpu_pool_attr attr = {
        .item_size = ITEM, .stride = 4096, .max_ranges = max_ranges, .index = index};
    pool = percpu_pool_create(&attr);
    CHECK(pool != NULL);
    bumped = percpu_pool_ptr(pool, percpu_pool_zalloc(pool));
    CHECK(bumped.base != NULL);
    test_workers(holders, 3);
    test_workers(across, 2);
    CHECK(atomic_load(&produced) == atomic_load(&consumed));
    if (max_ranges != 0)
        test_workers(greedy, 1);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    nr_cpus = percpu_nr_cpus();
    storm_work = in_handler;
    test_pool(0, PERCPU_INDEX_CPU);
    test_pool(4, PERCPU_INDEX_CPU);
    if (percpu_index_check(PERCPU_INDEX_CID) == 0)
        test_pool(4, PERCPU_INDEX_CID);
    return 0;
}
