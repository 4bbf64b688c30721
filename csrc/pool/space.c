/* SPDX-License-Identifier: MIT */
/* space.c - the ranges that one pool, or the size classes of one set, live in. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include <percpu/topology.h>

struct percpu_pool percpu_pool_nobody;

enum { NO_BASE = 0, FORMER_BASE = 1 }; /* in a table of ranges */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Which node each copy's CPU is on; -1: unknown. */
static int find_nodes(struct space *space)
{
    struct percpu_cpuset nodes, cpus;
    space->nodes = malloc(space->copies * sizeof *space->nodes);
    if (space->nodes == NULL)
        return -1;
    for (unsigned copy = 0; copy < space->copies; copy++)
        space->nodes[copy] = -1;
    percpu_topology_read(PERCPU_NODES_ONLINE, &nodes);
    for (unsigned node = 0; node < percpu_cpuset_limit(&nodes); node++) {
        if (!percpu_cpuset_has(&nodes, node) || percpu_topology_node_cpus(node, &cpus) != 0)
            continue;
        for (unsigned copy = 0; copy < space->copies; copy++)
            if (percpu_cpuset_has(&cpus, copy))
                space->nodes[copy] = (int)node;
    }
    return 0;
}

/* The header's arrays, from its end to its start: blocks, firsts, sites, lists. */
static void lay_out_header(struct space *space)
{
    size_t items = space->units * space->unit_items;
    size_t after = sizeof(struct range) + space->units * sizeof(struct block);
    after = round_up(after + (space->units > 1 ? space->units * sizeof(uint32_t) : 0), 8);
    size_t sites = space->robust ? items * sizeof(void *) : 0;
    size_t lists = round_up(items * sizeof(uint32_t), 8);
    space->header_size = round_up(lists + sites + after, (size_t)sysconf(_SC_PAGESIZE));
    space->blocks = space->header_size - sizeof(struct range) - space->units * sizeof(struct block);
    space->firsts = space->header_size - after;
    space->sites = space->firsts - sites;
    space->lists = space->sites - lists;
}

struct space *percpu_space_create(const struct percpu_pool_attr *attr, size_t unit_size,
                                  size_t min_slot)
{
    struct space *space = percpu_fork_handlers() == 0 ? calloc(1, sizeof *space) : NULL;
    if (space == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    space->stride = attr->stride;
    space->usable = attr->stride - (attr->guard ? (size_t)sysconf(_SC_PAGESIZE) : 0);
    space->stride_shift = (unsigned)__builtin_ctzll(attr->stride);
    space->copies = attr->cpus;
    space->unit_size = unit_size != 0 ? unit_size : space->usable;
    space->units = space->usable / space->unit_size;
    space->unit_items = space->unit_size / min_slot;
    space->max_ranges = attr->max_ranges;
    space->initial = attr->populate == PERCPU_POPULATE_INIT;
    space->robust = attr->robust;
    space->guard = attr->guard;
    space->global = attr->global;
    space->range_init = attr->range_init;
    space->priv = attr->priv;
    if (attr->name != NULL)
        strncpy(space->name, attr->name, sizeof space->name - 1);
    lay_out_header(space);
    pthread_mutex_init(&space->lock, NULL);
    if (attr->numa && find_nodes(space) != 0) {
        pthread_mutex_destroy(&space->lock);
        free(space);
        errno = ENOMEM;
        return NULL;
    }
    percpu_space_enlist(space);
    return space;
}

static size_t table_length(size_t slots)
{
    return sizeof(struct range_table) + slots * sizeof(uintptr_t);
}

/* Not from malloc(): percpu_pool_interrupted() promises that a handler may come here. */
static struct range_table *make_table(struct space *space, size_t slots)
{
    struct range_table *table = slots == FIRST_TABLE_SLOTS && space->table == NULL
                                    ? (struct range_table *)space->first_table
                                    : percpu_map(table_length(slots), space->name);
    if (table != NULL)
        table->mask = slots - 1;
    return table;
}

static void unmake_tables(struct space *space)
{
    for (struct range_table *table = space->table, *outgrown; table != NULL; table = outgrown) {
        outgrown = table->outgrown;
        if (table != (struct range_table *)space->first_table)
            munmap(table, table_length(table->mask + 1));
    }
}

void percpu_space_release(struct space *space)
{
    percpu_space_lock(space);
    bool last = --space->users == 0;
    percpu_space_unlock(space);
    if (!last)
        return;
    percpu_space_delist(space);
    for (struct range *range = space->ranges, *next; range != NULL; range = next) {
        next = range->next;
        percpu_range_unmap(range);
    }
    unmake_tables(space);
    pthread_mutex_destroy(&space->lock);
    free(space->nodes);
    free(space);
}

__thread volatile unsigned percpu_space_held;

bool percpu_pool_interrupted(void)
{
    return percpu_space_held > 0;
}

/* A thread that finds the lock taken mostly gets it sooner than it could fall asleep: it is held for
 * as long as it takes to move some hundred items. */
void percpu_space_wait(struct space *space)
{
    for (int tries = 0; tries < 1000; tries++) {
        percpu_cpu_relax();
        if (pthread_mutex_trylock(&space->lock) == 0)
            return;
    }
    pthread_mutex_lock(&space->lock);
}

/* the table of ranges ------------------------------------------------------------------------ */

static void insert(struct range_table *table, unsigned shift, uintptr_t base)
{
    size_t at = (base >> shift) & table->mask;
    while (table->bases[at] > FORMER_BASE)
        at = (at + 1) & table->mask;
    table->used += table->bases[at] == NO_BASE;
    /* Release: pairs with the load in holds(). */
    __atomic_store_n(&table->bases[at], base, __ATOMIC_RELEASE);
}

/* Room for one more range, at most half full. 0, or -1 with errno ENOMEM. */
static int grow_table(struct space *space)
{
    struct range_table *old = space->table;
    if (old != NULL && 2 * (old->used + 1) <= old->mask + 1)
        return 0;
    size_t slots = FIRST_TABLE_SLOTS;
    while (slots < 4 * (space->range_count + 1))
        slots *= 2;
    struct range_table *table = make_table(space, slots);
    if (table == NULL)
        return -1;
    table->outgrown = old;
    for (struct range *range = space->ranges; range != NULL; range = range->next)
        insert(table, space->stride_shift, (uintptr_t)range->base);
    /* Release: pairs with the load in holds(). */
    __atomic_store_n(&space->table, table, __ATOMIC_RELEASE);
    return 0;
}

static bool holds(const struct space *space, uintptr_t base)
{
    const struct range_table *table = __atomic_load_n(&space->table, __ATOMIC_ACQUIRE);
    if (table == NULL || base <= FORMER_BASE)
        return false;
    uintptr_t found;
    size_t at = base >> space->stride_shift;
    do {
        found = __atomic_load_n(&table->bases[at++ & table->mask], __ATOMIC_ACQUIRE);
    } while (found != base && found != NO_BASE);
    return found == base;
}

void percpu_space_unlink(struct space *space, struct range *range)
{
    if (range->previous != NULL)
        range->previous->next = range->next;
    else
        space->ranges = range->next;
    if (range->next != NULL)
        range->next->previous = range->previous;
    space->range_count--;
    space->units_free -= space->units - range->units_lost;
    struct range_table *table = space->table;
    size_t at = (uintptr_t)range->base >> space->stride_shift;
    while (table->bases[at & table->mask] != (uintptr_t)range->base)
        at++;
    __atomic_store_n(&table->bases[at & table->mask], (uintptr_t)FORMER_BASE, __ATOMIC_RELEASE);
}

/* ranges and blocks -------------------------------------------------------------------------- */

/* The lock is not held while range_init runs. A fork in that time: the child does not finish this
 * (unless it was made by range_init itself), and the file is the parent's and the child's. */
static struct range *make_range(struct space *space)
{
    unsigned forks = space->forks;
    space->making++;
    if (space->range_init != NULL)
        percpu_space_unlock(space);
    struct range *range = percpu_range_map(space);
    int error = errno;
    if (space->range_init != NULL)
        percpu_space_lock(space);
    errno = error;
    if (space->making > 0) /* a child starts from 0 */
        space->making--;
    if (range != NULL)
        range->frozen = space->forks != forks;
    return range;
}

int percpu_space_grow(struct space *space)
{
    if (space->max_ranges != 0 && space->range_count + space->making >= space->max_ranges) {
        errno = ENOMEM;
        return -1;
    }
    struct range *range = make_range(space);
    if (range == NULL)
        return -1;
    if (grow_table(space) != 0) {
        percpu_range_unmap(range);
        errno = ENOMEM;
        return -1;
    }
    range->next = space->ranges;
    if (range->next != NULL)
        range->next->previous = range;
    space->ranges = range;
    space->range_count++;
    space->units_free += space->units;
    insert(space->table, space->stride_shift, (uintptr_t)range->base);
    return 0;
}

static char *header(const struct range *range)
{
    return range->base - range->space->header_size;
}

struct block *percpu_range_blocks(const struct range *range)
{
    return (struct block *)(header(range) + range->space->blocks);
}

static uint32_t *firsts_of(const struct range *range)
{
    return (uint32_t *)(header(range) + range->space->firsts);
}

static struct block *make_block(struct range *range, size_t unit, struct percpu_pool *pool)
{
    struct space *space = range->space;
    struct block *block = percpu_range_blocks(range) + unit;
    size_t item = unit * space->unit_items;
    *block = (struct block){
        .range = range,
        .base = range->base + unit * space->unit_size,
        .units = pool->block_units,
        .free_items = (uint32_t *)(header(range) + space->lists) + item,
        .sites = space->robust ? (const void **)(header(range) + space->sites) + item : NULL,
    };
    for (uint32_t i = 0; space->units > 1 && i < block->units; i++)
        firsts_of(range)[unit + i] = (uint32_t)unit;
    range->units_used += block->units;
    space->units_free -= block->units;
    /* Release: pairs with the load in percpu_block_at(). */
    __atomic_store_n(&block->pool, pool, __ATOMIC_RELEASE);
    return block;
}

/* The first of `wanted` units in a row that belong to no block; space->units if there is none. */
static size_t find_units(const struct range *range, uint32_t wanted)
{
    const struct space *space = range->space;
    const struct block *blocks = percpu_range_blocks(range);
    if (range->units_used + range->units_lost + wanted > space->units)
        return space->units;
    for (size_t unit = 0, run = 0; unit < space->units;) {
        if (blocks[unit].pool != NULL) {
            unit += blocks[unit].units;
            run = 0;
        } else if (unit++, ++run == wanted) {
            return unit - wanted;
        }
    }
    return space->units;
}

struct block *percpu_space_block(struct space *space, struct percpu_pool *pool,
                                 enum percpu_from from)
{
    if (space->units_free < pool->block_units)
        return NULL;
    for (struct range *range = space->ranges; range != NULL; range = range->next) {
        size_t unit = space->units;
        if (from == FROM_ANY || !range->frozen)
            unit = find_units(range, pool->block_units);
        if (unit < space->units)
            return make_block(range, unit, pool);
    }
    return NULL;
}

void percpu_space_end_block(struct block *block, bool usable)
{
    struct range *range = block->range;
    range->units_used -= block->units;
    range->units_lost += usable ? 0 : block->units;
    range->space->units_free += usable ? block->units : 0;
    __atomic_store_n(&block->pool, usable ? NULL : &percpu_pool_nobody, __ATOMIC_RELAXED);
}

struct block *percpu_block_of(const struct space *space, const void *item)
{
    struct range *range = percpu_range_of(item, space->stride);
    size_t unit = 0;
    if (space->units > 1)
        unit = firsts_of(range)[(size_t)((const char *)item - range->base) / space->unit_size];
    return percpu_range_blocks(range) + unit;
}

struct block *percpu_block_at(const struct space *space, const void *address)
{
    size_t offset = (uintptr_t)address & (space->stride - 1);
    if (!holds(space, (uintptr_t)address - offset) || offset >= space->units * space->unit_size)
        return NULL;
    struct block *block = percpu_block_of(space, address);
    /* Acquire: pairs with the release in make_block(). */
    if (__atomic_load_n(&block->pool, __ATOMIC_ACQUIRE) == NULL ||
        (size_t)((const char *)address - block->base) >= block->units * space->unit_size)
        return NULL;
    return block;
}

const void *percpu_space_first(struct space *space, const void *address)
{
    const char *first = NULL;
    percpu_space_lock(space);
    for (const struct range *range = space->ranges; range != NULL; range = range->next) {
        size_t offset = (uintptr_t)address - (uintptr_t)range->base;
        if (offset < percpu_copies_length(space))
            first = range->base + (offset & (space->stride - 1));
    }
    percpu_space_unlock(space);
    return first;
}
