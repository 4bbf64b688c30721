/* SPDX-License-Identifier: MIT */
/*
 * copies.c - comparing and rewriting the copies of items.
 *
 * Nothing is written where it is right already: a store would give memory to a CPU that never
 * wrote. Few copies are all looked at. For many, the kernel is asked which pages CPUs have of their
 * own; the others read as zeros, or as the file of initial values does, and need no look.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { LOOK_AT_ALL = 1024 }; /* copies that are read in the time the kernel takes to answer */

/* The first byte in [at, end) of `copy` that is not as in the image; `end` if there is none. */
static size_t first_difference(const char *copy, size_t at, size_t end, struct image image)
{
    const char *bytes = image.bytes;
    size_t given = image.size < end ? image.size : end;
    if (at < given && memcmp(copy + at, bytes + at, given - at) != 0) {
        while (at < given && copy[at] == bytes[at])
            at++;
        return at;
    }
    at = at < given ? given : at;
    for (uint64_t word; at + sizeof word <= end; at += sizeof word)
        if (memcpy(&word, copy + at, sizeof word), word != 0)
            break;
    while (at < end && copy[at] == 0)
        at++;
    return at;
}

/* Make [start, end) of `copy` as in the image. */
static void rewrite(char *copy, size_t start, size_t end, struct image image)
{
    size_t at = first_difference(copy, start, end, image);
    if (at < end && at < image.size) {
        size_t given = image.size < end ? image.size : end;
        memcpy(copy + at, (const char *)image.bytes + at, given - at);
        at = first_difference(copy, given, end, image);
    }
    if (at < end)
        memset(copy + at, 0, end - at);
}

/* the reference ------------------------------------------------------------------------------ */

static char *in_file(const struct percpu_pool *pool, const void *item)
{
    struct range *range = percpu_range_of(item, pool->space->stride);
    return range->initial + ((const char *)item - range->base);
}

static struct image reference(const struct percpu_pool *pool, const void *item)
{
    if (!pool->space->initial)
        return (struct image){NULL, 0};
    return (struct image){in_file(pool, item), pool->slot_size};
}

bool percpu_copies_refer(const struct percpu_pool *pool, const void *item, struct image image)
{
    if (pool->space->initial)
        return first_difference(in_file(pool, item), 0, pool->item_size, image) == pool->item_size;
    return first_difference(image.bytes, 0, image.size, (struct image){NULL, 0}) == image.size;
}

/* many items --------------------------------------------------------------------------------- */

/* Items of one range, by ascending address, and what to do where a copy has its own pages. */
struct work {
    struct percpu_pool *pool;
    char *base;
    const uint64_t *entries;
    size_t count;
    const struct image *image; /* NULL: each item's reference */
};

static void rewrite_part(const struct work *work, unsigned copy, char *item, size_t start,
                         size_t end)
{
    const struct percpu_pool *pool = work->pool;
    size_t at = (size_t)(item - work->base);
    size_t from = at < start ? start - at : 0;
    size_t to = end - at < pool->slot_size ? end - at : pool->slot_size;
    if (work->image != NULL && to > pool->item_size)
        to = pool->item_size; /* what lies behind an item keeps its reference */
    struct image image = work->image != NULL ? *work->image : reference(pool, item);
    if (from < to)
        rewrite(item + copy * pool->space->stride, from, to, image);
}

/* For each item that reaches into [start, end) of the stride. */
static void rewrite_pages(void *context, unsigned copy, size_t start, size_t end)
{
    const struct work *work = context;
    size_t low = 0, high = work->count;
    while (low < high) { /* the first that ends above `start` */
        size_t middle = (low + high) / 2;
        char *item = entry_item(work->entries[middle]);
        if ((size_t)(item - work->base) + work->pool->slot_size <= start)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < work->count; low++) {
        char *item = entry_item(work->entries[low]);
        if ((size_t)(item - work->base) >= end)
            break;
        rewrite_part(work, copy, item, start, end);
    }
}

static void do_work(struct work *work)
{
    const struct space *space = work->pool->space;
    const struct range *range = (const struct range *)work->base - 1;
    if (work->count * space->copies > LOOK_AT_ALL && percpu_pages_walk(range, rewrite_pages, work))
        return;
    for (unsigned copy = 0; copy < space->copies; copy++)
        for (size_t i = 0; i < work->count; i++)
            rewrite_part(work, copy, entry_item(work->entries[i]), 0, space->stride);
}

static int compare_items(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)entry_item(*(const uint64_t *)a);
    uintptr_t y = (uintptr_t)entry_item(*(const uint64_t *)b);
    return (x > y) - (x < y);
}

/* Caches are stacks, so entries mostly come sorted, or sorted backwards. */
static void sort(uint64_t *entries, size_t count)
{
    size_t up = 1, down = 1;
    while (up < count && compare_items(&entries[up - 1], &entries[up]) < 0)
        up++;
    while (down < count && compare_items(&entries[down - 1], &entries[down]) > 0)
        down++;
    if (up < count && down < count) {
        qsort(entries, count, sizeof *entries, compare_items);
    } else if (up < count) {
        for (size_t i = 0; i < count / 2; i++) {
            uint64_t entry = entries[i];
            entries[i] = entries[count - 1 - i];
            entries[count - 1 - i] = entry;
        }
    }
}

/* How many of the entries, which are sorted, are in the first one's range. */
static size_t in_one_range(const struct percpu_pool *pool, const uint64_t *entries, size_t count)
{
    uintptr_t last = (uintptr_t)entry_item(entries[0]) | (pool->space->stride - 1);
    size_t n = 1;
    while (n < count && (uintptr_t)entry_item(entries[n]) <= last)
        n++;
    return n;
}

void percpu_copies_restore(struct percpu_pool *pool, uint64_t *entries, size_t count)
{
    sort(entries, count);
    for (size_t n; count > 0; entries += n, count -= n) {
        n = in_one_range(pool, entries, count);
        struct range *range = percpu_range_of(entry_item(entries[0]), pool->space->stride);
        do_work(&(struct work){pool, range->base, entries, n, NULL});
    }
}

/* Store `image` in the file for all the entries, which are in one range. */
static void rewrite_file(const struct percpu_pool *pool, struct range *range,
                         const uint64_t *entries, size_t count, struct image image)
{
    bool changed = false;
    for (size_t i = 0; i < count; i++) {
        char *initial = in_file(pool, entry_item(entries[i]));
        if (first_difference(initial, 0, pool->item_size, image) == pool->item_size)
            continue;
        rewrite(initial, 0, pool->item_size, image);
        changed = true;
    }
    if (changed)
        percpu_range_settle(range);
}

void percpu_copies_convert(struct percpu_pool *pool, uint64_t *entries, size_t count,
                           struct image image)
{
    sort(entries, count);
    for (size_t n; count > 0; entries += n, count -= n) {
        n = in_one_range(pool, entries, count);
        struct range *range = percpu_range_of(entry_item(entries[0]), pool->space->stride);
        if (__atomic_load_n(&range->frozen, __ATOMIC_RELAXED))
            continue;
        rewrite_file(pool, range, entries, n, image);
        do_work(&(struct work){pool, range->base, entries, n, &image});
        for (size_t i = 0; i < n; i++)
            entries[i] |= CLEAN;
    }
}

/* one item ----------------------------------------------------------------------------------- */

void percpu_copies_set(struct percpu_pool *pool, uint64_t entry, struct image image)
{
    const struct space *space = pool->space;
    struct range *range = percpu_range_of(entry_item(entry), space->stride);
    struct work work = {pool, range->base, &entry, 1, &image};
    if (space->initial && !__atomic_load_n(&range->frozen, __ATOMIC_RELAXED))
        rewrite_file(pool, range, &entry, 1, image);
    if (percpu_copies_refer(pool, entry_item(entry), image)) {
        do_work(&work);
    } else { /* copies without pages of their own are wrong too */
        for (unsigned copy = 0; copy < space->copies; copy++)
            rewrite_part(&work, copy, entry_item(entry), 0, space->stride);
    }
}

void percpu_copies_tidy(const struct percpu_pool *pool, void *item)
{
    char *copy = item;
    for (unsigned left = pool->space->copies; left > 0; left--, copy += pool->space->stride)
        rewrite(copy, pool->item_size, pool->slot_size, reference(pool, item));
}

/* comparing ---------------------------------------------------------------------------------- */

struct search {
    const char *base, *item;
    size_t start, end; /* of the item */
    size_t stride;
    struct image image;
    struct difference *found;
};

static void search_pages(void *context, unsigned copy, size_t start, size_t end)
{
    struct search *search = context;
    size_t at = (size_t)(search->item - search->base);
    size_t from = start > at + search->start ? start - at : search->start;
    size_t to = end < at + search->end ? end - at : search->end;
    if (end <= at || from >= to || search->found->copy >= 0)
        return;
    const char *bytes = search->item + copy * search->stride;
    size_t offset = first_difference(bytes, from, to, search->image);
    if (offset >= to)
        return;
    const uint8_t *expected = search->image.bytes;
    *search->found = (struct difference){
        .copy = (int)copy,
        .offset = offset,
        .expected = offset < search->image.size ? expected[offset] : 0,
        .found = (uint8_t)bytes[offset],
    };
}

bool percpu_copies_differ(struct percpu_pool *pool, const void *item, const struct image *image,
                          size_t start, size_t end, struct difference *difference)
{
    const struct space *space = pool->space;
    const struct range *range = percpu_range_of(item, space->stride);
    struct image own = reference(pool, item);
    struct search search = {
        .base = range->base,
        .item = item,
        .start = start,
        .end = end,
        .stride = space->stride,
        .image = image != NULL ? *image : own,
        .found = difference,
    };
    difference->copy = -1;
    bool referring = image == NULL || percpu_copies_refer(pool, item, *image);
    if (referring && space->copies > LOOK_AT_ALL && percpu_pages_walk(range, search_pages, &search))
        return difference->copy >= 0;
    for (unsigned copy = 0; copy < space->copies && difference->copy < 0; copy++)
        search_pages(&search, copy, 0, space->stride);
    return difference->copy >= 0;
}
