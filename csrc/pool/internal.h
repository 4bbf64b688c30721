/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the pool's data, and what its files call of each other.
 *
 *   pool.c      attributes, creation, destruction
 *   shared.c    the pools of the process
 *   space.c     the ranges that one pool, or the size classes of one set, live in
 *   map.c       system calls: mapping a range, its file of initial values, guards, nodes, names
 *   fork.c      the list of all spaces, and what fork() does to them
 *   block.c     the items of one pool in one range: handing out, taking back
 *   alloc.c     alloc and free, when one section was not enough
 *   cache.c     what is free on each CPU, and what moves between there and the blocks
 *   trim.c      giving memory back
 *   copies.c    comparing and rewriting the copies of items
 *   pages.c     which pages are really there
 *   robust.c    the checks of a robust pool
 *   quick.c     the same for the common case, in as few instructions as can be
 *   report.c    telling somebody about a finding
 *   check.c     the walker that tests everything
 *   stats.c     numbers
 *   set.c       several sizes behind one allocator; size classes
 *
 * A space owns ranges. A range is cut into units of the stride: one unit for the range of an
 * ordinary pool, one per page or more for size classes. A block is a run of units with the items of
 * one pool. An item is in exactly one place: handed out; an entry in one CPU's cache; on its
 * block's stack of free items; or beyond its block's `cut`, never used.
 *
 *      lists of free items | sites | first unit of each unit's block | blocks | range | base ...
 *      \________________________________ header_size ________________________________/
 *
 * An entry is the item's address and marks: FRESH, never handed out; CLEAN, all copies are equal to
 * the item's reference: zeros, or in a range populated from a file, what that file holds for it.
 *
 * Locking: the space's `lock` guards ranges and blocks. The caches need none: sections of their
 * CPUs, and the gate, move entries. Whoever took an entry owns the item's copies. The table of
 * ranges is read without the lock.
 */
#ifndef PERCPU_POOL_INTERNAL_H
#define PERCPU_POOL_INTERNAL_H

#include <pthread.h>

#include <percpu/pool.h>
#include <percpu/report.h>

#define RANGE_MAGIC UINT64_C(0x7065726370755231)
#define FRESH (UINT64_C(1) << 63) /* in an entry: user space ends below them */
#define CLEAN (UINT64_C(1) << 62)
#define MARKS (FRESH | CLEAN)
#define FRESH_INDEX (UINT32_C(1) << 31) /* the same in a block's stack */
#define CLEAN_INDEX (UINT32_C(1) << 30)
#define INDEX_MARKS (FRESH_INDEX | CLEAN_INDEX)

/* Two stacks fill a page: more would cost every CPU another one. */
enum { CACHE_ENTRIES = 254 };

/* One CPU's caches: two stacks of sections.h. */
struct cache {
    uint64_t recycled_count;
    uint64_t recycled[CACHE_ENTRIES]; /* entries without marks: anything may be in the copies */
    uint64_t marked_count;
    uint64_t marked[CACHE_ENTRIES];
    uint64_t nothing; /* an empty stack, with no room: see struct percpu_pool_head */
};
_Static_assert(sizeof(struct cache) <= PERCPU_POOL_CACHE, "what pool.h goes by");

/* What copies hold: `size` bytes, then zeros. */
struct image {
    const void *bytes;
    size_t size;
};

struct block {
    struct percpu_pool *pool; /* NULL: the unit is not the first of a block */
    struct range *range;
    char *base;                    /* CPU 0's copy of the first item */
    struct block *previous, *next; /* of the pool, newest first */
    struct block *previous_available, *next_available;
    bool available; /* in the list of blocks that may have free items */
    uint32_t units;
    uint32_t cut; /* items below it have been handed to a cache once */
    uint32_t free_count;
    uint32_t *free_items; /* indices of free items, last in first out */
    const void **sites;   /* robust: who has each item; NULL: nobody */
    size_t prepared; /* file of initial values: items that start below this offset are prepared */
};

/* Lies just before the first stride. */
struct range {
    uint64_t magic;
    struct space *space;
    struct range *previous, *next;
    char *base;    /* CPU 0's stride, aligned to the stride */
    char *initial; /* shared mapping of the file of initial values, or NULL */
    uint32_t units_used, units_lost;
    uint8_t frozen; /* the file is shared with another process since a fork: never write it */
    uint8_t advice; /* percpu_range_settle() */
};

/* Which addresses are bases of ranges: open addressing, 0 for an empty slot, 1 for a former one. */
struct range_table {
    struct range_table *outgrown; /* readers may still be in it: unmapped with the space */
    size_t mask, used;
    uintptr_t bases[];
};
enum { FIRST_TABLE_SLOTS = 16 };

struct space {
    size_t stride, usable; /* usable: bytes of a stride before the guard page */
    unsigned stride_shift, copies;
    size_t unit_size, units, unit_items; /* unit_items: the most items that a unit can hold */
    size_t header_size, lists, sites, firsts, blocks; /* offsets in the header, of its arrays */
    size_t max_ranges;
    bool initial, robust, guard;
    char name[64];
    int *nodes; /* of each copy's CPU; NULL: no placement */
    int (*range_init)(void *priv, void *memory, size_t length, int cpu);
    void *priv;
    bool global;
    pthread_mutex_t lock;
    struct range_table *table;
    uintptr_t first_table[sizeof(struct range_table) / sizeof(uintptr_t) + FIRST_TABLE_SLOTS];
    struct range *ranges; /* newest first */
    size_t range_count, making, units_free;
    unsigned forks;             /* of the process since the space was made */
    unsigned users;             /* pools in it */
    struct space *next, **link; /* all spaces, for fork() */
};

struct percpu_pool {
    struct percpu_pool_head head; /* for the inlined functions */
    struct space *space;
    percpu_ptr recycled, marked; /* the stacks of struct cache */
    uint64_t cache_items;        /* room that is used of each stack */
    size_t item_size, slot_size, block_items;
    uint32_t block_units;
    enum percpu_index index;
    bool robust, poisoned, constructed;
    bool quick; /* quick.c can serve it: then copies of what it needs of the space */
    unsigned copies;
    size_t stride;
    uintptr_t seen_base;   /* quick.c: of a range of the pool, or 0 */
    uint64_t reciprocal;   /* quick.c: of slot_size */
    struct image initial;  /* owned, as are the next two */
    struct image poison;   /* of freed items, if `poisoned` */
    struct image prepared; /* what fresh items of a file are given; guarded by the lock */
    int (*ctor)(void *priv, void *item);
    void (*dtor)(void *priv, void *item);
    void (*report)(void *priv, const struct percpu_report *report);
    void *priv;
    struct block *blocks, *available; /* available: those that may have free items */
    size_t block_count;
    uint64_t refills, overflows, restores, aborts; /* atomics */
};

void percpu_space_wait(struct space *space) PERCPU_COLD;

/*
 * How many spaces' locks this thread holds, or is about to. A signal handler that finds it above 0
 * would wait for ever for a lock of its own thread: see percpu_pool_interrupted().
 */
extern __thread volatile unsigned percpu_space_held __attribute__((tls_model("initial-exec")));

static inline void percpu_space_lock(struct space *space)
{
    percpu_space_held++;
    if (pthread_mutex_trylock(&space->lock) != 0)
        percpu_space_wait(space);
}

static inline void percpu_space_unlock(struct space *space)
{
    pthread_mutex_unlock(&space->lock);
    percpu_space_held--;
}

static inline void *entry_item(uint64_t entry)
{
    return (void *)(uintptr_t)(entry & ~MARKS);
}

static inline char *block_item(const struct block *block, size_t index)
{
    return block->base + index * block->pool->slot_size;
}

static inline size_t block_index(const struct block *block, const void *item)
{
    return (size_t)((const char *)item - block->base) / block->pool->slot_size;
}

/* The range of an item, by mask. */
static inline struct range *percpu_range_of(const void *item, size_t stride)
{
    return (struct range *)((uintptr_t)item & ~(uintptr_t)(stride - 1)) - 1;
}

static inline size_t percpu_copies_length(const struct space *space)
{
    return space->copies * space->stride;
}

/* map.c: memory, or NULL with errno. */
void *percpu_map(size_t length, const char *name);
struct range *percpu_range_map(struct space *space);
void percpu_range_unmap(struct range *range);
size_t percpu_range_length(const struct space *space);
/* Wait until no page fault of the range is under way that began before. Takes the lock. */
void percpu_range_settle(struct range *range);

/* space.c */
struct space *percpu_space_create(const struct percpu_pool_attr *attr, size_t unit_size,
                                  size_t min_slot);
void percpu_space_release(struct space *space);
/* With the lock held, which a callback makes it drop for a while: one more range. 0, or -1. */
int percpu_space_grow(struct space *space);
/* With the lock held: a new block for `pool`, if some range has `units` in a row. */
enum percpu_from { FROM_ANY, FROM_UNFROZEN };
struct block *percpu_space_block(struct space *space, struct percpu_pool *pool,
                                 enum percpu_from from);
/* Give its units back; or, if they cannot be used again, lose them until the range goes: they are
 * percpu_pool_nobody's then. */
extern struct percpu_pool percpu_pool_nobody;
void percpu_space_end_block(struct block *block, bool usable);
/* With the lock held: take the range out. */
void percpu_space_unlink(struct space *space, struct range *range);
/* The range's blocks; a unit that is not the first of one has no pool there. */
struct block *percpu_range_blocks(const struct range *range);
/* The block that `address` lies in, whosever it is; NULL. `trusted`: it is in the space. */
struct block *percpu_block_at(const struct space *space, const void *address);
struct block *percpu_block_of(const struct space *space, const void *item);
/* CPU 0's place for what `address` is in some copy; NULL if that is in no range. Takes the lock. */
const void *percpu_space_first(struct space *space, const void *address);

/* fork.c */
int percpu_fork_handlers(void);
void percpu_space_enlist(struct space *space);
void percpu_space_delist(struct space *space);
/* The pool of any space whose block `address` lies in; NULL. Advice for a report only. */
const struct percpu_pool *percpu_pool_anywhere(const void *address);

/* block.c, with the lock held: move up to `wanted` entries out of the blocks; put one back. */
size_t percpu_block_take(struct percpu_pool *pool, uint64_t *entries, size_t wanted,
                         enum percpu_from from);
/* The same out of frozen ranges, of items whose file holds `image`, as far as it looks. */
size_t percpu_block_take_like(struct percpu_pool *pool, uint64_t *entries, size_t wanted,
                              struct image image);
/* One more block, if some range has room for it. */
bool percpu_block_add(struct percpu_pool *pool, enum percpu_from from);
/* Take the block out of the list of those that may have free items. */
void percpu_block_withdraw(struct block *block);
void percpu_block_put(struct percpu_pool *pool, uint64_t entry);

/* cache.c */
int percpu_cache_create(struct percpu_pool *pool);
void percpu_cache_destroy(struct percpu_pool *pool);
/* With the lock held: drain all CPUs' caches. Returns how many items came back. */
size_t percpu_cache_drain(struct percpu_pool *pool);

/* copies.c. The items are the caller's. */
/* Make every item's copies equal to its reference. */
void percpu_copies_restore(struct percpu_pool *pool, uint64_t *entries, size_t count);
/* Make the copies of one item equal to `image`, and its reference too where that can be. */
void percpu_copies_set(struct percpu_pool *pool, uint64_t entry, struct image image);
/* The same for many in ranges populated from a file, which are clean then; those of a frozen range
 * stay as they are. The order changes. */
void percpu_copies_convert(struct percpu_pool *pool, uint64_t *entries, size_t count,
                           struct image image);
/* Make the bytes behind an item as its reference: range_init may have written there. */
void percpu_copies_tidy(const struct percpu_pool *pool, void *item);
/* Whether an item's reference is `image`. */
bool percpu_copies_refer(const struct percpu_pool *pool, const void *item, struct image image);
/* A byte in [start, end) of some copy that is not as in `image` (NULL: the reference). */
struct difference {
    int copy;
    size_t offset;
    uint8_t expected, found;
};
bool percpu_copies_differ(struct percpu_pool *pool, const void *item, const struct image *image,
                          size_t start, size_t end, struct difference *difference);

/* pages.c: call `visit` for each run of pages that a copy has of its own, offsets in the stride.
 * False if the kernel cannot tell. */
typedef void percpu_pages_visit(void *context, unsigned copy, size_t start, size_t end);
bool percpu_pages_walk(const struct range *range, percpu_pages_visit *visit, void *context);
/* How many of the `length` bytes at `start`, whole pages, are in memory; `own`: and no file's. */
size_t percpu_resident(const char *start, size_t length, bool own);
/* The same for each page: see percpu_pool_pages(). */
size_t percpu_resident_pages(const char *start, size_t length, bool own, unsigned char *flags,
                             size_t pages);

/* robust.c. alloc: whether the item may be handed out. free: whether it may be taken back. */
bool percpu_robust_alloc(struct percpu_pool *pool, uint64_t entry, const void *site);
void percpu_robust_withdraw(struct percpu_pool *pool, void *item);
bool percpu_robust_free(struct percpu_pool *pool, void *item);
void percpu_robust_destroy(struct percpu_pool *pool);
/* Whether an entry can be one; in any pool. */
bool percpu_robust_entry(struct percpu_pool *pool, uint64_t entry);
/* The findings, without telling anybody. */
bool percpu_robust_free_item(struct percpu_pool *pool, uint64_t entry,
                             struct percpu_report *report);
bool percpu_robust_live_item(struct percpu_pool *pool, const void *item,
                             struct percpu_report *report);

/* quick.c: alloc and free of a robust pool; NULL and false if the general way has to do it, alloc
 * with `*entry` if that is not 0. */
void percpu_quick_prepare(struct percpu_pool *pool);
void *percpu_quick_alloc(struct percpu_pool *pool, const void *site, uint64_t *entry);
bool percpu_quick_free(struct percpu_pool *pool, void *item);

/* report.c: tell somebody; or while this thread catches, keep the first report. */
void percpu_report(const struct percpu_pool *pool, struct percpu_report *report);
void percpu_report_catch(struct percpu_report *report);

/* trim.c, with the lock held: drain the caches, and give idle ranges with a frozen file back, before
 * another range is mapped because of them. Returns how many items were in the caches. */
size_t percpu_pool_drop_frozen(struct percpu_pool *pool);
/* Give all blocks of a pool to the others in its space. */
void percpu_pool_leave(struct percpu_pool *pool);
/* Run dtor for the block's free items that were constructed. */
void percpu_block_destruct(struct percpu_pool *pool, const struct block *block);

/* pool.c: a pool in `space`, which it takes over; NULL with errno, and the space is released. */
struct percpu_pool *percpu_pool_make(const struct percpu_pool_attr *attr, struct space *space,
                                     uint32_t block_units);
/* Fill in the defaults. 0, or -1 with errno EINVAL or ENOTSUP. */
int percpu_pool_complete(struct percpu_pool_attr *attr);

#endif
