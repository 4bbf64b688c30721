/* SPDX-License-Identifier: MIT */
/*
 * test_pool_constructed.c - what becomes of freed items: ctor and dtor are called once for each
 * item, a constructed state is kept and not made again, poison is written over.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

static size_t page;
static unsigned nr_cpus;

/* ---- constructed ------------------------------------------------------------------------- */

enum { CONSTRUCTED = 0x636f6e73, DESTRUCTED = 0x64657374 };

static struct {
    unsigned built, torn, tries, fail_at;
    struct percpu_pool *pool;
} state;

struct thing {
    char text[8]; /* the pool's initial bytes */
    uint64_t built;
    uint64_t uses;
};

static int build(void *priv, void *item)
{
    struct thing *thing = item;
    CHECK(priv == &state && strcmp(thing->text, "initial") == 0);
    CHECK(thing->built == 0 && thing->uses == 0);
    thing->built = CONSTRUCTED; /* also where it fails */
    if (++state.tries == state.fail_at) {
        errno = ECHILD;
        return -1;
    }
    state.built++;
    if (state.pool != NULL && state.tries == 5) /* it may use the pool */
        percpu_pool_drain(state.pool);
    return 0;
}

static void tear(void *priv, void *item)
{
    struct thing *thing = item;
    CHECK(priv == &state && thing->built == CONSTRUCTED && thing->uses == 0);
    thing->built = DESTRUCTED;
    state.torn++;
}

static struct percpu_pool *of_things(unsigned kind)
{
    memset(&state, 0, sizeof state);
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = sizeof(struct thing),
        .stride = page,
        .init = "initial",
        .init_size = 8,
        .constructed = true,
        .ctor = build,
        .dtor = tear,
        .priv = &state,
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .robust = kind & 2,
        .cache_bytes = kind & 4 ? 1 : 0,
    });
    CHECK(geometry_of(pool).constructed && state.tries == 0);
    state.pool = pool;
    return pool;
}

static struct thing *take(struct percpu_pool *pool, unsigned way)
{
    struct thing *thing = way % 2 ? percpu_pool_alloc_initial(pool) : percpu_pool_alloc(pool);
    CHECK(thing != NULL && thing->built == CONSTRUCTED && thing->uses == 0);
    for (unsigned cpu = 0; cpu < nr_cpus; cpu++)
        CHECK(strcmp(((struct thing *)percpu_ptr_cpu(percpu_pool_ptr(pool, thing), cpu))->text,
                     "initial") == 0);
    return thing;
}

static void test_once_for_each_item(unsigned kind)
{
    enum { THINGS = 500 };
    struct thing *things[THINGS];
    struct percpu_pool *pool = of_things(kind);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < THINGS; i++) {
            things[i] = take(pool, i + round);
            things[i]->uses = i + 1;
        }
        CHECK(state.built >= THINGS && state.built <= 2 * THINGS && state.torn == 0);
        for (unsigned i = 0; i < THINGS; i++) {
            CHECK(things[i]->uses == i + 1);
            things[i]->uses = 0;
            percpu_pool_free(pool, things[i]);
        }
        if (round == 1)
            percpu_pool_drain(pool);
        check_pool(pool);
    }
    /* Trim: those of the ranges that go. One item keeps its range. */
    struct thing *kept = take(pool, 0);
    CHECK(percpu_pool_trim(pool) > 0 && stats_of(pool).ranges == 1);
    unsigned left = state.built - state.torn;
    CHECK(left >= 1 && left <= geometry_of(pool).capacity);
    check_pool(pool);
    /* Fresh ranges: constructed anew. */
    for (unsigned i = 0; i < THINGS; i++)
        things[i] = take(pool, i);
    CHECK(state.built - state.torn >= THINGS + 1);
    for (unsigned i = 1; i < THINGS; i++)
        percpu_pool_free(pool, things[i]);
    percpu_pool_free(pool, kept);
    percpu_pool_free(pool, things[0]);
    percpu_pool_destroy(pool);
    CHECK_CASE(state.torn == state.built, "kind %u: %u of %u", kind, state.torn, state.built);
}

/* What is handed out at the end is not destructed; what was never handed out neither. */
static void test_live_items_are_not_destructed(unsigned kind)
{
    struct percpu_pool *pool = of_things(kind & ~2u); /* a robust one reports the leak */
    struct thing *things[10];
    for (unsigned i = 0; i < 10; i++)
        things[i] = take(pool, i);
    for (unsigned i = 0; i < 4; i++)
        percpu_pool_free(pool, things[i]);
    percpu_pool_destroy(pool);
    CHECK(state.built == 10 && state.torn == 4);
}

/* The allocation fails as ctor did; the item is free, and constructed from the start next time. */
static void test_ctor_fails(unsigned kind)
{
    struct percpu_pool *pool = of_things(kind);
    size_t capacity = geometry_of(pool).capacity;
    struct thing *things[200];
    CHECK(capacity <= COUNT_OF(things));
    for (unsigned i = 0; i < capacity; i++) {
        if (i % 3 == 0) {
            state.fail_at = state.tries + 1;
            errno = 0;
            CHECK((i % 2 ? percpu_pool_alloc_initial(pool) : percpu_pool_alloc(pool)) == NULL);
            CHECK(errno == ECHILD && stats_of(pool).live == i);
            check_pool(pool);
        }
        things[i] = take(pool, i);
        CHECK(stats_of(pool).live == i + 1);
    }
    CHECK(state.built == capacity && stats_of(pool).ranges == 1);
    for (unsigned i = 0; i < capacity; i++)
        percpu_pool_free(pool, things[i]);
    percpu_pool_destroy(pool);
    CHECK(state.torn == capacity);
}

/* Bytes: on every copy at first, then whatever was left in them. zalloc() and alloc_init() are
 * asked for something else, and give it. */
static void test_constructed_bytes(unsigned kind)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = 24,
        .init = "constructed",
        .init_size = 11,
        .constructed = true,
        .cpus = kind & 2 ? nr_cpus + MORE : nr_cpus,
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .cache_bytes = 1,
    });
    size_t stride = geometry_of(pool).stride;
    unsigned char *items[20];
    for (unsigned i = 0; i < 20; i++) {
        items[i] = i % 2 ? percpu_pool_alloc(pool) : percpu_pool_alloc_initial(pool);
        CHECK(items[i] != NULL && wrong_copy(pool, items[i], "constructed", 11) == -1);
    }
    items[0][stride * (nr_cpus - 1) + 20] = 0x77; /* against the rules; shows that nobody looks */
    percpu_pool_free(pool, items[0]);
    CHECK(percpu_pool_alloc_initial(pool) == items[0]);
    CHECK(items[0][stride * (nr_cpus - 1) + 20] == 0x77);
    items[0][stride * (nr_cpus - 1) + 20] = 0;
    for (unsigned i = 0; i < 20; i++)
        percpu_pool_free(pool, items[i]);
    void *item = percpu_pool_zalloc(pool);
    CHECK(item != NULL && wrong_copy(pool, item, NULL, 0) == -1);
    item = percpu_pool_alloc_init(pool, "other bytes", 11);
    CHECK(item != NULL && wrong_copy(pool, item, "other bytes", 11) == -1);
    for (unsigned i = 0; i < 100; i++) {
        item = percpu_pool_alloc(pool);
        CHECK(item != NULL && wrong_copy(pool, item, "constructed", 11) == -1);
    }
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* Freed items are overwritten, on every copy, whoever looks. */
static void test_poison(enum percpu_populate populate, bool robust, unsigned copies)
{
    static const uint64_t poison = 0x0123456789abcdef;
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = 20,
        .cpus = copies,
        .populate = populate,
        .poison_set = true,
        .poison = poison,
        .robust = robust,
        .cache_bytes = 1,
    });
    unsigned char bytes[24], *item;
    for (unsigned i = 0; i < 3; i++)
        memcpy(bytes + 8 * i, &poison, 8);
    for (unsigned round = 0; round < 50; round++) {
        item = round % 2 == 0 ? percpu_pool_zalloc(pool) : percpu_pool_alloc_init(pool, "xyz", 2);
        CHECK(item != NULL);
        CHECK(wrong_copy(pool, item, "xyz", round % 2 == 0 ? 0 : 2) == -1);
        item[0] = 1;
        percpu_pool_free(pool, item);
        CHECK(wrong_copy(pool, item, bytes, 20) == -1);
        CHECK(percpu_pool_alloc(pool) == item && wrong_copy(pool, item, bytes, 20) == -1);
        percpu_pool_free(pool, item);
    }
    CHECK((item = percpu_pool_alloc_initial(pool)) != NULL && wrong_copy(pool, item, "", 0) == -1);
    percpu_pool_free(pool, item);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    CHECK(pin((unsigned)percpu_current_cpu()));
    for (unsigned kind = 0; kind < 8; kind++) {
        test_once_for_each_item(kind);
        test_live_items_are_not_destructed(kind);
        test_ctor_fails(kind);
    }
    for (unsigned kind = 0; kind < 4; kind++)
        test_constructed_bytes(kind);
    for (unsigned i = 0; i < 8; i++)
        test_poison(i & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO, i & 2,
                    i & 4 ? nr_cpus + MORE : 0);
    return 0;
}
