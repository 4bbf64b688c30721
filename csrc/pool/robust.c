/* SPDX-License-Identifier: MIT */
/*
 * robust.c - the checks of a robust pool.
 *
 * An item is handed out exactly if it has a site. Alloc stores it: nobody else has the entry. Free
 * exchanges it for NULL, and of two frees at once only one gets it. An item that a finding was made
 * about is withheld: it has no site, and is in no list.
 */
#include "internal.h"

static void found_byte(struct percpu_report *report, enum percpu_finding finding,
                       const struct difference *difference, const char *detail)
{
    report->finding = finding;
    report->cpu = difference->copy;
    report->offset = difference->offset;
    report->expected = difference->expected;
    report->found = difference->found;
    report->detail = detail;
}

static bool overflowed(struct percpu_pool *pool, const void *item, struct percpu_report *report)
{
    struct difference difference;
    if (!percpu_copies_differ(pool, item, NULL, pool->item_size, pool->slot_size, &difference))
        return false;
    found_byte(report, PERCPU_OVERFLOW, &difference, "bytes behind an item were written");
    return true;
}

static void start(struct percpu_report *report, const struct percpu_pool *pool, const void *item)
{
    *report = (struct percpu_report){.pool = pool, .item = item, .cpu = -1};
}

/* Whether what a constructed item holds is the initial bytes, and not what a callback wrote. */
static bool has_known_state(const struct percpu_pool *pool)
{
    return pool->constructed && pool->ctor == NULL && pool->space->range_init == NULL;
}

bool percpu_robust_free_item(struct percpu_pool *pool, uint64_t entry, struct percpu_report *report)
{
    void *item = entry_item(entry);
    struct difference difference;
    const struct image *image = NULL;
    bool known = entry & CLEAN;
    start(report, pool, item);
    if (!known && !(entry & FRESH) && (pool->poisoned || has_known_state(pool))) {
        image = pool->poisoned ? &pool->poison : &pool->initial;
        known = true;
    }
    if (known && percpu_copies_differ(pool, item, image, 0, pool->item_size, &difference)) {
        found_byte(report, PERCPU_USE_AFTER_FREE, &difference, "a free item was written");
        return false;
    }
    return !overflowed(pool, item, report);
}

bool percpu_robust_live_item(struct percpu_pool *pool, const void *item,
                             struct percpu_report *report)
{
    start(report, pool, item);
    return !overflowed(pool, item, report);
}

static const void **site_of(const struct block *block, const void *item)
{
    return &block->sites[block_index(block, item)];
}

static bool is_item(const struct percpu_pool *pool, const struct block *block, const void *item)
{
    size_t offset = (size_t)((const char *)item - block->base);
    return offset % pool->slot_size == 0 &&
           offset / pool->slot_size < __atomic_load_n(&block->cut, __ATOMIC_RELAXED);
}

bool percpu_robust_entry(struct percpu_pool *pool, uint64_t entry)
{
    void *item = entry_item(entry);
    const struct block *block = percpu_block_at(pool->space, item);
    struct percpu_report report;
    if (block != NULL && block->pool == pool && is_item(pool, block, item) &&
        (block->sites == NULL || __atomic_load_n(site_of(block, item), __ATOMIC_RELAXED) == NULL))
        return true;
    start(&report, pool, item);
    report.finding = PERCPU_BAD_FREE_LIST;
    report.detail = "a list of free items has an address that is no free item";
    percpu_report(pool, &report);
    return false;
}

bool percpu_robust_alloc(struct percpu_pool *pool, uint64_t entry, const void *site)
{
    struct percpu_report report;
    if (!percpu_robust_entry(pool, entry))
        return false;
    if (!percpu_robust_free_item(pool, entry, &report)) {
        percpu_report(pool, &report);
        return false;
    }
    struct block *block = percpu_block_of(pool->space, entry_item(entry));
    __atomic_store_n(site_of(block, entry_item(entry)), site, __ATOMIC_RELAXED);
    return true;
}

void percpu_robust_withdraw(struct percpu_pool *pool, void *item)
{
    const struct block *block = percpu_block_of(pool->space, item);
    __atomic_store_n(site_of(block, item), (const void *)NULL, __ATOMIC_RELAXED);
}

/* An address in a range of the pool that is not where an item starts. */
static void interior(const struct percpu_pool *pool, const struct block *block, const void *first,
                     struct percpu_report *report)
{
    report->finding = PERCPU_INTERIOR_FREE;
    report->detail = first == report->item
                         ? "the address to free is not where an item starts that was handed out"
                         : "the address to free is in another copy than CPU 0's";
    if (block != NULL)
        report->offset = (size_t)((const char *)first - block->base) % pool->slot_size;
}

/* What is wrong with freeing this address, if its site does not say so. */
static bool bad_address(const struct percpu_pool *pool, const struct block *block,
                        struct percpu_report *report)
{
    const void *first = report->item; /* in CPU 0's copy; NULL: in no copy */
    if (block == NULL) {
        first = percpu_space_first(pool->space, report->item);
        block = first != NULL ? percpu_block_at(pool->space, first) : NULL;
    }
    const struct percpu_pool *other = block != NULL   ? block->pool
                                      : first != NULL ? pool
                                                      : percpu_pool_anywhere(report->item);
    if (other == NULL) {
        report->finding = PERCPU_FOREIGN_FREE;
        report->detail = "the address to free is in no range of the pool";
    } else if (other != pool) {
        report->finding = PERCPU_WRONG_POOL;
        report->detail = "the item to free is another pool's";
    } else if (block == NULL || first != report->item || !is_item(pool, block, first)) {
        interior(pool, block, first, report);
    }
    return report->finding != PERCPU_NO_FINDING;
}

static bool restored(struct percpu_pool *pool, const void *item, struct percpu_report *report)
{
    struct difference difference;
    if (!has_known_state(pool) ||
        !percpu_copies_differ(pool, item, &pool->initial, 0, pool->item_size, &difference))
        return true;
    found_byte(report, PERCPU_NOT_CONSTRUCTED, &difference,
               "a freed item is not in its constructed state");
    return false;
}

bool percpu_robust_free(struct percpu_pool *pool, void *item)
{
    const struct block *block = percpu_block_at(pool->space, item);
    struct percpu_report report;
    start(&report, pool, item);
    if (!bad_address(pool, block, &report)) {
        report.site = __atomic_exchange_n(site_of(block, item), (const void *)NULL,
                                          __ATOMIC_RELAXED);
        if (report.site == NULL) {
            report.finding = PERCPU_DOUBLE_FREE;
            report.detail = "the item is free already";
        } else if (!overflowed(pool, item, &report) && restored(pool, item, &report)) {
            return true;
        }
    }
    percpu_report(pool, &report);
    return false;
}

static void find_leaks(const struct percpu_pool *pool, struct percpu_report *report)
{
    for (const struct block *block = pool->blocks; block != NULL; block = block->next) {
        for (uint32_t i = 0; i < block->cut; i++) {
            if (block->sites[i] == NULL)
                continue;
            report->count++;
            report->item = block_item(block, i);
            report->site = block->sites[i];
        }
    }
}

void percpu_robust_destroy(struct percpu_pool *pool)
{
    struct percpu_report report;
    if (percpu_pool_check(pool, &report) != 0 && report.finding != PERCPU_NO_FINDING)
        percpu_report(pool, &report);
    start(&report, pool, NULL);
    find_leaks(pool, &report);
    if (report.count == 0)
        return;
    report.finding = PERCPU_LEAK;
    report.detail = "items are handed out at the end of the pool";
    percpu_report(pool, &report);
}
