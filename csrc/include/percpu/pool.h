/* SPDX-License-Identifier: MIT */
/*
 * pool.h - per-CPU memory: a pool of equally sized items, each with one copy per CPU.
 *
 * Glossary
 *   item     what is allocated: `item_size` bytes on every CPU. Its address is that of CPU 0's
 *            copy; CPU c's copy is c * stride further on.
 *   stride   bytes from one CPU's copy of an item to the next: a power of two, at least a page.
 *            Items are packed inside a stride, so an item costs its own size on each CPU.
 *   range    one mapping: a header, then one stride for each CPU, aligned to the stride, so that
 *            the header of an item's range is found by masking the item's address. A pool
 *            grows by them.
 *   cache    free items per CPU, itself per-CPU memory: alloc and free are one critical section
 *            each. The pool's lock is taken only to move many items at a time.
 *   initial  what every copy of an item holds before anybody writes: `init`, by default zeros.
 *   clean    a free item all copies of which are known to be initial. An item never handed out
 *            (fresh) is clean without having been touched.
 *
 *      populate = zero                             populate = init
 *
 *      header | CPU 0    | CPU 1    | ...          header | CPU 0    | CPU 1    | ... | initial
 *      -------+----------+----------+----          -------+----------+----------+-----+---------
 *             | item item ... [guard] |                   | private, copy-on-write    | shared
 *             ^ base, aligned to the stride                 \________ one memfd ________/
 *
 * Memory of `zero` is anonymous: a page that no CPU has written reads as zeros and costs nothing.
 * In `init` every CPU's stride maps the same file of initial values privately: a page that a CPU
 * has not written costs nothing either, and reads as what was written once, in the file. After
 * fork() parent and child each have their own copies in both: see percpu_pool_alloc_init(). Locked
 * memory (mlockall) is given to every CPU at once, in both.
 *
 * Source of the layout: the mempool of librseq (M. Desnoyers, "A new per-cpu memory allocator for
 * userspace in librseq", 2024).
 */
#ifndef PERCPU_POOL_H
#define PERCPU_POOL_H

#include "platform.h"
#include "ptr.h"
#include "rseq.h"
#include "sections.h"

struct percpu_pool;
struct percpu_report;

/* Where the pages that no CPU has written yet come from: see the drawing. */
enum percpu_populate { PERCPU_POPULATE_ZERO, PERCPU_POPULATE_INIT };

/* How to make a pool. Zero means the default, so start from {.item_size = n}. */
struct percpu_pool_attr {
    size_t item_size;  /* bytes per CPU, 1 to what fits the stride */
    size_t stride;     /* bytes; default 64 KiB, or the next power of two that holds an item */
    unsigned cpus;     /* copies; default and least: percpu_nr_cpus(); at most PERCPU_MAX_CPUS */
    size_t max_ranges; /* default: no limit */
    enum percpu_index index; /* default PERCPU_INDEX_CPU */
    enum percpu_populate populate;

    /* Items are not per CPU: one copy, or `cpus` copies that the caller chooses among; any `cpus`
     * from 1 will do. percpu_pool_ptr() has no meaning for such a pool. */
    bool global;

    /* The initial bytes of every item's copies, zeros following; copied. With `constructed`, freed
     * items are in that state again (or as `ctor` left them): the caller sees to it, and neither
     * free nor alloc looks. */
    const void *init;
    size_t init_size; /* at most item_size */
    bool constructed;

    /* Run once for an item, before it is handed out for the first time, and once before the memory
     * of a constructed item goes back to the kernel (trim, destroy; items still handed out are not
     * destructed). ctor returns 0, or -1 with errno: then the allocation fails with it. Both need
     * `constructed`. They may use the pool. */
    int (*ctor)(void *priv, void *item);
    void (*dtor)(void *priv, void *item);

    /* Run for each CPU of each new range, with that CPU's `length` bytes (one stride, or what is
     * left of it before a guard page); `cpu` is -1 in a global pool of one copy. Returns 0, or -1
     * with errno: then the range is unmapped, and the allocation (or the creation) fails with that
     * errno. Called without locks; may use the pool. What it writes is what percpu_pool_alloc()
     * finds in an item never handed out before. */
    int (*range_init)(void *priv, void *memory, size_t length, int cpu);

    bool robust; /* look for corruption: see report.h */
    bool guard;  /* the last page of each CPU's stride is no memory: touching it is SIGSEGV */
    bool numa;   /* prefer each CPU's node for its stride (mbind); without effect where the kernel
                    has no NUMA, and for populate init, where whoever writes a page has it near */
    bool lazy;   /* no range before the first allocation */

    /* Overwrite every copy of a freed item with `poison`, 8 bytes repeated. In a pool of zeros that
     * gives memory to every CPU. Not with `constructed`. */
    bool poison_set;
    uint64_t poison;

    /* Bytes of items in one CPU's caches: default 64 KiB; the least is 2 items. */
    size_t cache_bytes;

    /* Bytes from one item to the next; default item_size rounded up so that items stay aligned, and
     * if robust by 8 bytes at least. */
    size_t slot_size;

    /* Shown in /proc/PID/maps, if the kernel can; copied. At most 63 printable ASCII characters,
     * none of [ ] \ $ and the back quote. */
    const char *name;

    /* What to do with a finding, instead of percpu_set_report_hook(). */
    void (*report)(void *priv, const struct percpu_report *report);
    void *priv; /* handed to the functions above */
};

/*
 * Make a pool. Returns NULL with errno EINVAL (item_size 0 or larger than what fits the stride; a
 * stride that is not a power of two, is below the page size or above 2^30, or makes a range larger
 * than 2^46 bytes; cpus out of range; init_size above item_size; slot_size below item_size or not a
 * multiple of 8; ctor or dtor without constructed; constructed with poison; an unknown index or
 * populate; a bad name), ENOTSUP (PERCPU_INDEX_CID without mm_cid), EMFILE or ENFILE (populate init
 * needs a descriptor for a moment), ENOMEM, or that of range_init. The caller owns it. Thread-safe.
 */
PERCPU_API struct percpu_pool *percpu_pool_create(const struct percpu_pool_attr *attr);

/*
 * Unmap everything, items included, after dtor was run for constructed items that are free. No
 * thread may be using the pool. A robust pool is checked, and items still handed out are reported,
 * first. NULL is allowed.
 */
PERCPU_API void percpu_pool_destroy(struct percpu_pool *pool);

/* What the inlined functions below see of a pool: its first member. In a pool that must look at
 * every item (robust, poisoned) the stack is always empty, and full, so it takes the slow path. */
struct percpu_pool_head {
    char *recycled; /* a stack of items (sections.h) per CPU, PERCPU_POOL_CACHE bytes apart */
    size_t index;   /* enum percpu_index */
    uint64_t capacity;
    size_t stride, item_size; /* as in percpu_pool_geometry() */
    unsigned cpus;
    bool global;
};
#define PERCPU_POOL_CACHE ((size_t)4096)

PERCPU_INLINE percpu_ptr percpu_pool_recycled(const struct percpu_pool_head *head)
{
    return (percpu_ptr){head->recycled, PERCPU_POOL_CACHE, head->index};
}

PERCPU_API void *percpu_pool_alloc_slowly(struct percpu_pool *pool) PERCPU_COLD;
PERCPU_API void percpu_pool_free_slowly(struct percpu_pool *pool, void *item) PERCPU_COLD;

/*
 * Allocate an item: with whatever is in it (alloc), with the pool's initial bytes (alloc_initial),
 * all zeros (zalloc), or with each CPU's copy starting with the `size` bytes at `init` followed by
 * zeros (alloc_init). In a constructed pool alloc and alloc_initial are one: items are as they were
 * constructed. Returns the address of CPU 0's copy, aligned to the largest power of two that
 * divides item_size (at least 8, at most 64; an item below 8 bytes: item_size rounded up to a power
 * of two). NULL with errno ENOMEM (no memory, or max_ranges reached with no free item on any CPU),
 * EINVAL (size larger than item_size), EMFILE or ENFILE (a range of initial values could not be
 * made), or that of ctor or range_init. The bytes at `init` must not change meanwhile. Thread-safe.
 *
 * Cost. Recycled items are restored many at a time, by looking only at pages that some CPU has
 * written (PAGEMAP_SCAN, Linux 6.7; before that by reading every copy). Initial bytes go to one
 * place in a pool populated by `init`, however many CPUs there are, and are remembered: items that
 * follow are prepared with them, a page before its first item is handed out. Bytes other than
 * those prepared, and than what a recycled item had before, cost a walk over all CPUs' mappings,
 * because a CPU may be making its private page just then. Where a fork has frozen the file, items
 * come from a new range instead. Other bytes than the initial ones in a pool of zeros are written
 * on every CPU.
 */
PERCPU_INLINE void *percpu_pool_alloc(struct percpu_pool *pool)
{
    const struct percpu_pool_head *head = (const struct percpu_pool_head *)(const void *)pool;
    uint64_t item;
    if (percpu_likely(percpu_cs_stack_pop(percpu_pool_recycled(head), &item) == PERCPU_COMMITTED))
        return (void *)(uintptr_t)item;
    return percpu_pool_alloc_slowly(pool);
}
PERCPU_API void *percpu_pool_alloc_initial(struct percpu_pool *pool);
PERCPU_API void *percpu_pool_zalloc(struct percpu_pool *pool);
PERCPU_API void *percpu_pool_alloc_init(struct percpu_pool *pool, const void *init, size_t size);

/*
 * Give an item back. Nobody may use it any more. NULL is allowed. As with free(3), `item` must be
 * an item of this pool that is handed out; only a robust pool looks, and reports. Thread-safe.
 */
PERCPU_INLINE void percpu_pool_free(struct percpu_pool *pool, void *item)
{
    const struct percpu_pool_head *head = (const struct percpu_pool_head *)(const void *)pool;
    if (percpu_unlikely(item == NULL))
        return;
    if (percpu_unlikely(percpu_cs_stack_push(percpu_pool_recycled(head), (uintptr_t)item,
                                             head->capacity) != PERCPU_COMMITTED))
        percpu_pool_free_slowly(pool, item);
}

/* Map ranges until `items` more can be allocated without. 0; -1 with the errors of alloc (ENOMEM
 * if max_ranges does not allow as many). Thread-safe. */
PERCPU_API int percpu_pool_reserve(struct percpu_pool *pool, size_t items);

/* Whether `item` is the address of one of the pool's items, handed out or not. Thread-safe. */
PERCPU_API bool percpu_pool_owns(const struct percpu_pool *pool, const void *item);

/* The item as a per-CPU object, for the operations of this_cpu.h. `base` is NULL in a global
 * pool: with no copy for each CPU those would lose updates. */
PERCPU_INLINE percpu_ptr percpu_pool_ptr(const struct percpu_pool *pool, void *item)
{
    const struct percpu_pool_head *head = (const struct percpu_pool_head *)(const void *)pool;
    return (percpu_ptr){head->global ? NULL : (char *)item, head->stride, head->index};
}

/* What the pool was made with, defaults filled in; capacity is the items in one range, cache_items
 * the most in one CPU's caches, header_size the bytes before the first stride. */
struct percpu_pool_geometry {
    size_t item_size, slot_size, stride, capacity, max_ranges, cache_items, header_size;
    unsigned cpus;
    enum percpu_index index;
    enum percpu_populate populate;
    bool global, robust, guard, constructed;
};
PERCPU_API void percpu_pool_geometry(const struct percpu_pool *pool,
                                     struct percpu_pool_geometry *geometry);

/* The pool's name, or "". */
PERCPU_API const char *percpu_pool_name(const struct percpu_pool *pool);

/* Counts are exact when no other thread uses the pool. */
struct percpu_pool_stats {
    size_t ranges;
    size_t live;           /* items handed out */
    size_t cached;         /* free items in the CPUs' caches */
    size_t free;           /* free items in the ranges, those never handed out included */
    size_t virtual_bytes;  /* address space mapped, headers and caches included */
    size_t resident_bytes; /* of that, in memory; before Linux 6.7 with pages that were only read,
                              although those are the shared page of zeros */
    uint64_t refills;      /* times a cache was filled from the ranges */
    uint64_t overflows;    /* times part of a cache went back to the ranges */
    uint64_t restores;     /* items brought back to their initial bytes */
    uint64_t aborts;       /* sections of alloc and free that did not commit: aborted, or gated */
};
/* Thread-safe. In a pool of percpu_pool_create_classes() ranges, and with them the bytes, are those
 * of all its classes together. */
PERCPU_API void percpu_pool_stats(struct percpu_pool *pool, struct percpu_pool_stats *stats);

/* Bytes in memory of CPU `cpu`'s strides, all ranges together: for populate init only pages that
 * are the CPU's own. Thread-safe. */
PERCPU_API size_t percpu_pool_resident(struct percpu_pool *pool, unsigned cpu);

/*
 * Which pages of copy `cpu` (or, with cpu = the number of copies, of the initial values) in range
 * number `range`, counted from the oldest, are in memory and its own: one byte 0 or 1 per page, at
 * most `pages` of them, into `own`. Returns how many pages a stride has; 0 if there is no such
 * range. Thread-safe.
 */
PERCPU_API size_t percpu_pool_pages(struct percpu_pool *pool, size_t range, unsigned cpu,
                                    unsigned char *own, size_t pages);

/* Move the free items in the caches of all CPUs back to the ranges. Thread-safe. */
PERCPU_API void percpu_pool_drain(struct percpu_pool *pool);

/* Drain the caches, and give ranges with no item handed out back to the kernel. Returns the bytes
 * of address space unmapped. Thread-safe. */
PERCPU_API size_t percpu_pool_trim(struct percpu_pool *pool);

/*
 * Walk everything: the lists of free items, and in a robust pool every free copy and the bytes
 * behind every item. Drains the caches, and may be called at any time; what other threads are just
 * allocating or freeing is left out. Returns 0; or -1 with the first finding in `report` (the hooks
 * are not called), or errno ENOMEM and report->finding PERCPU_NO_FINDING.
 */
PERCPU_API int percpu_pool_check(struct percpu_pool *pool, struct percpu_report *report);

/*
 * A pool of the process for items of `item_size` bytes (1, 2, 4, 8 or 16), made at its first use
 * and never destroyed. NULL with errno EINVAL or ENOMEM. Thread-safe.
 */
PERCPU_API struct percpu_pool *percpu_pool_shared(size_t item_size);

/*
 * The pool of the process for items of at least `size` bytes, 1 to 16 MiB, made at its first use
 * and never destroyed. Up to 64 KiB these are size classes (pool_set.h): items of different sizes
 * are packed into the same ranges, and are at most 1/4 (8 bytes at least) larger than asked for; a
 * larger item is the next power of two. Items are aligned to 8. What of an item is never written
 * costs no memory but that on its page something else is. NULL with errno EINVAL or ENOMEM.
 * Thread-safe, and takes no lock that a fork could leave taken.
 */
PERCPU_API struct percpu_pool *percpu_pool_shared_for(size_t size);

/*
 * Whether the caller is a signal handler that came while its thread held a pool's lock: then
 * allocating and freeing could wait for ever. Otherwise both are async-signal-safe in pools without
 * functions of the caller's, as those of the process. Async-signal-safe.
 */
PERCPU_API bool percpu_pool_interrupted(void);

/*
 * Test hook: the `after`-th system call from now that maps memory for a pool fails with ENOMEM, and
 * each one after it until the hook is set to -1.
 */
PERCPU_API void percpu_pool_fail_maps(int after);

#endif
