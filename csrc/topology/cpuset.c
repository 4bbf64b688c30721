/* SPDX-License-Identifier: MIT */
/*
 * cpuset.c - sets of CPU or node ids: the parser of the kernel's list format, and questions about
 * a set. Pure functions: no system call, no state.
 *
 *     list = [ item { "," item } ] [ "\n" ]        item = id [ "-" id ]        id = digit { digit }
 *
 * That is what the kernel prints. What it merely accepts as input (blanks, strides as in
 * "0-31:1/4", "all") is refused, so that a file which is not what we take it for is noticed.
 */
#include <errno.h>

#include <percpu/topology.h>

/* The text that is left to parse. */
struct cursor {
    const char *at;
    const char *end;
};

static bool take_char(struct cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

/* Stops counting at PERCPU_MAX_CPUS, so no number of digits overflows. */
static bool take_id(struct cursor *c, unsigned *id)
{
    const char *first = c->at;
    *id = 0;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        *id = *id * 10 + (unsigned)(*c->at - '0');
        if (*id > PERCPU_MAX_CPUS)
            *id = PERCPU_MAX_CPUS;
    }
    return c->at != first;
}

static bool take_item(struct cursor *c, unsigned *first, unsigned *last)
{
    if (!take_id(c, first))
        return false;
    *last = *first;
    if (take_char(c, '-') && !take_id(c, last))
        return false;
    return *first <= *last;
}

static int refuse(struct percpu_cpuset *set, int error)
{
    *set = (struct percpu_cpuset){{0}};
    errno = error;
    return -1;
}

int percpu_cpuset_parse(const char *text, size_t length, struct percpu_cpuset *set)
{
    struct cursor c = {text, text + length};
    bool in_range = true;

    *set = (struct percpu_cpuset){{0}};
    if (c.end > c.at && c.end[-1] == '\n')
        c.end--;
    if (c.at == c.end)
        return 0;
    do {
        unsigned first, last;
        if (!take_item(&c, &first, &last))
            return refuse(set, EINVAL);
        in_range = in_range && last < PERCPU_MAX_CPUS;
        for (unsigned id = first; id <= last && id < PERCPU_MAX_CPUS; id++)
            set->words[id / 64] |= UINT64_C(1) << id % 64;
    } while (take_char(&c, ','));
    if (c.at != c.end)
        return refuse(set, EINVAL);
    return in_range ? 0 : refuse(set, ERANGE);
}

unsigned percpu_cpuset_count(const struct percpu_cpuset *set)
{
    unsigned count = 0;
    for (unsigned i = 0; i < PERCPU_MAX_CPUS / 64; i++)
        count += (unsigned)__builtin_popcountll(set->words[i]);
    return count;
}

unsigned percpu_cpuset_limit(const struct percpu_cpuset *set)
{
    for (unsigned i = PERCPU_MAX_CPUS / 64; i-- > 0;) {
        if (set->words[i] != 0)
            return i * 64 + 64 - (unsigned)__builtin_clzll(set->words[i]);
    }
    return 0;
}
