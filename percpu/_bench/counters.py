"""Lines about making counters and summing them."""

from __future__ import annotations

import percpu
from percpu import _calls
from percpu._bench.line import Line, Subject, aimed_at, call, few_and_many, native


def lines() -> list[Line]:
    """Return the lines."""
    _, many = few_and_many()
    per_cpu = Subject(f"{many}-CPU counter", native("counter", many))
    lazy = Subject("make+drop lazy counter", native("counter lazy", many))
    small = Subject("o = Small()", call(_calls.make_small()))
    made = Subject("c = Counter()", call(_calls.make_counter()))
    total = Subject(f"sum, {many} CPUs", native("sum", many))
    bare = Subject("bare loop", native("bare sum", many))
    counter = percpu.PerCpuCounter(lazy=False)
    read = Subject("Python c.sum()", call(_calls.total(counter)))
    noop = Subject("no-op method", call(_calls.noop()))
    return [
        Line(lazy, per_cpu, 0.15),
        Line(made, small, 3.0 if aimed_at() else None),
        Line(total, bare, 1.2),
        Line(read, noop, 2.0 if aimed_at() else None),
    ]
