/* SPDX-License-Identifier: MIT */
/*
 * test_limiter.c - percpu_limiter with one thread that goes from CPU to CPU: every answer, and how
 * many tokens are held, against a model that has only the number; numbers at the borders of the
 * halves of a word; what is refused; and that moving tokens pays for many operations.
 *
 * A token lost or made on its way, a half that runs into the other, or an answer that looked at one
 * CPU only shows here.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "threads.h"

static struct percpu_limiter limiter;
static enum percpu_index index_used;
static struct percpu_pool *pool;
static cpu_set_t allowed;

static void begin(uint64_t capacity)
{
    pool = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 8, .index = index_used});
    CHECK(pool != NULL && percpu_limiter_init(&limiter, pool, capacity) == 0);
}

static void check(uint64_t held)
{
    const char *broken = percpu_limiter_check(&limiter);
    CHECK_CASE(broken == NULL, "%s", broken);
    uint64_t outstanding = percpu_limiter_outstanding(&limiter);
    CHECK_CASE(outstanding == held, "%llu are held, not %llu", (unsigned long long)outstanding,
               (unsigned long long)held);
}

static void end(void)
{
    percpu_limiter_destroy(&limiter);
    percpu_pool_destroy(pool);
}

/* A release of `n` that must be refused, as `held` tokens are fewer. */
static void refused(uint64_t n, uint64_t held)
{
    uint64_t told = UINT64_MAX;
    errno = 0;
    CHECK(percpu_limiter_release(&limiter, n) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(percpu_limiter_release_slow(&limiter, n, &told) == -1 && errno == EINVAL);
    CHECK(told == held);
    check(held);
}

/* On the `i`th of the CPUs that we may use, counted around. */
static void hop(unsigned i)
{
    unsigned left = i % (unsigned)CPU_COUNT(&allowed);
    for (unsigned cpu = 0;; cpu++)
        if (CPU_ISSET(cpu, &allowed) && left-- == 0) {
            CHECK(pin(cpu));
            return;
        }
}

static void test_exactly_the_capacity(void)
{
    for (uint64_t capacity = 0; capacity < 40; capacity++) {
        begin(capacity);
        check(0);
        refused(1, 0);
        CHECK(percpu_limiter_acquire(&limiter, 0) && percpu_limiter_release(&limiter, 0) == 0);
        for (uint64_t held = 0; held < capacity; held++) {
            hop((unsigned)held);
            CHECK(!percpu_limiter_acquire(&limiter, capacity - held + 1));
            CHECK(percpu_limiter_acquire(&limiter, 1));
            check(held + 1);
        }
        for (unsigned i = 0; i < 4; i++) {
            hop(i);
            CHECK(!percpu_limiter_acquire(&limiter, 1));
        }
        refused(capacity + 1, capacity);
        for (uint64_t held = capacity; held > 0; held--) {
            hop((unsigned)(held * held));
            CHECK(percpu_limiter_release(&limiter, 1) == 0);
            check(held - 1);
        }
        refused(1, 0);
        hop(1);
        CHECK(percpu_limiter_acquire(&limiter, capacity));
        hop(0);
        CHECK(percpu_limiter_release(&limiter, capacity) == 0);
        end();
    }
}

/* Errno is the caller's, whatever stopping everything did to it. */
static void test_errno_is_kept(void)
{
    begin(3);
    errno = 77;
    CHECK(percpu_limiter_acquire(&limiter, 2) && !percpu_limiter_acquire(&limiter, 2));
    CHECK(percpu_limiter_release(&limiter, 2) == 0);
    CHECK(percpu_limiter_outstanding(&limiter) == 0 && errno == 77);
    end();
}

static uint64_t any_size(uint64_t *random)
{
    uint64_t x = random_next(random), bits = random_next(random) >> 58;
    switch (random_next(random) >> 61) {
    case 0: /* about a power of two */
        return (UINT64_C(1) << bits) + (x >> 62) - 1;
    case 1:
        return x >> 60;
    default:
        return x >> bits;
    }
}

static void test_against_a_number(uint64_t capacity, uint64_t seed)
{
    uint64_t held = 0, random = seed;
    begin(capacity);
    for (long i = 0; i < effort(3000); i++) {
        uint64_t n = any_size(&random), free_ = capacity - held;
        if (random_next(&random) >> 62 == 0)
            n = random_next(&random) >> 63 ? free_ : held;
        if (random_next(&random) >> 61 == 0)
            n++;
        if (random_next(&random) >> 61 == 0)
            hop((unsigned)(random_next(&random) >> 60));
        if (random_next(&random) >> 63) {
            bool taken = percpu_limiter_acquire(&limiter, n);
            CHECK_CASE(taken == (n <= free_), "acquire(%llu): %d with %llu spare",
                       (unsigned long long)n, taken, (unsigned long long)free_);
            held += taken ? n : 0;
        } else {
            int given = percpu_limiter_release(&limiter, n);
            CHECK_CASE(given == (n <= held ? 0 : -1), "release(%llu): %d with %llu held",
                       (unsigned long long)n, given, (unsigned long long)held);
            held -= given == 0 ? n : 0;
        }
        check(held);
    }
    end();
}

/* One CPU takes what the other gives back: stops are few, however little is spare. */
static void test_moving_pays(void)
{
    enum { BURST = 64, ROUNDS = 2000 };
    unsigned stops = 0;
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE || CPU_COUNT(&allowed) < 2)
        return;
    begin(UINT64_C(16) * BURST);
    CHECK(percpu_limiter_acquire(&limiter, UINT64_C(8) * BURST));
    for (unsigned round = 0; round < 2 * ROUNDS; round++) {
        hop(round);
        for (unsigned i = 0; i < BURST; i++) {
            struct percpu_limiter_step step = round % 2 == 0 ? percpu_limiter_acquiring(1)
                                                             : percpu_limiter_releasing(1);
            if (percpu_this_add_within(limiter.words, step.mask, step.low, step.span, step.n))
                continue;
            stops++;
            CHECK(round % 2 == 0 ? percpu_limiter_acquire_slow(&limiter, 1)
                                 : percpu_limiter_release_slow(&limiter, 1, NULL) == 0);
        }
    }
    check(UINT64_C(8) * BURST);
    CHECK_CASE(stops > 0 && stops < 2 * ROUNDS, "%u stops for %u tokens", stops,
               2 * ROUNDS * BURST);
    end();
}

/* Alone it takes everything at once, and needs no second stop; and the same to give back. */
static void test_alone_it_stops_once(void)
{
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        return;
    begin(1000);
    hop(0);
    CHECK(percpu_limiter_acquire(&limiter, 1));
    uint64_t word = percpu_this_read_u64(limiter.words);
    CHECK(word >> 32 == 999 && (uint32_t)word == 1 && limiter.spare == 0 && limiter.held == 0);
    end();
}

static void test_what_init_refuses(void)
{
    struct percpu_pool *small = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 4});
    CHECK(small != NULL);
    errno = 0;
    CHECK(percpu_limiter_init(&limiter, small, 1) == -1 && errno == EINVAL);
    percpu_pool_destroy(small);
    struct percpu_pool *global = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 8, .global = true});
    CHECK(global != NULL);
    errno = 0;
    CHECK(percpu_limiter_init(&limiter, global, 1) == -1 && errno == EINVAL);
    percpu_pool_destroy(global);
    errno = 0;
    CHECK(percpu_limiter_init(&limiter, NULL, UINT64_C(1) << 63) == -1 && errno == EINVAL);
    CHECK(percpu_limiter_init(&limiter, NULL, PERCPU_LIMITER_MAX) == 0);
    CHECK(!percpu_limiter_acquire(&limiter, UINT64_MAX));
    CHECK(percpu_limiter_acquire(&limiter, PERCPU_LIMITER_MAX));
    refused(UINT64_MAX, PERCPU_LIMITER_MAX);
    percpu_limiter_destroy(&limiter); /* with everything held */
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    const uint64_t capacities[] = {1,
                                   2,
                                   100,
                                   UINT64_C(1) << 31,
                                   UINT32_MAX,
                                   UINT64_C(3) << 31,
                                   UINT64_C(1) << 40,
                                   PERCPU_LIMITER_MAX};
    deadline(60);
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    test_what_init_refuses();
    for (size_t i = 0; i < 2; i++) {
        index_used = indexes[i];
        if (percpu_index_check(index_used) != 0)
            continue;
        test_exactly_the_capacity();
        test_errno_is_kept();
        for (size_t j = 0; j < sizeof capacities / sizeof capacities[0]; j++)
            test_against_a_number(capacities[j], 11 * i + j + 1);
        test_alone_it_stops_once();
        if (index_used == PERCPU_INDEX_CPU)
            test_moving_pays();
    }
    return 0;
}
