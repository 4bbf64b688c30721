"""The benchmark's lines about named stats: `percpu.bench` has them among its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import percpu
from percpu import _calls

if TYPE_CHECKING:
    from percpu.bench import Line, Sampler

_NAMES = 300
_BULK = 100_000


def _indices() -> bytes:
    """Return indices of two bytes each, every count as often as the others."""
    return b"".join((k * 7 % _NAMES).to_bytes(2, "little") for k in range(_BULK))


def _add_at(stats: percpu.PerCpuStats) -> Sampler:
    """Return what measures ns per add of `add_at`."""
    indices = memoryview(_indices()).cast("H")

    def sample(seconds: float) -> float:
        return _repeat(lambda: stats.add_at(indices), seconds) / _BULK

    return sample


def _loop(stats: percpu.PerCpuStats) -> Sampler:
    """Return what measures ns per add of a loop over the same indices."""
    indices = memoryview(_indices()).cast("H").tolist()[: _BULK // 10]

    def add() -> None:
        inc = stats.inc
        for index in indices:
            inc(index)

    def sample(seconds: float) -> float:
        return _repeat(add, seconds) / len(indices)

    return sample


def _repeat(work: Callable[[], object], seconds: float) -> float:
    """Do it for some time, once at least; return ns for each time."""
    start = time.perf_counter_ns()
    end, times = start + round(seconds * 1e9), 0
    while True:
        work()
        times += 1
        now = time.perf_counter_ns()
        if now >= end:
            return (now - start) / times


def lines(call: Callable[[_calls.Call], Sampler], aimed_at: bool) -> list[Line]:
    """Return the lines; `call` makes a sampler, and targets are for the interpreters aimed at."""
    from percpu.bench import Line, Subject

    stats = percpu.PerCpuStats(f"stat{i}" for i in range(_NAMES))
    own, with_handle, with_name = _calls.stat_calls(stats)
    inc = Subject("Python c.inc()", call(_calls.inc(percpu.PerCpuCounter())))
    target = 1.3 if aimed_at else None
    return [
        Line(Subject("Python h.inc()", call(own)), inc, target),
        Line(Subject("Python s.inc(h)", call(with_handle)), inc, target),
        Line(Subject("Python s.inc('name')", call(with_name)), inc, None),
        Line(
            Subject("s.add_at(indices)", _add_at(stats)),
            Subject("s.inc(i) in a loop", _loop(stats)),
            None,
        ),
    ]
