/* SPDX-License-Identifier: MIT */
/* report.c - telling somebody about a finding: see percpu/report.h. */
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

static percpu_report_hook *hook;
static _Thread_local struct percpu_report *catching;

percpu_report_hook *percpu_set_report_hook(percpu_report_hook *new_hook)
{
    return __atomic_exchange_n(&hook, new_hook, __ATOMIC_ACQ_REL);
}

const char *percpu_finding_name(enum percpu_finding finding)
{
    static const char *const names[] = {
        [PERCPU_NO_FINDING] = "no finding",
        [PERCPU_DOUBLE_FREE] = "double free",
        [PERCPU_FOREIGN_FREE] = "foreign free",
        [PERCPU_INTERIOR_FREE] = "interior free",
        [PERCPU_WRONG_POOL] = "wrong pool",
        [PERCPU_USE_AFTER_FREE] = "use after free",
        [PERCPU_OVERFLOW] = "overflow",
        [PERCPU_BAD_FREE_LIST] = "bad free list",
        [PERCPU_LEAK] = "leak",
        [PERCPU_NOT_CONSTRUCTED] = "not constructed",
    };
    return (size_t)finding < sizeof names / sizeof names[0] ? names[finding] : "unknown finding";
}

int percpu_report_format(const struct percpu_report *report, char *text, size_t size)
{
    char byte[80] = "", count[40] = "", site[40] = "";
    if (report->cpu >= 0)
        snprintf(byte, sizeof byte, ", CPU %d, offset %zu: 0x%02x instead of 0x%02x", report->cpu,
                 report->offset, report->found, report->expected);
    if (report->finding == PERCPU_INTERIOR_FREE)
        snprintf(byte, sizeof byte, ", offset %zu", report->offset);
    if (report->count > 0)
        snprintf(count, sizeof count, ", %zu items", report->count);
    if (report->site != NULL)
        snprintf(site, sizeof site, ", allocated at %p", report->site);
    return snprintf(text, size, "percpu: %s in pool \"%s\" (%p): item %p%s%s%s: %s\n",
                    percpu_finding_name(report->finding), percpu_pool_name(report->pool),
                    (const void *)report->pool, report->item, byte, count, site, report->detail);
}

static void print_and_abort(const struct percpu_report *report)
{
    char text[512];
    percpu_report_format(report, text, sizeof text);
    fputs(text, stderr);
    abort();
}

void percpu_report_catch(struct percpu_report *report)
{
    catching = report;
}

void percpu_report(const struct percpu_pool *pool, struct percpu_report *report)
{
    report->pool = pool;
    if (catching != NULL) {
        if (catching->finding == PERCPU_NO_FINDING)
            *catching = *report;
        return;
    }
    percpu_report_hook *ours = __atomic_load_n(&hook, __ATOMIC_ACQUIRE);
    if (pool->report != NULL)
        pool->report(pool->priv, report);
    else if (ours != NULL)
        ours(report);
    else
        print_and_abort(report);
}
