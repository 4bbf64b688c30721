/* SPDX-License-Identifier: MIT */
/* addresses.c - tables of the addresses of items: see addresses.h. */
#include "addresses.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all tables */
static pthread_once_t handlers = PTHREAD_ONCE_INIT;
static int handlers_error;

static void take_lock(void)
{
    pthread_mutex_lock(&lock);
}

static void release_lock(void)
{
    pthread_mutex_unlock(&lock);
}

static void install_handlers(void)
{
    handlers_error = pthread_atfork(take_lock, release_lock, release_lock);
}

int percpu_py_addresses_start(void)
{
    pthread_once(&handlers, install_handlers);
    if (handlers_error == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* with the lock held --------------------------------------------------------------------------- */

static size_t home(const struct percpu_py_addresses *table, const void *address)
{
    return (size_t)(((uintptr_t)address * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & table->mask;
}

/* The slot of the address, or the empty one where it would be. There are slots. */
static struct percpu_py_address *slot_of(const struct percpu_py_addresses *table,
                                         const void *address)
{
    size_t at = home(table, address);
    while (table->slots[at].address != NULL && table->slots[at].address != address)
        at = (at + 1) & table->mask;
    return &table->slots[at];
}

static bool grow(struct percpu_py_addresses *table)
{
    struct percpu_py_addresses larger = *table;
    size_t slots = table->slots != NULL ? 2 * (table->mask + 1) : 64;
    larger.slots = PyMem_RawCalloc(slots, sizeof *larger.slots);
    if (larger.slots == NULL)
        return false;
    larger.mask = slots - 1;
    for (size_t i = 0; table->slots != NULL && i <= table->mask; i++)
        if (table->slots[i].address != NULL)
            *slot_of(&larger, table->slots[i].address) = table->slots[i];
    PyMem_RawFree(table->slots);
    *table = larger;
    return true;
}

/* Move what follows into the gap, where it belongs at or before it. */
static void close_gap(struct percpu_py_addresses *table, size_t gap)
{
    size_t at = gap;
    for (;;) {
        at = (at + 1) & table->mask;
        if (table->slots[at].address == NULL)
            break;
        size_t way = (at - home(table, table->slots[at].address)) & table->mask;
        if (way < ((at - gap) & table->mask))
            continue;
        table->slots[gap] = table->slots[at];
        gap = at;
    }
    table->slots[gap].address = NULL;
}

static struct percpu_py_address *find(const struct percpu_py_addresses *table, const void *address)
{
    struct percpu_py_address *slot = table->slots != NULL ? slot_of(table, address) : NULL;
    return slot != NULL && slot->address != NULL ? slot : NULL;
}

/* the table ------------------------------------------------------------------------------------ */

Py_ssize_t percpu_py_addresses_add(struct percpu_py_addresses *table, const void *address,
                                   struct percpu_py_place place)
{
    struct percpu_py_place former = place;
    take_lock();
    bool room = (table->slots != NULL && 2 * table->count <= table->mask) || grow(table);
    if (room) {
        struct percpu_py_address *slot = slot_of(table, address);
        former = (struct percpu_py_place){NULL, 0};
        if (slot->address != NULL)
            former = slot->place;
        else
            table->count++;
        *slot = (struct percpu_py_address){address, table->added++, place};
    }
    Py_ssize_t count = (Py_ssize_t)table->count;
    release_lock();
    Py_XDECREF(former.code);
    if (room)
        return count;
    PyErr_NoMemory();
    return -1;
}

bool percpu_py_addresses_take(struct percpu_py_addresses *table, const void *address,
                              struct percpu_py_place *place)
{
    take_lock();
    struct percpu_py_address *slot = find(table, address);
    if (slot != NULL) {
        *place = slot->place;
        table->count--;
        close_gap(table, (size_t)(slot - table->slots));
    }
    release_lock();
    return slot != NULL;
}

bool percpu_py_addresses_find(struct percpu_py_addresses *table, const void *address,
                              struct percpu_py_place *place)
{
    take_lock();
    const struct percpu_py_address *slot = find(table, address);
    if (slot != NULL) {
        *place = slot->place;
        Py_XINCREF(place->code);
    }
    release_lock();
    return slot != NULL;
}

size_t percpu_py_addresses_first(struct percpu_py_addresses *table, const void **first)
{
    const struct percpu_py_address *oldest = NULL;
    take_lock();
    for (size_t i = 0; table->slots != NULL && i <= table->mask; i++)
        if (table->slots[i].address != NULL &&
            (oldest == NULL || table->slots[i].number < oldest->number))
            oldest = &table->slots[i];
    if (oldest != NULL)
        *first = oldest->address;
    size_t count = table->count;
    release_lock();
    return count;
}

struct percpu_py_addresses percpu_py_addresses_take_all(struct percpu_py_addresses *table)
{
    take_lock();
    struct percpu_py_addresses all = *table;
    *table = (struct percpu_py_addresses){.added = all.added};
    release_lock();
    return all;
}

void percpu_py_addresses_clear(struct percpu_py_addresses *table)
{
    struct percpu_py_addresses all = percpu_py_addresses_take_all(table);
    for (size_t i = 0; all.slots != NULL && i <= all.mask; i++)
        if (all.slots[i].address != NULL)
            Py_XDECREF(all.slots[i].place.code);
    PyMem_RawFree(all.slots);
}
