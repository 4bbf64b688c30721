/* SPDX-License-Identifier: MIT */
/*
 * report.h - what a robust pool finds, and who is told.
 *
 * A robust pool remembers for each item whether it is handed out and by whom, overwrites freed
 * items, and keeps at least 8 bytes behind each item that must stay as they are. A finding goes to
 * the pool's own `report`, or else to the hook of the process; by default it is printed to stderr
 * and the process is aborted. If the function returns, the call that made the finding goes on
 * safely: a bad free does nothing, a damaged item is never handed out again. It must not use the
 * pool, which may be locked.
 */
#ifndef PERCPU_REPORT_H
#define PERCPU_REPORT_H

#include "platform.h"

struct percpu_pool;

enum percpu_finding {
    PERCPU_NO_FINDING,
    PERCPU_DOUBLE_FREE,     /* free of an item that is free */
    PERCPU_FOREIGN_FREE,    /* free of an address that is in no range of the pool */
    PERCPU_INTERIOR_FREE,   /* free of an address inside an item, or behind the last one */
    PERCPU_WRONG_POOL,      /* free of another pool's item */
    PERCPU_USE_AFTER_FREE,  /* a free item was written */
    PERCPU_OVERFLOW,        /* the bytes behind an item were written */
    PERCPU_BAD_FREE_LIST,   /* a list of free items is damaged */
    PERCPU_LEAK,            /* items are handed out when the pool is destroyed */
    PERCPU_NOT_CONSTRUCTED, /* a freed item is not in the state that the pool promises */
};

struct percpu_report {
    enum percpu_finding finding;
    const struct percpu_pool *pool;
    const void *item; /* the item, or the address that was to be freed */
    size_t offset;    /* of the first wrong byte from the copy's start; an interior address's */
    int cpu;          /* whose copy; -1 where that says nothing */
    uint8_t expected; /* the byte at `offset`, and what is there */
    uint8_t found;
    size_t count;       /* PERCPU_LEAK: how many items */
    const void *site;   /* where the item was last allocated: a return address; NULL unknown */
    const char *detail; /* one sentence, static storage */
};

/* What is called with a finding. */
typedef void percpu_report_hook(const struct percpu_report *report);

/* Set the hook of the process; NULL: print and abort again. Returns the former one. Thread-safe. */
PERCPU_API percpu_report_hook *percpu_set_report_hook(percpu_report_hook *hook);

/* "double free", "use after free", ... Static storage. */
PERCPU_API const char *percpu_finding_name(enum percpu_finding finding);

/* Write the report, one line with a newline, to `text` of `size` bytes, as snprintf() does. */
PERCPU_API int percpu_report_format(const struct percpu_report *report, char *text, size_t size);

#endif
