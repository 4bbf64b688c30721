/* SPDX-License-Identifier: MIT */
/*
 * fork.c - the list of all spaces, and what fork() does to them.
 *
 * fork() takes the lock of every space (after the list's, before the gate's), so that the child
 * finds each pool in one piece. Items that another thread was just allocating or freeing at that
 * moment are lost to the child: it holds them in no hand.
 *
 * Memory is private, so parent and child each have their own copies from then on; but a file of
 * initial values is one for both, and what one stored in it the other would see in copies that it
 * has not written. So each file that exists at a fork is frozen, in both: it is never written
 * again. Its items stay usable, and free ones are handed out again where what the file holds for
 * them is what is asked for; other bytes go to ranges made after the fork.
 */
#include "internal.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct space *spaces;
static pthread_once_t handlers = PTHREAD_ONCE_INIT;
static int handlers_error;

static void before_fork(void)
{
    pthread_mutex_lock(&list_lock);
    for (struct space *space = spaces; space != NULL; space = space->next) {
        percpu_space_lock(space);
        space->forks++;
        for (struct range *range = space->ranges; space->initial && range != NULL;
             range = range->next)
            __atomic_store_n(&range->frozen, true, __ATOMIC_RELAXED);
    }
}

static void after_fork(void)
{
    for (struct space *space = spaces; space != NULL; space = space->next)
        percpu_space_unlock(space);
    pthread_mutex_unlock(&list_lock);
}

static void in_child(void)
{
    for (struct space *space = spaces; space != NULL; space = space->next)
        space->making = 0; /* the threads that were at it are not here */
    after_fork();
}

static void install_handlers(void)
{
    handlers_error = pthread_atfork(before_fork, after_fork, in_child);
}

int percpu_fork_handlers(void)
{
    pthread_once(&handlers, install_handlers);
    return handlers_error == 0 ? 0 : -1;
}

void percpu_space_enlist(struct space *space)
{
    pthread_mutex_lock(&list_lock);
    space->next = spaces;
    space->link = &spaces;
    if (spaces != NULL)
        spaces->link = &space->next;
    spaces = space;
    pthread_mutex_unlock(&list_lock);
}

void percpu_space_delist(struct space *space)
{
    pthread_mutex_lock(&list_lock);
    *space->link = space->next;
    if (space->next != NULL)
        space->next->link = space->link;
    pthread_mutex_unlock(&list_lock);
}

const struct percpu_pool *percpu_pool_anywhere(const void *address)
{
    const struct percpu_pool *pool = NULL;
    pthread_mutex_lock(&list_lock);
    for (struct space *space = spaces; space != NULL && pool == NULL; space = space->next) {
        percpu_space_lock(space); /* no range goes meanwhile */
        const struct block *block = percpu_block_at(space, address);
        if (block != NULL)
            pool = block->pool;
        percpu_space_unlock(space);
    }
    pthread_mutex_unlock(&list_lock);
    return pool;
}
