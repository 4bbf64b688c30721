/* SPDX-License-Identifier: MIT */
/*
 * race.c - initial values against the first write to the page that they are on: while one thread
 * allocates items with initial bytes, another writes an item beside them, so that the kernel copies
 * that page for the CPU just then. The new items must have all their bytes all the same.
 *
 * A page is copied only once, so each round is a new pool, and in it there is one race for each
 * page, with other bytes each time. PERCPU_TEST_EFFORT: percent of the usual number of rounds.
 */
#include <rseq/mempool.h>

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

enum { LENGTH = 1024, ITEMS = RSEQ_MEMPOOL_STRIDE / LENGTH, ROUNDS = 6000 };

struct record {
    char bytes[LENGTH];
};

enum { WAIT, WRITE, STOP };

static int phase; /* an atomic: WRITE asks for a write, the writer answers with WAIT */
static struct record *beside;

/* Until the phase is one of `phases`, a set of bits; on the CPU, for as long as nobody else wants
 * it. Returns the phase. */
static int wait_for(unsigned phases)
{
    int now;
    for (unsigned turns = 1; !(phases >> (now = __atomic_load_n(&phase, __ATOMIC_ACQUIRE)) & 1);
         turns++)
        if (turns % 1024 == 0)
            sched_yield();
    return now;
}

static void *writer(void *unused)
{
    unsigned random = 1;
    for (;;) {
        if (wait_for(1 << WRITE | 1 << STOP) == STOP)
            return unused;
        random = random * 1103515245 + 12345;
        for (unsigned delay = random >> 17; delay > 0; delay--)
            rseq_barrier();
        rseq_percpu_ptr(beside, 0)->bytes[0] = 1;
        __atomic_store_n(&phase, WAIT, __ATOMIC_RELEASE);
    }
}

static struct rseq_mempool *make(int robust)
{
    struct rseq_mempool_attr *attr = rseq_mempool_attr_create();
    CHECK(attr != NULL && rseq_mempool_attr_set_percpu(attr, 0, 1) == 0);
    CHECK(!robust || rseq_mempool_attr_set_robust(attr) == 0);
    CHECK(rseq_mempool_attr_set_max_nr_ranges(attr, 1) == 0);
    struct rseq_mempool *pool = rseq_mempool_create("race", sizeof(struct record), attr);
    CHECK(pool != NULL);
    rseq_mempool_attr_destroy(attr);
    return pool;
}

/* All items of the pool, by address. */
static void take_all(struct rseq_mempool *pool, struct record **items)
{
    struct record *lowest = NULL;
    for (int i = 0; i < ITEMS; i++) {
        struct record *item = rseq_mempool_percpu_malloc(pool);
        CHECK(item != NULL);
        if (lowest == NULL || item < lowest)
            lowest = item;
    }
    for (int i = 0; i < ITEMS; i++)
        items[i] = lowest + i;
}

static void expect(struct record *const *items, int count, const struct record *init)
{
    for (int i = 0; i < count; i++)
        CHECK(memcmp(rseq_percpu_ptr(items[i], 0), init, sizeof *init) == 0);
}

/* `count` items are free, some of them on the page of `target`, which nobody has written. */
static void race(struct rseq_mempool *pool, struct record *target, int count, int value)
{
    struct record init, *items[ITEMS];
    memset(&init, value, sizeof init);
    beside = target;
    __atomic_store_n(&phase, WRITE, __ATOMIC_RELEASE);
    for (int i = 0; i < count; i++) {
        items[i] = rseq_mempool_percpu_malloc_init(pool, &init, sizeof init);
        CHECK(items[i] != NULL);
        expect(&items[i], 1, &init);
    }
    wait_for(1 << WAIT);
    expect(items, count, &init);
    CHECK(target->bytes[0] == 1);
    for (int i = 0; i < count; i++)
        rseq_mempool_percpu_free(items[i]);
}

static void round_of(int robust)
{
    int each = (int)sysconf(_SC_PAGESIZE) / LENGTH, kept = 0;
    struct record *items[ITEMS];
    struct rseq_mempool *pool = make(robust);
    take_all(pool, items);
    for (int i = 0; i < ITEMS; i++)
        if (i % each != 0)
            rseq_mempool_percpu_free(items[i]);
        else
            kept++;
    for (int i = 0; i < ITEMS; i += each)
        race(pool, items[i], ITEMS - kept, 2 + i);
    for (int i = 0; i < ITEMS; i += each)
        rseq_mempool_percpu_free(items[i]);
    CHECK(rseq_mempool_destroy(pool) == 0);
}

int main(void)
{
    const char *effort = getenv("PERCPU_TEST_EFFORT");
    int rounds = ROUNDS * (effort != NULL ? atoi(effort) : 100) / 100;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writer, NULL) == 0);
    for (int i = 0; i < rounds; i++)
        round_of(i % 4 == 0);
    __atomic_store_n(&phase, STOP, __ATOMIC_RELEASE);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
