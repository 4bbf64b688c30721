/* SPDX-License-Identifier: MIT */
/*
 * rseq/mempool.h - librseq's memory pools, made of ours: for C programs that were written for
 * librseq's <rseq/mempool.h>.
 *
 * Put this header's directory, percpu/compat, on the include path before librseq's, and link
 * libpercpu instead of librseq (or before it, if the program also calls other parts of librseq).
 * `python -m percpu config` prints both. Nothing else of librseq is here: its <rseq/rseq.h> goes
 * on working beside this header. C++ is not supported, and stops at an #error.
 *
 * Names, types and values are librseq's, and so is what they mean. What differs:
 *   - pools can be used, not only destroyed, in the child of a fork(), whatever their policy;
 *   - after malloc_init the rest of the item is zeros; a pool set copies the bytes too;
 *   - NULL may be freed; a stride is at most 1 GiB, and a pool has at most 8192 CPUs;
 *   - where the process has no descriptor left a pool of COW_INIT says EMFILE or ENFILE, not ENOMEM.
 *
 * percpu_pool_of() is our pool that an item is from.
 */
#ifndef PERCPU_COMPAT_RSEQ_MEMPOOL_H
#define PERCPU_COMPAT_RSEQ_MEMPOOL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "../../platform.h"

/* librseq's mempool.h brings its compiler.h along, so programs have these macros from it. */
#if __has_include(<rseq/compiler.h>)
#include <rseq/compiler.h>
#else
#define rseq_likely(x) __builtin_expect(!!(x), 1)
#define rseq_unlikely(x) __builtin_expect(!!(x), 0)
#define rseq_barrier() __asm__ __volatile__("" ::: "memory")
#define RSEQ_ACCESS_ONCE(x) (*(__volatile__ __typeof__(x) *)&(x))
#define RSEQ_READ_ONCE(x) RSEQ_ACCESS_ONCE(x)
#define RSEQ_WRITE_ONCE(x, value) (RSEQ_ACCESS_ONCE(x) = (value))
#define RSEQ_BITS_PER_LONG (__SIZEOF_LONG__ * 8)
#endif

/* What a pool's stride is if nobody says otherwise. Each stride that is given to a pool must be
 * given again to rseq_percpu_ptr() and to free. */
#define RSEQ_MEMPOOL_STRIDE (1U << 16)

/* Marks the address of a per-CPU item, which is that of CPU 0's copy, for tools and readers. */
#ifndef __rseq_percpu
#define __rseq_percpu
#endif

struct rseq_mempool;
struct rseq_mempool_attr;
struct rseq_mempool_set;

/* attributes --------------------------------------------------------------------------------- */

/* Defaults for everything: a per-CPU pool for all possible CPUs. NULL with errno ENOMEM. The caller
 * owns it; pools keep nothing of it. */
PERCPU_API struct rseq_mempool_attr *rseq_mempool_attr_create(void);
PERCPU_API void rseq_mempool_attr_destroy(struct rseq_mempool_attr *attr);

/* All of these return 0; -1 with errno EINVAL if `attr` is NULL. */

/* Run `init_func` for each CPU's `len` bytes of new memory; `cpu` is -1 in a global pool. If it
 * returns anything but 0 there is no memory, and whoever needed it gets errno ENOMEM. Also sets the
 * populate policy to COW_INIT. EINVAL if `init_func` is NULL. */
PERCPU_API int rseq_mempool_attr_set_init(struct rseq_mempool_attr *attr,
                                          int (*init_func)(void *priv, void *addr, size_t len,
                                                           int cpu),
                                          void *init_priv);

/* Look for double frees, other bad frees, writes after free and leaks, and abort: see
 * percpu/report.h, whose hook can be set for other consequences. */
PERCPU_API int rseq_mempool_attr_set_robust(struct rseq_mempool_attr *attr);

/* Copies for CPUs 0 to max_nr_cpus - 1 (0: for every possible CPU), each `stride` bytes (0: the
 * default) from the one before. */
PERCPU_API int rseq_mempool_attr_set_percpu(struct rseq_mempool_attr *attr, size_t stride,
                                            int max_nr_cpus);

/* One copy, always populated by COW_ZERO. */
PERCPU_API int rseq_mempool_attr_set_global(struct rseq_mempool_attr *attr, size_t stride);

/* The pool never has more ranges of `stride` bytes per CPU; 0 for no limit. */
PERCPU_API int rseq_mempool_attr_set_max_nr_ranges(struct rseq_mempool_attr *attr,
                                                   unsigned long max_nr_ranges);

/* Overwrite freed items with `poison`. A robust pool does without being told: with 0x55 bytes in
 * COW_INIT, with zeros in COW_ZERO. */
PERCPU_API int rseq_mempool_attr_set_poison(struct rseq_mempool_attr *attr, uintptr_t poison);

/* Where pages come from that a CPU has not written yet: from one page of initial values for all
 * CPUs, or from the page of zeros. */
enum rseq_mempool_populate_policy {
    RSEQ_MEMPOOL_POPULATE_COW_INIT = 0,
    RSEQ_MEMPOOL_POPULATE_COW_ZERO = 1,
};
PERCPU_API int rseq_mempool_attr_set_populate_policy(struct rseq_mempool_attr *attr,
                                                     enum rseq_mempool_populate_policy policy);

/* pools -------------------------------------------------------------------------------------- */

/*
 * A pool of items of `item_len` bytes, rounded up to a power of two and to 8 at least. `pool_name`
 * (shown in /proc/PID/maps) and `attr` may be NULL. Returns NULL with errno EINVAL (a stride that is
 * no power of two, is below a page or holds no item; a negative or too large number of CPUs; an
 * unknown policy) or ENOMEM. Thread-safe, as is everything below.
 */
PERCPU_API struct rseq_mempool *rseq_mempool_create(const char *pool_name, size_t item_len,
                                                    const struct rseq_mempool_attr *attr);

/* Unmap the pool, with all its items. A robust pool is checked first. Returns 0. */
PERCPU_API int rseq_mempool_destroy(struct rseq_mempool *pool);

/* How many CPUs a per-CPU pool has copies for; -1 with errno EINVAL for NULL or a global pool. */
PERCPU_API int rseq_mempool_get_max_nr_cpus(struct rseq_mempool *mempool);

/*
 * An item, with whatever is in it, with zeros, or with each copy starting with the `init_len` bytes
 * at `init_ptr` (NULL: as malloc). NULL with errno ENOMEM, or EINVAL if `init_len` is larger than an
 * item.
 */
PERCPU_API void __rseq_percpu *rseq_mempool_percpu_malloc(struct rseq_mempool *pool);
PERCPU_API void __rseq_percpu *rseq_mempool_percpu_zmalloc(struct rseq_mempool *pool);
PERCPU_API void __rseq_percpu *rseq_mempool_percpu_malloc_init(struct rseq_mempool *pool,
                                                               void *init_ptr, size_t init_len);

/* Give an item back to the pool that it is from. */
PERCPU_API void librseq_mempool_percpu_free(void __rseq_percpu *ptr, size_t stride);

/* rseq_mempool_percpu_free(ptr) or (ptr, stride). */
#define rseq_mempool_percpu_free(...) PERCPU_COMPAT_FREE(__VA_ARGS__, RSEQ_MEMPOOL_STRIDE, 0)
#define PERCPU_COMPAT_FREE(ptr, stride, ...) librseq_mempool_percpu_free(ptr, stride)

/* CPU `cpu`'s copy, as the type of `ptr`: rseq_percpu_ptr(ptr, cpu) or (ptr, cpu, stride). */
#define rseq_percpu_ptr(...) PERCPU_COMPAT_COPY(__VA_ARGS__, RSEQ_MEMPOOL_STRIDE, 0)
#define PERCPU_COMPAT_COPY(ptr, cpu, stride, ...)                                                  \
    ((__typeof__(*(ptr)) *)((uintptr_t)(ptr) + (unsigned)(cpu) * (uintptr_t)(stride)))

/* The same for global pools, whose items are used as they are. */
static inline void *rseq_mempool_malloc(struct rseq_mempool *pool)
{
    return (void *)rseq_mempool_percpu_malloc(pool);
}

static inline void *rseq_mempool_zmalloc(struct rseq_mempool *pool)
{
    return (void *)rseq_mempool_percpu_zmalloc(pool);
}

static inline void *rseq_mempool_malloc_init(struct rseq_mempool *pool, void *init_ptr,
                                             size_t init_len)
{
    return (void *)rseq_mempool_percpu_malloc_init(pool, init_ptr, init_len);
}

/* rseq_mempool_free(ptr) or (ptr, stride). */
#define rseq_mempool_free(...) PERCPU_COMPAT_FREE_GLOBAL(__VA_ARGS__, RSEQ_MEMPOOL_STRIDE, 0)
#define PERCPU_COMPAT_FREE_GLOBAL(ptr, stride, ...)                                                \
    librseq_mempool_percpu_free((void __rseq_percpu *)(ptr), stride)

/*
 * For an init_func: move the pages that are there to the NUMA node of `cpu`; `numa_flags` are those
 * of move_pages(2): MPOL_MF_MOVE or MPOL_MF_MOVE_ALL. Pages that are not there yet come from the
 * node of the CPU that first writes them. Returns 0; -1 with errno ENOSYS (a kernel without NUMA),
 * EINVAL (no or other flags, no such CPU), or that of move_pages(2).
 */
PERCPU_API int rseq_mempool_range_init_numa(void *addr, size_t len, int cpu, int numa_flags);

/* sets --------------------------------------------------------------------------------------- */

/* An empty set; NULL with errno ENOMEM. Destroying it destroys its pools; returns 0. */
PERCPU_API struct rseq_mempool_set *rseq_mempool_set_create(void);
PERCPU_API int rseq_mempool_set_destroy(struct rseq_mempool_set *pool_set);

/* Hand `pool` over to the set. Returns 0; -1 with errno EBUSY if there is a pool of this (rounded)
 * item size. */
PERCPU_API int rseq_mempool_set_add_pool(struct rseq_mempool_set *pool_set,
                                         struct rseq_mempool *pool);

/* An item of at least `len` bytes, out of the pool with the smallest items that has one left. It is
 * freed with the stride of that pool. NULL with errno ENOMEM. */
PERCPU_API void __rseq_percpu *rseq_mempool_set_percpu_malloc(struct rseq_mempool_set *pool_set,
                                                              size_t len);
PERCPU_API void __rseq_percpu *rseq_mempool_set_percpu_zmalloc(struct rseq_mempool_set *pool_set,
                                                               size_t len);
PERCPU_API void __rseq_percpu *
rseq_mempool_set_percpu_malloc_init(struct rseq_mempool_set *pool_set, void *init_ptr, size_t len);

static inline void *rseq_mempool_set_malloc(struct rseq_mempool_set *pool_set, size_t len)
{
    return (void *)rseq_mempool_set_percpu_malloc(pool_set, len);
}

static inline void *rseq_mempool_set_zmalloc(struct rseq_mempool_set *pool_set, size_t len)
{
    return (void *)rseq_mempool_set_percpu_zmalloc(pool_set, len);
}

static inline void *rseq_mempool_set_malloc_init(struct rseq_mempool_set *pool_set, void *init_ptr,
                                                 size_t len)
{
    return (void *)rseq_mempool_set_percpu_malloc_init(pool_set, init_ptr, len);
}

#endif
