/* SPDX-License-Identifier: MIT */
/*
 * test_pool_init_race.c - a CPU makes its first write to a page while another item of that page is
 * allocated with initial bytes: the kernel copies the file's page at that moment, and the copy must
 * hold the bytes too.
 *
 * PERCPU_INIT_RACE_SECONDS says how long; default 2. Without the madvise() of
 * percpu_range_settle() about one round in a thousand fails on a machine that does little else.
 */
#define _GNU_SOURCE
#include "pool_tools.h"

enum { SIZE = 64, SPINS = 1000 };

/* What is being tried: set before a round begins. */
static struct {
    struct percpu_pool *pool;
    unsigned char *neighbour; /* of the item that is allocated, on the same page */
    size_t stride;
    unsigned first, copies; /* those written */
    bool read_before;
    unsigned delay;
} race;

static atomic_uint begun, finished; /* rounds */

/* Spin first: the two are to meet. Where there is one CPU for both, let the other one have it. */
static void wait_until(atomic_uint *round, unsigned wanted)
{
    for (unsigned spins = 0; atomic_load_explicit(round, memory_order_acquire) != wanted; spins++)
        if (spins >= SPINS)
            sched_yield();
}

static void linger(unsigned spins)
{
    for (volatile unsigned i = 0; i < spins; i++)
        continue;
}

static void *writer(void *rounds)
{
    for (unsigned round = 1;; round++) {
        wait_until(&begun, round);
        if (race.copies == 0)
            break;
        linger(race.delay);
        for (unsigned i = 0; i < race.copies; i++)
            ((volatile unsigned char *)race.neighbour)[(race.first + i) * race.stride] = 1;
        ++*(unsigned *)rounds;
        atomic_store_explicit(&finished, round, memory_order_release);
    }
    return NULL;
}

/* No copy has a page of its own, and those to be written have the file's page, or none. */
static void lay_out(size_t page)
{
    uintptr_t at = (uintptr_t)race.neighbour & ~(uintptr_t)(page - 1);
    for (unsigned i = 0; i < race.copies; i++) {
        char *start = (char *)at + (race.first + i) * race.stride;
        CHECK(madvise(start, page, MADV_DONTNEED) == 0);
        if (race.read_before)
            (void)*(volatile char *)start;
    }
}

static void run_round(unsigned round, uint64_t *seed, size_t page)
{
    uint64_t random = random_next(seed) >> 16;
    unsigned copies = geometry_of(race.pool).cpus;
    unsigned char bytes[SIZE];
    memset(bytes, (int)(1 + round % 255), SIZE);
    race.copies = random % 4 == 0 ? 4 : 1;
    race.first = (unsigned)(random >> 8) % (copies - race.copies + 1);
    race.read_before = random >> 2 & 1;
    race.delay = (unsigned)(random >> 30) % 2000;
    unsigned ours = (unsigned)(random >> 20) % 500;
    lay_out(page);
    atomic_store_explicit(&begun, round, memory_order_release);
    linger(ours);
    void *item = percpu_pool_alloc_init(race.pool, bytes, SIZE);
    wait_until(&finished, round);
    CHECK(item != NULL);
    CHECK(((uintptr_t)item ^ (uintptr_t)race.neighbour) < page);
    int wrong = wrong_copy(race.pool, item, bytes, SIZE);
    CHECK_CASE(wrong == -1, "round %u, copy %d, first written %u, %s", round, wrong, race.first,
               race.read_before ? "read before" : "not read before");
    percpu_pool_free(race.pool, item);
}

static double seconds_now(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Pages of few copies are looked at, those of many the kernel is asked for. */
static unsigned run_race(unsigned copies, double seconds)
{
    pthread_t thread;
    unsigned round = 0, written = 0;
    uint64_t seed = 99;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct percpu_pool_attr attr = {
        .item_size = SIZE, .cpus = copies, .populate = PERCPU_POPULATE_INIT, .cache_bytes = 1};
    race.pool = make_pool(attr);
    race.stride = geometry_of(race.pool).stride;
    CHECK((race.neighbour = percpu_pool_zalloc(race.pool)) != NULL);
    atomic_store(&begun, 0);
    atomic_store(&finished, 0);
    CHECK(pthread_create(&thread, NULL, writer, &written) == 0);
    for (double end = seconds_now() + seconds; round % 16 != 0 || seconds_now() < end;)
        run_round(++round, &seed, page);
    race.copies = 0;
    atomic_store_explicit(&begun, round + 1, memory_order_release);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(written == round);
    check_pool(race.pool);
    percpu_pool_destroy(race.pool);
    return round;
}

int main(void)
{
    const char *wanted = getenv("PERCPU_INIT_RACE_SECONDS");
    double seconds = wanted != NULL ? atof(wanted) : 2;
    unsigned few = percpu_nr_cpus() > 4 ? percpu_nr_cpus() : 4;
    unsigned more = MORE > percpu_nr_cpus() ? MORE : percpu_nr_cpus();
    if (!file_settles()) {
        puts("qemu-user ignores the madvise() that the pool waits with");
        return TEST_SKIPPED;
    }
    deadline((unsigned)seconds + 60);
    unsigned rounds_few = run_race(few, seconds / 2);
    unsigned rounds_more = run_race(more, seconds / 2);
    printf("%u rounds with %u copies, %u with %u\n", rounds_few, few, rounds_more, more);
    return 0;
}
