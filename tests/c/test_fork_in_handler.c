/* SPDX-License-Identifier: MIT */
/*
 * test_fork_in_handler.c - a signal handler that comes in the middle of a flush, adds, forks, and
 * reads in the child, before the flush that it interrupted goes on there: the child's total must
 * end right. Fails if reading in the child mends the total without regard to that flush.
 */
#define _GNU_SOURCE
#include "check.h"

#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <percpu/counter.h>

enum { FORKS = 100, INTERVAL_US = 200 };

static struct percpu_counter counter;
static volatile sig_atomic_t forks, in_child;

/* Once, so that the program gets on between two signals however long a fork takes. */
static void start_timer(void)
{
    struct itimerval timer = {.it_value = {0, INTERVAL_US}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void handle(int number)
{
    (void)number;
    percpu_counter_add(&counter, 1);
    pid_t child = fork(); /* the child inherits no timer */
    CHECK(child >= 0);
    if (child == 0) {
        (void)percpu_counter_read(&counter);
        in_child = 1;
        return;
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (++forks < FORKS)
        start_timer();
}

int main(void)
{
    CHECK(percpu_counter_init(&counter, NULL, 0, 1) == 0); /* each add flushes */
    struct sigaction action = {.sa_handler = handle};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    start_timer();
    int64_t added = 0;
    while (forks < FORKS && !in_child) {
        percpu_counter_add(&counter, 1000);
        added += 1000;
    }
    if (in_child) {
        CHECK(percpu_counter_check(&counter) == NULL);
        CHECK(percpu_counter_read(&counter) == percpu_counter_sum(&counter));
        _exit(0); /* no search for leaks in every child */
    }
    CHECK(percpu_counter_sum(&counter) == added + forks);
    CHECK(percpu_counter_check(&counter) == NULL);
    return 0;
}
