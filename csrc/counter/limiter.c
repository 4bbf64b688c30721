/* SPDX-License-Identifier: MIT */
/*
 * limiter.c - percpu_limiter when the section said no: tokens that move between CPUs, under
 * percpu_stop(), and mode none.
 *
 * Acquiring and releasing mirror each other: one takes tokens that are spare and makes them held,
 * the other the reverse. So there is one function, which takes from one kind and adds to the other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include <percpu/limiter.h>
#include <percpu/rseq.h>
#include <percpu/sections.h>

/* The most that a stop leaves in one half of a word. */
#define HALF_MAX UINT64_C(0x7fffffff)

enum kind { HELD, SPARE, KINDS };

/* A word taken apart; or the two shared words. */
struct tokens {
    uint64_t of[KINDS];
};

int percpu_limiter_init(struct percpu_limiter *limiter, struct percpu_pool *pool, uint64_t capacity)
{
    memset(limiter, 0, sizeof *limiter);
    if (capacity > PERCPU_LIMITER_MAX) {
        errno = EINVAL;
        return -1;
    }
    if (pool == NULL && (pool = percpu_pool_shared(PERCPU_LIMITER_ITEM)) == NULL)
        return -1;
    struct percpu_pool_geometry geometry;
    percpu_pool_geometry(pool, &geometry);
    if (geometry.item_size < PERCPU_LIMITER_ITEM || geometry.global) {
        errno = EINVAL;
        return -1;
    }
    void *item = percpu_pool_zalloc(pool);
    if (item == NULL)
        return -1;
    limiter->pool = pool;
    limiter->words = percpu_pool_ptr(pool, item);
    limiter->cpus = geometry.cpus;
    limiter->capacity = capacity;
    limiter->spare = capacity;
    return 0;
}

void percpu_limiter_destroy(struct percpu_limiter *limiter)
{
    percpu_pool_free(limiter->pool, limiter->words.base);
    memset(limiter, 0, sizeof *limiter);
}

/* ---- under percpu_stop(): plain accesses -------------------------------------------------- */

static uint64_t *word_of(const struct percpu_limiter *limiter, unsigned cpu)
{
    return percpu_ptr_cpu(limiter->words, cpu);
}

static struct tokens take_apart(uint64_t word)
{
    return (struct tokens){.of = {[HELD] = (uint32_t)word, [SPARE] = word >> 32}};
}

static uint64_t put_together(struct tokens tokens)
{
    return tokens.of[SPARE] << 32 | tokens.of[HELD];
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t *shared(struct percpu_limiter *limiter, enum kind kind)
{
    return kind == HELD ? &limiter->held : &limiter->spare;
}

/* All tokens, by kind; and on how many CPUs there are any. */
static struct tokens count_all(const struct percpu_limiter *limiter, unsigned *in_use)
{
    struct tokens all = {.of = {[HELD] = limiter->held, [SPARE] = limiter->spare}};
    *in_use = 0;
    for (unsigned cpu = 0; cpu < limiter->reach; cpu++) {
        uint64_t word = *word_of(limiter, cpu);
        struct tokens tokens = take_apart(word);
        all.of[HELD] += tokens.of[HELD];
        all.of[SPARE] += tokens.of[SPARE];
        *in_use += word != 0;
    }
    return all;
}

/* Take `n` tokens of a kind from elsewhere; there are as many. */
static void gather(struct percpu_limiter *limiter, const uint64_t *here, enum kind kind, uint64_t n)
{
    uint64_t part = smaller(n, *shared(limiter, kind));
    *shared(limiter, kind) -= part;
    n -= part;
    while (n > 0) { /* half of what each has, and again: at most 32 times */
        for (unsigned cpu = 0; cpu < limiter->reach && n > 0; cpu++) {
            uint64_t *word = word_of(limiter, cpu);
            if (word == here)
                continue;
            struct tokens tokens = take_apart(*word);
            part = smaller(n, tokens.of[kind] - tokens.of[kind] / 2);
            tokens.of[kind] -= part;
            n -= part;
            *word = put_together(tokens);
        }
    }
}

struct transfer {
    struct percpu_limiter *limiter;
    enum kind from, to;
    uint64_t n;
    bool done;
    uint64_t had; /* tokens of the kind `from`, on all CPUs */
};

/* The whole operation, not only its supplies: nothing can come in between. */
static void transfer(void *argument)
{
    struct transfer *t = argument;
    struct percpu_limiter *limiter = t->limiter;
    unsigned in_use;
    t->had = count_all(limiter, &in_use).of[t->from];
    if (t->n > t->had)
        return;
    uint64_t *here = percpu_slow_copy(limiter->words.base, limiter->words.stride,
                                      limiter->words.index);
    unsigned cpu = percpu_ptr_which(limiter->words, here);
    if (limiter->reach <= cpu)
        limiter->reach = cpu + 1;
    in_use += *here == 0;

    struct tokens mine = take_apart(*here);
    uint64_t want = t->n + (t->had - t->n) / in_use;
    if (mine.of[t->from] < want) {
        gather(limiter, here, t->from, want - mine.of[t->from]);
        mine.of[t->from] = want;
    }
    mine.of[t->from] -= t->n;
    mine.of[t->to] += t->n;
    for (enum kind kind = 0; kind < KINDS; kind++) {
        uint64_t kept = smaller(mine.of[kind], HALF_MAX);
        *shared(limiter, kind) += mine.of[kind] - kept;
        mine.of[kind] = kept;
    }
    *here = put_together(mine);
    t->done = true;
}

/* ---- the operations ------------------------------------------------------------------------ */

static bool without_rseq(void)
{
    return percpu_rseq_info()->mode == PERCPU_MODE_NONE;
}

/* Mode none: whether `n` more were held; acquire pairs with the release below. */
static bool hold_more(struct percpu_limiter *limiter, uint64_t n)
{
    uint64_t held = __atomic_load_n(&limiter->held, __ATOMIC_RELAXED);
    do {
        if (limiter->capacity - held < n)
            return false;
    } while (!__atomic_compare_exchange_n(&limiter->held, &held, held + n, false, __ATOMIC_ACQUIRE,
                                          __ATOMIC_RELAXED));
    return true;
}

static bool hold_less(struct percpu_limiter *limiter, uint64_t n, uint64_t *had)
{
    uint64_t held = __atomic_load_n(&limiter->held, __ATOMIC_RELAXED);
    do {
        *had = held;
        if (held < n)
            return false;
    } while (!__atomic_compare_exchange_n(&limiter->held, &held, held - n, false, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    return true;
}

/* The section again, as often as it takes: most likely it was only restarted. */
static bool try_again(struct percpu_limiter *limiter, struct percpu_limiter_step step)
{
    return percpu_this_add_within(limiter->words, step.mask, step.low, step.span, step.n);
}

bool percpu_limiter_acquire_slow(struct percpu_limiter *limiter, uint64_t n)
{
    if (n > limiter->capacity)
        return false;
    if (without_rseq())
        return hold_more(limiter, n);
    int saved = errno;
    struct transfer t = {.limiter = limiter, .from = SPARE, .to = HELD, .n = n};
    if (n == 0 || (n <= UINT32_MAX && try_again(limiter, percpu_limiter_acquiring(n))))
        t.done = true;
    else
        percpu_stop(transfer, &t);
    errno = saved;
    return t.done;
}

int percpu_limiter_release_slow(struct percpu_limiter *limiter, uint64_t n, uint64_t *held)
{
    int saved = errno;
    struct transfer t = {.limiter = limiter, .from = HELD, .to = SPARE, .n = n};
    if (without_rseq())
        t.done = hold_less(limiter, n, &t.had);
    else if (n <= UINT32_MAX && try_again(limiter, percpu_limiter_releasing(n)))
        t.done = true;
    else
        percpu_stop(transfer, &t);
    errno = t.done ? saved : EINVAL;
    if (!t.done && held != NULL)
        *held = t.had;
    return t.done ? 0 : -1;
}

struct question {
    const struct percpu_limiter *limiter;
    struct tokens all;
    const char *broken;
};

static void count(void *argument)
{
    struct question *question = argument;
    unsigned in_use;
    question->all = count_all(question->limiter, &in_use);
}

uint64_t percpu_limiter_outstanding(struct percpu_limiter *limiter)
{
    if (without_rseq())
        return __atomic_load_n(&limiter->held, __ATOMIC_RELAXED);
    int saved = errno;
    struct question question = {.limiter = limiter};
    percpu_stop(count, &question);
    errno = saved;
    return question.all.of[HELD];
}

static void look(void *argument)
{
    struct question *question = argument;
    const struct percpu_limiter *limiter = question->limiter;
    count(question);
    if (question->all.of[HELD] + question->all.of[SPARE] != limiter->capacity)
        question
            ->broken = "the tokens that are held and those that are spare are not all there are";
    for (unsigned cpu = 0; cpu < limiter->cpus; cpu++) {
        struct tokens tokens = take_apart(*word_of(limiter, cpu));
        if (tokens.of[HELD] + tokens.of[SPARE] > 2 * HALF_MAX)
            question->broken = "a CPU has so many tokens that one half may run into the other";
        if (cpu >= limiter->reach && tokens.of[HELD] + tokens.of[SPARE] > 0)
            question->broken = "a CPU has tokens that nobody counts";
    }
}

const char *percpu_limiter_check(struct percpu_limiter *limiter)
{
    struct question question = {.limiter = limiter};
    if (!percpu_stop(look, &question) && percpu_limiter_outstanding(limiter) > limiter->capacity)
        return "more tokens are held than there are";
    return question.broken;
}
