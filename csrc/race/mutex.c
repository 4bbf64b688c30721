/* SPDX-License-Identifier: MIT */
/* mutex.c - a shared word, added to under a pthread mutex. Exact. */
#include <pthread.h>
#include <stdlib.h>

#include "scheme.h"

struct locked {
    pthread_mutex_t lock;
    int64_t count;
};

typedef struct locked *handle;

static handle handle_of(void *state)
{
    return state;
}

PERCPU_INLINE void add(handle h)
{
    pthread_mutex_lock(&h->lock);
    h->count++;
    pthread_mutex_unlock(&h->lock);
}

#include "add_loop.h"

static void *create(unsigned cpus)
{
    (void)cpus;
    struct locked *locked = percpu_scheme_alloc(sizeof *locked);
    if (locked != NULL)
        pthread_mutex_init(&locked->lock, NULL);
    return locked;
}

static void destroy(void *state)
{
    struct locked *locked = state;
    pthread_mutex_destroy(&locked->lock);
    free(locked);
}

static int64_t sum(void *state)
{
    struct locked *locked = state;
    pthread_mutex_lock(&locked->lock);
    int64_t count = locked->count;
    pthread_mutex_unlock(&locked->lock);
    return count;
}

static size_t bytes(unsigned cpus, unsigned threads)
{
    (void)cpus, (void)threads;
    return sizeof(struct locked);
}

const struct percpu_scheme percpu_scheme_mutex = {
    .name = "mutex",
    .title = "shared word under a mutex",
    .promise = PERCPU_SCHEME_EXACT,
    .create = create,
    .destroy = destroy,
    .add = add_loop,
    .sum = sum,
    .bytes = bytes,
};
