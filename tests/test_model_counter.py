"""PerCpuCounter against a model that knows every word of it: each CPU's count and what it flushed,
the total and the base, because the thread is always on a known CPU; and what was added before there
was memory on each CPU, by the thread that owns that word and by another.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import percpu

LOW, HIGH = -(2**63), 2**63 - 1
int64 = st.integers(-70, 70) | st.integers(LOW, HIGH) | st.sampled_from([LOW, HIGH, LOW + 1])


def wrap(n: int) -> int:
    """`n` modulo 2**64, as an int64."""
    return (n - LOW) % 2**64 + LOW


CONTENDED = 32
"""How many adds beside its owner's make a lazy counter take its memory."""


class CounterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)
        self.other = ThreadPoolExecutor(1)

    def teardown(self) -> None:
        self.other.shutdown()
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        value=int64,
        batch=st.integers(1, 5) | st.sampled_from([32, 1024, 2**48]) | st.integers(1, 2**48),
        error=st.none() | st.sampled_from([0.01, 0.5]) | st.floats(0.001, 0.999) | st.integers(0),
        kind=st.sampled_from(["lazy", "lazy", "per-CPU", "pool", "many"]),
        extra_cpus=st.sampled_from([0, 5]),
        choice=st.integers(0),
    )
    def make(
        self,
        value: int,
        batch: int,
        error: float | None,
        kind: str,
        extra_cpus: int,
        choice: int,
    ) -> None:
        self.hop(choice)
        self.cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if kind == "pool" else 0)
        own = percpu.PerCpuPool(24, stride=4096, cpus=self.cpus) if kind == "pool" else None
        if kind == "many":
            error = None
            self.counter = percpu.PerCpuCounter.many(3, value, batch=batch)[choice % 3]
        elif error is not None:
            error = min(error, 2**63 - 1)
            self.counter = percpu.PerCpuCounter(value, error=error, lazy=kind == "lazy", pool=own)
        else:
            self.counter = percpu.PerCpuCounter(value, batch=batch, lazy=kind == "lazy", pool=own)
        self.lazy, self.owner, self.loose, self.beside = kind == "lazy", "", 0, 0
        self.margin, self.base, self.total, self.seen = batch - 1, value, 0, value
        self.counts, self.flushed = [0] * self.cpus, [0] * self.cpus
        self.error = error if isinstance(error, float) else 0.0
        if isinstance(error, int):
            self.margin = min(int(float(error) / self.cpus), 2**48 - 1)
        elif error is not None:
            self.margin = self.allowed()
        assert self.counter.lazy == self.lazy
        assert kind == "many" or self.counter.pool is own

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})
        assert percpu.current_cpu() == self.cpu

    # The algorithm of counter.h and error.c, in numbers that cannot overflow.

    def allowed(self) -> int:
        margin = self.error / (1 + self.error) * float(abs(self.about)) / self.cpus
        return min(int(margin), 2**48 - 1)

    def adjust(self) -> None:
        """The margin of a relative error follows the value: down at once, up when it doubles."""
        while self.error:
            most = self.allowed()
            if self.margin > most:
                self.margin = most // 2
                for cpu in range(self.cpus):
                    self.flush(cpu)
            elif most > 2 * self.margin + 1:
                self.margin = most
            else:
                break

    def flush(self, cpu: int) -> bool:
        unflushed = wrap(self.counts[cpu] - self.flushed[cpu])
        if -self.margin <= unflushed <= self.margin:
            return False
        self.total = wrap(self.total + unflushed)
        self.flushed[cpu] = self.counts[cpu]
        return True

    def added(self, n: int, thread: str = "here") -> None:
        if self.lazy:
            self.owner = self.owner or thread
            self.loose = wrap(self.loose + n)
            if thread != self.owner:
                self.beside += 1
                self.lazy = self.beside % CONTENDED != 0
            return
        self.counts[self.cpu] = wrap(self.counts[self.cpu] + n)
        if self.flush(self.cpu):
            self.adjust()

    @property
    def about(self) -> int:
        return wrap(self.base + self.loose + self.total)

    @property
    def value(self) -> int:
        return wrap(self.base + self.loose + sum(self.counts))

    def moved(self, value: int) -> None:
        """The value is `value` now, which only `base` knows."""
        self.base = wrap(value - self.loose - sum(self.counts))
        self.adjust()

    @rule(ns=st.lists(int64, min_size=1, max_size=CONTENDED + 3), choice=st.integers(0))
    def add_in_another_thread(self, ns: list[int], choice: int) -> None:
        def add() -> int:
            os.sched_setaffinity(0, {cpu})
            for n in ns:
                self.counter.add(n)
            return percpu.current_cpu()

        cpu = sorted(self.affinity)[choice % len(self.affinity)]
        here, self.cpu = self.cpu, self.other.submit(add).result()
        for n in ns:
            self.added(n, "there")
        self.cpu = here

    @rule()
    def upgrade(self) -> None:
        self.counter.upgrade()
        self.lazy = False

    @rule(n=int64, limit=int64, near=st.integers(-3, 3))
    def try_add(self, n: int, limit: int, near: int) -> None:
        for bound in (limit, wrap(self.value + n + near)):
            fits = self.value + n <= bound and LOW <= self.value + n <= HIGH
            assert self.counter.try_add(n, bound) is fits
            if fits:
                self.moved(self.value + n)

    @rule(n=int64, floor=int64, near=st.integers(-3, 3))
    def try_sub(self, n: int, floor: int, near: int) -> None:
        for bound in (floor, wrap(self.value - n + near)):
            fits = self.value - n >= bound and LOW <= self.value - n <= HIGH
            assert self.counter.try_sub(n, floor=bound) is fits
            if fits:
                self.moved(self.value - n)

    @rule()
    def delta(self) -> None:
        assert self.counter.delta() == wrap(self.value - self.seen)
        self.seen = self.value

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
        self.moved(value)

    @rule(value=int64)
    def exchange(self, value: int) -> None:
        assert self.counter.exchange(value) == self.value
        self.moved(value)

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
        self.counter.read()
        self.adjust()
        assert self.counter.sum() == int(self.counter) == self.value
        assert self.counter.per_cpu() == tuple(self.counts)
        assert self.counter.read() == self.about
        assert self.counter.lazy == self.lazy
        assert self.counter.batch == self.margin + 1
        assert self.counter.error == (0 if self.lazy else self.margin * self.cpus)
        if self.error:
            assert abs(wrap(self.about - self.value)) <= self.error * abs(self.value)
        value, low, high = self.counter.read_bounds()
        assert value == self.counter.read()
        assert low <= self.counter.sum() <= high
        assert (low, high) == (LOW, HIGH) or high - low == 2 * self.counter.error
        assert bool(self.counter) == (self.value != 0)
        assert f" {self.value} " in repr(self.counter)


TestCounter = CounterMachine.TestCase
