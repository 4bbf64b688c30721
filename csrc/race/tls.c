/* SPDX-License-Identifier: MIT */
/*
 * tls.c - a thread-local word for each thread, on a list that is summed under a lock. Exact.
 *
 * Only the owner writes its word, so a relaxed load and store do. A thread that leaves folds its
 * word into `departed` under the same lock, so no sum misses it or counts it twice. What it costs
 * is memory for each thread, and one such variable for each counter: a thread can be in one
 * counter of this scheme at a time.
 */
#include <pthread.h>
#include <stdlib.h>

#include "scheme.h"

struct slot {
    int64_t count;
    struct slot *next, **link;
};

struct roll {
    pthread_mutex_t lock;
    struct slot *present;
    int64_t departed; /* the counts of threads that left */
};

static __thread struct slot mine __attribute__((tls_model("initial-exec")));

typedef struct slot *handle;

static handle handle_of(void *state)
{
    (void)state;
    return &mine;
}

PERCPU_INLINE void add(handle h)
{
    int64_t count = __atomic_load_n(&h->count, __ATOMIC_RELAXED);
    __atomic_store_n(&h->count, count + 1, __ATOMIC_RELAXED);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    struct roll *roll = percpu_scheme_alloc(sizeof *roll);
    if (roll != NULL)
        pthread_mutex_init(&roll->lock, NULL);
    return roll;
}

static void destroy(void *state)
{
    struct roll *roll = state;
    pthread_mutex_destroy(&roll->lock);
    free(roll);
}

static void enter(void *state)
{
    struct roll *roll = state;
    pthread_mutex_lock(&roll->lock);
    mine.count = 0;
    mine.next = roll->present;
    mine.link = &roll->present;
    if (mine.next != NULL)
        mine.next->link = &mine.next;
    roll->present = &mine;
    pthread_mutex_unlock(&roll->lock);
}

static void leave(void *state)
{
    struct roll *roll = state;
    pthread_mutex_lock(&roll->lock);
    *mine.link = mine.next;
    if (mine.next != NULL)
        mine.next->link = mine.link;
    roll->departed += mine.count;
    pthread_mutex_unlock(&roll->lock);
}

static int64_t sum(void *state)
{
    struct roll *roll = state;
    pthread_mutex_lock(&roll->lock);
    int64_t sum = roll->departed;
    for (const struct slot *slot = roll->present; slot != NULL; slot = slot->next)
        sum += __atomic_load_n(&slot->count, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&roll->lock);
    return sum;
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus;
    return sizeof(struct roll) + threads * sizeof(struct slot);
}

const struct percpu_scheme percpu_scheme_tls = {
    .name = "tls",
    .title = "thread-local words, summed under a lock",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = destroy,
    .enter = enter,
    .leave = leave,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
