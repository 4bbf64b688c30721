/* SPDX-License-Identifier: MIT */
/*
 * test_pool_callbacks.c - range_init: called for each range and CPU, its failure is the
 * allocation's, what it wrote is found, and it may use pools meanwhile.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

enum { SIZE = 64, MARK = 0x42 };

static size_t page;
static unsigned nr_cpus;

static struct {
    unsigned calls, fail_at; /* fail_at: the call that fails, from 1; 0: none */
    size_t length;           /* wanted */
    unsigned copies;
    bool global;
    char *last;
} init;

static int init_range(void *priv, void *memory, size_t length, int cpu)
{
    CHECK(priv == &init && length == init.length);
    CHECK(((uintptr_t)memory & (page - 1)) == 0);
    unsigned copy = init.calls++ % init.copies;
    CHECK(cpu == (init.global && init.copies == 1 ? -1 : (int)copy));
    CHECK(copy == 0 || (char *)memory > init.last);
    CHECK(holds(memory, NULL, 0, length));
    init.last = memory;
    if (init.calls == init.fail_at) {
        errno = ENOLINK;
        return -1;
    }
    memset(memory, MARK, length);
    return 0;
}

static struct percpu_pool_attr attr_with_init(unsigned kind)
{
    struct percpu_pool_attr attr = {
        .item_size = SIZE,
        .stride = 4 * page,
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .guard = kind & 2,
        .global = kind & 4,
        .cpus = !(kind & 4) ? nr_cpus
                : kind & 2  ? 1
                            : 3,
        .range_init = init_range,
        .priv = &init,
    };
    memset(&init, 0, sizeof init);
    init.copies = attr.cpus;
    init.global = attr.global;
    init.length = attr.stride - (attr.guard ? page : 0);
    return attr;
}

static bool is_marked(struct percpu_pool *pool, const void *item)
{
    unsigned char marks[SIZE];
    memset(marks, MARK, SIZE);
    return wrong_copy(pool, item, marks, SIZE) == -1;
}

/* alloc() finds what it wrote in every item never handed out before, whatever was allocated by
 * other ways meanwhile; those get what they ask for. */
static void test_range_init_is_found(unsigned kind, unsigned robust)
{
    struct percpu_pool_attr attr = attr_with_init(kind);
    attr.robust = robust;
    struct percpu_pool *pool = make_pool(attr);
    size_t capacity = geometry_of(pool).capacity;
    unsigned char *dirty[2048];
    unsigned kept = 0;
    CHECK(init.calls == attr.cpus && capacity * 3 <= COUNT_OF(dirty));
    for (unsigned i = 0; i < 3 * capacity; i++) {
        unsigned char *item;
        switch (i % 4) {
        case 0:
            item = percpu_pool_zalloc(pool);
            CHECK(item != NULL && wrong_copy(pool, item, NULL, 0) == -1);
            break;
        case 1:
            item = percpu_pool_alloc_init(pool, "bytes", i % 6);
            CHECK(item != NULL && wrong_copy(pool, item, "bytes", i % 6) == -1);
            break;
        default:
            item = percpu_pool_alloc(pool);
            CHECK_CASE(item != NULL && is_marked(pool, item), "kind %u, item %u", kind, i);
        }
        dirty[kept++] = item;
    }
    CHECK(stats_of(pool).ranges == 3 && init.calls == 3 * attr.cpus);
    check_pool(pool);
    for (unsigned i = 0; i < kept; i++)
        percpu_pool_free(pool, dirty[i]);
    for (unsigned i = 0; i < 50; i++) {
        dirty[i] = percpu_pool_zalloc(pool);
        CHECK(wrong_copy(pool, dirty[i], NULL, 0) == -1);
    }
    for (unsigned i = 0; i < 50; i++)
        percpu_pool_free(pool, dirty[i]);
    check_pool(pool);
    CHECK(init.calls == 3 * attr.cpus);
    percpu_pool_destroy(pool);
}

/* Failing at its k-th call: the errno is handed on, nothing is left, what there was goes on. */
static void test_range_init_fails(unsigned kind)
{
    struct percpu_pool_attr attr = attr_with_init(kind);
    percpu_pool_destroy(make_pool(attr));
    long before = mapped_pages();
    for (unsigned k = 1; k <= attr.cpus; k++) {
        attr_with_init(kind);
        init.fail_at = k;
        errno = 0;
        CHECK(percpu_pool_create(&attr) == NULL && errno == ENOLINK && init.calls == k);
        CHECK(mapped_pages() == before);
    }
    attr_with_init(kind);
    attr.lazy = true;
    struct percpu_pool *pool = make_pool(attr);
    for (unsigned k = 1; k <= attr.cpus; k++) {
        long mapped = mapped_pages();
        size_t free_items = stats_of(pool).free + stats_of(pool).cached;
        for (; free_items > 0; free_items--)
            CHECK(percpu_pool_alloc(pool) != NULL);
        init.calls = 0;
        init.fail_at = k;
        errno = 0;
        CHECK((k % 2 ? percpu_pool_alloc(pool) : percpu_pool_zalloc(pool)) == NULL);
        CHECK(errno == ENOLINK && init.calls == k && stats_of(pool).ranges == k - 1);
        errno = init.calls = 0;
        CHECK(percpu_pool_reserve(pool, 1) == -1 && errno == ENOLINK);
        CHECK(mapped_pages() == mapped);
        check_pool(pool);
        init.fail_at = init.calls = 0;
        CHECK(is_marked(pool, percpu_pool_alloc(pool)) && stats_of(pool).ranges == k);
    }
    percpu_pool_destroy(pool);
}

/* Without locks: it may use other pools and this one, and a range it needs meanwhile is made. */
static struct percpu_pool *used_inside, *other_pool;
static unsigned depth, deepest;

static int use_pools(void *priv, void *memory, size_t length, int cpu)
{
    (void)priv, (void)memory, (void)length, (void)cpu;
    void *other = percpu_pool_zalloc(other_pool);
    CHECK(other != NULL);
    percpu_pool_free(other_pool, other);
    if (used_inside == NULL || depth > 0)
        return 0;
    deepest = ++depth;
    void *item = percpu_pool_zalloc(used_inside);
    CHECK(item != NULL);
    percpu_pool_free(used_inside, item);
    CHECK(stats_of(used_inside).ranges > 0);
    percpu_pool_drain(used_inside);
    (void)percpu_pool_trim(used_inside);
    check_pool(used_inside);
    depth--;
    return 0;
}

static void test_range_init_uses_pools(void)
{
    other_pool = make_pool((struct percpu_pool_attr){.item_size = 8});
    for (unsigned populate = 0; populate < 2; populate++) {
        used_inside = NULL;
        deepest = 0;
        used_inside = make_pool((struct percpu_pool_attr){.item_size = SIZE,
                                                          .stride = page,
                                                          .lazy = true,
                                                          .populate = populate,
                                                          .range_init = use_pools});
        size_t items = 3 * geometry_of(used_inside).capacity;
        for (size_t i = 0; i < items; i++)
            CHECK(percpu_pool_zalloc(used_inside) != NULL);
        CHECK(deepest == 1 && stats_of(used_inside).live == items);
        check_pool(used_inside);
        percpu_pool_destroy(used_inside);
    }
    percpu_pool_destroy(other_pool);
}

/* Beside other threads: items of the range under way are nobody's yet. */
static struct percpu_pool *crowded;

static int slow_init(void *priv, void *memory, size_t length, int cpu)
{
    (void)priv, (void)cpu;
    sched_yield();
    memset(memory, MARK, length);
    sched_yield();
    return 0;
}

static void crowd(struct worker *worker)
{
    enum { HELD = 200 };
    unsigned char *items[HELD];
    while (!stopping()) {
        unsigned have = 0;
        for (; have < HELD && !stopping(); have++) {
            bool cleared = (have + worker->id) % 2;
            items[have] = cleared ? percpu_pool_zalloc(crowded) : percpu_pool_alloc(crowded);
            CHECK(items[have] != NULL);
            CHECK(!cleared || wrong_copy(crowded, items[have], NULL, 0) == -1);
            memset(items[have], (int)worker->id, SIZE);
            worker->done++;
        }
        while (have > 0) {
            CHECK(items[--have][SIZE - 1] == worker->id);
            percpu_pool_free(crowded, items[have]);
        }
        if (worker->id == 0)
            percpu_pool_trim(crowded);
    }
}

static void test_range_init_beside_threads(unsigned populate)
{
    static void (*const bodies[])(struct worker *) = {crowd};
    crowded = make_pool((struct percpu_pool_attr){
        .item_size = SIZE, .stride = page, .populate = populate, .range_init = slow_init});
    CHECK(run_workers(4, bodies, 1, 0, 200) > 0);
    CHECK(stats_of(crowded).live == 0);
    check_pool(crowded);
    percpu_pool_destroy(crowded);
}

int main(void)
{
    deadline(60);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    test_range_init_uses_pools();
    test_range_init_beside_threads(PERCPU_POPULATE_ZERO);
    test_range_init_beside_threads(PERCPU_POPULATE_INIT);
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    CHECK(pin((unsigned)percpu_current_cpu()));
    for (unsigned kind = 0; kind < 8; kind++)
        test_range_init_fails(kind);
    for (unsigned kind = 0; kind < 16; kind++)
        test_range_init_is_found(kind, kind / 8);
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    return 0;
}
