/* SPDX-License-Identifier: MIT */
/*
 * machine.h - run the program as on another machine: PERCPU_TEST_SYS is a directory to read instead
 * of /sys. A pool may have fewer CPUs than the machine, which takes a machine with many.
 */
#ifndef TEST_MACHINE_H
#define TEST_MACHINE_H

#include <percpu/topology.h>

#include "check.h"

/* Before the core asks how many CPUs there are: of two constructors that are equally early, that of
 * the program is before that of a library which stands behind it. */
static __attribute__((constructor(101))) void pretend(void)
{
    percpu_topology_set_root(getenv("PERCPU_TEST_SYS"));
    (void)percpu_nr_cpus();
    percpu_topology_set_root(NULL);
}

#endif
