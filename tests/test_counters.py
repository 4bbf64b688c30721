"""PerCpuCounter: what it costs while it is lazy, many at once, exact limits, exporting; all of it
with threads, signal handlers, finalizers and forks in the middle.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from array import array

import pytest
from together import run_forked, run_python, run_together, storm

from percpu import PerCpuCounter, PerCpuVar

CPUS = len(PerCpuVar("b"))
CONTENDED = 32
np = pytest.importorskip("numpy")


def in_a_thread(body: object) -> None:
    """Run `body` in a thread while this one waits, which is alive, so it is another thread."""
    run_together(body)  # type: ignore[arg-type]


def test_a_counter_of_one_thread_stays_lazy() -> None:
    counter = PerCpuCounter(3)
    for _ in range(1000):
        counter.inc()
    counter.add_many(array("q", range(1000)))
    assert counter.lazy
    assert counter.read_bounds() == (1003 + 499500,) * 3
    assert counter.per_cpu() == (0,) * CPUS


def test_the_first_thread_that_adds_owns_it_not_the_one_that_made_it() -> None:
    counter = PerCpuCounter()
    in_a_thread(lambda: [counter.inc() for _ in range(1000)])
    assert counter.lazy


def test_contention_makes_it_count_per_cpu() -> None:
    counter = PerCpuCounter()
    counter.inc()
    in_a_thread(lambda: [counter.inc() for _ in range(CONTENDED - 1)])
    assert counter.lazy
    in_a_thread(lambda: [counter.inc() for _ in range(1 + 500)])
    assert not counter.lazy
    assert sum(counter.per_cpu()) == 500
    assert counter.sum() == 1 + CONTENDED + 500


def test_a_lazy_counter_is_small() -> None:
    def allocated() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    assert sys.getsizeof(PerCpuCounter()) <= 200
    before = allocated()
    counters = [PerCpuCounter() for _ in range(1000)]
    assert allocated() - before <= 1000 + 50  # one block each, and nothing else
    assert all(counter.lazy for counter in counters)


def test_upgrading_while_threads_add_loses_nothing() -> None:
    def upgrade_one() -> None:
        counter = PerCpuCounter(batch=3)
        adders = [lambda: [counter.add(2) for _ in range(200)]] * 3
        run_together(*adders, counter.upgrade, lambda: [counter.sum() for _ in range(50)])
        assert counter.sum() == 3 * 400
        counter.check()

    for _ in range(50):
        upgrade_one()


def test_many_lie_side_by_side_and_go_together() -> None:
    counters = PerCpuCounter.many(10_000, 7, batch=5)
    assert len(counters) == 10_000
    assert len({id(counter.pool) for counter in counters}) == 1
    pool = counters[0].pool
    assert pool is not None
    assert (len(pool), pool.stats()["ranges"]) == (10_000, 1)
    for i, counter in enumerate(counters):
        counter.add(i)
    assert [counter.sum() for counter in counters] == [7 + i for i in range(10_000)]
    assert not any(counter.lazy for counter in counters)
    assert counters[0].batch == 5
    del counters[1:], counter
    gc.collect()
    assert len(pool) == 1
    assert PerCpuCounter.many(0) == []


def test_many_of_a_subclass_are_made_as_it_says() -> None:
    class Named(PerCpuCounter):
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.name = "named"

    assert [(c.name, c.sum()) for c in Named.many(3, 2)] == [("named", 2)] * 3


def test_no_memory_for_many_raises_and_leaves_nothing() -> None:
    with pytest.raises(MemoryError):
        PerCpuCounter.many(2**58)


def test_limits_hold_for_threads_with_a_hog() -> None:
    limit, threads = 100, 2 * CPUS + 2
    counter, taken = PerCpuCounter(), [0] * threads
    assert counter.try_add(60, limit)  # the hog

    def take(i: int) -> None:
        for _ in range(500):
            taken[i] += counter.try_add(1, limit)
            assert 60 <= counter.sum() <= limit

    run_together(*[lambda i=i: take(i) for i in range(threads)])
    assert sum(taken) == 40
    assert counter.try_sub(limit, 0)
    assert not counter.try_sub(1, 0)
    assert counter.sum() == 0


def test_a_limit_is_in_the_way_of_nobody_else() -> None:
    threads = 2 * CPUS + 2
    counter = PerCpuCounter()

    def pairs() -> None:
        for _ in range(1000):
            assert counter.try_add(1, threads)
            assert counter.try_sub(n=1, floor=0)

    run_together(*[pairs] * threads)
    assert counter.sum() == 0


def test_deltas_of_all_exporters_add_up() -> None:
    counter, exported = PerCpuCounter(1000), [0, 0]

    def export(i: int) -> None:
        for _ in range(2000):
            exported[i] += counter.delta()

    adders = [lambda: [counter.inc() for _ in range(2000)]] * 3
    run_together(*adders, lambda: export(0), lambda: export(1))
    assert sum(exported) + counter.delta() == 6000
    assert counter.delta() == 0


def test_setting_is_a_change_of_the_value_too() -> None:
    counter = PerCpuCounter(5)
    counter.set(100)
    assert (counter.delta(), counter.exchange(0), counter.delta()) == (95, 100, -100)


@pytest.mark.parametrize("error", [0.01, 0.25, 500])
def test_reading_is_within_the_error_whatever_the_value_does(error: float) -> None:
    counter = PerCpuCounter(error=error, lazy=False)
    for goal in (10, 100_000, 300, 5_000_000, -1000, 0):
        step = max(1, abs(goal - counter.sum()) // 2000)
        while counter.sum() != goal:
            left = goal - counter.sum()
            counter.add(max(-step, min(step, left)))
        allowed = error if isinstance(error, int) else error * abs(goal)
        assert abs(counter.read() - goal) <= allowed
        assert counter.error <= allowed
    counter.check()


def test_a_sum_beyond_64_bits_wraps_around() -> None:
    for lazy in (True, False):
        counter = PerCpuCounter(2**63 - 1, lazy=lazy)
        counter.inc()
        assert counter.sum() == -(2**63)
        counter.add_many(np.full(3, 2**63 - 1))
        assert counter.sum() == (-(2**63) + 3 * (2**63 - 1) + 2**63) % 2**64 - 2**63


INTEGERS = ["i1", "u1", "<i2", ">u2", "i4", ">i4", "u4", "i8", ">i8", "u8"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("length", [0, 1, 255, 256, 511, 512, 513, 5000])
def test_adding_many_is_adding_their_sum(dtype: str, length: int) -> None:
    bounds = np.iinfo(dtype)
    random = np.random.default_rng(length)
    values = random.integers(bounds.min, bounds.max, 2 * length, dtype=dtype[-2:], endpoint=True)
    values = values.astype(dtype)
    for view in (values, values[::2], values[::-1]):
        counter = PerCpuCounter(lazy=False)
        view.flags.writeable = False
        counter.add_many(view)
        expected = sum(view.tolist())
        assert counter.sum() == (expected + 2**63) % 2**64 - 2**63
    crooked = np.frombuffer(b"x" + values.tobytes(), dtype="u1")[1:].view(dtype)
    counter = PerCpuCounter()
    counter.add_many(crooked)
    assert (counter.sum() - sum(values.tolist())) % 2**64 == 0


def test_other_threads_run_while_many_are_added() -> None:
    counter, values = PerCpuCounter(), np.ones(2_000_000, dtype="i1")
    done = threading.Event()

    def add() -> None:
        for _ in range(5):
            counter.add_many(values)
        done.set()

    def scribble() -> None:  # the array may change meanwhile: each number is read once
        while not done.is_set():
            values[::1000] = 1

    run_together(add, scribble, lambda: [counter.inc() for _ in range(1000)])
    assert counter.sum() == 5 * 2_000_000 + 1000


def test_handlers_and_finalizers_use_it_in_the_middle_of_everything() -> None:
    counter = PerCpuCounter(batch=2)
    other = PerCpuCounter()
    in_a_thread(other.inc)  # what this thread adds is beside its owner

    class Finalized:
        def __del__(self) -> None:
            counter.inc()
            other.inc()

    turns = 0
    with storm(lambda: (counter.inc(), counter.try_add(1, 2**62), other.inc())) as calls:
        while calls[0] < 60:
            cycle = [Finalized()]
            cycle.append(cycle)  # type: ignore[arg-type]
            PerCpuCounter(lazy=False).inc()
            counter.try_sub(0, -(2**62))
            turns += 1
            if turns % 50 == 0:
                del cycle
                gc.collect()
    cycle = []
    gc.collect()
    assert counter.sum() == turns + 2 * calls[0]
    assert other.sum() == 1 + turns + calls[0]
    assert not other.lazy
    counter.check()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_whatever_other_threads_did() -> None:
    counter, stop = PerCpuCounter(batch=2), threading.Event()

    def add() -> None:
        while not stop.is_set():
            counter.inc()
            counter.try_add(1, 2**62)
            time.sleep(0)

    def child() -> None:
        before = counter.sum()
        run_together(*[lambda: [counter.inc() for _ in range(50)]] * 2)
        assert counter.sum() == before + 100
        assert counter.try_add(5, before + 105)
        counter.check()

    def fork() -> None:
        try:
            for _ in range(10):
                run_forked(child)
        finally:
            stop.set()

    run_together(add, add, fork)


def test_lazy_counters_made_by_threads_that_ended_are_exact() -> None:
    counters: list[PerCpuCounter] = []
    for i in range(200):  # thread after thread, at the same addresses

        def work(i: int = i) -> None:
            counters.append(PerCpuCounter(i))
            for counter in counters[-5:]:
                counter.inc()

        in_a_thread(work)
    expected = [i + min(5, 200 - i) for i in range(200)]
    assert [counter.sum() for counter in counters] == expected


def test_a_million_lazy_counters_fit() -> None:
    out = run_python(
        "import percpu, resource\n"
        "def kib():\n"
        "    with open('/proc/self/statm') as f: return int(f.read().split()[1]) * 4\n"
        "counters = [None] * 1_000_000\n"
        "counters[:] = range(1_000_000)\n"
        "counters[:] = [None] * 1_000_000\n"
        "percpu.PerCpuCounter().inc(); before = kib()\n"
        "for i in range(1_000_000):\n"
        "    counters[i] = percpu.PerCpuCounter()\n"
        "print((kib() - before) * 1024 / 1e6)\n"
    )
    assert float(out) <= 200 or hasattr(sys, "_is_gil_enabled"), out
