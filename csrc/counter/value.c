/* SPDX-License-Identifier: MIT */
/*
 * value.c - reading a counter, setting it, and limits.
 *
 * exchange(), set() and the try_ functions move `base` alone, by compare-and-swap, having seen what
 * the other words add up to. So they exclude each other: whoever succeeds knows that `base` was
 * what it had read, and no other of them came between. (If others came and left `base` as it was,
 * the value is as it was, too.) A try_ that fails has taken a sum during the call.
 *
 * A sum that has read `base` before an exchange() and an add()'s word after both were done would
 * give a value that never was. That `base` is the same again does not say that none came between.
 * So exchanges are one at a time, and count how many have begun and ended: a sum that was taken
 * while that number was even and the same is one of before or after. try_ functions may move `base`
 * meanwhile: they are like adds to a sum. An exchange cannot be interrupted by a signal or a
 * fork(), so whoever finds one under way waits for a thread that is about to end it.
 */
#include "internal.h"
#include <percpu/rseq.h>

__extension__ typedef __int128 int128; /* the sum of any two int64_t */

/* What was added without moving `base`. */
static uint64_t sum_counts(const struct percpu_counter *counter)
{
    percpu_ptr slots = counter_slots(counter);
    uint64_t sum = counter_load(&counter->local) + counter_load(&counter->remote);
    for (unsigned cpu = 0; cpu < counter_copies(counter, slots); cpu++)
        sum += counter_load(&counter_slot(slots, cpu)->count);
    return sum;
}

static void nothing(void *unused)
{
    (void)unused;
}

/* That, and a base that it goes with. */
static uint64_t snapshot(const struct percpu_counter *counter, uint64_t *base)
{
    for (;;) {
        /* Acquires: what follows is read later. Pairs with the releases in exchange(). */
        uint32_t exchanges = __atomic_load_n(&counter->exchanges, __ATOMIC_ACQUIRE);
        *base = __atomic_load_n(&counter->base, __ATOMIC_ACQUIRE);
        uint64_t counts = sum_counts(counter);
        counter_loaded();
        if (exchanges % 2 != 0)
            percpu_exclude_fork(nothing, NULL); /* when that returns, it has ended */
        else if (__atomic_load_n(&counter->exchanges, __ATOMIC_RELAXED) == exchanges)
            return counts;
    }
}

uint64_t percpu_counter_about(const struct percpu_counter *counter)
{
    return counter_load(&counter->base) + counter_load(&counter->local) +
           counter_load(&counter->remote) + counter_load(&counter->total);
}

int64_t percpu_counter_read(struct percpu_counter *counter)
{
    (void)percpu_counter_usable(counter);
    percpu_counter_adjust(counter);
    return (int64_t)percpu_counter_about(counter);
}

int64_t percpu_counter_error(const struct percpu_counter *counter)
{
    return percpu_counter_is_lazy(counter)
               ? 0
               : (int64_t)(counter_load(&counter->margin) * counter->cpus);
}

int64_t percpu_counter_read_bounds(struct percpu_counter *counter, int64_t *low, int64_t *high)
{
    int64_t value = percpu_counter_read(counter), error = percpu_counter_error(counter);
    if (__builtin_sub_overflow(value, error, low) || __builtin_add_overflow(value, error, high)) {
        /* The value itself may have wrapped around, so the sum may be at the other end. */
        *low = INT64_MIN;
        *high = INT64_MAX;
    }
    return value;
}

int64_t percpu_counter_sum(const struct percpu_counter *counter)
{
    uint64_t base, counts = snapshot(counter, &base);
    return (int64_t)(base + counts);
}

int64_t percpu_counter_on(const struct percpu_counter *counter, unsigned cpu)
{
    percpu_ptr slots = counter_slots(counter);
    return slots.base != NULL ? (int64_t)counter_load(&counter_slot(slots, cpu)->count) : 0;
}

int percpu_counter_compare(struct percpu_counter *counter, int64_t rhs)
{
    bool usable = percpu_counter_usable(counter); /* if another thread is mending it, sum */
    int64_t value = percpu_counter_read(counter), error = percpu_counter_error(counter);
    uint64_t apart = value > rhs ? (uint64_t)value - (uint64_t)rhs
                                 : (uint64_t)rhs - (uint64_t)value;
    /* Near the ends of int64_t, what read() said may have wrapped around although the sum fits. */
    if (!usable || apart <= (uint64_t)error || value < INT64_MIN + error ||
        value > INT64_MAX - error)
        value = percpu_counter_sum(counter);
    return (value > rhs) - (value < rhs);
}

int64_t percpu_counter_delta(struct percpu_counter *counter)
{
    uint64_t sum = (uint64_t)percpu_counter_sum(counter);
    return (int64_t)(sum - __atomic_exchange_n(&counter->seen, sum, __ATOMIC_RELAXED));
}

struct exchange {
    struct percpu_counter *counter;
    uint64_t value, was;
};

/* Alone: see the top. */
static void exchange(void *argument)
{
    struct exchange *change = argument;
    struct percpu_counter *counter = change->counter;
    uint64_t base, counts, seen;
    __atomic_fetch_add(&counter->exchanges, 1, __ATOMIC_RELAXED);
    do {
        seen = base = __atomic_load_n(&counter->base, __ATOMIC_ACQUIRE);
        counts = sum_counts(counter);
        /* Adds since `counts` was read stay in the words, and so count after the exchange.
         * Release: whoever sees the new base sees that an exchange has begun. */
    } while (!__atomic_compare_exchange_n(&counter->base, &seen, change->value - counts, false,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    /* Release: whoever sees that it has ended sees the new base. */
    __atomic_fetch_add(&counter->exchanges, 1, __ATOMIC_RELEASE);
    change->was = base + counts;
}

int64_t percpu_counter_exchange(struct percpu_counter *counter, int64_t value)
{
    struct exchange change = {.counter = counter, .value = (uint64_t)value};
    percpu_exclude_fork(exchange, &change);
    percpu_counter_adjust(counter);
    return (int64_t)change.was;
}

void percpu_counter_set(struct percpu_counter *counter, int64_t value)
{
    (void)percpu_counter_exchange(counter, value);
}

/* Add `n` if the result is an int64_t from `low` to `high`. */
static bool try_move(struct percpu_counter *counter, int128 n, int64_t low, int64_t high)
{
    for (;;) {
        uint64_t base, counts = snapshot(counter, &base);
        int128 value = (int128)(int64_t)(base + counts) + n;
        if (value < low || value > high)
            return false;
        if (__atomic_compare_exchange_n(&counter->base, &base, base + (uint64_t)n, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            percpu_counter_adjust(counter);
            return true;
        }
    }
}

bool percpu_counter_try_add(struct percpu_counter *counter, int64_t n, int64_t limit)
{
    return try_move(counter, n, INT64_MIN, limit);
}

bool percpu_counter_try_sub(struct percpu_counter *counter, int64_t n, int64_t floor)
{
    return try_move(counter, -(int128)n, floor, INT64_MAX);
}
