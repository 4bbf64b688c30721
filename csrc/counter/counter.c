/* SPDX-License-Identifier: MIT */
/*
 * counter.c - percpu_counter: making, upgrading, flushing, and what fork() leaves behind.
 *
 * After fork. A thread that was between its compare-and-swap of `flushed` and its addition to
 * `total` does not exist in the child, so `total` may lack a part there (sums do not use it). The
 * first flush or read of the child mends it: `generation` goes from what the parent left to
 * 2 * generation + 1 while one thread sets flushed = count on every CPU and total to their sum,
 * then to 2 * generation. Nobody waits for that thread, so a signal handler or another fork may
 * come at any point: a flush that finds the mending under way leaves the slot to the mender, which
 * looks at every slot again when it has finished. The words of a lazy counter need no mending: each
 * add is one instruction.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "internal.h"
#include <percpu/rseq.h>
#include <percpu/this_cpu.h>

/* making and upgrading ----------------------------------------------------------------------- */

int percpu_counter_init_lazy(struct percpu_counter *counter, struct percpu_pool *pool,
                             int64_t value, int64_t batch)
{
    if (pool == NULL && (pool = percpu_pool_shared(PERCPU_COUNTER_ITEM)) == NULL)
        return -1;
    const struct percpu_pool_head *head = (const struct percpu_pool_head *)(const void *)pool;
    if (batch < 0 || batch > PERCPU_COUNTER_BATCH_MAX || head->global ||
        head->item_size < PERCPU_COUNTER_ITEM) {
        errno = EINVAL;
        return -1;
    }
    /* Word by word: compilers make a slow string instruction of zeroing so few. */
    counter->slots = percpu_pool_ptr(pool, NULL);
    counter->margin = (uint64_t)(batch != 0 ? batch : PERCPU_COUNTER_BATCH) - 1;
    counter->owner = 0;
    counter->local = counter->remote = counter->total = 0;
    counter->pool = pool;
    counter->cpus = head->cpus;
    counter->generation = 2 * __atomic_load_n(&percpu_fork_generation, __ATOMIC_RELAXED);
    counter->remote_adds = counter->exchanges = 0;
    counter->error = 0;
    counter->seen = counter->base = (uint64_t)value;
    return 0;
}

int percpu_counter_upgrade(struct percpu_counter *counter)
{
    if (!percpu_counter_is_lazy(counter))
        return 0;
    char *item = percpu_pool_zalloc(counter->pool), *none = NULL;
    if (item == NULL)
        return -1;
    /* Release: pairs with the acquires in percpu_counter_add() and counter_slots(). */
    if (!__atomic_compare_exchange_n(&counter->slots.base, &none, item, false, __ATOMIC_RELEASE,
                                     __ATOMIC_RELAXED))
        percpu_pool_free(counter->pool, item); /* another thread was faster */
    return 0;
}

int percpu_counter_init(struct percpu_counter *counter, struct percpu_pool *pool, int64_t value,
                        int64_t batch)
{
    if (percpu_counter_init_lazy(counter, pool, value, batch) != 0)
        return -1;
    return percpu_counter_upgrade(counter);
}

int percpu_counter_init_many(struct percpu_counter *counters, size_t n, struct percpu_pool *pool,
                             int64_t value, int64_t batch)
{
    for (size_t i = 0; i < n; i++)
        if (percpu_counter_init(&counters[i], pool, value, batch) != 0) {
            int error = errno;
            while (i-- > 0)
                percpu_counter_destroy(&counters[i]);
            errno = error;
            return -1;
        }
    return 0;
}

void percpu_counter_destroy(struct percpu_counter *counter)
{
    if (counter->slots.base != NULL)
        percpu_pool_free(counter->pool, counter->slots.base);
    counter->slots.base = NULL;
    counter->cpus = 0;
}

void percpu_counter_add_remote(struct percpu_counter *counter, uint64_t n)
{
    uintptr_t nobody = 0, self = percpu_thread_pointer();
    if (__atomic_compare_exchange_n(&counter->owner, &nobody, self, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED) ||
        nobody == self) {
        percpu_own_add_u64(&counter->local, n);
        return;
    }
    __atomic_fetch_add(&counter->remote, n, __ATOMIC_RELAXED);
    uint32_t adds = __atomic_add_fetch(&counter->remote_adds, 1, __ATOMIC_RELAXED);
    /* Without memory the counter stays as it is, and tries again as many adds later. */
    if (adds % PERCPU_COUNTER_CONTENDED == 0 && !percpu_pool_interrupted()) {
        int error = errno;
        (void)percpu_counter_upgrade(counter);
        errno = error;
    }
}

/* flushing ----------------------------------------------------------------------------------- */

/* Whether `unflushed`, a difference modulo 2^64, is within a batch of 0. */
static bool within_batch(const struct percpu_counter *counter, uint64_t unflushed)
{
    uint64_t margin = counter_load(&counter->margin);
    return unflushed + margin <= 2 * margin;
}

/*
 * How many flushes of this thread are between their two steps. A signal handler may come there,
 * flush too, fork, and go on in the child: it must leave the mending to what comes after the flush
 * that it interrupted, which goes on in the child as well.
 */
static __thread volatile unsigned flushing __attribute__((tls_model("initial-exec")));

/*
 * Whoever moves `flushed` from f to c owes `total` c - f. The count that was read may be out of
 * date by the time of the swap, so look again until the slot is within a batch. Returns whether it
 * moved `flushed`: then the slot must be looked at once more, see below.
 */
static bool flush_slot(struct percpu_counter *counter, struct percpu_counter_slot *slot)
{
    for (bool moved = false;;) {
        uint64_t flushed = counter_load(&slot->flushed);
        uint64_t count = __atomic_load_n(&slot->count, __ATOMIC_SEQ_CST);
        if (within_batch(counter, count - flushed))
            return moved;
        flushing++;
        if (__atomic_compare_exchange_n(&slot->flushed, &flushed, count, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&counter->total, count - flushed, __ATOMIC_RELAXED);
            moved = true;
        }
        flushing--;
    }
}

/*
 * An add stores `count` and then loads `flushed`; we have stored `flushed` and then load `count`.
 * If it runs on another CPU meanwhile, both loads may come before the other's store. Then it found
 * itself within a batch of the old `flushed`, we found the old count within one of the new, and
 * nobody flushes. The fence comes between our two and, on every CPU, before or after its two. (In
 * mode none all four are sequentially consistent instead: see apply_u<W>() in slow.c.)
 */
void percpu_counter_fence(struct percpu_counter *counter)
{
    int error = errno;
    if (percpu_rseq_fence(-1) != 0)
        counter_meet(counter);
    errno = error;
}

void percpu_counter_flush_all(struct percpu_counter *counter)
{
    percpu_ptr slots = counter_slots(counter);
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned cpu = 0; cpu < counter_copies(counter, slots); cpu++)
            moved |= flush_slot(counter, counter_slot(slots, cpu));
        if (moved)
            percpu_counter_fence(counter);
    }
}

/* See the top. Returns whether `total` may be used now. */
static PERCPU_COLD bool mend(struct percpu_counter *counter, uint32_t mended)
{
    /* Sequentially consistent, as is the mender's store below: either we see that it has finished,
     * or it sees the count that brought us here when it looks at every slot again. */
    uint32_t seen = __atomic_fetch_add(&counter->generation, 0, __ATOMIC_SEQ_CST);
    uint32_t mending = mended + 1;
    if (seen == mended)
        return true;
    if (flushing > 0 || seen == mending ||
        !__atomic_compare_exchange_n(&counter->generation, &seen, mending, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return false;
    uint64_t total = 0;
    percpu_ptr slots = counter_slots(counter);
    for (unsigned cpu = 0; cpu < counter_copies(counter, slots); cpu++) {
        struct percpu_counter_slot *slot = counter_slot(slots, cpu);
        uint64_t count = counter_load(&slot->count);
        __atomic_store_n(&slot->flushed, count, __ATOMIC_SEQ_CST); /* as in flush_slot() */
        total += count;
    }
    __atomic_store_n(&counter->total, total, __ATOMIC_RELAXED);
    /* Release: pairs with the acquire in percpu_counter_usable(). */
    __atomic_exchange_n(&counter->generation, mended, __ATOMIC_SEQ_CST);
    percpu_counter_fence(counter);
    percpu_counter_flush_all(counter);
    return true;
}

bool percpu_counter_usable(struct percpu_counter *counter)
{
    uint32_t mended = 2 * __atomic_load_n(&percpu_fork_generation, __ATOMIC_RELAXED);
    return percpu_likely(__atomic_load_n(&counter->generation, __ATOMIC_ACQUIRE) == mended) ||
           mend(counter, mended);
}

void percpu_counter_flush(struct percpu_counter *counter, struct percpu_counter_slot *slot)
{
    if (!percpu_counter_usable(counter))
        return;
    /* Mostly we still are where we added. Other adds there were before us, and we see them, or come
     * after us, and see what we did. */
    while (flush_slot(counter, slot))
        if (percpu_this_copy(counter_slots(counter)) != slot)
            percpu_counter_fence(counter);
    percpu_counter_adjust(counter);
}

void percpu_counter_add_slow(struct percpu_counter *counter, uint64_t n)
{
    struct percpu_op op = {.code = PERCPU_OP_ADD, .width = 8, .p = counter_slots(counter), .x = n};
    percpu_slow(&op);
    struct percpu_counter_slot *slot = op.copy;
    if (counter->error > 0) /* no section: pairs with the one in error.c */
        counter_meet(counter);
    uint64_t flushed = __atomic_load_n(&slot->flushed, __ATOMIC_SEQ_CST);
    if (!within_batch(counter, op.old + n - flushed))
        percpu_counter_flush(counter, slot);
}

const char *percpu_counter_check(struct percpu_counter *counter)
{
    if (!percpu_counter_usable(counter))
        return "the total is being mended after a fork";
    uint64_t flushed = 0;
    percpu_ptr slots = counter_slots(counter);
    for (unsigned cpu = 0; cpu < counter_copies(counter, slots); cpu++) {
        const struct percpu_counter_slot *slot = counter_slot(slots, cpu);
        if (!within_batch(counter, counter_load(&slot->count) - counter_load(&slot->flushed)))
            return "a CPU has a batch or more that it did not flush";
        flushed += counter_load(&slot->flushed);
    }
    if (flushed != counter_load(&counter->total))
        return "the total is not the sum of what the CPUs flushed";
    if (counter->remote_adds > 0 && counter->owner == 0)
        return "a thread added beside an owner that does not exist";
    return NULL;
}
