"""PerCpuCounter against a model that knows every word of it: each CPU's count and what it flushed,
the total and the base, because the thread is always on a known CPU.
"""

from __future__ import annotations

import os

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import percpu

LOW, HIGH = -(2**63), 2**63 - 1
int64 = st.integers(-70, 70) | st.integers(LOW, HIGH) | st.sampled_from([LOW, HIGH, LOW + 1])


def wrap(n: int) -> int:
    """`n` modulo 2**64, as an int64."""
    return (n - LOW) % 2**64 + LOW


class CounterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        value=int64,
        batch=st.integers(1, 5) | st.sampled_from([32, 1024, 2**48]) | st.integers(1, 2**48),
        pool=st.sampled_from([None, None, "own"]),
        extra_cpus=st.sampled_from([0, 5]),
        choice=st.integers(0),
    )
    def make(self, value: int, batch: int, pool: str | None, extra_cpus: int, choice: int) -> None:
        self.hop(choice)
        self.cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if pool else 0)
        own = percpu.PerCpuPool(24, stride=4096, cpus=self.cpus) if pool else None
        self.counter = percpu.PerCpuCounter(value, batch=batch, pool=own)
        self.batch, self.base, self.total = batch, value, 0
        self.counts, self.flushed = [0] * self.cpus, [0] * self.cpus
        assert self.counter.batch == batch
        assert self.counter.error == (batch - 1) * self.cpus
        assert self.counter.pool is own

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})
        assert percpu.current_cpu() == self.cpu

    def added(self, n: int) -> None:
        """The algorithm of counter.h, in numbers that cannot overflow."""
        self.counts[self.cpu] = wrap(self.counts[self.cpu] + n)
        unflushed = wrap(self.counts[self.cpu] - self.flushed[self.cpu])
        if not -self.batch < unflushed < self.batch:
            self.total = wrap(self.total + unflushed)
            self.flushed[self.cpu] = self.counts[self.cpu]

    @property
    def value(self) -> int:
        return wrap(self.base + sum(self.counts))

    @rule(n=int64)
    def add(self, n: int) -> None:
        self.counter.add(n)
        self.added(n)

    @rule(n=int64)
    def sub(self, n: int) -> None:
        self.counter.sub(n)
        self.added(-n)

    @rule(n=int64)
    def add_in_place(self, n: int) -> None:
        counter = self.counter
        self.counter += n
        assert self.counter is counter
        self.added(n)

    @rule(n=int64)
    def subtract_in_place(self, n: int) -> None:
        counter = self.counter
        self.counter -= n
        assert self.counter is counter
        self.added(-n)

    @rule(times=st.integers(1, 40))
    def inc(self, times: int) -> None:
        for _ in range(times):
            self.counter.inc()
            self.added(1)

    @rule(times=st.integers(1, 40))
    def dec(self, times: int) -> None:
        for _ in range(times):
            self.counter.dec()
            self.added(-1)

    @rule(value=int64)
    def set(self, value: int) -> None:
        self.counter.set(value)
        self.base = wrap(value - sum(self.counts))

    @rule(value=int64)
    def exchange(self, value: int) -> None:
        assert self.counter.exchange(value) == self.value
        self.base = wrap(value - sum(self.counts))

    @rule(rhs=int64, near=st.integers(-3, 3), beyond=st.integers(0, 2**70))
    def compare(self, rhs: int, near: int, beyond: int) -> None:
        value = self.value
        for other in (rhs, value + near, HIGH + 1 + beyond, LOW - 1 - beyond):
            assert self.counter.compare(other) == (value > other) - (value < other)
            assert (self.counter < other) == (value < other)
            assert (self.counter <= other) == (value <= other)
            assert (self.counter == other) == (value == other)
            assert (self.counter != other) == (value != other)
            assert (self.counter > other) == (value > other)
            assert (self.counter >= other) == (value >= other)
            assert (other < self.counter) == (other < value)

    @rule(rhs=int64)
    def compare_counters(self, rhs: int) -> None:
        with percpu.PerCpuCounter(rhs) as other:
            assert self.counter.compare(other) == (self.value > rhs) - (self.value < rhs)
            assert (self.counter < other) == (self.value < rhs)
            assert (self.counter == other) == (self.value == rhs)
        assert self.counter.compare(self.counter) == 0

    @invariant()
    def every_word_is_as_modelled(self) -> None:
        if not hasattr(self, "counter"):
            return
        self.counter.check()
        assert self.counter.sum() == int(self.counter) == self.value
        assert self.counter.per_cpu() == tuple(self.counts)
        assert self.counter.read() == wrap(self.base + self.total)
        value, low, high = self.counter.read_bounds()
        assert value == self.counter.read()
        assert low <= self.counter.sum() <= high
        assert (low, high) == (LOW, HIGH) or high - low == 2 * self.counter.error
        assert bool(self.counter) == (self.value != 0)
        assert f" {self.value} " in repr(self.counter)


TestCounter = CounterMachine.TestCase
