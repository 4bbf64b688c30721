/* SPDX-License-Identifier: MIT */
/*
 * test_topology.c - the sysfs reader over a sysfs made in a temporary directory, whole, broken and
 * missing; the affinity mask; and, in children that see such a sysfs before the core does, how many
 * copies it decides on.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_setaffinity */
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpusets.h"

/* ---- sysfs ---------------------------------------------------------------------------------- */

static char root[] = "/tmp/percpu-topology-XXXXXX";

static void path_below(char path[256], const char *below)
{
    CHECK(snprintf(path, 256, "%s/%s", root, below) < 256);
}

static void make_directory(const char *below)
{
    char path[256];
    path_below(path, below);
    CHECK(mkdir(path, 0700) == 0);
}

static void write_file(const char *below, const char *text, size_t length)
{
    char path[256];
    path_below(path, below);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, text, length) == (ssize_t)length);
    CHECK(close(fd) == 0);
}

static void write_text(const char *below, const char *text)
{
    write_file(below, text, strlen(text));
}

static void remove_file(const char *below)
{
    char path[256];
    path_below(path, below);
    CHECK(remove(path) == 0);
}

static struct percpu_cpuset affinity(void)
{
    struct percpu_cpuset set;
    CHECK(percpu_topology_allowed(dirty(&set)) == 0);
    return set;
}

/* The fallback for `list` is a set of CPUs that has at least those that we run on. */
static void check_fallback(enum percpu_topology_list list)
{
    struct percpu_cpuset set, allowed = affinity(), node_0 = set_of("0");
    long configured = sysconf(_SC_NPROCESSORS_CONF);
    CHECK(percpu_topology_read(list, dirty(&set)) == 1);
    if (list == PERCPU_NODES_ONLINE) {
        CHECK(same(&set, &node_0));
        return;
    }
    for (unsigned id = 0; id < PERCPU_MAX_CPUS; id++)
        CHECK(!percpu_cpuset_has(&allowed, id) || percpu_cpuset_has(&set, id));
    for (unsigned id = 0; (long)id < configured; id++)
        CHECK(percpu_cpuset_has(&set, id));
    CHECK(percpu_cpuset_limit(&set) <= PERCPU_MAX_CPUS);
}

static void check_read(enum percpu_topology_list list, const char *text)
{
    struct percpu_cpuset set, expected = set_of(text);
    CHECK_CASE(percpu_topology_read(list, dirty(&set)) == 0, "%s", text);
    CHECK_CASE(same(&set, &expected), "%s", text);
}

static void test_fake_sysfs(void)
{
    static char text[60000];
    struct percpu_cpuset sparse = {{0}}, set;
    unsigned nr_cpus = percpu_nr_cpus();
    size_t length;

    write_text("devices/system/cpu/possible", "0-3,8,64-127\n");
    write_text("devices/system/cpu/online", "0,2,64\n");
    write_text("devices/system/node/online", "0,2\n");
    check_read(PERCPU_CPUS_POSSIBLE, "0-3,8,64-127");
    check_read(PERCPU_CPUS_ONLINE, "0,2,64");
    check_read(PERCPU_NODES_ONLINE, "0,2");
    CHECK(percpu_nr_cpus() == nr_cpus);

    /* Hotplug: every read sees the file as it is then. */
    write_text("devices/system/cpu/online", "0\n");
    check_read(PERCPU_CPUS_ONLINE, "0");

    /* The longest lists. */
    for (unsigned id = 1; id < PERCPU_MAX_CPUS; id += 2)
        sparse.words[id / 64] |= UINT64_C(1) << (id % 64);
    length = print_list(&sparse, text);
    CHECK(length > 19000);
    write_file("devices/system/cpu/possible", text, length);
    CHECK(percpu_topology_read(PERCPU_CPUS_POSSIBLE, dirty(&set)) == 0 && same(&set, &sparse));
    length = 0;
    for (unsigned id = 0; id < PERCPU_MAX_CPUS; id++)
        length += (size_t)sprintf(text + length, "%s%u", id == 0 ? "" : ",", id);
    write_file("devices/system/cpu/possible", text, length);
    check_read(PERCPU_CPUS_POSSIBLE, "0-8191");
    CHECK(percpu_nr_cpus() == nr_cpus);
}

static void test_nodes(void)
{
    static const struct percpu_cpuset empty;
    struct percpu_cpuset set, expected = set_of("1,3-5");
    write_text("devices/system/node/online", "0,2,1023\n");
    write_text("devices/system/node/node0/cpulist", "\n"); /* memory, and no CPUs */
    write_text("devices/system/node/node2/cpulist", "1,3-5\n");
    write_text("devices/system/node/node1023/cpulist", "1,3-5\n");
    CHECK(percpu_topology_node_cpus(0, dirty(&set)) == 0 && same(&set, &empty));
    CHECK(percpu_topology_node_cpus(2, dirty(&set)) == 0 && same(&set, &expected));
    CHECK(percpu_topology_node_cpus(1023, dirty(&set)) == 0 && same(&set, &expected));
    const unsigned unknown[] = {1, 3, 102, 1024, PERCPU_MAX_CPUS, UINT32_MAX};
    for (unsigned i = 0; i < COUNT(unknown); i++) {
        errno = 0;
        CHECK(percpu_topology_node_cpus(unknown[i], dirty(&set)) == -1);
        CHECK(errno == ENOENT && same(&set, &empty));
    }
    write_text("devices/system/node/node2/cpulist", "junk\n");
    CHECK(percpu_topology_node_cpus(2, dirty(&set)) == -1 && errno == ENOENT && same(&set, &empty));

    /* No NUMA: node 0 is assumed, and has the CPUs that are online. */
    remove_file("devices/system/node/online");
    remove_file("devices/system/node/node0/cpulist");
    write_text("devices/system/cpu/online", "1,3-5\n");
    check_fallback(PERCPU_NODES_ONLINE);
    CHECK(percpu_topology_node_cpus(0, dirty(&set)) == 0 && same(&set, &expected));
}

static void test_broken_sysfs(void)
{
    static const char *const broken[] = {"", "\n", "0-", "none\n", "8192\n", "0-3\n0-3\n"};
    static char endless[60000];
    for (unsigned i = 0; i < COUNT(broken); i++) {
        write_text("devices/system/cpu/possible", broken[i]);
        write_text("devices/system/cpu/online", broken[i]);
        write_text("devices/system/node/online", broken[i]);
        check_fallback(PERCPU_CPUS_POSSIBLE);
        check_fallback(PERCPU_CPUS_ONLINE);
        check_fallback(PERCPU_NODES_ONLINE);
    }
    for (size_t i = 0; i < sizeof endless; i += 2)
        memcpy(endless + i, "1,", 2);
    write_file("devices/system/cpu/possible", endless, sizeof endless - 1);
    check_fallback(PERCPU_CPUS_POSSIBLE); /* longer than any list: not cut off and believed */
    remove_file("devices/system/cpu/possible");
    make_directory("devices/system/cpu/possible"); /* can be opened, not read */
    check_fallback(PERCPU_CPUS_POSSIBLE);
    remove_file("devices/system/cpu/possible");
    remove_file("devices/system/cpu/online");
    remove_file("devices/system/node/online");
    check_fallback(PERCPU_CPUS_POSSIBLE);
    check_fallback(PERCPU_CPUS_ONLINE);
    check_fallback(PERCPU_NODES_ONLINE);
}

static void test_no_sysfs(void)
{
    struct percpu_cpuset set, online;
    percpu_topology_set_root("/nonexistent");
    check_fallback(PERCPU_CPUS_POSSIBLE);
    check_fallback(PERCPU_CPUS_ONLINE);
    check_fallback(PERCPU_NODES_ONLINE);
    CHECK(percpu_topology_node_cpus(0, dirty(&set)) == 0);
    CHECK(percpu_topology_read(PERCPU_CPUS_ONLINE, &online) == 1 && same(&set, &online));
    CHECK(percpu_topology_node_cpus(1, &set) == -1 && errno == ENOENT);
}

/* A failed read must not leave a file open. */
static void test_no_descriptor_leaks(void)
{
    struct percpu_cpuset set;
    int before = dup(0), after;
    CHECK(before >= 0 && close(before) == 0);
    for (unsigned i = 0; i < 3; i++) {
        percpu_topology_set_root(i == 0 ? NULL : i == 1 ? root : "/nonexistent");
        percpu_topology_read(PERCPU_CPUS_POSSIBLE, &set);
        percpu_topology_read(PERCPU_NODES_ONLINE, &set);
        percpu_topology_node_cpus(0, &set);
        percpu_topology_node_cpus(4000, &set);
    }
    after = dup(0);
    CHECK(after == before && close(after) == 0);
}

/* ---- this machine --------------------------------------------------------------------------- */

static void test_this_machine(void)
{
    struct percpu_cpuset allowed = affinity();
    CHECK(percpu_nr_cpus() >= 1 && percpu_nr_cpus() <= PERCPU_MAX_CPUS);
    CHECK(percpu_nr_cpus() >= percpu_cpuset_limit(&allowed));
    CHECK(percpu_nr_cpus() == percpu_nr_cpus());
    for (int list = PERCPU_CPUS_POSSIBLE; list <= PERCPU_NODES_ONLINE; list++) {
        struct percpu_cpuset set;
        int fallback = percpu_topology_read((enum percpu_topology_list)list, dirty(&set));
        CHECK(fallback == 0 || fallback == 1);
        CHECK(percpu_cpuset_count(&set) >= 1);
        CHECK(list == PERCPU_NODES_ONLINE || percpu_cpuset_limit(&set) <= percpu_nr_cpus());
    }
}

static void test_allowed_follows_affinity(void)
{
    struct percpu_cpuset all = affinity(), now;
    cpu_set_t saved, one;
    CHECK(sched_getaffinity(0, sizeof saved, &saved) == 0);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!percpu_cpuset_has(&all, cpu))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        now = affinity();
        CHECK(percpu_cpuset_count(&now) == 1 && percpu_cpuset_has(&now, cpu));
        CHECK(percpu_nr_cpus() >= percpu_cpuset_limit(&all));
    }
    CHECK(sched_setaffinity(0, sizeof saved, &saved) == 0);
    now = affinity();
    CHECK(same(&now, &all));
}

/* ---- how many copies ------------------------------------------------------------------------ */

/* In a child, argv[1] is the sysfs to start with. This runs before every constructor. */
static void use_root_of_parent(int argc, char **argv, char **environment)
{
    (void)environment;
    if (argc == 2)
        percpu_topology_set_root(argv[1]);
}
__attribute__((section(".preinit_array"),
               used)) static void (*const before_constructors)(int, char **,
                                                               char **) = use_root_of_parent;

/* What a child that starts with `below` as its sysfs says about percpu_nr_cpus(); 0 if there can
 * be no child. */
static unsigned nr_cpus_of_child(const char *program, const char *below)
{
    enum { CANNOT_EXEC = 77 };
    unsigned answer = 0;
    int status, pipes[2];
    CHECK(pipe(pipes) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(pipes[1], STDOUT_FILENO) == STDOUT_FILENO);
        execl(program, program, below, (char *)NULL);
        _exit(errno == ENOEXEC ? CANNOT_EXEC : 1);
    }
    CHECK(close(pipes[1]) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (WEXITSTATUS(status) != CANNOT_EXEC) {
        CHECK(WEXITSTATUS(status) == 0);
        CHECK(read(pipes[0], &answer, sizeof answer) == (ssize_t)sizeof answer && answer > 0);
    }
    CHECK(close(pipes[0]) == 0);
    return answer;
}

static unsigned greater(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static void test_nr_cpus(void)
{
    struct percpu_cpuset allowed = affinity();
    unsigned usable = percpu_cpuset_limit(&allowed);
    unsigned configured = (unsigned)sysconf(_SC_NPROCESSORS_CONF);
    char program[4096] = "";

    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    write_text("devices/system/cpu/possible", "0-98,100,257\n");
    unsigned answer = nr_cpus_of_child(program, root);
    if (answer == 0) {
        puts("percpu_nr_cpus() not tested: programs of this architecture cannot be executed, "
             "only emulated");
        remove_file("devices/system/cpu/possible");
        return;
    }
    CHECK(answer == greater(258, usable));
    write_text("devices/system/cpu/possible", "0-8191\n");
    CHECK(nr_cpus_of_child(program, root) == PERCPU_MAX_CPUS);
    write_text("devices/system/cpu/possible", "0\n"); /* which denies CPUs that we may run on */
    CHECK(nr_cpus_of_child(program, root) == usable);
    write_text("devices/system/cpu/possible", "junk\n");
    CHECK(nr_cpus_of_child(program, root) == greater(configured, usable));
    remove_file("devices/system/cpu/possible");
    CHECK(nr_cpus_of_child(program, root) == greater(configured, usable));
    CHECK(nr_cpus_of_child(program, "/nonexistent") == greater(configured, usable));
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc == 2) { /* a child of test_nr_cpus() */
        unsigned answer = percpu_nr_cpus();
        return write(STDOUT_FILENO, &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1;
    }

    test_this_machine();
    test_allowed_follows_affinity();

    CHECK(mkdtemp(root) != NULL);
    static const char *const directories[] = {
        "devices",
        "devices/system",
        "devices/system/cpu",
        "devices/system/node",
        "devices/system/node/node0",
        "devices/system/node/node2",
        "devices/system/node/node1023",
    };
    for (unsigned i = 0; i < COUNT(directories); i++)
        make_directory(directories[i]);
    percpu_topology_set_root(root);
    test_fake_sysfs();
    test_nodes();
    test_broken_sysfs();
    test_no_sysfs();
    test_no_descriptor_leaks();
    test_nr_cpus();
    percpu_topology_set_root(NULL);
    test_this_machine();

    remove_file("devices/system/node/node2/cpulist");
    remove_file("devices/system/node/node1023/cpulist");
    for (unsigned i = COUNT(directories); i-- > 0;)
        remove_file(directories[i]);
    CHECK(rmdir(root) == 0);
    return 0;
}
