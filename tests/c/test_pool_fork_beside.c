/* SPDX-License-Identifier: MIT */
/*
 * test_pool_fork_beside.c - fork() while threads allocate with initial bytes, free and trim, while
 * a range is made, and out of range_init and ctor: both processes find the pool whole and go on.
 */
#define _GNU_SOURCE
#include "pool_held.h"

static size_t page;
static unsigned nr_cpus;

/* ---- beside threads ------------------------------------------------------------------------ */

static struct percpu_pool *shared;

static void user(struct worker *worker)
{
    enum { HELD = 40 };
    struct held held[HELD];
    for (unsigned round = 0; !stopping(); round++) {
        for (unsigned i = 0; i < HELD; i++)
            obtain(shared, &held[i], i + round, worker->id + 1);
        write_some(shared, held, HELD, round % 256);
        check_all(shared, held, HELD);
        for (unsigned i = 0; i < HELD; i++)
            percpu_pool_free(shared, held[i].item);
        worker->done++;
    }
}

static void in_child(void)
{
    static struct held held[400];
    check_pool(shared);
    for (unsigned i = 0; i < COUNT_OF(held); i++) {
        held[i].size = 0;
        if (i % 2 == 0)
            obtain(shared, &held[i], i, 9);
        else
            CHECK((held[i].item = percpu_pool_zalloc(shared)) != NULL);
        CHECK(wrong_copy(shared, held[i].item, held[i].bytes, held[i].size) == -1);
    }
    write_some(shared, held, COUNT_OF(held), 33);
    for (unsigned i = 0; i < COUNT_OF(held); i++)
        percpu_pool_free(shared, held[i].item);
    check_pool(shared);
    percpu_pool_trim(shared);
}

static void forking(struct worker *worker)
{
    struct held kept;
    obtain(shared, &kept, 5, 5);
    while (!stopping()) {
        pid_t pid = fork_child();
        if (pid == 0) {
            check_all(shared, &kept, 1);
            in_child();
            _exit(0);
        }
        succeeds(pid);
        worker->done++;
    }
    check_all(shared, &kept, 1);
    percpu_pool_free(shared, kept.item);
}

static void trimming(struct worker *worker)
{
    while (!stopping()) {
        percpu_pool_trim(shared);
        worker->done++;
        sched_yield();
    }
}

static void test_beside_threads(struct percpu_pool_attr attr)
{
    static void (*const bodies[])(struct worker *) = {forking, user, trimming, user};
    attr.item_size = SIZE;
    attr.stride = 4 * page;
    shared = make_pool(attr);
    CHECK(run_workers(4, bodies, 4, 0, 200) > 0);
    CHECK(stats_of(shared).live == 0);
    check_pool(shared);
    percpu_pool_destroy(shared);
}

/* ---- inside callbacks ------------------------------------------------------------------------ */

static unsigned callbacks;
static pid_t from_callback;

static int fork_in_ctor(void *priv, void *item)
{
    (void)priv;
    if (callbacks++ == 3)
        from_callback = fork_child();
    memset(item, 0x5c, SIZE);
    return 0;
}

static int fork_in_range_init(void *priv, void *memory, size_t length, int cpu)
{
    (void)priv, (void)length;
    if (callbacks++ == 2 * nr_cpus - 1) /* in the last call for the second range */
        from_callback = fork_child();
    memset(memory, cpu + 1, 16);
    return 0;
}

/* Both go on as if nothing had been. */
static void test_fork_in_callback(unsigned populate, bool in_ctor)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE,
        .stride = 4 * page, /* range_init writes in the first one */
        .populate = populate,
        .constructed = in_ctor,
        .ctor = in_ctor ? fork_in_ctor : NULL,
        .range_init = in_ctor ? NULL : fork_in_range_init,
        .max_ranges = 3,
    });
    static struct held held[2][OLD];
    callbacks = in_ctor ? 0 : nr_cpus;
    from_callback = -1;
    struct percpu_pool *other = pool_with_a_past(
        (struct percpu_pool_attr){.populate = PERCPU_POPULATE_INIT}, held[0]);
    size_t items = geometry_of(pool).capacity + 100;
    unsigned char *item = NULL;
    for (size_t i = 0; i < items; i++) {
        CHECK((item = percpu_pool_alloc(pool)) != NULL);
        CHECK(!in_ctor || item[SIZE - 1] == 0x5c);
    }
    CHECK(from_callback >= 0 && stats_of(pool).live == items);
    CHECK(in_ctor || callbacks == 2 * nr_cpus);
    check_all(other, held[0], OLD);
    if (!in_ctor) { /* other bytes than the other process has, in the range made at the fork */
        unsigned who = from_callback == 0 ? 6 : 7;
        for (unsigned i = 0; i < OLD / 2; i++)
            obtain(pool, &held[1][i], i, who);
        for (unsigned i = 0; i < 100; i++)
            sched_yield();
        check_all(pool, held[1], OLD / 2);
    }
    check_pool(pool);
    percpu_pool_destroy(pool);
    percpu_pool_destroy(other);
    if (from_callback == 0)
        _exit(0);
    succeeds(from_callback);
}

/* While another thread is in range_init: in the child there is nobody who would finish it. */
static atomic_bool inside, may_leave;

static int linger(void *priv, void *memory, size_t length, int cpu)
{
    (void)priv, (void)memory, (void)length, (void)cpu;
    atomic_store(&inside, true);
    while (!atomic_load(&may_leave))
        sched_yield();
    return 0;
}

static void *first_allocation(void *pool)
{
    return percpu_pool_zalloc(pool);
}

static void test_fork_beside_range_init(unsigned populate)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){.item_size = SIZE,
                                                                   .populate = populate,
                                                                   .lazy = true,
                                                                   .max_ranges = 1,
                                                                   .range_init = linger});
    pthread_t thread;
    void *theirs = NULL;
    struct held held[OLD];
    atomic_store(&inside, false);
    atomic_store(&may_leave, false);
    CHECK(pthread_create(&thread, NULL, first_allocation, pool) == 0);
    while (!atomic_load(&inside))
        sched_yield();
    pid_t pid = fork_child();
    atomic_store(&may_leave, true);
    if (pid != 0) {
        CHECK(pthread_join(thread, &theirs) == 0);
        CHECK(theirs != NULL && wrong_copy(pool, theirs, NULL, 0) == -1);
    }
    for (unsigned i = 0; i < OLD; i++)
        obtain(pool, &held[i], i, pid == 0 ? 1 : 2);
    check_all(pool, held, OLD);
    CHECK(stats_of(pool).ranges == 1 && stats_of(pool).live == OLD + (pid != 0));
    check_pool(pool);
    if (pid == 0)
        _exit(0);
    succeeds(pid);
    check_all(pool, held, OLD);
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    for (unsigned kind = 0; kind < 24; kind++)
        if ((kind % 8 < 2 || kind == 7) && (kind % 2 == 0 || file_settles()))
            test_beside_threads(fork_kind(kind));
    for (unsigned kind = 0; kind < 4; kind++)
        test_fork_in_callback(kind % 2, kind / 2);
    test_fork_beside_range_init(PERCPU_POPULATE_ZERO);
    test_fork_beside_range_init(PERCPU_POPULATE_INIT);
    return 0;
}
