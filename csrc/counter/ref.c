/* SPDX-License-Identifier: MIT */
/*
 * ref.c - percpu_ref: what happens to `count`, and the changes between live and dying. ref.h has the
 * protocol.
 */
#define _GNU_SOURCE
#include <errno.h>

#include <percpu/ref.h>
#include <percpu/sections.h>
#include <percpu/topology.h>

/* The values of `count`: see ref.h. A live one keeps 2^61 from either end. */
#define BIAS (UINT64_C(1) << 62)
#define LIVE (UINT64_C(1) << 61)
#define LIVE_END (UINT64_C(1) << 63)

static bool is_live(uint64_t count)
{
    return count >= LIVE;
}

static uint64_t load_count(const struct percpu_ref *ref)
{
    return __atomic_load_n(&ref->count, __ATOMIC_ACQUIRE);
}

/* Acquire and release: whoever makes it zero sees what all others did before their puts. */
static bool swap_count(struct percpu_ref *ref, uint64_t *expected, uint64_t count)
{
    return __atomic_compare_exchange_n(&ref->count, expected, count, true, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static uint64_t *word_of(const struct percpu_ref *ref, unsigned cpu)
{
    return percpu_ptr_cpu(ref->words, cpu);
}

int percpu_ref_init(struct percpu_ref *ref, struct percpu_pool *pool,
                    void (*release)(struct percpu_ref *ref, void *priv), void *priv)
{
    struct percpu_pool_geometry geometry;
    if (release == NULL) {
        errno = EINVAL;
        return -1;
    }
    if (pool == NULL && (pool = percpu_pool_shared(sizeof(uint64_t))) == NULL)
        return -1;
    percpu_pool_geometry(pool, &geometry);
    if (geometry.item_size < sizeof(uint64_t) || geometry.global) { /* then it is aligned to 8 */
        errno = EINVAL;
        return -1;
    }
    void *item = percpu_pool_zalloc(pool);
    if (item == NULL)
        return -1;
    *ref = (struct percpu_ref){
        .words = percpu_pool_ptr(pool, item),
        .pool = pool,
        .cpus = geometry.cpus,
        .release = release,
        .priv = priv,
        .count = BIAS + 1,
    };
    return 0;
}

void percpu_ref_exit(struct percpu_ref *ref)
{
    percpu_pool_free(ref->pool, ref->words.base);
    ref->words.base = NULL;
}

/* getting and putting ------------------------------------------------------------------------ */

static bool count_slowly(struct percpu_ref *ref, uint64_t n)
{
    return percpu_this_add_within(ref->words, UINT64_MAX, PERCPU_REF_LOW, PERCPU_REF_SPAN, n);
}

/* 0; an errno of percpu_ref_get_many(). */
static int get_from_count(struct percpu_ref *ref, uint32_t n)
{
    uint64_t count = load_count(ref);
    do {
        if (count == 0)
            return ESTALE;
        if (count + n >= (is_live(count) ? LIVE_END : LIVE))
            return EOVERFLOW;
    } while (!swap_count(ref, &count, count + n));
    return 0;
}

int percpu_ref_get_slow(struct percpu_ref *ref, uint32_t n)
{
    if (count_slowly(ref, n))
        return 0;
    int error = get_from_count(ref, n);
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

bool percpu_ref_tryget_slow(struct percpu_ref *ref, bool live)
{
    if (count_slowly(ref, 1))
        return true;
    uint64_t count = load_count(ref);
    do {
        if (count == 0 || (live && !is_live(count)) || count + 1 == LIVE || count + 1 == LIVE_END)
            return false;
    } while (!swap_count(ref, &count, count + 1));
    return true;
}

/* Nothing of the ref may be touched after release(). */
static int put_to_count(struct percpu_ref *ref, uint32_t n)
{
    uint64_t count = load_count(ref);
    do {
        if (count < n || (is_live(count) && !is_live(count - n))) {
            errno = ERANGE;
            return -1;
        }
    } while (!swap_count(ref, &count, count - n));
    if (count == n && n != 0)
        ref->release(ref, ref->priv);
    return 0;
}

int percpu_ref_put_slow(struct percpu_ref *ref, uint32_t n)
{
    return count_slowly(ref, 0 - (uint64_t)n) ? 0 : put_to_count(ref, n);
}

/* between live and dying --------------------------------------------------------------------- */

/* A change, which is made while no section and no fork() can come in between. */
struct change {
    struct percpu_ref *ref;
    uint64_t drops; /* kill: how many of the references it drops at once, 0 or 1 */
    bool released;  /* out, kill: there is no reference left */
    int error;      /* out: an errno, and nothing was changed; or 0 */
};

static int make_change(void (*function)(void *argument), struct change *change)
{
    if (!percpu_stop(function, change))
        percpu_exclude_fork(function, change);
    if (change->error == 0)
        return 0;
    errno = change->error;
    return -1;
}

/* Nobody else writes a word that is DEAD. */
static void open_words(struct percpu_ref *ref)
{
    for (unsigned cpu = 0; cpu < ref->cpus; cpu++)
        __atomic_store_n(word_of(ref, cpu), 0, __ATOMIC_RELEASE);
}

/* Acquire: pairs with the puts of mode none. Elsewhere the fence of percpu_stop() has come before. */
static uint64_t close_words(struct percpu_ref *ref)
{
    uint64_t sum = 0;
    for (unsigned cpu = 0; cpu < ref->cpus; cpu++)
        sum += __atomic_exchange_n(word_of(ref, cpu), PERCPU_REF_DEAD, __ATOMIC_ACQ_REL);
    return sum;
}

static void make_dying(void *argument)
{
    struct change *change = argument;
    struct percpu_ref *ref = change->ref;
    if (!is_live(load_count(ref))) {
        change->error = EALREADY;
        return;
    }
    uint64_t sum = close_words(ref), count = load_count(ref), all;
    do {
        all = count - BIAS + sum;
        if (all - 1 >= LIVE - 1) { /* less than the initial reference, or too many */
            __atomic_add_fetch(&ref->count, sum, __ATOMIC_ACQ_REL);
            open_words(ref);
            change->error = ERANGE;
            return;
        }
    } while (!swap_count(ref, &count, all - change->drops));
    change->released = all == change->drops;
}

static void make_live(struct change *change, bool released)
{
    struct percpu_ref *ref = change->ref;
    uint64_t count = load_count(ref);
    do {
        if (is_live(count))
            change->error = EALREADY;
        else if (count == 0 && !released)
            change->error = ESTALE;
        else if (count != 0 && released)
            change->error = EBUSY;
        if (change->error != 0)
            return;
    } while (!swap_count(ref, &count, count + BIAS + 1));
    open_words(ref);
}

static void make_live_again(void *argument)
{
    make_live(argument, false);
}

static void make_live_anew(void *argument)
{
    make_live(argument, true);
}

int percpu_ref_kill(struct percpu_ref *ref)
{
    struct change change = {.ref = ref, .drops = 1};
    if (make_change(make_dying, &change) != 0)
        return -1;
    if (change.released)
        ref->release(ref, ref->priv);
    return 0;
}

int percpu_ref_kill_and_confirm(struct percpu_ref *ref,
                                void (*confirm)(struct percpu_ref *ref, void *argument),
                                void *argument)
{
    struct change change = {.ref = ref, .drops = 0};
    if (make_change(make_dying, &change) != 0)
        return -1;
    confirm(ref, argument);
    return put_to_count(ref, 1); /* it may live again, but the reference is ours to drop */
}

int percpu_ref_resurrect(struct percpu_ref *ref)
{
    return make_change(make_live_again, &(struct change){.ref = ref});
}

int percpu_ref_reinit(struct percpu_ref *ref)
{
    return make_change(make_live_anew, &(struct change){.ref = ref});
}

/* looking ------------------------------------------------------------------------------------ */

bool percpu_ref_is_dying(const struct percpu_ref *ref)
{
    return !is_live(load_count(ref));
}

bool percpu_ref_is_zero(const struct percpu_ref *ref)
{
    return load_count(ref) == 0;
}

int64_t percpu_ref_count(const struct percpu_ref *ref)
{
    uint64_t count = load_count(ref), sum = 0;
    if (!is_live(count))
        return (int64_t)count;
    for (unsigned cpu = 0; cpu < ref->cpus; cpu++) {
        uint64_t word = __atomic_load_n(word_of(ref, cpu), __ATOMIC_RELAXED);
        sum += word != PERCPU_REF_DEAD ? word : 0;
    }
    return (int64_t)(count - BIAS + sum);
}

const char *percpu_ref_check(const struct percpu_ref *ref)
{
    bool live = is_live(load_count(ref));
    for (unsigned cpu = 0; cpu < ref->cpus; cpu++) {
        uint64_t word = __atomic_load_n(word_of(ref, cpu), __ATOMIC_RELAXED);
        if (live && word == PERCPU_REF_DEAD)
            return "a word of a live ref is dead";
        if (!live && word != PERCPU_REF_DEAD)
            return "a word of a killed ref is counted in";
    }
    if (load_count(ref) >= LIVE_END)
        return "the shared count is out of range";
    if (live && percpu_ref_count(ref) < 1)
        return "more references were put than gotten";
    return NULL;
}
