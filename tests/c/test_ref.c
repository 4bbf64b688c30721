/* SPDX-License-Identifier: MIT */
/*
 * test_ref.c - percpu_ref in one thread: against a model, on known CPUs, by every path; each errno;
 * a child's ref after fork().
 *
 * A word that is counted in after kill(), a late get that resurrect() forgets, or a release() too
 * many shows as a count that differs from the model's.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <percpu/percpu.h>

#include "threads.h"

static struct percpu_ref ref;
static unsigned released, confirmed;

static void release(struct percpu_ref *which, void *priv)
{
    CHECK(which == &ref && priv == &released);
    CHECK(percpu_ref_is_zero(which) && percpu_ref_is_dying(which));
    released++;
}

static void begin(struct percpu_pool *pool)
{
    released = confirmed = 0;
    CHECK(percpu_ref_init(&ref, pool, release, &released) == 0);
    CHECK(percpu_ref_count(&ref) == 1 && percpu_ref_check(&ref) == NULL);
}

static void end(void)
{
    CHECK(percpu_ref_check(&ref) == NULL);
    percpu_ref_exit(&ref);
}

/* ---- the life of a ref ------------------------------------------------------------------ */

static void test_life(void)
{
    begin(NULL);
    CHECK(percpu_ref_get(&ref) == 0 && percpu_ref_get_many(&ref, 3) == 0);
    CHECK(percpu_ref_put(&ref) == 0 && percpu_ref_count(&ref) == 4);
    CHECK(percpu_ref_tryget(&ref) && percpu_ref_tryget_live(&ref));
    CHECK(!percpu_ref_is_dying(&ref) && !percpu_ref_is_zero(&ref));
    CHECK(percpu_ref_kill(&ref) == 0);
    CHECK(percpu_ref_is_dying(&ref) && !percpu_ref_is_zero(&ref) && percpu_ref_count(&ref) == 5);
    CHECK(!percpu_ref_tryget_live(&ref) && percpu_ref_tryget(&ref) && percpu_ref_get(&ref) == 0);
    CHECK(percpu_ref_count(&ref) == 7 && released == 0);
    CHECK(percpu_ref_put_many(&ref, 6) == 0 && released == 0 && percpu_ref_check(&ref) == NULL);
    CHECK(percpu_ref_put(&ref) == 0 && released == 1 && percpu_ref_is_zero(&ref));
    CHECK(!percpu_ref_tryget(&ref) && !percpu_ref_tryget_live(&ref));
    end();
}

static void test_kill_releases_what_nobody_holds(void)
{
    begin(NULL);
    CHECK(percpu_ref_kill(&ref) == 0 && released == 1 && percpu_ref_is_zero(&ref));
    CHECK(percpu_ref_reinit(&ref) == 0 && percpu_ref_count(&ref) == 1);
    CHECK(percpu_ref_tryget_live(&ref) && percpu_ref_put(&ref) == 0);
    CHECK(percpu_ref_kill(&ref) == 0 && released == 2);
    end();
}

static void confirm(struct percpu_ref *which, void *argument)
{
    CHECK(which == &ref && argument == &confirmed && released == 0);
    CHECK(percpu_ref_is_dying(which) && !percpu_ref_tryget_live(which));
    CHECK(percpu_ref_check(which) == NULL);
    confirmed++;
}

static void confirm_and_resurrect(struct percpu_ref *which, void *argument)
{
    confirm(which, argument);
    CHECK(percpu_ref_resurrect(which) == 0);
    CHECK(percpu_ref_count(which) == 2); /* the new initial reference, and the old one */
}

static void test_confirm(void)
{
    begin(NULL);
    CHECK(percpu_ref_kill_and_confirm(&ref, confirm, &confirmed) == 0);
    CHECK(confirmed == 1 && released == 1);
    CHECK(percpu_ref_reinit(&ref) == 0);
    released = 0;
    CHECK(percpu_ref_kill_and_confirm(&ref, confirm_and_resurrect, &confirmed) == 0);
    CHECK(confirmed == 2 && released == 0);
    CHECK(!percpu_ref_is_dying(&ref) && percpu_ref_count(&ref) == 1);
    CHECK(percpu_ref_kill(&ref) == 0 && released == 1);
    end();
}

/* ---- what is refused -------------------------------------------------------------------- */

#define CHECK_ERROR(call, error)                                                                   \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((call) == -1);                                                                       \
        CHECK(errno == (error));                                                                   \
    } while (0)

static void test_errors(void)
{
    struct percpu_pool *small = percpu_pool_create(&(struct percpu_pool_attr){.item_size = 4});
    struct percpu_pool *global = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 8, .global = true});
    struct percpu_pool *full = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 4096, .stride = 4096, .max_ranges = 1});
    CHECK(small != NULL && global != NULL && full != NULL);
    CHECK_ERROR(percpu_ref_init(&ref, NULL, NULL, NULL), EINVAL);
    CHECK_ERROR(percpu_ref_init(&ref, small, release, NULL), EINVAL);
    CHECK_ERROR(percpu_ref_init(&ref, global, release, NULL), EINVAL);
    CHECK(percpu_pool_alloc(full) != NULL);
    CHECK_ERROR(percpu_ref_init(&ref, full, release, NULL), ENOMEM);
    percpu_pool_destroy(small);
    percpu_pool_destroy(global);
    percpu_pool_destroy(full);

    begin(NULL);
    CHECK_ERROR(percpu_ref_resurrect(&ref), EALREADY);
    CHECK_ERROR(percpu_ref_reinit(&ref), EALREADY);
    CHECK(percpu_ref_get_many(&ref, 2) == 0 && percpu_ref_kill(&ref) == 0);
    CHECK_ERROR(percpu_ref_kill(&ref), EALREADY);
    CHECK_ERROR(percpu_ref_kill_and_confirm(&ref, confirm, &confirmed), EALREADY);
    CHECK_ERROR(percpu_ref_reinit(&ref), EBUSY);
    CHECK_ERROR(percpu_ref_put_many(&ref, 3), ERANGE);
    CHECK(percpu_ref_count(&ref) == 2 && released == 0);
    CHECK(percpu_ref_put_many(&ref, 2) == 0 && released == 1);
    CHECK_ERROR(percpu_ref_put(&ref), ERANGE);
    CHECK_ERROR(percpu_ref_get(&ref), ESTALE);
    CHECK_ERROR(percpu_ref_resurrect(&ref), ESTALE);
    CHECK(percpu_ref_put_many(&ref, 0) == 0 && released == 1 && confirmed == 0);
    end();
}

/* A live ref cannot tell; kill() does, and leaves everything as it was. */
static void test_more_puts_than_gets(void)
{
    begin(NULL);
    CHECK(percpu_ref_put_many(&ref, 3) == 0);
    CHECK(percpu_ref_count(&ref) == -2 && percpu_ref_check(&ref) != NULL);
    CHECK_ERROR(percpu_ref_kill(&ref), ERANGE);
    CHECK_ERROR(percpu_ref_kill_and_confirm(&ref, confirm, &confirmed), ERANGE);
    CHECK(!percpu_ref_is_dying(&ref) && percpu_ref_count(&ref) == -2 && released == 0);
    CHECK(percpu_ref_tryget_live(&ref) && percpu_ref_get_many(&ref, 2) == 0);
    CHECK(percpu_ref_count(&ref) == 1 && percpu_ref_kill(&ref) == 0 && released == 1);
    CHECK(confirmed == 0);
    end();
}

static void drop_the_initial_one(struct percpu_ref *which, void *argument)
{
    (void)argument;
    CHECK(percpu_ref_put(which) == 0 && released == 1);
}

static void test_a_confirm_that_drops_what_is_not_its_own(void)
{
    begin(NULL);
    CHECK_ERROR(percpu_ref_kill_and_confirm(&ref, drop_the_initial_one, NULL), ERANGE);
    CHECK(released == 1 && percpu_ref_is_zero(&ref));
    end();
}

/* Words and the shared count keep away from the values that mean something else. */
static void test_counts_beyond_the_ranges(void)
{
    begin(NULL);
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        *(uint64_t *)percpu_ptr_cpu(ref.words, cpu) = (UINT64_C(1) << 62) - 1;
    CHECK(percpu_ref_get(&ref) == 0);           /* the last that a word counts */
    CHECK_ERROR(percpu_ref_kill(&ref), ERANGE); /* 2^61 references and more */
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        *(uint64_t *)percpu_ptr_cpu(ref.words, cpu) = UINT64_C(1) << 62;
    uint64_t before = ref.count = UINT64_C(1) << 62;
    CHECK(percpu_ref_get_many(&ref, 5) == 0 && ref.count == before + 5);
    CHECK(percpu_ref_put_many(&ref, 2) == 0 && ref.count == before + 3);
    ref.count = (UINT64_C(1) << 63) - 1;
    CHECK_ERROR(percpu_ref_get(&ref), EOVERFLOW);
    CHECK(!percpu_ref_tryget(&ref) && !percpu_ref_tryget_live(&ref));
    ref.count = UINT64_C(1) << 61;
    CHECK_ERROR(percpu_ref_put(&ref), ERANGE);
    for (unsigned cpu = 0; cpu < percpu_nr_cpus(); cpu++)
        *(uint64_t *)percpu_ptr_cpu(ref.words, cpu) = 0;
    ref.count = (UINT64_C(1) << 62) + (UINT64_C(1) << 61); /* one too many */
    CHECK_ERROR(percpu_ref_kill(&ref), ERANGE);
    ref.count--;
    CHECK(percpu_ref_kill(&ref) == 0 && percpu_ref_get(&ref) == 0);
    CHECK_ERROR(percpu_ref_get(&ref), EOVERFLOW);
    CHECK(!percpu_ref_tryget(&ref) && released == 0);
    end();
}

/* ---- against a model -------------------------------------------------------------------- */

struct model {
    int64_t count;
    bool live;
    unsigned released;
};

static void model_drop(struct model *model, int64_t n)
{
    model->count -= n;
    if (!model->live && model->count == 0)
        model->released++;
}

static void step(struct model *model, uint64_t random)
{
    uint32_t n = (uint32_t)(random >> 8) % 5;
    bool there = model->live || model->count > 0;
    switch (random % 8) {
    case 0:
    case 1:
        CHECK((percpu_ref_get_many(&ref, n) == 0) == (there || n == 0));
        model->count += there ? n : 0;
        break;
    case 2:
    case 3:
        if (model->live ? model->count - n < 1 : model->count < n) /* not ours to put */
            break;
        CHECK(percpu_ref_put_many(&ref, n) == 0);
        if (n > 0)
            model_drop(model, n);
        break;
    case 4:
        CHECK(percpu_ref_tryget(&ref) == there);
        model->count += there;
        break;
    case 5:
        CHECK(percpu_ref_tryget_live(&ref) == model->live);
        model->count += model->live;
        break;
    case 6:
        CHECK((percpu_ref_kill(&ref) == 0) == model->live);
        if (model->live) {
            model->live = false;
            model_drop(model, 1);
        }
        break;
    default:
        CHECK((percpu_ref_resurrect(&ref) == 0) == (!model->live && model->count > 0));
        CHECK((percpu_ref_reinit(&ref) == 0) == (!model->live && model->count == 0));
        model->count += !model->live;
        model->live = true;
    }
    CHECK(percpu_ref_check(&ref) == NULL);
    CHECK(percpu_ref_count(&ref) == model->count && released == model->released);
    CHECK(percpu_ref_is_dying(&ref) == !model->live);
    CHECK(percpu_ref_is_zero(&ref) == (!model->live && model->count == 0));
}

static void test_model(enum percpu_index index, unsigned attempts)
{
    struct percpu_pool *pool = percpu_pool_create(
        &(struct percpu_pool_attr){.item_size = 24, .index = index});
    uint64_t random = index + 1;
    struct model model = {.count = 1, .live = true};
    CHECK(pool != NULL);
    unsigned former = percpu_set_max_attempts(attempts);
    begin(pool);
    for (long i = effort(20000); i > 0; i--) {
        uint64_t number = random_next(&random);
        if (number >> 60 == 0)
            (void)pin((unsigned)(number >> 32) % percpu_nr_cpus());
        step(&model, number);
    }
    percpu_set_max_attempts(former);
    end();
    percpu_pool_destroy(pool);
}

/* ---- fork ------------------------------------------------------------------------------- */

static void test_a_child_has_a_count_of_its_own(void)
{
    begin(NULL);
    CHECK(percpu_ref_get_many(&ref, 2) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        deadline(20);
        CHECK(percpu_ref_count(&ref) == 3 && percpu_ref_check(&ref) == NULL);
        CHECK(percpu_ref_kill(&ref) == 0 && percpu_ref_put(&ref) == 0 && released == 0);
        CHECK(percpu_ref_resurrect(&ref) == 0 && percpu_ref_kill(&ref) == 0);
        CHECK(percpu_ref_put(&ref) == 0 && released == 1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(percpu_ref_count(&ref) == 3 && !percpu_ref_is_dying(&ref) && released == 0);
    end();
}

int main(void)
{
    static const enum percpu_index indexes[] = {PERCPU_INDEX_CPU, PERCPU_INDEX_CID};
    deadline(100);
    for (unsigned attempts = 0; attempts <= 100; attempts += 100) {
        unsigned former = percpu_set_max_attempts(attempts);
        test_life();
        test_kill_releases_what_nobody_holds();
        test_confirm();
        test_errors();
        test_more_puts_than_gets();
        test_a_confirm_that_drops_what_is_not_its_own();
        test_counts_beyond_the_ranges();
        test_a_child_has_a_count_of_its_own();
        percpu_set_max_attempts(former);
        for (size_t i = 0; i < 2; i++)
            if (percpu_index_check(indexes[i]) == 0)
                test_model(indexes[i], attempts);
    }
    return 0;
}
