/* SPDX-License-Identifier: MIT */
/*
 * addresses.h - tables of the addresses of items, with where in the program each was allocated.
 *
 * Not a dict: in free-threaded Python that has a lock, which a thread may hold at the moment of a
 * fork, and then nobody in the child gets it. The lock of these tables is taken across fork(); who
 * has it runs no Python code.
 */
#ifndef PERCPU_PYTHON_ADDRESSES_H
#define PERCPU_PYTHON_ADDRESSES_H

#include "compat.h"

#include <stdint.h>

/* A place in the program: an offset in `code`, which is NULL if it is not known. */
struct percpu_py_place {
    PyObject *code;
    int offset;
};

struct percpu_py_address {
    const void *address; /* NULL: the slot is empty */
    uint64_t number;     /* in the order in which they were added */
    struct percpu_py_place place;
};

/* All zeros is an empty table. */
struct percpu_py_addresses {
    struct percpu_py_address *slots; /* open addressing, at most half full */
    size_t count, mask;
    uint64_t added;
};

/* Once for the process, before the first table. 0; -1 with an exception. */
int percpu_py_addresses_start(void);

/* Add an address, or change its place, of which the table gets the reference. How many there are
 * then; -1 with MemoryError. */
Py_ssize_t percpu_py_addresses_add(struct percpu_py_addresses *table, const void *address,
                                   struct percpu_py_place place);

/* Whether the address is there; and then take it out, its reference being the caller's. */
bool percpu_py_addresses_take(struct percpu_py_addresses *table, const void *address,
                              struct percpu_py_place *place);

/* Whether it is there; `place` gets a new reference. */
bool percpu_py_addresses_find(struct percpu_py_addresses *table, const void *address,
                              struct percpu_py_place *place);

/* How many there are, and the one that was added first. */
size_t percpu_py_addresses_first(struct percpu_py_addresses *table, const void **first);

/* Take all of them out, into a table that no other thread knows; and give back what one holds. */
struct percpu_py_addresses percpu_py_addresses_take_all(struct percpu_py_addresses *table);
void percpu_py_addresses_clear(struct percpu_py_addresses *table);

#endif
