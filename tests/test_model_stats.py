"""PerCpuStats against a model: the thread is always on a known CPU, so the model knows what was
counted on each.
"""

from __future__ import annotations

import os
import struct
from array import array

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import percpu
from percpu import PerCpuPool, PerCpuStat, PerCpuStats, StatsSnapshot

INT64 = st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True)
CODES = st.sampled_from("bBhHiIlLqQ")


def wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


class StatsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)
        self.handles: list[PerCpuStat] = []
        self.snapshots: list[tuple[StatsSnapshot, list[int]]] = []

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(names=NAMES, pool=st.booleans(), extra_cpus=st.sampled_from([0, 3]))
    def make(self, names: list[str], pool: bool, extra_cpus: int) -> None:
        self.hop(0)
        self.names = names
        cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if pool else 0)
        own = PerCpuPool(8 * len(names), stride=4096, cpus=cpus) if pool else None
        self.stats = PerCpuStats(*names, pool=own)
        self.counts = [[0] * len(names) for _ in range(cpus)]
        assert (self.stats.pool, self.stats.names) == (own, tuple(names))

    def value(self, i: int) -> int:
        return wrapped(sum(counts[i] for counts in self.counts))

    def add_to_model(self, i: int, n: int) -> None:
        self.counts[self.cpu][i] = wrapped(self.counts[self.cpu][i] + n)

    def which(self, i: int, how: int) -> str | int | PerCpuStat:
        """Count `i` by its name, its index, or a handle."""
        return (self.names[i], i, self.stats.handle(self.names[i]))[how]

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})

    @rule(choice=st.integers(0), how=st.integers(0, 2), n=INT64 | st.none())
    def inc(self, choice: int, how: int, n: int | None) -> None:
        i = choice % len(self.names)
        if n is None:
            self.stats.inc(self.which(i, how))
        else:
            self.stats.inc(self.which(i, how), n)
        self.add_to_model(i, 1 if n is None else n)

    @rule(choice=st.integers(0), how=st.integers(0, 2), n=INT64, keywords=st.booleans())
    def add(self, choice: int, how: int, n: int, keywords: bool) -> None:
        i = choice % len(self.names)
        if keywords:
            self.stats.add(n=n, which=self.which(i, how))
        else:
            self.stats.add(self.which(i, how), n)
        self.add_to_model(i, n)

    @rule(choice=st.integers(0), how=st.integers(0, 2))
    def keep_a_handle(self, choice: int, how: int) -> None:
        i = choice % len(self.names)
        handle = self.stats.handle(self.which(i, how))
        assert (handle.index, handle.name, handle.stats) == (i, self.names[i], self.stats)
        self.handles.append(handle)

    @rule(choice=st.integers(0), n=INT64 | st.none())
    def use_a_handle(self, choice: int, n: int | None) -> None:
        if not self.handles:
            return
        handle = self.handles[choice % len(self.handles)]
        if n is None:
            handle.inc()
        else:
            handle.add(n)
        self.add_to_model(handle.index, 1 if n is None else n)

    @rule(
        data=st.data(),
        code=CODES,
        weights=st.none() | INT64 | CODES,
        count=st.integers(0, 600),
        step=st.sampled_from([1, 2, -1, -3]),
    )
    def add_at(
        self, data: st.DataObject, code: str, weights: int | str | None, count: int, step: int
    ) -> None:
        few = data.draw(st.lists(st.integers(0, len(self.names) - 1), min_size=1, max_size=5))
        indices = (few * (count // len(few) + 1))[:count]
        column = array(code, indices)
        if isinstance(weights, str):
            bits = 8 * struct.calcsize(weights)
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if weights.isupper():
                low, high = 0, 2**bits - 1
            numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=5))
            each = (numbers * (count // len(numbers) + 1))[:count]
            given: object = memoryview(array(weights, each))[::step]
            each = each[::step]
        else:
            given = weights
            each = [1 if weights is None else weights] * len(indices[::step])
        self.stats.add_at(memoryview(column)[::step], given)  # type: ignore[arg-type]
        for i, n in zip(indices[::step], each, strict=True):
            self.add_to_model(i, n)

    @rule()
    def snapshot(self) -> None:
        values = [self.value(i) for i in range(len(self.names))]
        self.snapshots.append((self.stats.snapshot(), values))

    @rule(first=st.integers(0), second=st.integers(0))
    def difference(self, first: int, second: int) -> None:
        if not self.snapshots:
            return
        earlier, was = self.snapshots[first % len(self.snapshots)]
        later, then = self.snapshots[second % len(self.snapshots)]
        difference = later - earlier
        assert list(difference.values()) == [wrapped(b - a) for a, b in zip(was, then, strict=True)]
        assert difference.seconds == later.time - earlier.time

    @invariant()
    def every_count_is_as_modelled(self) -> None:
        if not hasattr(self, "stats"):
            return
        values = [self.value(i) for i in range(len(self.names))]
        assert [self.stats[name] for name in self.stats] == values
        assert [self.stats.sum(i) for i in range(len(self.stats))] == values
        assert self.stats.snapshot().as_dict() == dict(zip(self.names, values, strict=True))
        for i, name in enumerate(self.names):
            assert self.stats.per_cpu(name) == tuple(counts[i] for counts in self.counts)
        for cpu, counts in enumerate(self.counts):
            assert list(self.stats.snapshot(cpu).array) == counts
        assert [handle.sum() for handle in self.handles] == [
            values[handle.index] for handle in self.handles
        ]
        self.stats.check()

    @invariant()
    def snapshots_do_not_move(self) -> None:
        for snapshot, values in self.snapshots:
            assert list(snapshot.array) == list(snapshot.values()) == values


TestStats = StatsMachine.TestCase
