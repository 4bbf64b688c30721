/* SPDX-License-Identifier: MIT */
/*
 * test_pool_damage.c - writes where nobody may write, in a robust pool: free items, the bytes behind
 * items, lists of free items, the constructed state. Each is found, with CPU, offset and bytes, and
 * the item is never handed out again. percpu_pool_check() finds the same, and tells nobody.
 */
#define _GNU_SOURCE
#include "../../csrc/pool/internal.h" /* lists of free items are damaged here */
#include "pool_robust.h"

static unsigned expected_in_free(struct percpu_pool *pool, size_t offset)
{
    return pool->poisoned ? (unsigned)(poison >> 8 * (offset % 8) & 0xff) : 0;
}

/* Found when the item would be handed out again. */
static void use_after_free(struct percpu_pool *pool, unsigned cpu, size_t offset)
{
    void *item = allocate_here(pool);
    percpu_pool_free(pool, item);
    copy_of(pool, item, cpu)[offset] ^= 0x99;
    CHECK(reports == 0);
    void *other = percpu_pool_alloc(pool);
    CHECK(reports == 1 && other != item && other != NULL);
    expect(PERCPU_USE_AFTER_FREE, pool, item);
    unsigned expected = expected_in_free(pool, offset);
    expect_byte(cpu, offset, expected, expected ^ 0x99);
    percpu_pool_free(pool, other);
}

static void use_after_free_first(struct percpu_pool *pool)
{
    use_after_free(pool, 0, 0);
}

static void use_after_free_last(struct percpu_pool *pool)
{
    use_after_free(pool, last_copy(pool), SIZE - 1);
}

/* Items that nobody has had yet are looked at too. */
static void use_before_alloc(struct percpu_pool *pool)
{
    unsigned char *item = allocate_here(pool);
    size_t slot = geometry_of(pool).slot_size, items = geometry_of(pool).capacity;
    unsigned char *base = (unsigned char *)((uintptr_t)item & ~(geometry_of(pool).stride - 1));
    size_t index = (size_t)(item - base) / slot, victim = index + 3 < items ? index + 3 : index - 3;
    copy_of(pool, base + victim * slot, 1)[7] = 0x31;
    void *held[1000];
    size_t count = 0;
    while (reports == 0 && count < items)
        held[count++] = allocate_here(pool);
    CHECK(reports == 1);
    expect(PERCPU_USE_AFTER_FREE, pool, base + victim * slot);
    CHECK(seen.cpu == 1 && seen.offset == 7 && seen.found == 0x31);
    while (count > 0)
        percpu_pool_free(pool, held[--count]);
    percpu_pool_free(pool, item);
}

/* Found when the item is freed; who allocated it is known. */
static void overflow(struct percpu_pool *pool, unsigned cpu, size_t offset)
{
    void *item = allocate_there(pool);
    copy_of(pool, item, cpu)[offset] = 0x21;
    CHECK(reports == 0);
    percpu_pool_free(pool, item);
    CHECK(reports == 1);
    expect(PERCPU_OVERFLOW, pool, item);
    expect_byte(cpu, offset, 0, 0x21);
    CHECK(is_in(seen.site, allocate_there));
    for (unsigned i = 0; i < 3; i++) {
        void *other = percpu_pool_alloc(pool);
        CHECK(other != item);
        percpu_pool_free(pool, other);
    }
}

static void overflow_first(struct percpu_pool *pool)
{
    overflow(pool, 0, SIZE);
}

static void overflow_last(struct percpu_pool *pool)
{
    overflow(pool, last_copy(pool), geometry_of(pool).slot_size - 1);
}

static void overflow_of_a_free_item(struct percpu_pool *pool)
{
    void *item = allocate_here(pool);
    percpu_pool_free(pool, item);
    copy_of(pool, item, 2)[SIZE + 3] = 0x41;
    void *other = percpu_pool_zalloc(pool);
    CHECK(reports == 1 && other != item);
    expect(PERCPU_OVERFLOW, pool, item);
    expect_byte(2, SIZE + 3, 0, 0x41);
    percpu_pool_free(pool, other);
}

/* What this CPU keeps: an entry that is somewhere else too, and one that is nothing. */
static uint64_t *top_of_cache(struct percpu_pool *pool)
{
    percpu_ptr stack = pool->poisoned ? pool->recycled : pool->marked;
    uint64_t *words = percpu_ptr_cpu(stack, (unsigned)percpu_current_cpu());
    CHECK(words[0] > 0);
    return &words[words[0]];
}

static void bad_cache(struct percpu_pool *pool)
{
    void *item = allocate_here(pool), *live = allocate_here(pool);
    percpu_pool_free(pool, item);
    *top_of_cache(pool) = (uintptr_t)live;
    void *other = percpu_pool_alloc(pool);
    CHECK(reports == 1 && other != live && other != NULL);
    expect(PERCPU_BAD_FREE_LIST, pool, live);
    percpu_pool_free(pool, other);
    *top_of_cache(pool) = (uintptr_t)&seen;
    percpu_pool_drain(pool);
    CHECK(reports == 2);
    expect(PERCPU_BAD_FREE_LIST, pool, &seen);
    percpu_pool_free(pool, live);
    reports = 1;
}

static void bad_list_of_the_range(struct percpu_pool *pool)
{
    void *items[4];
    for (unsigned i = 0; i < 4; i++)
        items[i] = allocate_here(pool);
    for (unsigned i = 1; i < 4; i++)
        percpu_pool_free(pool, items[i]);
    percpu_pool_drain(pool);
    struct block *block = percpu_block_at(pool->space, items[0]);
    uint32_t live = (uint32_t)block_index(block, items[0]);
    block->free_items[block->free_count - 1] = live; /* is not free */
    CHECK(reports == 0);
    void *other = percpu_pool_alloc(pool);
    while (other != NULL && reports == 0)
        other = percpu_pool_alloc(pool);
    CHECK(other != items[0] && other != NULL);
    expect(PERCPU_BAD_FREE_LIST, pool, items[0]);
}

static const struct scenario scenarios[] = {
    {"use after free", PERCPU_USE_AFTER_FREE, use_after_free_first, false},
    {"use after free", PERCPU_USE_AFTER_FREE, use_after_free_last, false},
    {"use after free", PERCPU_USE_AFTER_FREE, use_before_alloc, false},
    {"overflow", PERCPU_OVERFLOW, overflow_first, false},
    {"overflow", PERCPU_OVERFLOW, overflow_last, false},
    {"overflow", PERCPU_OVERFLOW, overflow_of_a_free_item, false},
    {"bad free list", PERCPU_BAD_FREE_LIST, bad_cache, false},
    {"bad free list", PERCPU_BAD_FREE_LIST, bad_list_of_the_range, true},
};

/* What is wrong at the end is told before the leaks are. */
static unsigned findings[16];

static void tell_in_order(void *priv, const struct percpu_report *report)
{
    CHECK(priv == findings && reports < COUNT_OF(findings));
    findings[reports++] = report->finding;
}

static void test_destroy_looks(struct percpu_pool_attr attr)
{
    attr.report = tell_in_order;
    attr.priv = findings;
    struct percpu_pool *pool = robust_pool(attr);
    void *item = allocate_here(pool), *other = allocate_here(pool);
    reports = 0;
    percpu_pool_free(pool, item);
    copy_of(pool, item, 1)[3] = 5;
    percpu_pool_destroy(pool);
    CHECK(reports == 2 && findings[0] == PERCPU_USE_AFTER_FREE && findings[1] == PERCPU_LEAK);
    CHECK(other != item);
}

/* ---- the constructed state ------------------------------------------------------------------ */

/* A freed item that is not as it was constructed; one that was written afterwards. */
static void test_constructed(unsigned populate, unsigned copies)
{
    reports = 0;
    struct percpu_pool *pool = robust_pool((struct percpu_pool_attr){
        .populate = populate,
        .cpus = copies,
        .constructed = true,
        .init = "state",
        .init_size = 5,
        .report = tell_pool,
        .priv = &seen,
    });
    void *item = allocate_there(pool), *other = allocate_there(pool);
    CHECK(wrong_copy(pool, item, "state", 5) == -1);
    copy_of(pool, item, 1)[2] = 'A';
    percpu_pool_free(pool, item);
    CHECK(reports == 1);
    expect(PERCPU_NOT_CONSTRUCTED, pool, item);
    expect_byte(1, 2, 'a', 'A');
    CHECK(is_in(seen.site, allocate_there));
    percpu_pool_free(pool, other);
    CHECK(reports == 1);
    copy_of(pool, other, last_copy(pool))[SIZE - 1] = 'x';
    void *third = percpu_pool_alloc(pool);
    CHECK(reports == 2 && third != other && third != item);
    expect(PERCPU_USE_AFTER_FREE, pool, other);
    expect_byte(last_copy(pool), SIZE - 1, 0, 'x');
    CHECK(wrong_copy(pool, third, "state", 5) == -1);
    percpu_pool_free(pool, third);
    check_pool(pool);
    percpu_pool_destroy(pool);
    CHECK(reports == 2);
}

/* ---- the walker ------------------------------------------------------------------------------ */

static void finds(struct percpu_pool *pool, enum percpu_finding finding, const void *item)
{
    memset(&seen, 0xff, sizeof seen);
    CHECK(percpu_pool_check(pool, &seen) == -1 && reports == 0);
    expect(finding, pool, item);
}

static void finds_nothing(struct percpu_pool *pool)
{
    struct percpu_report report;
    memset(&report, 0xff, sizeof report);
    CHECK(percpu_pool_check(pool, &report) == 0 && reports == 0);
    CHECK(report.finding == PERCPU_NO_FINDING && report.pool == pool);
}

/* In a cache at first, in the ranges from the first check on. */
static void test_check_finds_bytes(struct percpu_pool *pool)
{
    void *item = allocate_there(pool), *live = allocate_there(pool);
    percpu_pool_free(pool, item);
    const size_t offsets[] = {0, SIZE - 1, SIZE, geometry_of(pool).slot_size - 1};
    for (unsigned i = 0; i < 2 * COUNT_OF(offsets); i++) {
        size_t at = offsets[i / 2];
        unsigned cpu = i % 2 ? last_copy(pool) : 1;
        unsigned char *byte = copy_of(pool, item, cpu) + at, *other = copy_of(pool, live, cpu) + at;
        unsigned was = *byte;
        CHECK(was == (at < SIZE ? expected_in_free(pool, at) : 0));
        *byte = (unsigned char)(was + 1);
        finds(pool, at < SIZE ? PERCPU_USE_AFTER_FREE : PERCPU_OVERFLOW, item);
        expect_byte(cpu, at, was, was + 1);
        CHECK(seen.site == NULL);
        *byte = (unsigned char)was;
        finds_nothing(pool);
        *other = 0xa1; /* what a live item holds is its owner's */
        if (at < SIZE) {
            finds_nothing(pool);
            continue;
        }
        finds(pool, PERCPU_OVERFLOW, live);
        expect_byte(cpu, at, 0, 0xa1);
        CHECK(is_in(seen.site, allocate_there));
        *other = 0;
        finds_nothing(pool);
    }
    percpu_pool_free(pool, live);
}

static void test_check_finds_lists(struct percpu_pool *pool)
{
    void *item = allocate_here(pool), *live = allocate_here(pool), *again = allocate_here(pool);
    percpu_pool_free(pool, item);
    percpu_pool_free(pool, again);
    finds_nothing(pool);
    struct block *block = percpu_block_at(pool->space, item);
    uint32_t *top = &block->free_items[block->free_count - 1], was = *top;
    const uint32_t bad[] = {
        block->free_items[block->free_count - 2],
        (uint32_t)block_index(block, live),
        block->cut,
        INDEX_MARKS | (uint32_t)pool->block_items,
    };
    for (unsigned i = 0; i < COUNT_OF(bad); i++) {
        *top = bad[i];
        CHECK(percpu_pool_check(pool, &seen) == -1 && seen.finding == PERCPU_BAD_FREE_LIST);
        *top = was;
        finds_nothing(pool);
    }
    uint32_t count = block->free_count, cut = block->cut;
    block->free_count = cut + 1;
    CHECK(percpu_pool_check(pool, &seen) == -1 && seen.finding == PERCPU_BAD_FREE_LIST);
    block->free_count = count;
    block->cut = (uint32_t)pool->block_items + 1;
    CHECK(percpu_pool_check(pool, &seen) == -1 && seen.finding == PERCPU_BAD_FREE_LIST);
    block->cut = cut;
    block->range->magic++;
    CHECK(percpu_pool_check(pool, &seen) == -1 && seen.finding == PERCPU_BAD_FREE_LIST);
    block->range->magic--;
    finds_nothing(pool);
    /* An entry of a cache that is nothing: it is thrown away, and told once. */
    percpu_pool_free(pool, live);
    uint64_t *entry = top_of_cache(pool), had = *entry;
    *entry = (uintptr_t)&block;
    finds(pool, PERCPU_BAD_FREE_LIST, &block);
    finds_nothing(pool);
    CHECK((had & ~MARKS) == (uintptr_t)live);
}

static void test_check(struct percpu_pool_attr attr)
{
    reports = 0;
    attr.report = tell_pool;
    attr.priv = &seen;
    struct percpu_pool *pool = robust_pool(attr);
    test_check_finds_bytes(pool);
    test_check_finds_lists(pool);
    percpu_pool_destroy(pool);
    CHECK(reports == 0);
}

int main(void)
{
    deadline(100);
    CHECK(pin((unsigned)percpu_current_cpu()));
    for (unsigned kind = 0; kind < 4; kind++)
        test_constructed(kind % 2, percpu_nr_cpus() + (kind & 2 ? MORE : LEAST));
    for (unsigned kind = 0; kind < 8; kind++) {
        test_scenarios(scenarios, COUNT_OF(scenarios), robust_kind(kind));
        test_check(robust_kind(kind));
        test_destroy_looks(robust_kind(kind));
    }
    return 0;
}
