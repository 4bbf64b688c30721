/* SPDX-License-Identifier: MIT */
/*
 * test_pool_fork.c - pools across fork(): parent, child and grandchild each have copies of their
 * own, of items handed out before and after, written or not; nothing that one stores ever shows in
 * another; and nothing is leaked.
 */
#define _GNU_SOURCE
#include <spawn.h>

#include "pool_held.h"

static size_t page;
static unsigned nr_cpus;
extern char **environ;

/* ---- a parent and a child that take turns -------------------------------------------------- */

/* Shared by both: how often they have met. */
static atomic_uint *met;

static void meet(unsigned times)
{
    atomic_fetch_add(met, 1);
    while (atomic_load(met) < 2 * times)
        sched_yield();
}

static void meeting_point(void)
{
    if (met == NULL)
        met = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(met != MAP_FAILED);
    atomic_store(met, 0);
}

/* One of the two. Old items are kept, written, freed and allocated again beside the other's. */
static void take_turns(struct percpu_pool *pool, struct held *old, unsigned who)
{
    static struct held new[NEW];
    check_all(pool, old, OLD);
    meet(1);
    for (unsigned i = 0; i < NEW / 2; i++)
        obtain(pool, &new[i], i, who);
    meet(2);
    check_all(pool, old, OLD);
    check_all(pool, new, NEW / 2);
    write_some(pool, old, OLD, 200 + who);
    write_some(pool, new, NEW / 2, 100 + who);
    meet(3);
    check_all(pool, old, OLD);
    check_all(pool, new, NEW / 2);
    for (unsigned i = 0; i < OLD; i += 2) {
        percpu_pool_free(pool, old[i].item);
        obtain(pool, &old[i], i, who + 4);
    }
    for (unsigned i = NEW / 2; i < NEW; i++)
        obtain(pool, &new[i], i, who);
    meet(4);
    check_all(pool, old, OLD);
    check_all(pool, new, NEW);
    check_pool(pool);
    for (unsigned i = 0; i < NEW; i++)
        percpu_pool_free(pool, new[i].item);
    percpu_pool_trim(pool);
    meet(5);
    check_all(pool, old, OLD);
    check_pool(pool);
}

static void test_generations(struct percpu_pool_attr attr)
{
    static struct held old[OLD];
    struct percpu_pool *pool = pool_with_a_past(attr, old);
    meeting_point();
    pid_t child = fork_child();
    if (child != 0) {
        take_turns(pool, old, 1);
        succeeds(child);
        check_all(pool, old, OLD);
    } else {
        take_turns(pool, old, 2);
        meeting_point();
        pid_t grandchild = fork_child();
        take_turns(pool, old, grandchild == 0 ? 3 : 2);
        if (grandchild != 0)
            succeeds(grandchild);
    }
    for (unsigned i = 0; i < OLD; i++)
        percpu_pool_free(pool, old[i].item);
    percpu_pool_destroy(pool);
    if (child == 0)
        _exit(0);
}

/* ---- what is frozen stays so ----------------------------------------------------------------- */

enum { ALL = 400 };

/* Who comes second has all items of the range, untouched, while the other one has them too, and asks
 * for other bytes again and again, where no other range may be made. */
static void use_the_range(struct percpu_pool *pool, const struct held *old, bool first)
{
    static struct held held[ALL];
    size_t count = geometry_of(pool).capacity - OLD;
    CHECK(count <= ALL);
    for (unsigned i = 0; i < count && !first; i++) {
        memset(held[i].bytes, 0, SIZE);
        held[i].size = SIZE;
        CHECK((held[i].item = percpu_pool_zalloc(pool)) != NULL);
    }
    meet(1);
    for (unsigned i = 0; i < count && first; i++) {
        obtain(pool, &held[i], i / 20, 1); /* twenty times the same */
        if (i % 7 == 0) {                  /* back, and again */
            percpu_pool_free(pool, held[i].item);
            obtain(pool, &held[i], i / 20, 1);
        }
    }
    meet(2);
    check_all(pool, held, (unsigned)count);
    check_all(pool, old, OLD);
    CHECK(stats_of(pool).ranges == 1);
    meet(3);
}

/* `zeros`: no bytes have been prepared for the rest of the file yet. */
static void test_frozen_stays_frozen(bool child_first, size_t cache_bytes, bool zeros)
{
    struct held old[OLD];
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE,
        .stride = 8 * page,
        .max_ranges = 1,
        .populate = PERCPU_POPULATE_INIT,
        .cache_bytes = cache_bytes,
    });
    for (unsigned i = 0; i < OLD; i++)
        if (i % 2 == 0 && !zeros) {
            obtain(pool, &old[i], i, 3);
        } else {
            CHECK((old[i].item = percpu_pool_alloc_init(pool, NULL, 0)) != NULL);
            old[i].size = 0;
        }
    meeting_point();
    pid_t pid = fork_child();
    use_the_range(pool, old, (pid == 0) == child_first);
    percpu_pool_destroy(pool);
    if (pid == 0)
        _exit(0);
    succeeds(pid);
}

/* ---- a thousand of them ---------------------------------------------------------------------- */

static void one_fork(struct percpu_pool *pool, unsigned number, unsigned what)
{
    unsigned char bytes[SIZE];
    memset(bytes, (int)(1 + number % 255), SIZE);
    void *item = what == 1 ? percpu_pool_alloc_init(pool, bytes, SIZE) : percpu_pool_zalloc(pool);
    CHECK(item != NULL && wrong_copy(pool, item, bytes, what == 1 ? SIZE : 0) == -1);
    if (what == 1)
        percpu_pool_free(pool, item);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(0);
    succeeds(pid);
    if (what != 1)
        percpu_pool_free(pool, item);
}

/* `what`: allocations beside the forks, of zeros or of other bytes each time. */
static void test_forks_leak_nothing(unsigned populate, unsigned what)
{
    struct percpu_pool *pool = make_pool(
        (struct percpu_pool_attr){.item_size = SIZE, .populate = populate});
    for (unsigned i = 0; i < 4; i++)
        one_fork(pool, i, what);
    unsigned files = open_files(), lines = lines_of_maps();
    size_t ranges = stats_of(pool).ranges;
    for (long i = effort(emulated() ? 200 : 1000); i > 0; i--)
        one_fork(pool, (unsigned)i, what);
    CHECK(open_files() == files && stats_of(pool).ranges <= ranges);
    CHECK_CASE(lines_of_maps() <= lines + 2 || emulated() || SLOW, "%u lines more",
               lines_of_maps() - lines);
    check_pool(pool);
    percpu_pool_destroy(pool);
}

/* ---- what is no fork ------------------------------------------------------------------------- */

/* No memory is copied, so the file stays in use: other bytes need no new range. */
static void test_spawn_freezes_nothing(void)
{
    struct percpu_pool *pool = make_pool((struct percpu_pool_attr){
        .item_size = SIZE, .populate = PERCPU_POPULATE_INIT, .cpus = nr_cpus + 20});
    bool told = pages_are_told_apart();
    for (unsigned i = 0; i < 20; i++) {
        struct held held;
        obtain(pool, &held, i, i % 15);
        pid_t pid;
        char *const arguments[] = {"true", NULL};
        if (i % 2 == 0) {
            CHECK(posix_spawnp(&pid, "true", NULL, NULL, arguments, environ) == 0);
        } else if ((pid = vfork()) == 0) {
            execvp("true", arguments);
            _exit(1);
        }
        succeeds(pid);
        check_all(pool, &held, 1);
    }
    CHECK(stats_of(pool).ranges == 1 && (!told || own_pages(pool) == 0));
    percpu_pool_destroy(pool);
}

int main(void)
{
    deadline(100);
    page = (size_t)sysconf(_SC_PAGESIZE);
    nr_cpus = percpu_nr_cpus();
    for (unsigned kind = 0; kind < 24; kind++)
        test_generations(fork_kind(kind));
    for (unsigned kind = 0; kind < 8; kind++)
        test_frozen_stays_frozen(kind & 1, kind & 2, kind & 4);
    if (!emulated()) /* whose vfork() is a fork() */
        test_spawn_freezes_nothing();
    test_forks_leak_nothing(PERCPU_POPULATE_ZERO, 0);
    test_forks_leak_nothing(PERCPU_POPULATE_INIT, 0);
    test_forks_leak_nothing(PERCPU_POPULATE_INIT, 1);
    return 0;
}
