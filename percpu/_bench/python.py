"""Lines about calls from Python."""

from __future__ import annotations

import percpu
from percpu import _calls, _machine
from percpu._bench.line import Line, Sampler, Subject, aimed_at, call, one_cpu


def two_threads(counters: tuple[percpu.PerCpuCounter, percpu.PerCpuCounter]) -> Sampler:
    """Sample ns per inc() of each of two Python threads, on these counters."""
    loops = (_calls.inc(counters[0]).loop(), _calls.inc(counters[1]).loop())
    turns = 0

    def sample(seconds: float) -> float:
        nonlocal turns
        turns = turns or _calls.turns_for(loops[0], seconds)
        return _calls.ns_per_call_of_two(loops, turns)

    return sample


def lines() -> list[Line]:
    """Return the lines."""
    gil = "" if not _machine.gil_enabled() else "needs a free-threaded Python"
    one = percpu.PerCpuCounter()
    two = (percpu.PerCpuCounter(), percpu.PerCpuCounter())
    noop = Subject("no-op method", call(_calls.noop()))
    noop_1 = Subject("no-op method(1)", call(_calls.noop_1()))
    inc = Subject("Python c.inc()", call(_calls.inc(one)))
    add = Subject("Python c.add(1)", call(_calls.add(one)))
    shared = Subject("Python shared c, 2 threads", two_threads((one, one)))
    return [
        Line(inc, noop, 1.35 if aimed_at() else None),
        Line(add, noop_1, 1.60 if aimed_at() else None),
        Line(shared, Subject("a counter each", two_threads(two)), 1.30, gil or one_cpu()),
        Line(Subject("empty Python loop", call(_calls.EMPTY_LOOP)), noop, None),
    ]
