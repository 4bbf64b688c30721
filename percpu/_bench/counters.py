"""Lines about making counters and summing them."""

from __future__ import annotations

import os
import subprocess
import sys

import percpu
from percpu import _calls
from percpu._bench.line import Line, Subject, aimed_at, call, few_and_many, native

_RESIDENT = """
import sys
sys.path[:] = {path!r}
from percpu import PerCpuCounter
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
counters = [None] * {count}
PerCpuCounter().inc()
before = resident()
for i in range({count}):
    counters[i] = PerCpuCounter()
print(resident() - before)
"""
_LAZY_COUNTERS = 200_000


def _bytes_of_lazy() -> float:
    """Return the bytes that a lazy counter takes, all in: in a process with no garbage to reuse."""
    source = _RESIDENT.format(path=sys.path, count=_LAZY_COUNTERS)
    command = [sys.executable, "-c", source]
    pages = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / _LAZY_COUNTERS


def lines() -> list[Line]:
    """Return the lines."""
    _, many = few_and_many()
    per_cpu = Subject(f"{many}-CPU counter", native("counter", many))
    lazy = Subject("make+drop lazy counter", native("counter lazy", many))
    small = Subject("o = Small()", call(_calls.make_small()))
    made = Subject("c = Counter()", call(_calls.make_counter()))
    bytes_of_lazy = Subject("bytes of a lazy counter", lambda s: _bytes_of_lazy(), "bytes")
    total = Subject(f"sum, {many} CPUs", native("sum", many))
    bare = Subject("bare loop", native("bare sum", many))
    counter = percpu.PerCpuCounter(lazy=False)
    read = Subject("Python c.sum()", call(_calls.total(counter)))
    noop = Subject("no-op method", call(_calls.noop()))
    return [
        Line(lazy, per_cpu, 0.15),
        Line(made, small, 3.0 if aimed_at() else None),
        Line(bytes_of_lazy, None, 200.0 if aimed_at() else None),
        Line(total, bare, 1.2),
        Line(read, noop, 2.0 if aimed_at() else None),
    ]
