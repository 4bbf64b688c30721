/* SPDX-License-Identifier: MIT */
/* test_cpuset.c - the parser of the kernel's lists over borders, garbage, random sets and bytes. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "cpusets.h"

static void test_lists(void)
{
    static const struct {
        const char *text;
        unsigned count, limit;
        int in, out; /* an id that is in the set, one that is not; -1: none to ask for */
    } lists[] = {
        {"", 0, 0, -1, 0},
        {"\n", 0, 0, -1, 0},
        {"0", 1, 1, 0, 1},
        {"0\n", 1, 1, 0, 1},
        {"0-3\n", 4, 4, 3, 4},
        {"3-3", 1, 4, 3, 2},
        {"0-3,8,64-127\n", 69, 128, 127, 63},
        {"63,64\n", 2, 65, 64, 62},
        {"8,0-1,4\n", 4, 9, 4, 2},     /* any order */
        {"0-5,3-8,8,8\n", 9, 9, 6, 9}, /* overlapping */
        {"8191\n", 1, 8192, 8191, 8190},
        {"0-8191", 8192, 8192, 4000, 8192},
        {"000000000000000000000000000000000000000007", 1, 8, 7, 0},
    };
    for (unsigned i = 0; i < COUNT(lists); i++) {
        struct percpu_cpuset set = set_of(lists[i].text);
        CHECK_CASE(percpu_cpuset_count(&set) == lists[i].count, "%s", lists[i].text);
        CHECK_CASE(percpu_cpuset_limit(&set) == lists[i].limit, "%s", lists[i].text);
        CHECK_CASE(lists[i].in < 0 || percpu_cpuset_has(&set, (unsigned)lists[i].in), "%s",
                   lists[i].text);
        CHECK_CASE(!percpu_cpuset_has(&set, (unsigned)lists[i].out), "%s", lists[i].text);
        CHECK(!percpu_cpuset_has(&set, PERCPU_MAX_CPUS) && !percpu_cpuset_has(&set, UINT32_MAX));
    }
}

static void refused(const char *text, size_t length, int error)
{
    static const struct percpu_cpuset empty;
    struct percpu_cpuset set;
    errno = 0;
    CHECK_CASE(percpu_cpuset_parse(text, length, dirty(&set)) == -1, "%.*s", (int)length, text);
    CHECK_CASE(errno == error, "%.*s: %s", (int)length, text, strerror(errno));
    CHECK_CASE(same(&set, &empty), "%.*s", (int)length, text);
}

static void test_garbage(void)
{
    static const char *const garbage[] = {
        "5-3",      "-",       "-1",         "1-",   "1--2",    "1-2-3",    ",",
        "1,",       ",1",      "1,,2",       "1,\n", "0-3\n\n", "\n0",      " 0",
        "0 ",       "0, 1",    "0\r\n",      "+1",   "0x1",     "1.5",      "all",
        "0-31:1/4", "0-3;5",   "(null)",     "\xff", "0-3\t",   "1e2",      "99999,x",
        "8192-9-1", "99999-3", "0-3,five\n", "-0",   "0-3\v4",  "\xd9\xa3", "8191-8190",
    };
    for (unsigned i = 0; i < COUNT(garbage); i++)
        refused(garbage[i], strlen(garbage[i]), EINVAL);
    refused("1\0002", 3, EINVAL); /* a NUL byte is no end */
    refused("1\0", 2, EINVAL);
}

static void test_huge_numbers(void)
{
    static const char *const huge[] = {
        "8192",
        "0-8192",
        "0,8192\n",
        "8192-8193",
        "4294967295",
        "2147483648-2147483649",
        "4294967296",
        "8589934592",
        "18446744073709551615",
        "0-18446744073709551616",
        "18446744073709551616",
    };
    char digits[5000];
    for (unsigned i = 0; i < COUNT(huge); i++)
        refused(huge[i], strlen(huge[i]), ERANGE);
    memset(digits, '9', sizeof digits);
    refused(digits, sizeof digits, ERANGE);
    memcpy(digits, "0-", 2);
    refused(digits, sizeof digits, ERANGE);
}

/* The parser looks at `length` bytes and not at one more: the last is at the end of its block, so
 * that a sanitizer would see it. */
static void test_length_is_obeyed(void)
{
    static const char text[] = "10-12,345";
    static const char *const prefixes[] = {"1", "10", "10-1", "10-12", "10-12,3", "10-12,34"};
    refused(text, 3, EINVAL);
    refused(text, 4, EINVAL); /* 10-1 */
    for (size_t length = 0; length < sizeof text; length++) {
        char *exact = malloc(length + (length == 0));
        struct percpu_cpuset set;
        CHECK(exact != NULL);
        memcpy(exact, text, length);
        percpu_cpuset_parse(exact, length, &set);
        free(exact);
    }
    for (unsigned i = 0; i < COUNT(prefixes); i++) {
        struct percpu_cpuset whole, prefix;
        size_t length = strlen(prefixes[i]);
        int parsed = percpu_cpuset_parse(text, length, &prefix);
        CHECK(parsed == percpu_cpuset_parse(prefixes[i], length, &whole) && same(&whole, &prefix));
    }
}

static void test_random_sets(void)
{
    static char text[5 * PERCPU_MAX_CPUS + 2];
    uint64_t seed = 1;
    for (unsigned round = 0; round < 200; round++) {
        struct percpu_cpuset set, parsed;
        unsigned count = 0, limit = 0;
        memset(&set, 0, sizeof set);
        for (unsigned id = 0; id < PERCPU_MAX_CPUS; id++) {
            seed = seed * UINT64_C(6364136223846793005) + 1;
            if ((seed >> 33) % (round + 1) == 0) { /* from every id to one in 200 */
                set.words[id / 64] |= UINT64_C(1) << (id % 64);
                count++;
                limit = id + 1;
            }
        }
        CHECK(percpu_cpuset_parse(text, print_list(&set, text), dirty(&parsed)) == 0);
        CHECK(same(&set, &parsed));
        CHECK(percpu_cpuset_count(&parsed) == count && percpu_cpuset_limit(&parsed) == limit);
    }
}

/* Any bytes at all: no crash, and either a set or an error with an empty one. */
static void test_random_bytes(void)
{
    static const char alphabet[] = "0123456789-,\n x";
    static const struct percpu_cpuset empty;
    uint64_t seed = 7;
    for (unsigned round = 0; round < 20000; round++) {
        char text[16];
        struct percpu_cpuset set;
        size_t length = round % sizeof text;
        for (size_t i = 0; i < length; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1;
            text[i] = alphabet[(seed >> 33) % (sizeof alphabet - 1)];
        }
        if (percpu_cpuset_parse(text, length, dirty(&set)) != 0)
            CHECK((errno == EINVAL || errno == ERANGE) && same(&set, &empty));
    }
}

int main(void)
{
    test_lists();
    test_garbage();
    test_huge_numbers();
    test_length_is_obeyed();
    test_random_sets();
    test_random_bytes();
    return 0;
}
