/* SPDX-License-Identifier: MIT */
/*
 * shared.c - the pools that the process shares: made at their first use, never destroyed.
 *
 * There is no lock that a signal handler, or a child forked in the middle, could find taken: who
 * needs a pool that is not there makes one, and publishes it with one compare-and-swap; whoever
 * comes second destroys its own and takes the first one's.
 */
#include <errno.h>
#include <stdlib.h>

#include <percpu/pool.h>
#include <percpu/pool_set.h>

/* Publish `made` at `place`, unless another thread was faster. Returns what is published. */
static struct percpu_pool *publish(struct percpu_pool **place, struct percpu_pool *made)
{
    struct percpu_pool *first = NULL;
    if (made == NULL ||
        __atomic_compare_exchange_n(place, &first, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return made;
    percpu_pool_destroy(made);
    return first;
}

static struct percpu_pool *find_or_make(struct percpu_pool **place, size_t item_size)
{
    /* Acquire: pairs with the release in publish(). */
    struct percpu_pool *pool = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (pool != NULL)
        return pool;
    struct percpu_pool_attr attr = {.item_size = item_size};
    return publish(place, percpu_pool_create(&attr));
}

struct percpu_pool *percpu_pool_shared(size_t item_size)
{
    static struct percpu_pool *shared[5]; /* of 1, 2, 4, 8 and 16 bytes */
    if (item_size == 0 || item_size > 16 || (item_size & (item_size - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    return find_or_make(&shared[__builtin_ctzll(item_size)], item_size);
}

/* of any size -------------------------------------------------------------------------------- */

/* Objects of up to LARGEST_CLASS bytes are packed beside each other, in ranges that all their
 * classes share: the process pays one range, and pages for what is used. */
enum {
    LARGEST_CLASS = 64 << 10,
    CLASS_STRIDE = 256 << 10,
    MOST_CLASSES = 64,
    LARGEST = 16 << 20, /* 128 KiB and every power of two up to here: a pool each */
    LARGE_SIZES = 8,
};
_Static_assert(LARGEST_CLASS << LARGE_SIZES == LARGEST, "a pool for each power of two between");

struct classes {
    int count;
    struct percpu_pool *pools[MOST_CLASSES]; /* in order of size */
};

static struct classes *make_classes(void)
{
    static const struct percpu_pool_attr attr = {
        .item_size = LARGEST_CLASS, .stride = CLASS_STRIDE, .lazy = true};
    struct classes *made = malloc(sizeof *made);
    if (made == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    made->count = percpu_pool_create_classes(&attr, made->pools, MOST_CLASSES);
    if (made->count > 0)
        return made;
    int error = errno;
    free(made);
    errno = error;
    return NULL;
}

static const struct classes *find_or_make_classes(void)
{
    static struct classes *classes;
    /* Acquire: pairs with the release of whoever published the classes. */
    struct classes *first = __atomic_load_n(&classes, __ATOMIC_ACQUIRE);
    if (first != NULL)
        return first;
    struct classes *made = make_classes();
    if (made == NULL || __atomic_compare_exchange_n(&classes, &first, made, false, __ATOMIC_ACQ_REL,
                                                    __ATOMIC_ACQUIRE))
        return made;
    while (made->count > 0) /* another thread was faster */
        percpu_pool_destroy(made->pools[--made->count]);
    free(made);
    return first;
}

static struct percpu_pool *shared_class(size_t size)
{
    const struct classes *classes = find_or_make_classes();
    if (classes == NULL)
        return NULL;
    size_t place = 0;
    for (size_t smaller = 8; smaller < percpu_size_class(size); place++)
        smaller = percpu_size_class(smaller + 1);
    return classes->pools[place];
}

struct percpu_pool *percpu_pool_shared_for(size_t size)
{
    static struct percpu_pool *large[LARGE_SIZES];
    if (size == 0 || size > LARGEST) {
        errno = EINVAL;
        return NULL;
    }
    if (size <= LARGEST_CLASS)
        return shared_class(size);
    unsigned doublings = 1;
    while ((size_t)LARGEST_CLASS << doublings < size)
        doublings++;
    return find_or_make(&large[doublings - 1], (size_t)LARGEST_CLASS << doublings);
}
