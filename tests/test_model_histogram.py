"""PerCpuHistogram against a model in plain Python that knows every CPU's buckets and sum, because
the thread is always on a known CPU.
"""

from __future__ import annotations

import array
import math
import os
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import percpu

finite = st.floats(allow_nan=False, allow_infinity=False)
everyday = st.floats(1e-6, 1e6) | st.integers(-3, 3000) | st.sampled_from([0.0, -0.0, 0.5, 1, 64])
value = everyday | everyday | finite
bad = st.sampled_from([math.nan, math.inf, -math.inf])
increasing = st.lists(finite, min_size=1, max_size=20, unique=True).map(sorted)


class HistogramMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    def started(self, pool: str | None, extra_cpus: int, choice: int) -> percpu.PerCpuPool | None:
        self.hop(choice)
        self.cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if pool else 0)
        return percpu.PerCpuPool(65_000, cpus=self.cpus) if pool else None

    @initialize(
        relative_error=st.floats(0.02, 0.9),
        ends=st.tuples(st.floats(1e-5, 1e5), st.floats(1e-5, 1e5)).filter(lambda e: e[0] != e[1]),
        pool=st.sampled_from([None, None, "own"]),
        extra_cpus=st.sampled_from([0, 5]),
        choice=st.integers(0),
    )
    def make_log(
        self,
        relative_error: float,
        ends: tuple[float, float],
        pool: str | None,
        extra_cpus: int,
        choice: int,
    ) -> None:
        low, high = sorted(ends)
        own = self.started(pool, extra_cpus, choice)
        self.histogram = percpu.PerCpuHistogram(relative_error, low=low, high=high, pool=own)
        self.log = True
        parts = 1
        while 0.5 / parts > relative_error:
            parts *= 2
        # Every part of every octave from low's on, and those that are needed.
        first = math.frexp(low)[1] - 1
        grid = [2.0**e * (1 + i / parts) for e in range(first, first + 40) for i in range(parts)]
        self.bounds = grid[bisect_right(grid, low) - 1 : bisect_left(grid, high) + 1]
        assert self.histogram.error == 0.5 / parts
        self.begin()

    @initialize(
        bounds=increasing,
        pool=st.sampled_from([None, None, "own"]),
        extra_cpus=st.sampled_from([0, 5]),
        choice=st.integers(0),
    )
    def make_bounds(
        self, bounds: list[float], pool: str | None, extra_cpus: int, choice: int
    ) -> None:
        own = self.started(pool, extra_cpus, choice)
        self.histogram = percpu.PerCpuHistogram(bounds=bounds, pool=own)
        self.log, self.bounds = False, bounds
        self.begin()

    def begin(self) -> None:
        assert self.histogram.bounds == tuple(self.bounds)
        self.counts = [[0] * (len(self.bounds) + 1) for _ in range(self.cpus)]
        self.values: list[float] = []

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})
        assert percpu.current_cpu() == self.cpu

    def bucket(self, x: float) -> int:
        return bisect_right(self.bounds, x) if self.log else bisect_left(self.bounds, x)

    def observed(self, x: float) -> None:
        self.counts[self.cpu][self.bucket(x)] += 1
        self.values.append(float(x))

    @rule(x=value)
    def observe(self, x: float) -> None:
        self.histogram.observe(x)
        self.observed(x)

    @rule(places=st.lists(st.integers(0), min_size=1, max_size=5), above=st.booleans())
    def observe_at_bounds(self, places: list[int], above: bool) -> None:
        for place in places:
            x = math.nextafter(
                self.bounds[place % len(self.bounds)], math.inf if above else -math.inf
            )
            for near in (x, self.bounds[place % len(self.bounds)]):
                if math.isfinite(near):
                    self.histogram.observe(near)
                    self.observed(near)

    @rule(values=st.lists(value, max_size=300))
    def observe_many(self, values: list[float]) -> None:
        self.histogram.observe_many(array.array("d", values))
        for x in values:
            self.observed(x)

    @rule(x=bad, values=st.lists(value, max_size=200), place=st.integers(0))
    def observe_what_is_not_finite(self, x: float, values: list[float], place: int) -> None:
        values.insert(at := place % (len(values) + 1), x)
        with pytest.raises(ValueError, match=rf"values\[{at}\] must be finite"):
            self.histogram.observe_many(array.array("d", values))
        with pytest.raises(ValueError, match="x must be finite"):
            self.histogram.observe(x)

    @rule(values=st.lists(everyday, max_size=30), as_snapshot=st.booleans())
    def merge(self, values: list[float], as_snapshot: bool) -> None:
        if self.log:
            other = percpu.PerCpuHistogram(
                self.histogram.error, low=self.histogram.low, high=self.histogram.high
            )
        else:
            other = percpu.PerCpuHistogram(bounds=self.bounds)
        other.observe_many(array.array("d", values))
        self.histogram.merge(other.snapshot() if as_snapshot else other)
        for x in values:
            self.observed(x)

    @rule(values=st.lists(value, max_size=30))
    def difference(self, values: list[float]) -> None:
        before = self.histogram.snapshot()
        self.observe_many(values)
        difference = self.histogram.snapshot() - before
        expected = [0] * (len(self.bounds) + 1)
        for x in values:
            expected[self.bucket(x)] += 1
        assert difference.counts == tuple(expected)
        assert (before + difference).counts == self.histogram.snapshot().counts

    @rule(q=st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]))
    def quantile(self, q: float) -> None:
        found = self.histogram.quantile(q)
        if not self.values:
            assert math.isnan(found)
            return
        self.values.sort()
        true = self.values[max(1, math.ceil(q * len(self.values))) - 1]
        if not self.log:  # in the bucket that the true one is in, or at an end of it
            ends = [min(0.0, self.bounds[0]), *self.bounds, self.bounds[-1]]
            low, high = ends[self.bucket(true)], ends[self.bucket(true) + 1]
            assert low <= found <= high
        elif true < self.bounds[0] or true >= self.bounds[-1]:
            assert found == self.bounds[0 if true < self.bounds[0] else -1]
        else:
            assert abs(found - true) <= self.histogram.error * true

    @invariant()
    def every_word_is_as_modelled(self) -> None:
        if not hasattr(self, "histogram"):
            return
        self.histogram.check()
        counts = tuple(map(sum, zip(*self.counts, strict=True)))
        snapshot = self.histogram.snapshot()
        assert snapshot.counts == counts
        assert self.histogram.count == snapshot.count == len(self.values)
        assert self.histogram.per_cpu() == tuple(map(sum, self.counts))
        if max(map(abs, self.values), default=0) < 1e290:  # else the sum may be beyond floats
            rounding = math.fsum(map(abs, self.values)) * 1e-12
            assert abs(self.histogram.sum - math.fsum(self.values)) <= rounding
            assert snapshot.sum == self.histogram.sum


TestHistogram = HistogramMachine.TestCase
