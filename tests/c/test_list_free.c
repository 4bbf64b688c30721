/* SPDX-License-Identifier: MIT */
/*
 * test_list_free.c - a node that was popped, alone or with all others, can be freed at once: no
 * pop that is under way elsewhere reads it. The address sanitizer says so if one does.
 */
#define _GNU_SOURCE
#include <percpu/percpu.h>

#include "threads.h"

enum { WORKERS = 6 };

/* `handed` tells the sanitizer what the list's commit tells the CPU. */
struct node {
    struct percpu_list_node link;
    atomic_uint handed;
};

static percpu_ptr list;
static atomic_ullong freed;

static void forget(struct percpu_list_node *node)
{
    while (node != NULL) {
        CHECK(atomic_load_explicit(&((struct node *)node)->handed, memory_order_acquire) == 1);
        struct percpu_list_node *next = node->next;
        free(node);
        atomic_fetch_add_explicit(&freed, 1, memory_order_relaxed);
        node = next;
    }
}

static void worker(struct worker *worker)
{
    uint64_t random = worker->id + 1;
    while (!stopping()) {
        for (unsigned i = 0; i < 8; i++) {
            struct node *node = malloc(sizeof *node);
            CHECK(node != NULL);
            atomic_store_explicit(&node->handed, 1, memory_order_release);
            percpu_list_push(list, &node->link);
            worker->done++;
        }
        uint64_t choice = random_next(&random);
        if (choice % 8 == 0) {
            forget(percpu_list_pop_all_of(list, (unsigned)(choice >> 32) % percpu_nr_cpus()));
        } else if (choice % 8 < 4) {
            forget(percpu_list_pop_all(list));
        } else {
            for (unsigned i = 0; i < 6; i++) {
                struct percpu_list_node *node = percpu_list_pop(list);
                if (node != NULL) {
                    CHECK(atomic_load_explicit(&((struct node *)node)->handed,
                                               memory_order_acquire) == 1);
                    node->next = NULL;
                }
                forget(node);
            }
        }
    }
}

/* Mode none: taking all waits for a pop under way, whose lock percpu_exclude_fork() holds here. */
static atomic_bool go, taken;

static void *take_all(void *unused)
{
    while (!atomic_load(&go))
        sched_yield();
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        forget(percpu_list_pop_all_of(list, cpu));
    atomic_store(&taken, true);
    return unused;
}

static void look_at_the_list(void *there)
{
    atomic_store(&go, true);
    sleep_ms(30);
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        if (percpu_cpu_read_u64(list, cpu) != 0)
            *(bool *)there = true;
}

static void test_taking_all_waits_for_a_pop(void)
{
    pthread_t thread;
    bool there = false;
    struct node *node = malloc(sizeof *node);
    CHECK(node != NULL);
    atomic_store_explicit(&node->handed, 1, memory_order_release);
    percpu_list_push(list, &node->link);
    CHECK(pthread_create(&thread, NULL, take_all, NULL) == 0);
    percpu_exclude_fork(look_at_the_list, &there);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(there && taken && freed == 1);
    freed = 0;
}

int main(void)
{
    static void (*const bodies[])(struct worker *) = {worker};
    deadline(60);
    struct percpu_pool *pool = percpu_pool_shared(8);
    CHECK(pool != NULL);
    void *item = percpu_pool_zalloc(pool);
    CHECK(item != NULL);
    list = percpu_pool_ptr(pool, item);
    if (percpu_rseq_info()->mode == PERCPU_MODE_NONE)
        test_taking_all_waits_for_a_pop();
    uint64_t pushed = run_workers(WORKERS, bodies, 1, 0, 300);
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        forget(percpu_list_pop_all_of(list, cpu));
    CHECK(freed == pushed);
    percpu_pool_free(pool, item);
    return 0;
}
