"""Lines about named stats."""

from __future__ import annotations

import percpu
from percpu import _calls
from percpu._bench.line import Line, Sampler, Subject, aimed_at, call, repeated

_NAMES = 300
_BULK = 100_000


def _indices() -> bytes:
    """Return indices of two bytes each, every count as often as the others."""
    return b"".join((k * 7 % _NAMES).to_bytes(2, "little") for k in range(_BULK))


def _add_at(stats: percpu.PerCpuStats) -> Sampler:
    """Return what measures ns per add of `add_at`."""
    indices = memoryview(_indices()).cast("H")
    return repeated(lambda: stats.add_at(indices), _BULK)


def _loop(stats: percpu.PerCpuStats) -> Sampler:
    """Return what measures ns per add of a loop over the same indices."""
    indices = memoryview(_indices()).cast("H").tolist()[: _BULK // 10]

    def add() -> None:
        inc = stats.inc
        for index in indices:
            inc(index)

    return repeated(add, len(indices))


def lines() -> list[Line]:
    """Return the lines."""
    stats = percpu.PerCpuStats(f"stat{i}" for i in range(_NAMES))
    own, with_handle, with_name = _calls.stat_calls(stats)
    inc = Subject("Python c.inc()", call(_calls.inc(percpu.PerCpuCounter())))
    target = 1.3 if aimed_at() else None
    return [
        Line(Subject("Python h.inc()", call(own)), inc, target),
        Line(Subject("Python s.inc(h)", call(with_handle)), inc, target),
        Line(Subject("Python s.inc('name')", call(with_name)), inc, None),
        Line(
            Subject("s.add_at(indices)", _add_at(stats)),
            Subject("loop of inc(i)", _loop(stats)),
            None,
        ),
    ]
