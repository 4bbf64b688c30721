/* SPDX-License-Identifier: MIT */
/*
 * var_ops.h - the operations of this_cpu.h as a table for each type code.
 *
 * Values travel as 64 bits: a signed integer sign-extended, an unsigned one zero-extended, a
 * double as its bits. What comes in is in the type's range already.
 */
#ifndef PERCPU_PYTHON_VAR_OPS_H
#define PERCPU_PYTHON_VAR_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include <percpu/ptr.h>

enum percpu_py_kind { PERCPU_PY_SIGNED, PERCPU_PY_UNSIGNED, PERCPU_PY_FLOAT };

struct percpu_py_var_ops {
    char format[2]; /* the code, as in the struct and array modules */
    const char *of; /* " for code 'q'" */
    enum percpu_py_kind kind;
    unsigned width; /* bytes */
    int64_t min;    /* of integers */
    uint64_t max;
    uint64_t one;

    uint64_t (*read)(const percpu_ptr *p);
    void (*write)(const percpu_ptr *p, uint64_t x);
    void (*add)(const percpu_ptr *p, uint64_t n);
    void (*sub)(const percpu_ptr *p, uint64_t n);
    uint64_t (*add_return)(const percpu_ptr *p, uint64_t n);
    uint64_t (*xchg)(const percpu_ptr *p, uint64_t x);
    uint64_t (*cmpxchg)(const percpu_ptr *p, uint64_t expect, uint64_t x);
    uint64_t (*and_)(const percpu_ptr *p, uint64_t mask); /* NULL for doubles, as is or_ */
    uint64_t (*or_)(const percpu_ptr *p, uint64_t mask);
    uint64_t (*get)(const percpu_ptr *p, unsigned cpu);
    void (*set)(const percpu_ptr *p, unsigned cpu, uint64_t x);
};

/* The table for a code; NULL if there is none. */
const struct percpu_py_var_ops *percpu_py_var_ops_of(uint32_t code);

/* All codes, for messages. */
#define PERCPU_PY_CODES "b B h H i I q Q d"

#endif
