/* SPDX-License-Identifier: MIT */
/* pool_robust.h - for the tests of robust pools: reports are kept and compared, and scenarios, each
 * of which makes the pool find one thing, are run with everybody who can be told. */
#ifndef PERCPU_TESTS_POOL_ROBUST_H
#define PERCPU_TESTS_POOL_ROBUST_H

#include "pool_tools.h"

enum { SIZE = 40, LEAST = 4 }; /* LEAST: copies */

static struct percpu_report seen; /* the last report */
static unsigned reports;
static const uint64_t poison = 0x1122334455667788;

static inline void tell(const struct percpu_report *report)
{
    seen = *report;
    reports++;
}

static inline void tell_pool(void *priv, const struct percpu_report *report)
{
    CHECK(priv == &seen);
    tell(report);
}

static inline struct percpu_pool *robust_pool(struct percpu_pool_attr attr)
{
    attr.item_size = SIZE;
    attr.robust = true;
    /* More items than a cache is filled with; fewer, where the kernel is asked for each. */
    attr.stride = (attr.cpus >= MORE ? 1 : 2) * (size_t)sysconf(_SC_PAGESIZE);
    attr.name = "robust one";
    return make_pool(attr);
}

static inline unsigned last_copy(struct percpu_pool *pool)
{
    return geometry_of(pool).cpus - 1;
}

static inline unsigned char *copy_of(struct percpu_pool *pool, void *item, unsigned cpu)
{
    return (unsigned char *)item + cpu * geometry_of(pool).stride;
}

static inline void expect(enum percpu_finding finding, struct percpu_pool *pool, const void *item)
{
    CHECK_CASE(seen.finding == finding, "%s instead of %s: %s", percpu_finding_name(seen.finding),
               percpu_finding_name(finding), seen.detail);
    CHECK(seen.pool == pool && seen.item == item && strlen(seen.detail) > 10);
    char text[512];
    CHECK(percpu_report_format(&seen, text, sizeof text) == (int)strlen(text));
    CHECK(strstr(text, percpu_finding_name(finding)) && strstr(text, seen.detail));
    CHECK(strstr(text, "\"robust one\"") && text[strlen(text) - 1] == '\n');
    CHECK(percpu_report_format(&seen, text, 10) > 10 && strlen(text) == 9);
}

static inline void expect_byte(unsigned cpu, size_t offset, unsigned expected, unsigned found)
{
    CHECK_CASE(seen.cpu == (int)cpu && seen.offset == offset, "CPU %d, offset %zu", seen.cpu,
               seen.offset);
    CHECK_CASE(seen.expected == expected && seen.found == found, "%#x, %#x", seen.expected,
               seen.found);
}

__attribute__((noinline, unused)) static void *allocate_here(struct percpu_pool *pool)
{
    void *volatile item = percpu_pool_zalloc(pool);
    CHECK(item != NULL);
    return item;
}

__attribute__((noinline, unused)) static void *allocate_there(struct percpu_pool *pool)
{
    void *volatile item = percpu_pool_alloc(pool);
    CHECK(item != NULL);
    return item;
}

static inline bool is_in(const void *site, void *(*function)(struct percpu_pool *))
{
    return (uintptr_t)site - (uintptr_t)function < 4096;
}

/* ---- scenarios ---------------------------------------------------------------------------- */

/* `act` makes one finding, and sets `reports` to 1 if it made it several times. */
struct scenario {
    const char *name;
    enum percpu_finding finding;
    void (*act)(struct percpu_pool *pool);
    bool leaks; /* leaves items handed out */
};

/* The pool goes on: what it hands out is whole, and no item twice. */
static inline void check_goes_on(struct percpu_pool *pool)
{
    enum { ITEMS = 300 };
    unsigned char *items[ITEMS];
    unsigned count = geometry_of(pool).cpus < MORE ? ITEMS : ITEMS / 10;
    unsigned before = reports;
    for (unsigned i = 0; i < count; i++) {
        CHECK((items[i] = percpu_pool_alloc_init(pool, &i, sizeof i)) != NULL);
        CHECK(wrong_copy(pool, items[i], &i, sizeof i) == -1);
    }
    for (unsigned i = 0; i < count; i++) {
        CHECK(memcmp(items[i], &i, sizeof i) == 0);
        percpu_pool_free(pool, items[i]);
    }
    CHECK(reports == before);
}

static inline void test_scenario(const struct scenario *scenario, struct percpu_pool_attr attr,
                                 bool hook)
{
    reports = 0;
    attr.report = hook ? NULL : tell_pool;
    attr.priv = &seen;
    CHECK(percpu_set_report_hook(hook ? tell : NULL) == NULL);
    struct percpu_pool *pool = robust_pool(attr);
    scenario->act(pool);
    CHECK_CASE(reports == 1, "%s: %u reports", scenario->name, reports);
    CHECK(seen.finding == scenario->finding);
    CHECK(strcmp(percpu_finding_name(seen.finding), scenario->name) == 0);
    check_goes_on(pool);
    if (!scenario->leaks) {
        check_pool(pool);
        CHECK(reports == 1);
    }
    percpu_pool_destroy(pool);
    CHECK(reports == 1 || scenario->leaks);
    CHECK(percpu_set_report_hook(NULL) == (hook ? tell : NULL));
}

/* By default: one line on stderr, and the end. */
static inline void test_default(const struct scenario *scenario, struct percpu_pool_attr attr)
{
    int ends[2];
    char text[1024] = "";
    CHECK(pipe(ends) == 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        reports = 0;
        CHECK(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
        scenario->act(robust_pool(attr));
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    close(ends[0]);
    int status = status_of(pid);
    CHECK_CASE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: %#x", scenario->name,
               (unsigned)status);
    CHECK_CASE(strncmp(text, "percpu: ", 8) == 0 && strstr(text, scenario->name) != NULL &&
                   strstr(text, "robust one") != NULL && strchr(text, '\n') != NULL,
               "%s", text);
}

static inline void test_scenarios(const struct scenario *scenarios, unsigned count,
                                  struct percpu_pool_attr attr)
{
    for (unsigned i = 0; i < count; i++) {
        bool many = attr.cpus >= MORE;
        if (!many || i % 2 == 0)
            test_scenario(&scenarios[i], attr, false);
        if (!many || i % 2 == 1)
            test_scenario(&scenarios[i], attr, true);
        if (!many)
            test_default(&scenarios[i], attr);
    }
}

/* Both populations, with and without poison, few copies and many. */
static inline struct percpu_pool_attr robust_kind(unsigned kind)
{
    return (struct percpu_pool_attr){
        .populate = kind & 1 ? PERCPU_POPULATE_INIT : PERCPU_POPULATE_ZERO,
        .poison_set = kind & 2,
        .poison = kind & 2 ? poison : 0,
        .cpus = (kind & 4 ? MORE : LEAST) + percpu_nr_cpus(),
    };
}

#endif
