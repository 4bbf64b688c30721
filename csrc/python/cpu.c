/* SPDX-License-Identifier: MIT */
/*
 * cpu.c - the functions of the module: which CPU this is, and the facts that percpu.info() shows.
 */
#include "module.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <percpu/rseq.h>
#include <percpu/topology.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

const char *percpu_py_mode_name(void)
{
    switch (percpu_rseq_info()->mode) {
    case PERCPU_MODE_GLIBC:
        return "glibc";
    case PERCPU_MODE_OWN:
        return "own";
    default:
        return "none";
    }
}

PyDoc_STRVAR(current_cpu_doc,
             "current_cpu()\n--\n\n"
             "Return the id of the CPU that ran this thread at some instant of the call.");

static PyObject *current_cpu(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(percpu_current_cpu());
}

PyDoc_STRVAR(
    current_cid_doc,
    "current_cid()\n--\n\n"
    "Return this thread's concurrency id: below the number of possible CPUs, and used by\n"
    "no other thread of the process that runs now.\n\n"
    "Ids are dense while threads run: a few threads share a few low ones. Once threads\n"
    "have exited, the kernel lets the ids of the others come down late, or never, so an id\n"
    "may be above the number of threads that are left.\n\n"
    "Raises :exc:`OSError` (ENOTSUP) where the kernel gives none: see ``info().mm_cid``.");

static PyObject *current_cid(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    int cid = percpu_current_cid();
    if (cid >= 0)
        return PyLong_FromLong(cid);
    PyObject *pair = Py_BuildValue(
        "(is)", ENOTSUP, "there is no concurrency id without mm_cid in the rseq area (Linux 6.3)");
    if (pair != NULL)
        PyErr_SetObject(PyExc_OSError, pair);
    Py_XDECREF(pair);
    return NULL;
}

PyDoc_STRVAR(current_node_doc,
             "current_node()\n--\n\n"
             "Return the id of the NUMA node of the CPU that ran this thread at some instant of\n"
             "the call.");

static PyObject *current_node(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(percpu_current_node());
}

/* facts -------------------------------------------------------------------------------------- */

static PyObject *ids_in(const struct percpu_cpuset *set)
{
    Py_ssize_t place = 0;
    PyObject *ids = PyTuple_New((Py_ssize_t)percpu_cpuset_count(set));
    for (unsigned id = 0; ids != NULL && id < PERCPU_MAX_CPUS; id++) {
        if (!percpu_cpuset_has(set, id))
            continue;
        PyObject *number = PyLong_FromUnsignedLong(id);
        if (number == NULL)
            Py_CLEAR(ids);
        else
            PyTuple_SET_ITEM(ids, place++, number);
    }
    return ids;
}

static PyObject *topology_list(enum percpu_topology_list list)
{
    struct percpu_cpuset set;
    percpu_topology_read(list, &set);
    return ids_in(&set);
}

static PyObject *allowed_cpus(void)
{
    struct percpu_cpuset set;
    if (percpu_topology_allowed(&set) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return ids_in(&set);
}

static int add_node(PyObject *nodes, unsigned node)
{
    struct percpu_cpuset cpus;
    (void)percpu_topology_node_cpus(node, &cpus); /* a node that just went has none */
    PyObject *key = PyLong_FromUnsignedLong(node), *ids = ids_in(&cpus);
    int result = key != NULL && ids != NULL ? PyDict_SetItem(nodes, key, ids) : -1;
    Py_XDECREF(key);
    Py_XDECREF(ids);
    return result;
}

static PyObject *nodes_and_cpus(void)
{
    struct percpu_cpuset set;
    percpu_topology_read(PERCPU_NODES_ONLINE, &set);
    PyObject *nodes = PyDict_New();
    for (unsigned node = 0; nodes != NULL && node < PERCPU_MAX_CPUS; node++)
        if (percpu_cpuset_has(&set, node) && add_node(nodes, node) != 0)
            Py_CLEAR(nodes);
    return nodes;
}

/* Whether the kernel can make a guard page out of a page of ours, with no mapping of its own. */
static bool has_guard_pages(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return false;
    bool works = madvise(map, page, MADV_GUARD_INSTALL) == 0;
    munmap(map, page);
    return works;
}

PyDoc_STRVAR(facts_doc, "_facts()\n--\n\n"
                        "Return what percpu.info() shows of the C core, as a dict. Private.");

static PyObject *facts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    const struct percpu_rseq_info *info = percpu_rseq_info();
    PyObject *possible = topology_list(PERCPU_CPUS_POSSIBLE);
    PyObject *online = topology_list(PERCPU_CPUS_ONLINE);
    PyObject *allowed = allowed_cpus(), *nodes = nodes_and_cpus(), *result = NULL;
    if (possible != NULL && online != NULL && allowed != NULL && nodes != NULL)
        result = Py_BuildValue("{s:s,s:s,s:I,s:O,s:O,s:O,s:O,s:O,s:O,s:O,s:O}", "rseq",
                               percpu_py_mode_name(), "reason", info->reason, "feature_size",
                               info->feature_size, "mm_cid", info->mm_cid ? Py_True : Py_False,
                               "node_id", info->node_id ? Py_True : Py_False, "cpus_possible",
                               possible, "cpus_online", online, "cpus_allowed", allowed, "nodes",
                               nodes, "fence", info->fence ? Py_True : Py_False, "guard_pages",
                               has_guard_pages() ? Py_True : Py_False);
    Py_XDECREF(possible);
    Py_XDECREF(online);
    Py_XDECREF(allowed);
    Py_XDECREF(nodes);
    return result;
}

static PyMethodDef functions[] = {
    {"current_cpu", current_cpu, METH_NOARGS, current_cpu_doc},
    {"current_cid", current_cid, METH_NOARGS, current_cid_doc},
    {"current_node", current_node, METH_NOARGS, current_node_doc},
    {"_facts", facts, METH_NOARGS, facts_doc},
    {NULL, NULL, 0, NULL},
};

int percpu_py_add_cpu(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
