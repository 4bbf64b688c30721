/* SPDX-License-Identifier: MIT */
/* percpu.h - everything: per-CPU memory, the operations on it, counters and references. */
#ifndef PERCPU_PERCPU_H
#define PERCPU_PERCPU_H

#include "counter.h"
#include "histogram.h"
#include "limiter.h"
#include "pool.h"
#include "pool_set.h"
#include "ref.h"
#include "report.h"
#include "rseq.h"
#include "sections.h"
#include "stats.h"
#include "this_cpu.h"
#include "topology.h"

#endif
