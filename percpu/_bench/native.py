"""Lines about single operations of the C core, as the race's harness times them."""

from __future__ import annotations

from dataclasses import replace

from percpu._bench.line import Line, Subject, adds, one_cpu, rseq_off
from percpu._harness import ATOMIC_PAIR, EMPTY, HANDOVER, LIMITER, POOL, RING, ROBUST, UPGRADED


def lines() -> list[Line]:
    """Return the lines."""
    off = rseq_off()
    off_2 = off or one_cpu()
    xadd = Subject("lock xadd", adds("atomic"))
    var = Subject("this_cpu_add, 1 thread", adds("var"))
    var_2 = Subject("this_cpu_add, 2 threads", adds("var", 2))
    percpu_add = Subject("per-CPU add", adds("counter-32"))
    lazy = Subject("lazy counter add", adds("counter-lazy"))
    upgraded = Subject("upgraded counter add", adds(UPGRADED))
    pool = Subject("pool alloc+free, 1 thread", adds(POOL))
    pool_2 = Subject("pool alloc+free, 2 threads", adds(POOL, 2))
    pair = replace(pool, name="pool alloc+free")
    limiter = Subject("limiter acquire+release", adds(LIMITER))
    limiter_2 = Subject("limiter, 2 threads", adds(LIMITER, 2))
    xadd_pair = Subject("lock xadd pair", adds(ATOMIC_PAIR))
    return [
        Line(var, xadd, 0.20, off),
        Line(var_2, replace(var, name="1 thread"), 1.10, off_2),
        Line(Subject("counter add, batch 32", adds("counter-32")), xadd, 0.25, off),
        Line(Subject("counter add, batch 1024", adds("counter-1024")), xadd, 0.18, off),
        Line(lazy, percpu_add, 1.10, off),
        Line(upgraded, percpu_add, 1.10, off_2),
        Line(pool, xadd, 0.60, off),
        Line(pool_2, replace(pool, name="1 thread"), 1.20, off_2),
        # Per item, the ring's own part included; and that part by itself.
        Line(Subject("producer/consumer + ring", adds(HANDOVER, 2)), pair, 10.0, off_2),
        Line(Subject("that ring without a pool", adds(RING, 2)), pair, None, off_2),
        Line(Subject("robust pool alloc+free", adds(ROBUST)), pair, 3.0, off),
        Line(limiter, xadd_pair, 0.60, off),
        Line(limiter_2, replace(limiter, name="1 thread"), 1.20, off_2),
        Line(Subject("mutex + add, 1 thread", adds("mutex")), xadd, None),
        Line(Subject("empty native loop", adds(EMPTY)), xadd, None),
    ]
