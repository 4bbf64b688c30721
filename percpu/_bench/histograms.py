"""Lines about histograms."""

from __future__ import annotations

import array
import random
from dataclasses import replace

import percpu
from percpu import _calls
from percpu._bench.line import Line, Sampler, Subject, aimed_at, call, repeated

_SOME = 10_000
_TIMES = 100


def _durations() -> array.array[float]:
    """Return numbers such as are observed: most around some milliseconds."""
    rng = random.Random(1)
    return array.array("d", [rng.lognormvariate(-6, 1) for _ in range(_SOME)])


def _observe_many() -> Sampler:
    """Return what measures ns per value of `observe_many`, of a million."""
    histogram, values = percpu.PerCpuHistogram(), _durations() * _TIMES
    return repeated(lambda: histogram.observe_many(values), len(values))


def _loop() -> Sampler:
    """Return what measures ns per value of a loop over such values."""
    histogram, values = percpu.PerCpuHistogram(), _durations().tolist()

    def observe() -> None:
        observe = histogram.observe
        for value in values:
            observe(value)

    return repeated(observe, len(values))


def lines() -> list[Line]:
    """Return the lines."""
    log, bounds = _calls.histogram_calls()
    prometheus = _calls.prometheus_observe()
    inc = Subject("Python c.inc()", call(_calls.inc(percpu.PerCpuCounter())))
    observe_bounds = Subject("h.observe(x), 14 bounds", call(bounds))
    target = 2.5 if aimed_at() else None
    return [
        Line(Subject("Python h.observe(x)", call(log)), inc, target),
        Line(observe_bounds, inc, target),
        Line(
            Subject("prometheus_client observe", call(prometheus or _calls.EMPTY_LOOP)),
            replace(observe_bounds, name="ours, 14 bounds"),
            None,
            "" if prometheus else "needs prometheus_client",
        ),
        Line(
            Subject("observe_many, 1e6 doubles", _observe_many()),
            Subject("loop of observe", _loop()),
            0.1 if aimed_at() else None,
        ),
    ]
