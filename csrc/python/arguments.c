/* SPDX-License-Identifier: MIT */
/*
 * arguments.c - which argument goes to which parameter: once for vectorcall, and the same for the
 * tuple and dict that tp_new gets when a subclass is called.
 */
#include "module.h"

static unsigned count_parameters(const struct percpu_py_signature *signature)
{
    unsigned count = 0;
    while (signature->parameters[count] != NULL)
        count++;
    return count;
}

/* Whoever gives too many by position most likely meant the next ones. */
static void raise_too_many(const struct percpu_py_signature *signature, Py_ssize_t nargs)
{
    unsigned count = count_parameters(signature);
    PyObject *names = PyUnicode_FromString("");
    for (unsigned i = signature->positional; names != NULL && i < count; i++) {
        const char *between = i == signature->positional ? "; " : i + 1 == count ? " and " : ", ";
        Py_SETREF(names, PyUnicode_FromFormat("%U%s%s", names, between, signature->parameters[i]));
    }
    if (names == NULL)
        return;
    unsigned others = count - signature->positional;
    PyErr_Format(PyExc_TypeError, "%s() takes at most %u positional argument%s (%zd given)%U%s",
                 signature->callable, signature->positional, signature->positional == 1 ? "" : "s",
                 nargs, names,
                 others == 0   ? ""
                 : others == 1 ? " is keyword-only"
                               : " are keyword-only");
    Py_DECREF(names);
}

static int match_positional(const struct percpu_py_signature *signature, PyObject *const *args,
                            Py_ssize_t nargs, PyObject **values)
{
    unsigned count = count_parameters(signature);
    for (unsigned i = 0; i < count; i++)
        values[i] = NULL;
    if (nargs > (Py_ssize_t)signature->positional) {
        raise_too_many(signature, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        values[i] = args[i];
    return 0;
}

static int match_keyword(const struct percpu_py_signature *signature, PyObject *name,
                         PyObject *value, PyObject **values)
{
    for (unsigned i = 0; signature->parameters[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(name, signature->parameters[i]) != 0)
            continue;
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         signature->callable, name);
            return -1;
        }
        values[i] = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                 signature->callable, name);
    return -1;
}

static int match_required(const struct percpu_py_signature *signature, PyObject **values)
{
    for (unsigned i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'", signature->callable,
                         signature->parameters[i]);
            return -1;
        }
    }
    return 0;
}

int percpu_py_match_vector(const struct percpu_py_signature *signature, PyObject *const *args,
                           size_t nargsf, PyObject *kwnames, PyObject **values)
{
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (match_positional(signature, args, nargs, values) != 0)
        return -1;
    Py_ssize_t keywords = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < keywords; i++)
        if (match_keyword(signature, PyTuple_GET_ITEM(kwnames, i), args[nargs + i], values) != 0)
            return -1;
    return match_required(signature, values);
}

int percpu_py_match_tuple(const struct percpu_py_signature *signature, PyObject *args,
                          PyObject *kwargs, PyObject **values)
{
    PyObject *positional[PERCPU_PY_MAX_PARAMETERS];
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    for (Py_ssize_t i = 0; i < nargs && i < PERCPU_PY_MAX_PARAMETERS; i++)
        positional[i] = PyTuple_GET_ITEM(args, i);
    if (match_positional(signature, positional, nargs, values) != 0)
        return -1;
    PyObject *name, *value;
    for (Py_ssize_t at = 0; kwargs != NULL && PyDict_Next(kwargs, &at, &name, &value);)
        if (match_keyword(signature, name, value, values) != 0)
            return -1;
    return match_required(signature, values);
}
