/* SPDX-License-Identifier: MIT */
/*
 * error.c - the batch that keeps read() within a given error of sum().
 *
 * A relative error e asks for margin * CPUs <= e * |sum|, and |sum| >= |read| - margin * CPUs, so
 *
 *      margin = e / (1 + e) * |read| / CPUs
 *
 * is enough. Growing is a store, done when the margin could be twice as large. Shrinking must reach
 * threads that are adding by the old margin:
 *
 *   shrinking                                 add on another CPU
 *   (S1) store the new margin                 (A1) commit count
 *   (S2) fence: membarrier                    (A2) load the margin
 *   (S3) load every count, flush              (A3) unflushed too much: flush
 *
 * The membarrier is a full barrier on every CPU that runs a thread of the process, so an add whose
 * A1 is not seen by S3 has its A2 after S1. (In mode none both threads do an atomic operation on one
 * word instead, after S1 and A1.) A flush in S3 is followed by a fence of its own: see
 * percpu_counter_fence(). The margin that a shrinking stores is half of what would do, so that the
 * value must halve again before the next.
 *
 * Flushes adjust the margin, and whatever moves `base`; and read(), because an add that began while
 * the counter was lazy does not flush.
 *
 * The margin is stored by compare-and-swap from what it was before the value was read, and the
 * value is read again afterwards: a thread that was stalled in between cannot leave a margin behind
 * that the value has long fallen below.
 */
#include <errno.h>
#include <math.h>

#include "internal.h"

/* The largest margin that keeps the promise now. */
static uint64_t allowed(const struct percpu_counter *counter)
{
    int64_t value = (int64_t)percpu_counter_about(counter);
    double apart = value < 0 ? -(double)value : (double)value, error = counter->error;
    double margin = error / (1 + error) * apart / counter->cpus;
    return margin < (double)PERCPU_COUNTER_BATCH_MAX ? (uint64_t)margin
                                                     : (uint64_t)PERCPU_COUNTER_BATCH_MAX - 1;
}

static PERCPU_COLD void adjust(struct percpu_counter *counter)
{
    for (;;) {
        uint64_t margin = counter_load(&counter->margin), most = allowed(counter);
        bool shrink = margin > most;
        if (!shrink && most <= 2 * margin + 1)
            return;
        /* Sequentially consistent: the store must not sink into the fence. */
        if (!__atomic_compare_exchange_n(&counter->margin, &margin, shrink ? most / 2 : most, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            continue;
        if (shrink) {
            percpu_counter_fence(counter);
            percpu_counter_flush_all(counter);
        }
    }
}

void percpu_counter_adjust(struct percpu_counter *counter)
{
    if (percpu_unlikely(counter->error > 0) && percpu_counter_usable(counter))
        adjust(counter);
}

int percpu_counter_set_error(struct percpu_counter *counter, double error)
{
    if (!(error > 0) || isinf(error)) {
        errno = EINVAL;
        return -1;
    }
    double margin = error / counter->cpus;
    counter->error = error < 1 ? error : 0;
    counter->margin = error < 1 ? allowed(counter)
                                : (margin < (double)PERCPU_COUNTER_BATCH_MAX
                                       ? (uint64_t)margin
                                       : (uint64_t)PERCPU_COUNTER_BATCH_MAX - 1);
    return 0;
}
