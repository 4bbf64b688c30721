/* SPDX-License-Identifier: MIT */
/*
 * ref.h - percpu_ref: a reference count that all CPUs count without a lock, until it is killed.
 *
 * Named after the kernel's lib/percpu-refcount.c. While it lives, nobody asks whether the count is
 * zero: whoever made it holds the initial reference. So gets and puts can be counted where they
 * happen, and a CPU's word may well be negative. kill() collects the words into one atomic count
 * and drops the initial reference; from then on every put looks whether it was the last.
 *
 *      per CPU   word    net references gotten here, from -2^62 to below 2^62: counted here
 *                        DEAD: go to `count`
 *      shared    count   from 2^61    lives: 2^62 + what is not in the words
 *                        below that   dying: all references there are
 *                        0            released
 *
 *      get(n)    one section: if the word is in the range: word += n
 *                else compare-and-swap(count: c -> c + n), unless c is 0
 *      put(n)    the same with -n, unless c < n; if count becomes 0: release()
 *      kill()    every word: sum += exchange(word: DEAD)
 *                compare-and-swap(count: c -> c - 2^62 + sum - 1); if count becomes 0: release()
 *      resurrect()   compare-and-swap(count: c -> c + 2^62 + 1), unless c is 0; every word = 0
 *      reinit()      the same, if c is 0
 *
 * One instant. The 2^62 is in `count` for as long as a word may be counted in, so a put that finds
 * DEAD in the middle of kill() or resurrect() cannot take it to zero: what makes the ref dying, or
 * live, is the one compare-and-swap. A get or put that saw DEAD and is late, so that the ref lives
 * again, counts in `count`, which is a summand at all times. With restartable sequences all of
 * kill(), up to what it calls, is inside percpu_stop(): a section under way has committed before,
 * or starts again and finds DEAD. In mode none the words are changed one by one, by exchanges that
 * lose nothing; percpu_exclude_fork() is around. Both let one of kill(), resurrect() and reinit()
 * at a time through, and fork() waits for both, so a child has all of it or nothing.
 *
 * Memory. What a thread did before its put() is seen by release(): a put that was counted in a word
 * is before the fence of kill() (or its exchange), and those that change `count` release and
 * acquire.
 *
 * fork(). A child has a count of its own. References of the parent's other threads stay counted in
 * it, with nobody to put them; and if another thread was between dropping the last one and the
 * end of release(), the child does not finish that for it.
 */
#ifndef PERCPU_REF_H
#define PERCPU_REF_H

#include "arch.h"
#include "platform.h"
#include "pool.h"
#include "ptr.h"

struct percpu_ref {
    percpu_ptr words; /* read at every get and put; written by init and exit alone */
    struct percpu_pool *pool;
    unsigned cpus; /* words */
    void (*release)(struct percpu_ref *ref, void *priv);
    void *priv;
    char pad[PERCPU_CACHE_LINE]; /* keeps `count` off the line that every get reads */
    uint64_t count;
};

/* A word that is counted in: its value minus LOW is below SPAN, unsigned. DEAD is not. */
#define PERCPU_REF_LOW (UINT64_C(3) << 62) /* -2^62 */
#define PERCPU_REF_SPAN (UINT64_C(1) << 63)
#define PERCPU_REF_DEAD (UINT64_C(1) << 63)

/*
 * Make a live ref with one reference, the initial one, in `pool`, whose items must have at least 8
 * bytes; NULL: a pool of the process. `release(ref, priv)` is called once when the
 * last reference of a killed ref was dropped, by the thread that dropped it, with no lock held; it
 * may call percpu_ref_exit() and free the ref. Returns 0; -1 with errno EINVAL or ENOMEM. The pool
 * must outlive it.
 */
PERCPU_API int percpu_ref_init(struct percpu_ref *ref, struct percpu_pool *pool,
                               void (*release)(struct percpu_ref *ref, void *priv), void *priv);

/* Give its item back; calls nothing. No thread may be using the ref. */
PERCPU_API void percpu_ref_exit(struct percpu_ref *ref);

/* For get and put: the word was not counted in. */
PERCPU_API int percpu_ref_get_slow(struct percpu_ref *ref, uint32_t n) PERCPU_COLD;
PERCPU_API int percpu_ref_put_slow(struct percpu_ref *ref, uint32_t n) PERCPU_COLD;
PERCPU_API bool percpu_ref_tryget_slow(struct percpu_ref *ref, bool live) PERCPU_COLD;

PERCPU_INLINE bool percpu_ref_count_here(struct percpu_ref *ref, uint64_t n)
{
    return percpu_cs_load_cbout_add_store(ref->words, UINT64_MAX, PERCPU_REF_LOW, PERCPU_REF_SPAN,
                                          n) == PERCPU_COMMITTED;
}

/*
 * Take `n` more references. The caller holds one that nobody else drops; who has none takes one by
 * percpu_ref_tryget_live(). Returns 0; -1 with errno ESTALE (the ref
 * was released) or EOVERFLOW (2^61 references). Thread-safe, async-signal-safe.
 */
PERCPU_INLINE int percpu_ref_get_many(struct percpu_ref *ref, uint32_t n)
{
    return percpu_likely(percpu_ref_count_here(ref, n)) ? 0 : percpu_ref_get_slow(ref, n);
}

PERCPU_INLINE int percpu_ref_get(struct percpu_ref *ref)
{
    return percpu_ref_get_many(ref, 1);
}

/*
 * Drop `n` references, and call release() if none is left of a killed ref. Returns 0; -1 with errno
 * ERANGE, and nothing was dropped, if a killed ref has fewer. A ref that lives cannot tell: that is
 * found by percpu_ref_kill(). Thread-safe, async-signal-safe if release() is. The caller must not
 * touch the ref afterwards unless it holds another reference, or knows that it is not freed.
 */
PERCPU_INLINE int percpu_ref_put_many(struct percpu_ref *ref, uint32_t n)
{
    return percpu_likely(percpu_ref_count_here(ref, 0 - (uint64_t)n)) ? 0
                                                                      : percpu_ref_put_slow(ref, n);
}

PERCPU_INLINE int percpu_ref_put(struct percpu_ref *ref)
{
    return percpu_ref_put_many(ref, 1);
}

/*
 * Take a reference unless the ref was released (tryget) or killed (tryget_live). Returns whether it
 * did. The memory of the ref must be there. Thread-safe, async-signal-safe.
 */
PERCPU_INLINE bool percpu_ref_tryget(struct percpu_ref *ref)
{
    return percpu_likely(percpu_ref_count_here(ref, 1)) || percpu_ref_tryget_slow(ref, false);
}

PERCPU_INLINE bool percpu_ref_tryget_live(struct percpu_ref *ref)
{
    return percpu_likely(percpu_ref_count_here(ref, 1)) || percpu_ref_tryget_slow(ref, true);
}

/*
 * Kill the ref: no percpu_ref_tryget_live() succeeds any more, and the initial reference is
 * dropped, which may call release(). `confirm(ref, argument)` is called before that, when every
 * CPU sees that it was killed. Returns 0. -1 with errno EALREADY if it was killed before; ERANGE if
 * more references were put than gotten (percpu_ref_count() is below 1), or 2^61 gotten: then the ref
 * is as it was, and confirm() is not called. Releasing what somebody may still use would be worse
 * than to let it live. With confirm() also ERANGE if others dropped the initial reference meanwhile.
 *
 * Costs what percpu_stop() costs, and a look at each CPU's word. Thread-safe, async-signal-safe if
 * confirm() and release() are.
 */
PERCPU_API int percpu_ref_kill(struct percpu_ref *ref);
PERCPU_API int percpu_ref_kill_and_confirm(struct percpu_ref *ref,
                                           void (*confirm)(struct percpu_ref *ref, void *argument),
                                           void *argument);

/*
 * Make a killed ref live again, with a new initial reference: resurrect() one that still has
 * references, reinit() one that was released, after release() has returned or from inside of it.
 * Both return 0, or -1 with errno: EALREADY, it lives; resurrect(): ESTALE, it was released;
 * reinit(): EBUSY, it has references left. They cost what percpu_ref_kill() does. Thread-safe,
 * async-signal-safe.
 */
PERCPU_API int percpu_ref_resurrect(struct percpu_ref *ref);
PERCPU_API int percpu_ref_reinit(struct percpu_ref *ref);

/* Whether it was killed; and whether, after that, its last reference was dropped. Thread-safe,
 * async-signal-safe. */
PERCPU_API bool percpu_ref_is_dying(const struct percpu_ref *ref);
PERCPU_API bool percpu_ref_is_zero(const struct percpu_ref *ref);

/* How many references there are, the initial one included: for debugging. Exact if no other thread
 * uses the ref. */
PERCPU_API int64_t percpu_ref_count(const struct percpu_ref *ref);

/*
 * Test every invariant. Returns NULL, or a sentence (static storage) about the first that does not
 * hold. No other thread may use the ref meanwhile.
 */
PERCPU_API const char *percpu_ref_check(const struct percpu_ref *ref);

#endif
