/* SPDX-License-Identifier: MIT */
/*
 * handover.c - no schemes: a thread allocates items, another one frees them, and a ring of pointers
 * is between the two; and the same ring without a pool, with a pointer to nothing in particular.
 *
 * What is added is an item put into the ring, or taken out of it. So with a CPU for each thread, a
 * time per add and CPU is the time from one item to the next, the ring's own cost included.
 *
 *      slots     ... | free | item item item item | free | ...       one producer, one consumer
 *                             ^ taken               ^ put
 *
 * Each writes its own index, with release, and reads the other's, with acquire, BATCH items at a
 * time. Whoever waits when the other has left gives up: what it had still to do counts as done.
 */
#include <sched.h>
#include <stdlib.h>

#include "scheme.h"

enum { SLOTS = 1024, BATCH = 64, SPINS = 1 << 16 };

#define OWN_LINE __attribute__((aligned(PERCPU_CACHE_LINE)))

struct ring {
    uint64_t put OWN_LINE;             /* items so far: written by the producer */
    uint64_t taken OWN_LINE;           /* written by the consumer */
    struct percpu_pool *pool OWN_LINE; /* NULL: there are no items */
    unsigned entered;
    bool left;
    int64_t failed;
    void *slots[SLOTS] OWN_LINE;
};

static __thread bool is_consumer __attribute__((tls_model("initial-exec")));

/* ---- the timed loop --------------------------------------------------------------------- */

/* Wait until `index` is `least` or more. False: it never will be. */
static bool wait_for(const struct ring *ring, const uint64_t *index, uint64_t least)
{
    for (unsigned spins = 1; __atomic_load_n(index, __ATOMIC_ACQUIRE) < least; spins++) {
        /* Acquire: pairs with leave(), before which the index was written for the last time. */
        if (__atomic_load_n(&ring->left, __ATOMIC_ACQUIRE))
            return __atomic_load_n(index, __ATOMIC_ACQUIRE) >= least;
        if (spins % SPINS == 0)
            sched_yield();
    }
    return true;
}

PERCPU_INLINE void *make_item(struct ring *ring, bool with_items)
{
    if (!with_items)
        return ring;
    void *item = percpu_pool_alloc(ring->pool);
    if (percpu_unlikely(item == NULL))
        __atomic_fetch_add(&ring->failed, 1, __ATOMIC_RELAXED);
    return item;
}

PERCPU_INLINE void use_item(struct ring *ring, void *item, bool with_items)
{
    if (with_items)
        percpu_pool_free(ring->pool, item);
    else
        __asm__ __volatile__("" : : "r"(item));
}

PERCPU_INLINE void produce(struct ring *ring, uint64_t items, bool with_items)
{
    uint64_t put = ring->put, end = put + items;
    while (put < end) {
        uint64_t until = end - put < BATCH ? end : put + BATCH;
        if (until > SLOTS && !wait_for(ring, &ring->taken, until - SLOTS))
            return;
        for (; put < until; put++)
            ring->slots[put % SLOTS] = make_item(ring, with_items);
        __atomic_store_n(&ring->put, put, __ATOMIC_RELEASE);
    }
}

PERCPU_INLINE void consume(struct ring *ring, uint64_t items, bool with_items)
{
    uint64_t taken = ring->taken, end = taken + items;
    while (taken < end) {
        uint64_t until = end - taken < BATCH ? end : taken + BATCH;
        if (!wait_for(ring, &ring->put, until))
            return;
        for (; taken < until; taken++)
            use_item(ring, ring->slots[taken % SLOTS], with_items);
        __atomic_store_n(&ring->taken, taken, __ATOMIC_RELEASE);
    }
}

static void pass_items(void *ring, uint64_t times)
{
    if (is_consumer)
        consume(ring, times, true);
    else
        produce(ring, times, true);
}

static void pass_nothing(void *ring, uint64_t times)
{
    if (is_consumer)
        consume(ring, times, false);
    else
        produce(ring, times, false);
}

/* ---- the rest --------------------------------------------------------------------------- */

static void *create_ring(unsigned cpus)
{
    (void)cpus;
    return percpu_scheme_alloc(sizeof(struct ring));
}

static void *create(unsigned cpus)
{
    struct percpu_pool_attr attr = {.item_size = sizeof(int64_t), .cpus = cpus};
    struct ring *ring = create_ring(cpus);
    if (ring != NULL && (ring->pool = percpu_pool_create(&attr)) == NULL) {
        free(ring);
        return NULL;
    }
    return ring;
}

/* The items that are still in the ring go with the pool. */
static void destroy(void *state)
{
    struct ring *ring = state;
    percpu_pool_destroy(ring->pool);
    free(ring);
}

static void enter(void *state)
{
    struct ring *ring = state;
    is_consumer = __atomic_fetch_add(&ring->entered, 1, __ATOMIC_RELAXED) == 1;
}

static void leave(void *state)
{
    __atomic_store_n(&((struct ring *)state)->left, true, __ATOMIC_RELEASE);
}

static int64_t sum(void *state)
{
    return __atomic_load_n(&((struct ring *)state)->failed, __ATOMIC_RELAXED);
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus, (void)threads;
    return sizeof(struct ring);
}

const struct percpu_scheme percpu_scheme_handover = {
    .name = "handover",
    .title = "allocate items on one CPU and free them on another",
    .promise = PERCPU_SCHEME_NO_SUM,
    .threads = 2,
    .create = create,
    .destroy = destroy,
    .enter = enter,
    .leave = leave,
    .add = pass_items,
    .sum = sum,
    .bytes = bytes,
};

const struct percpu_scheme percpu_scheme_ring = {
    .name = "ring",
    .title = "the ring that those items go through",
    .promise = PERCPU_SCHEME_NO_SUM,
    .threads = 2,
    .create = create_ring,
    .destroy = destroy,
    .enter = enter,
    .leave = leave,
    .add = pass_nothing,
    .sum = sum,
    .bytes = bytes,
};
