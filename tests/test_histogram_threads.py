"""PerCpuHistogram under more threads than CPUs, in signal handlers, in `__del__`, across forks and
closed meanwhile: every observation is in its bucket and in the sum in the end.
"""

from __future__ import annotations

import array
import math
import os
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
from conftest import THOROUGH
from together import run_forked, run_together, storm

import percpu
from percpu import ClosedError, PerCpuHistogram, PerCpuPool

THREADS = 8
ROUNDS = 20_000 if THOROUGH else 4_000
VALUES = (-3.0, 0, 0.5, 1, 7.0, 64, 4096.0, 10**6)  # of different buckets; all sums are exact
BOUNDS = (-1, 0.25, 0.75, 2, 10, 1000, 9999)
INDEXES = ["cpu", *(["cid"] if percpu.info().mm_cid or percpu.info().rseq == "none" else [])]
each_layout = pytest.mark.parametrize("layout", ["log", "bounds"])


def make(layout: str, pool: PerCpuPool | None = None) -> PerCpuHistogram:
    if layout == "bounds":
        return PerCpuHistogram(bounds=BOUNDS, pool=pool)
    return PerCpuHistogram(low=1e-6, high=1e5, pool=pool)


class Tally:
    """What threads observed: each adds its own when it ends."""

    def __init__(self, histogram: PerCpuHistogram) -> None:
        self.histogram = histogram
        self.counts: dict[float, int] = dict.fromkeys(VALUES, 0)
        self.lock = threading.Lock()

    def add(self, counts: dict[float, int]) -> None:
        with self.lock:
            for value, count in counts.items():
                self.counts[value] += count

    def updater(self, rounds: int = ROUNDS) -> Callable[[], None]:
        def run() -> None:
            observe = self.histogram.observe
            for _ in range(rounds // len(VALUES)):
                for value in VALUES:
                    observe(value)
            self.add(dict.fromkeys(VALUES, rounds // len(VALUES)))

        return run

    def mixer(self, seed: int) -> Callable[[], None]:
        """Observe one and many, also what is refused; hop between CPUs."""

        def run() -> None:
            rng = random.Random(seed)
            counts: dict[float, int] = dict.fromkeys(VALUES, 0)
            cpus = sorted(os.sched_getaffinity(0))
            for turn in range(ROUNDS // 40):
                values = rng.choices(VALUES, k=rng.randrange(1, 700))
                if turn % 3 == 0:
                    spoiled = array.array("d", [*values, math.nan])
                    with pytest.raises(ValueError, match="must be finite"):
                        self.histogram.observe_many(spoiled)
                else:
                    self.histogram.observe_many(array.array("d", values))
                    for value in values:
                        counts[value] += 1
                self.histogram.observe(VALUES[turn % 8])
                counts[VALUES[turn % 8]] += 1
                os.sched_setaffinity(0, {rng.choice(cpus)} if turn % 2 else cpus)
            os.sched_setaffinity(0, cpus)
            self.add(counts)

        return run

    def reader(self, rounds: int) -> Callable[[], None]:
        def run() -> None:
            seen = 0
            for _ in range(rounds):
                snapshot = self.histogram.snapshot()
                assert snapshot.count >= seen
                seen = snapshot.count
                assert seen == 0 or self.histogram.low <= snapshot.quantile(0.9) <= 1e9
                self.histogram.check()

        return run

    def check(self) -> None:
        """Every observation is in its bucket, and in the sum."""
        self.histogram.check()
        expected = make(self.histogram.layout)
        for value, count in self.counts.items():
            expected.observe_many(np.full(count, value))
        assert self.histogram.snapshot() == expected.snapshot()
        assert self.histogram.sum == sum(value * count for value, count in self.counts.items())
        assert sum(self.histogram.per_cpu()) == sum(self.counts.values())


@each_layout
@pytest.mark.parametrize("index", INDEXES)
def test_update_heavy(layout: str, index: str) -> None:
    tally = Tally(make(layout, PerCpuPool(8192, index=index)))
    with storm(lambda: tally.histogram.observe(7)) as signals:
        run_together(*(tally.updater() for _ in range(THREADS)))
    tally.add({7.0: signals[0]})
    tally.check()


@each_layout
def test_read_heavy(layout: str) -> None:
    tally = Tally(make(layout))
    readers = [tally.reader(ROUNDS // 80) for _ in range(THREADS - 2)]
    with storm(lambda: tally.histogram.observe(0.5)) as signals:
        run_together(*readers, tally.updater(), tally.updater())
    tally.add({0.5: signals[0]})
    tally.check()


@each_layout
def test_mixed(layout: str) -> None:
    tally = Tally(make(layout))
    mixers = [tally.mixer(seed) for seed in range(THREADS // 2)]
    with storm(lambda: tally.histogram.observe_many(b"\x01\x07")) as signals:
        run_together(*mixers, *(tally.updater() for _ in range(2)), tally.reader(20))
    tally.add({1: signals[0], 7.0: signals[0]})
    tally.check()


def test_a_mean_is_of_what_is_counted() -> None:
    """A sum of what came after the count would make the mean of ones more than one."""
    h, ones = PerCpuHistogram(bounds=range(1, 4000)), array.array("d", [1.0] * 2000)
    means: list[float] = []
    done = threading.Event()

    def observe() -> None:
        while not done.is_set():
            h.observe_many(ones)

    def read() -> None:
        h.observe_many(ones)
        for _ in range(ROUNDS // 2):
            means.append(h.mean)
            means.append(h.snapshot().mean)
        done.set()

    run_together(observe, observe, read)
    assert max(means) <= 1
    assert h.mean == 1


def test_merging_beside_observing_loses_nothing() -> None:
    total, parts = make("log"), [Tally(make("log")) for _ in range(4)]
    run_together(*(part.updater() for part in parts))
    run_together(*(lambda part=part: total.merge(part.histogram) for part in parts))  # type: ignore[misc]
    run_together(*(lambda part=part: total.merge(part.histogram.snapshot()) for part in parts))  # type: ignore[misc]
    whole = Tally(total)
    for part in parts:
        whole.add(part.counts)
        whole.add(part.counts)
    whole.check()


def test_observations_in_del_and_handlers_in_tight_loops() -> None:
    """No lock is held that a `__del__` or a handler could need: they would wait for ever."""
    h = make("log")
    made = [0]

    class Observes:
        def __del__(self) -> None:
            h.observe(1)
            h.observe_many(b"\x01" * 300)
            h.quantile(0.5)
            h.merge(make("log"))
            made[0] += 301

    class Index:
        def __index__(self) -> int:
            Observes()
            return 1

    def handler() -> None:
        Observes()
        PerCpuHistogram(bounds=[1, 2]).observe(1)

    with storm(handler) as signals:
        for _ in range(ROUNDS // 4):
            Observes()
            h.observe(1)
            h.observe(Index())
            made[0] += 2
            h.observe_many(array.array("d", [1.0] * 400))
            made[0] += 400
    assert signals[0] > 10
    assert (h.count, h.sum) == (made[0], made[0])
    h.check()


def test_forks_in_the_middle_of_everything() -> None:
    """The child has a histogram of its own, that is whole."""
    h, stop = make("log"), threading.Event()

    def work() -> None:
        while not stop.is_set():
            h.observe(1)
            h.observe_many(array.array("d", [1.0] * 600))
            PerCpuHistogram(bounds=[1]).observe(1)

    def in_child() -> None:
        h.check()
        before = h.count
        assert before >= 1
        assert h.sum <= before
        h.observe(1)
        h.observe_many(array.array("d", [1.0] * 99))
        assert h.count == before + 100
        assert h.snapshot().counts.count(0) == len(h.bounds)
        fresh = PerCpuHistogram(bounds=[1, 2, 3])
        fresh.observe(2)
        assert fresh.snapshot().counts == (0, 1, 0, 0)

    h.observe(1)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100 if THOROUGH else 20):
            run_forked(in_child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert h.sum == h.count


def use_for_ever(h: PerCpuHistogram) -> None:
    values, part = array.array("d", [1.0] * 2000), make("bounds").snapshot()
    while True:
        h.observe(1)
        h.observe_many(values)
        h.merge(part)
        h.quantile(0.5)
        assert h.low == -1


@pytest.mark.parametrize("by", ["itself", "its pool"])
def test_closing_meanwhile_raises_at_worst(by: str) -> None:
    for _ in range(20):
        pool = PerCpuPool(8192)
        h = make("bounds", pool if by == "its pool" else None)
        ready = threading.Barrier(5)

        def work(h: PerCpuHistogram = h, ready: threading.Barrier = ready) -> None:
            ready.wait()
            with pytest.raises(ClosedError):
                use_for_ever(h)

        def close(
            h: PerCpuHistogram = h, pool: PerCpuPool = pool, ready: threading.Barrier = ready
        ) -> None:
            ready.wait()
            (h if by == "itself" else pool).close()

        run_together(*[work] * 4, close)


def test_a_buffer_that_changes_meanwhile() -> None:
    """Each value is read once: what is counted was there, and is found finite before."""
    h = make("bounds")
    values = np.ones(200_000)
    stop = threading.Event()
    counted = [0]

    def spoil() -> None:
        while not stop.is_set():
            for x in (math.nan, 1e300, -math.inf, -1e300, 1.0):
                values[::7] = x

    def observe() -> None:
        try:
            for _ in range(60):
                try:
                    h.observe_many(values)
                except ValueError as error:
                    assert "must be finite" in str(error)  # noqa: PT017
                else:
                    counted[0] += len(values)
        finally:
            stop.set()

    run_together(spoil, observe)
    values[:] = 1.0
    h.observe_many(values)
    assert h.count == counted[0] + len(values)
    assert math.isfinite(h.sum)
    h.check()
