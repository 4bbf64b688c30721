/* SPDX-License-Identifier: MIT */
/*
 * test_pool_robust_threads.c - a robust pool under threads: of two frees at once exactly one is the
 * wrong one; the walker, the trimmer and the statistics find nothing wrong in a pool that is used
 * well meanwhile, and everything that is.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

enum { SIZE = 40, HELD = 100 };

static struct percpu_pool *pool;
static atomic_uint doubles, overflows, others; /* reports */

static void tell(void *priv, const struct percpu_report *report)
{
    (void)priv;
    CHECK(report->pool == pool);
    atomic_fetch_add(report->finding == PERCPU_DOUBLE_FREE ? &doubles
                     : report->finding == PERCPU_OVERFLOW  ? &overflows
                                                           : &others,
                     1);
    if (report->finding != PERCPU_DOUBLE_FREE && report->finding != PERCPU_OVERFLOW)
        fprintf(stderr, "%s: %s\n", percpu_finding_name(report->finding), report->detail);
}

static void make(unsigned kind)
{
    atomic_store(&doubles, 0);
    atomic_store(&overflows, 0);
    pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE,
        .stride = 4 * (size_t)sysconf(_SC_PAGESIZE),
        .robust = true,
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .poison_set = kind & 2,
        .poison = 0xa5a5a5a5a5a5a5a5,
        .cpus = kind & 4 ? percpu_nr_cpus() + 20 : 0,
        .cache_bytes = kind & 4 ? 1000 : 0,
        .report = tell,
    });
}

/* ---- two frees at once ------------------------------------------------------------------- */

static void *at_stake;
static atomic_uint here, there; /* rounds begun */

/* As close together as can be; where there is one CPU for both, let the other one have it. */
static void meet(atomic_uint *mine, const atomic_uint *others, unsigned round)
{
    atomic_store(mine, round);
    for (unsigned spins = 0; atomic_load(others) < round; spins++)
        if (spins >= 1000)
            sched_yield();
}

static void *second(void *rounds)
{
    for (unsigned round = 1; round <= *(unsigned *)rounds; round++) {
        meet(&there, &here, 2 * round - 1);
        percpu_pool_free(pool, at_stake);
        meet(&there, &here, 2 * round);
    }
    return NULL;
}

static void test_two_frees_at_once(unsigned kind)
{
    unsigned rounds = (unsigned)effort(6000);
    pthread_t thread;
    make(kind);
    atomic_store(&here, 0);
    atomic_store(&there, 0);
    CHECK(pthread_create(&thread, NULL, second, &rounds) == 0);
    for (unsigned round = 1; round <= rounds; round++) {
        CHECK((at_stake = percpu_pool_zalloc(pool)) != NULL);
        meet(&here, &there, 2 * round - 1);
        percpu_pool_free(pool, at_stake);
        meet(&here, &there, 2 * round);
        CHECK_CASE(atomic_load(&doubles) == round, "round %u: %u", round, atomic_load(&doubles));
        CHECK(stats_of(pool).live == 0 || round % 16 != 0);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    check_pool(pool);
    percpu_pool_destroy(pool);
    CHECK(atomic_load(&others) == 0 && atomic_load(&overflows) == 0);
}

/* ---- used well --------------------------------------------------------------------------- */

static atomic_uint damaged;

static unsigned char *obtain(uint64_t random, unsigned id)
{
    unsigned char bytes[SIZE], *item;
    memset(bytes, (int)id, SIZE);
    size_t size = (random >> 8) % (SIZE + 1);
    if (random % 3 == 0)
        item = percpu_pool_alloc(pool);
    else
        item = random % 3 == 1 ? percpu_pool_zalloc(pool)
                               : percpu_pool_alloc_init(pool, bytes, size);
    CHECK(item != NULL);
    if (random % 3 != 0)
        CHECK(wrong_copy(pool, item, bytes, random % 3 == 1 ? 0 : size) == -1);
    memset(item, (int)id + 1, SIZE);
    return item;
}

static void user(struct worker *worker)
{
    unsigned char *held[HELD] = {0};
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        unsigned i = (unsigned)(random_next(&random) >> 40) % HELD;
        if (held[i] == NULL) {
            held[i] = obtain(random >> 20, worker->id);
            continue;
        }
        CHECK(holds(held[i], held[i], SIZE, SIZE) && held[i][0] == worker->id + 1);
        if (random >> 60 == 0 && worker->done % 64 == 0) { /* and once in a while not so well */
            held[i][SIZE] = 1;
            atomic_fetch_add(&damaged, 1);
        }
        percpu_pool_free(pool, held[i]);
        held[i] = NULL;
        worker->done++;
    }
    for (unsigned i = 0; i < HELD; i++)
        if (held[i] != NULL)
            percpu_pool_free(pool, held[i]);
}

/* The walker may see a damaged item before its owner frees it; nothing else. It reads the bytes
 * behind an item while a free writes them, as they are: TSan calls that a race. */
static void walker(struct worker *worker)
{
#ifdef __SANITIZE_THREAD__
    (void)worker;
    return;
#endif
    while (!stopping()) {
        struct percpu_report report;
        if (percpu_pool_check(pool, &report) != 0)
            CHECK_CASE(report.finding == PERCPU_OVERFLOW && report.found == 1, "%s: %s",
                       percpu_finding_name(report.finding), report.detail);
        worker->done++;
        sched_yield();
    }
}

static void trimmer(struct worker *worker)
{
    while (!stopping()) {
        percpu_pool_trim(pool);
        CHECK(stats_of(pool).ranges > 0);
        worker->done++;
        sleep_ms(1);
    }
}

static void test_used_by_threads(unsigned kind)
{
    static void (*const bodies[])(struct worker *) = {user, user, walker, trimmer};
    make(kind);
    atomic_store(&damaged, 0);
    void *kept = percpu_pool_zalloc(pool);
    CHECK(run_workers(4, bodies, 4, 0, 150) > 0);
    percpu_pool_free(pool, kept);
    CHECK_CASE(atomic_load(&overflows) == atomic_load(&damaged), "%u of %u found",
               atomic_load(&overflows), atomic_load(&damaged));
    CHECK(atomic_load(&others) == 0 && atomic_load(&doubles) == 0);
    check_pool(pool);
    CHECK(stats_of(pool).live == atomic_load(&damaged)); /* withheld */
    percpu_pool_destroy(pool);
    CHECK(atomic_load(&others) == 0);
}

int main(void)
{
    deadline(100);
    for (unsigned kind = 0; kind < 8; kind++) {
        test_two_frees_at_once(kind);
        if (kind % 2 == 0 || file_settles())
            test_used_by_threads(kind);
    }
    return 0;
}
