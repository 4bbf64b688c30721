/* SPDX-License-Identifier: MIT */
/*
 * limiter.h - percpu_limiter: an exact limit on a resource that all CPUs take from and give back
 * to, with no lock and no atomic instruction in the common case.
 *
 * There are `capacity` tokens. Each is spare, or held by somebody; and it is accounted on one CPU,
 * or in two shared words. What a CPU has is one word, so that one store moves tokens:
 *
 *      63            32 31             0
 *      [    spare     ][     held      ]     0 at first: a fresh limiter writes no CPU's memory
 *
 *      sum of all spare + sum of all held = capacity        at every instant
 *
 *      acquire(n)   one section: if spare >= n: spare -= n, held += n
 *      release(n)   one section: if held >= n:  held -= n, spare += n
 *      otherwise    percpu_stop(): at an instant when nobody else is at it, all words are read; if
 *                   all spare (all held) tokens are fewer than n, the answer is no, and true;
 *                   otherwise n of them are taken here, from the shared words first
 *
 * The two sections change neither the sum of a CPU's word nor that of all, so the equation needs
 * nothing but that each commits once and that percpu_stop() shows one instant. A release may run
 * on another CPU than its acquire: tokens of one kind are alike.
 *
 * A stop brings a share along, so that the next operations here need none: the tokens of that kind
 * that are left, divided by the CPUs that have any tokens. A hog so gets everything in one stop or
 * few; where one CPU acquires and another releases, each stops everything once for the share that
 * the other has piled up; and with a share that is fair no CPU strips the others of what they would
 * stop everything for at once. A CPU gives half of what it has before any other loses the rest.
 *
 * No half overflows into the other: after a stop each half of this CPU's word is below 2^31, what
 * exceeds that being in the shared words, and sections keep the sum, so each is below 2^32 always.
 * An n of 2^32 and more never tries the section.
 *
 * In mode none there are no sections to stop: one atomic word counts what is held.
 *
 * The idea is that of the exact limit counters of P. McKenney's "Is Parallel Programming Hard, And,
 * If So, What Can You Do About It?", chapter 5: `count_lim_atomic`, which packs a thread's counter
 * and its limit in one word and takes both back with atomics, and `count_lim_sig`, which asks the
 * threads for them by signals. Here the words belong to CPUs, and the fence does what the signals do.
 *
 * fork(): the child has a limiter of its own, with all tokens accounted. What threads that it does
 * not have held stays held there; only the program knows how much that is.
 *
 * Memory: an acquire that gets a token sees what was written before that token was released: both
 * ran on one CPU, or a fence of all CPUs came between.
 */
#ifndef PERCPU_LIMITER_H
#define PERCPU_LIMITER_H

#include "arch.h"
#include "platform.h"
#include "pool.h"
#include "ptr.h"

#define PERCPU_LIMITER_ITEM sizeof(uint64_t)
#define PERCPU_LIMITER_MAX INT64_MAX /* the largest capacity */

struct percpu_limiter {
    percpu_ptr words; /* written by init and destroy alone, as are all up to `pad` */
    uint64_t capacity;
    struct percpu_pool *pool;
    unsigned cpus; /* copies of the item */
    char pad[PERCPU_CACHE_LINE];
    /* Touched under percpu_stop() alone; in mode none `held` is an atomic and the rest unused. */
    uint64_t held, spare; /* on no CPU */
    unsigned reach;       /* CPUs from this one on have nothing */
};

/*
 * Make a limiter of `capacity` tokens, 0 to PERCPU_LIMITER_MAX, all of them spare, in `pool`, whose
 * items must have at least PERCPU_LIMITER_ITEM bytes aligned to 8; NULL: a pool of the process.
 * Returns 0; -1 with errno EINVAL or ENOMEM. The pool must outlive it.
 */
PERCPU_API int percpu_limiter_init(struct percpu_limiter *limiter, struct percpu_pool *pool,
                                   uint64_t capacity);

/* Give its item back, whoever holds tokens. No thread may be using the limiter. */
PERCPU_API void percpu_limiter_destroy(struct percpu_limiter *limiter);

/* What is left when the section did not commit. `held` (may be NULL) is set if the release is
 * refused: to how many tokens were held at that instant. */
PERCPU_API bool percpu_limiter_acquire_slow(struct percpu_limiter *limiter, uint64_t n) PERCPU_COLD;
PERCPU_API int percpu_limiter_release_slow(struct percpu_limiter *limiter, uint64_t n,
                                           uint64_t *held) PERCPU_COLD;

/* The sections of both, as arguments of load_cbout_add_store (arch.h); n is at most UINT32_MAX. */
struct percpu_limiter_step {
    uint64_t mask, low, span, n;
};

PERCPU_INLINE struct percpu_limiter_step percpu_limiter_acquiring(uint64_t n)
{
    uint64_t high = n << 32; /* where spare >= n, the whole word is at least this */
    return (struct percpu_limiter_step){UINT64_MAX, high, 0 - high, n - high};
}

PERCPU_INLINE struct percpu_limiter_step percpu_limiter_releasing(uint64_t n)
{
    uint64_t beyond = UINT64_C(1) << 32; /* every `held` */
    return (struct percpu_limiter_step){UINT32_MAX, n, beyond - n, (n << 32) - n};
}

PERCPU_INLINE bool percpu_limiter_try(percpu_ptr words, struct percpu_limiter_step step)
{
    return percpu_cs_load_cbout_add_store(words, step.mask, step.low, step.span, step.n) ==
           PERCPU_COMMITTED;
}

/*
 * Take `n` tokens. Returns false, having taken none, only if at some instant of the call fewer
 * than `n` were spare. That answer costs what percpu_stop() costs, so do not ask in a loop without
 * a pause. Thread-safe, async-signal-safe; errno is kept.
 */
PERCPU_INLINE bool percpu_limiter_acquire(struct percpu_limiter *limiter, uint64_t n)
{
    if (percpu_unlikely(n > UINT32_MAX) ||
        percpu_unlikely(!percpu_limiter_try(limiter->words, percpu_limiter_acquiring(n))))
        return percpu_limiter_acquire_slow(limiter, n);
    return true;
}

/*
 * Give `n` tokens back, on whatever CPU and from whatever thread. Returns 0; -1 with errno EINVAL,
 * having given none, if at some instant of the call fewer than `n` were held by everybody together.
 * Thread-safe, async-signal-safe; errno is kept unless it is refused.
 */
PERCPU_INLINE int percpu_limiter_release(struct percpu_limiter *limiter, uint64_t n)
{
    if (percpu_unlikely(n > UINT32_MAX) ||
        percpu_unlikely(!percpu_limiter_try(limiter->words, percpu_limiter_releasing(n))))
        return percpu_limiter_release_slow(limiter, n, NULL);
    return 0;
}

/*
 * How many tokens are held, exactly, at one instant of the call; the capacity less that are spare.
 * Stops everything. Thread-safe, async-signal-safe; errno is kept.
 */
PERCPU_API uint64_t percpu_limiter_outstanding(struct percpu_limiter *limiter);

/*
 * Test every invariant, at one instant: other threads may use the limiter. Returns NULL, or a
 * sentence (static storage) about the first that does not hold.
 */
PERCPU_API const char *percpu_limiter_check(struct percpu_limiter *limiter);

#endif
