/* SPDX-License-Identifier: MIT */
/*
 * race.c - private functions of percpu._core that run the native harness: see harness.h and
 * bench.h for what they measure. percpu/race.py and percpu/bench.py make reports of it.
 *
 * The GIL is released while threads run; a signal's Python handler runs within about 50 ms, and
 * an exception that it raises (KeyboardInterrupt) ends the run. No state is kept here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "../race/bench.h"
#include "../race/harness.h"

#define MAX_SECONDS 3600.0
#define MAX_ITEMS 65536
#define MAX_ITEM_SIZE 4096

int percpu_py_add_race(PyObject *module);

/* ---- arguments -------------------------------------------------------------------------- */

static const struct percpu_scheme *scheme_argument(const char *name)
{
    const struct percpu_scheme *scheme = percpu_scheme_find(name);
    if (scheme == NULL)
        PyErr_Format(PyExc_ValueError,
                     "name must be one of those that _race_schemes() lists, not '%s'", name);
    return scheme;
}

/* Written so that a NaN is refused. */
static int duration_argument(double seconds, uint64_t *ns)
{
    if (!(seconds > 0 && seconds <= MAX_SECONDS)) {
        PyErr_SetString(PyExc_ValueError, "seconds must be above 0 and at most 3600");
        return -1;
    }
    *ns = (uint64_t)(seconds * 1e9) + 1;
    return 0;
}

static int range_argument(const char *name, long value, long least, long most)
{
    if (value >= least && value <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be from %ld to %ld, not %ld", name, least, most, value);
    return -1;
}

static int threads_argument(const struct percpu_scheme *scheme, long threads)
{
    unsigned only = scheme->threads;
    return range_argument("threads", threads, only != 0 ? only : 1,
                          only != 0 ? only : PERCPU_RACE_MAX_THREADS);
}

/* Steals `value`, which may be NULL. 0, or -1 with an exception. */
static int set_item(PyObject *dict, const char *key, PyObject *value)
{
    int failed = value == NULL ? -1 : PyDict_SetItemString(dict, key, value);
    Py_XDECREF(value);
    return failed;
}

/* ---- schemes ---------------------------------------------------------------------------- */

static const char *promise_name(enum percpu_scheme_promise promise)
{
    switch (promise) {
    case PERCPU_SCHEME_EXACT:
        return "exact";
    case PERCPU_SCHEME_RACY:
        return "racy";
    case PERCPU_SCHEME_NO_SUM:
        break;
    }
    return "no sum";
}

PyDoc_STRVAR(
    race_schemes_doc,
    "_race_schemes($module, /)\n--\n\n"
    "Return what the harness can run: a list of tuples (name, title, promise, has_read).\n\n"
    "promise is 'exact', 'racy' or, for what counts nothing, 'no sum'.");

static PyObject *race_schemes(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && percpu_schemes[i] != NULL; i++) {
        const struct percpu_scheme *scheme = percpu_schemes[i];
        PyObject *row = Py_BuildValue("(sssO)", scheme->name, scheme->title,
                                      promise_name(scheme->promise),
                                      scheme->read != NULL ? Py_True : Py_False);
        if (row == NULL || PyList_Append(list, row) != 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

PyDoc_STRVAR(race_bytes_doc, "_race_bytes($module, name, cpus, threads, /)\n--\n\n"
                             "Return the bytes of one counter with so many CPUs and threads.");

static PyObject *race_bytes(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    long cpus, threads;
    if (!PyArg_ParseTuple(args, "sll:_race_bytes", &name, &cpus, &threads))
        return NULL;
    const struct percpu_scheme *scheme = scheme_argument(name);
    if (scheme == NULL || range_argument("cpus", cpus, 1, PERCPU_MAX_CPUS) != 0 ||
        range_argument("threads", threads, 1, PERCPU_RACE_MAX_THREADS) != 0)
        return NULL;
    return PyLong_FromSize_t(scheme->bytes((unsigned)cpus, (unsigned)threads));
}

/* ---- runs ------------------------------------------------------------------------------- */

/* Called without the GIL, in the thread that released it. */
static int poll_signals(void *data)
{
    PyThreadState **state = data;
    PyEval_RestoreThread(*state);
    int failed = PyErr_CheckSignals();
    *state = PyEval_SaveThread();
    return failed;
}

/* The exception that handlers raised while the GIL was released, or one made of errno. */
static PyObject *run_failed(int error)
{
    if (PyErr_Occurred())
        return NULL;
    errno = error;
    return error == ENOMEM ? PyErr_NoMemory() : PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *reads_dict(const struct percpu_race_reads *reads, bool has_read)
{
    PyObject *dict = Py_BuildValue("{s:K,s:K,s:d}", "sums_checked",
                                   (unsigned long long)reads->sums_checked, "sums_wrong",
                                   (unsigned long long)reads->sums_wrong, "sum_ns", reads->sum_ns);
    if (dict == NULL || !has_read)
        return dict;
    if (set_item(dict, "reads_checked", PyLong_FromUnsignedLongLong(reads->reads_checked)) != 0 ||
        set_item(dict, "read_ns", PyFloat_FromDouble(reads->read_ns)) != 0 ||
        set_item(dict, "worst_error", PyLong_FromLongLong(reads->worst_error)) != 0 ||
        set_item(dict, "promised_error", PyLong_FromLongLong(reads->promised_error)) != 0)
        Py_CLEAR(dict);
    return dict;
}

PyDoc_STRVAR(race_run_doc,
             "_race_run($module, name, threads, seconds, pin, read, /)\n--\n\n"
             "Race one scheme once: see struct percpu_race_result. Return a dict with adds, sum,\n"
             "wall_ns, cpu_ns, cpus and pinned; with read=True also reads, a dict.");

static PyObject *race_run(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    long threads;
    double seconds;
    int pin, read;
    struct percpu_race_options options = {.poll = poll_signals};
    struct percpu_race_result result;
    if (!PyArg_ParseTuple(args, "sldpp:_race_run", &name, &threads, &seconds, &pin, &read))
        return NULL;
    const struct percpu_scheme *scheme = scheme_argument(name);
    if (scheme == NULL || threads_argument(scheme, threads) != 0 ||
        duration_argument(seconds, &options.duration_ns) != 0)
        return NULL;
    options.threads = (unsigned)threads;
    options.pin = pin;
    options.read = read;

    PyThreadState *state = PyEval_SaveThread();
    options.poll_data = &state;
    int failed = percpu_race_run(scheme, &options, &result), error = errno;
    PyEval_RestoreThread(state);
    if (failed)
        return run_failed(error);

    PyObject *dict = Py_BuildValue(
        "{s:K,s:L,s:K,s:K,s:I,s:I}", "adds", (unsigned long long)result.adds, "sum",
        (long long)result.sum, "wall_ns", (unsigned long long)result.wall_ns, "cpu_ns",
        (unsigned long long)result.cpu_ns, "cpus", result.cpus, "pinned", result.pinned);
    if (dict != NULL && read &&
        set_item(dict, "reads", reads_dict(&result.reads, scheme->read != NULL)) != 0)
        Py_CLEAR(dict);
    return dict;
}

/* ---- the benchmark's own ---------------------------------------------------------------- */

static int cpus_argument(long cpus)
{
    return range_argument("cpus", cpus, (long)percpu_nr_cpus(), PERCPU_MAX_CPUS);
}

PyDoc_STRVAR(bench_pool_doc,
             "_bench_pool($module, what, cpus, seconds, /)\n--\n\n"
             "Return the ns of an operation on pools for cpus CPUs: see struct percpu_bench.");

static PyObject *bench_pool(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *what;
    long cpus;
    double seconds, ns = 0;
    uint64_t min_ns;
    int failed;
    if (!PyArg_ParseTuple(args, "sld:_bench_pool", &what, &cpus, &seconds))
        return NULL;
    const struct percpu_bench *bench = percpu_bench_find(what);
    if (bench == NULL)
        return PyErr_Format(PyExc_ValueError,
                            "what must be one of those in csrc/race/bench.c, not '%s'", what);
    if (cpus_argument(cpus) != 0 || duration_argument(seconds, &min_ns) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = bench->sample((unsigned)cpus, min_ns, &ns);
    Py_END_ALLOW_THREADS
    return failed ? run_failed(errno) : PyFloat_FromDouble(ns);
}

PyDoc_STRVAR(bench_length_doc, "_bench_length($module, cpus, /)\n--\n\n"
                               "Return the bytes of address space of a pool for cpus CPUs.");

static PyObject *bench_length(PyObject *Py_UNUSED(module), PyObject *args)
{
    long cpus;
    size_t length;
    if (!PyArg_ParseTuple(args, "l:_bench_length", &cpus) || cpus_argument(cpus) != 0)
        return NULL;
    if (percpu_bench_length((unsigned)cpus, &length) != 0)
        return run_failed(errno);
    return PyLong_FromSize_t(length);
}

PyDoc_STRVAR(bench_map_doc,
             "_bench_map($module, length, seconds, /)\n--\n\n"
             "Return the ns of mapping length bytes, writing one, and unmapping them.");

static PyObject *bench_map(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_ssize_t length;
    double seconds, ns = 0;
    uint64_t min_ns;
    int failed;
    if (!PyArg_ParseTuple(args, "nd:_bench_map", &length, &seconds) ||
        range_argument("length", length, 1, PY_SSIZE_T_MAX) != 0 ||
        duration_argument(seconds, &min_ns) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = percpu_bench_map((size_t)length, min_ns, &ns);
    Py_END_ALLOW_THREADS
    return failed ? run_failed(errno) : PyFloat_FromDouble(ns);
}

PyDoc_STRVAR(
    bench_resident_doc,
    "_bench_resident($module, cpus, items, size, /)\n--\n\n"
    "Return (resident, written, counted), the bytes of a pool for cpus CPUs after items of\n"
    "size bytes were written on two CPUs: see struct percpu_bench_memory.");

static PyObject *bench_resident(PyObject *Py_UNUSED(module), PyObject *args)
{
    long cpus, items, size;
    struct percpu_bench_memory memory;
    if (!PyArg_ParseTuple(args, "lll:_bench_resident", &cpus, &items, &size) ||
        cpus_argument(cpus) != 0 || range_argument("items", items, 1, MAX_ITEMS) != 0 ||
        range_argument("size", size, 1, MAX_ITEM_SIZE) != 0)
        return NULL;
    if (percpu_bench_resident((unsigned)cpus, (unsigned)items, (size_t)size, &memory) != 0)
        return run_failed(errno);
    return Py_BuildValue("(nnn)", (Py_ssize_t)memory.resident, (Py_ssize_t)memory.written,
                         (Py_ssize_t)memory.counted);
}

static PyMethodDef functions[] = {
    {"_race_schemes", race_schemes, METH_NOARGS, race_schemes_doc},
    {"_race_bytes", race_bytes, METH_VARARGS, race_bytes_doc},
    {"_race_run", race_run, METH_VARARGS, race_run_doc},
    {"_bench_pool", bench_pool, METH_VARARGS, bench_pool_doc},
    {"_bench_length", bench_length, METH_VARARGS, bench_length_doc},
    {"_bench_map", bench_map, METH_VARARGS, bench_map_doc},
    {"_bench_resident", bench_resident, METH_VARARGS, bench_resident_doc},
    {NULL, NULL, 0, NULL},
};

/* Add these functions to `module`. 0, or -1 with an exception. */
int percpu_py_add_race(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
