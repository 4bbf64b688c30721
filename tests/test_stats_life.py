"""PerCpuStats and PerCpuStat: closing, memory, threads, signals, finalizers, forks."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
import warnings
import weakref
from array import array
from collections.abc import Callable
from functools import partial

import pytest
from together import run_forked, run_python, run_together, storm

import percpu
from percpu import ClosedError, PerCpuPool, PerCpuStats, PoolExhausted

np = pytest.importorskip("numpy")

NAMES = ("pgfault", "pgmajfault", "pgalloc", "pgfree")


# ---- life -----------------------------------------------------------------------------------


def test_closed_stats_and_their_handles_refuse() -> None:
    stats = PerCpuStats(*NAMES)
    handle = stats.handle("pgfault")
    with stats as same:
        assert same is stats
        handle.inc()
    assert stats.closed
    calls: list[Callable[[], object]] = [
        handle.inc,
        lambda: handle.add(1),
        lambda: handle.add(2**62),
        handle.sum,
        lambda: stats.inc(handle),
        lambda: stats.inc("pgfault"),
        lambda: stats.inc(0, 5),
        lambda: stats.add(0, n=5),
        lambda: stats.add_at(b"\0"),
        lambda: stats.sum(0),
        lambda: stats["pgfault"],
        lambda: stats.per_cpu(0),
        lambda: stats.handle(0),
        stats.snapshot,
        lambda: stats.snapshot(0),
        stats.check,
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="this PerCpuStats is closed"):
            call()
    stats.close()
    assert (stats.names, len(stats), "pgfree" in stats) == (NAMES, 4, True)
    assert repr(stats) == "<PerCpuStats closed>"
    assert repr(handle) == "<PerCpuStat 'pgfault' closed>"
    assert stats._repr_html_() is None


def test_repr_says_what_it_is() -> None:
    stats = PerCpuStats(*NAMES)
    stats.inc("pgfree", -2)
    assert repr(stats).startswith("<PerCpuStats of 4 names mode=")
    assert repr(stats.handle("pgfree")) == "<PerCpuStat 'pgfree' -2>"
    assert "pgfree" in (stats._repr_html_() or "")


def test_index_that_closes_the_stats() -> None:
    """A number's __index__ runs any code; the add that asked for it must not happen."""

    class Closing:
        def __init__(self, stats: PerCpuStats) -> None:
            self.stats = stats

        def __index__(self) -> int:
            self.stats.close()
            return 0

    def adders(stats: PerCpuStats) -> list[Callable[[], None]]:
        handle = stats.handle(0)
        return [
            lambda: stats.inc(Closing(stats)),
            lambda: stats.inc("a", Closing(stats)),
            lambda: stats.add(Closing(stats), 5),
            lambda: handle.add(Closing(stats)),
            lambda: stats.add_at(b"\0", Closing(stats)),
        ]

    for i in range(5):
        with pytest.raises(ClosedError):
            adders(PerCpuStats("a"))[i]()


def test_closing_the_pool_closes_the_stats() -> None:
    pool = PerCpuPool(64)
    stats = PerCpuStats("a", pool=pool)
    handle = stats.handle("a")
    handle.inc()
    pool.close()
    assert stats.closed
    with pytest.raises(ClosedError):
        handle.inc()
    with pytest.raises(ClosedError):
        PerCpuStats("a", pool=pool)


def test_memory_comes_back() -> None:
    pool = PerCpuPool(4096, stride=8192, max_ranges=1)
    kept = [PerCpuStats("a", pool=pool) for _ in range(pool.capacity)]
    with pytest.raises(PoolExhausted, match="no memory for 1 stats"):
        PerCpuStats("a", pool=pool)
    handle = kept[0].handle("a")
    handle.inc()
    kept[0].close()
    kept.clear()
    gc.collect()
    kept = [PerCpuStats("a", pool=pool) for _ in range(pool.capacity - 1)]
    with pytest.raises(PoolExhausted):  # the handle keeps one, although it is closed
        PerCpuStats("a", pool=pool)
    del handle
    gc.collect()
    fresh = PerCpuStats("a", "b", pool=pool)
    assert list(fresh.snapshot().array) == [0, 0]


def test_a_robust_pool_finds_no_leak_of_closed_stats() -> None:
    pool = PerCpuPool(64, robust=True)
    stats = PerCpuStats("a", pool=pool)
    stats.inc("a")
    stats.close()
    pool.close()
    leaking = PerCpuPool(64, robust=True)
    kept = PerCpuStats("a", pool=leaking)
    with pytest.raises(percpu.CorruptionError, match="leak"):
        leaking.close()
    assert kept.closed


def test_handles_keep_the_stats() -> None:
    stats = PerCpuStats("a", "b")
    handle = stats.handle("b")
    watched = weakref.ref(stats)
    weakref.ref(handle)
    stats.inc("b", 5)
    del stats
    gc.collect()
    handle.inc()
    assert handle.sum() == 6
    assert watched() is handle.stats
    del handle
    gc.collect()
    assert watched() is None


def test_cycles_are_collected() -> None:
    class Mine(PerCpuStats):
        me: object

    stats = Mine("a", "b")
    stats.me = [stats, stats.handle("a")]
    watched = weakref.ref(stats)
    assert Mine(["x"]).names == ("x",)
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        Mine("a", x=1)  # type: ignore[call-overload]
    del stats
    gc.collect()
    assert watched() is None


def test_stats_cost_little_more_than_the_pages_written() -> None:
    """A thousand objects of 40 names, all counted on one CPU: 320 bytes each there, not a page."""
    source = """
import os, percpu, resource
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()
names = [f'n{i}' for i in range(40)]
percpu.PerCpuStats(names).inc(0)
names = percpu.PerCpuStats(names).names
before = resident()
kept = [percpu.PerCpuStats(names) for _ in range(1000)]
for stats in kept:
    for i in range(40):
        stats.inc(i)
print((resident() - before) // 1000)
"""
    each = int(run_python(source))
    assert each < 3000, each  # 320, the object's own, its names' tuple and table


# ---- threads, signals, finalizers, forks ----------------------------------------------------


def test_threads_lose_nothing() -> None:
    stats = PerCpuStats("inc", "handle", "add", "bulk", "name")
    handle = stats.handle("handle")
    indices = np.full(1000, 3)
    times = 2000

    def count() -> None:
        for i in range(times):
            stats.inc(0)
            handle.inc()
            stats.add("add", i)
            stats.inc("name")
            if i % 100 == 0:
                stats.add_at(indices, 2)

    def look() -> None:
        last = stats.snapshot()
        for _ in range(times // 4):
            now = stats.snapshot()
            assert all(number >= 0 for number in (now - last).array)
            last = now

    run_together(*[count] * 6, look)
    assert stats.snapshot().as_dict() == {
        "inc": 6 * times,
        "handle": 6 * times,
        "add": 6 * times * (times - 1) // 2,
        "bulk": 6 * times // 100 * 2000,
        "name": 6 * times,
    }
    stats.check()


def close_meanwhile() -> None:
    pool = PerCpuPool(256)
    stats = PerCpuStats((f"{i}" for i in range(20)), pool=pool)
    handle = stats.handle(5)
    indices = array("q", range(20)) * 50

    def count() -> None:
        while True:
            handle.inc()
            stats.inc("7")
            stats.add_at(indices)
            stats.snapshot()

    def use() -> None:
        with pytest.raises(ClosedError):
            count()

    def close() -> None:
        time.sleep(0.002)
        stats.close()
        pool.close()

    run_together(use, use, use, close)


def test_closing_meanwhile_does_no_harm() -> None:
    for _ in range(20):
        close_meanwhile()


def test_signal_handlers_and_finalizers_count_too() -> None:
    """In tight loops: a handler and a __del__ that use the very stats that the loop uses."""
    stats = PerCpuStats("loop", "handler", "finalizer")
    handle = stats.handle("handler")
    indices = array("B", [1])

    class Dying:
        def __del__(self) -> None:
            stats.inc("finalizer")
            stats.snapshot()

    def in_handler() -> None:
        handle.inc()
        stats.inc("handler")
        stats.add_at(indices)
        PerCpuStats("made", "in", "handler").inc("in")

    loops = 20_000
    with storm(in_handler, period=0.0005) as calls:
        for _ in range(loops):
            stats.inc("loop")
            Dying()
    gc.collect()
    assert calls[0] > 0
    assert stats.snapshot().as_dict() == {
        "loop": loops,
        "handler": 3 * calls[0],
        "finalizer": loops,
    }


def test_forks_in_the_middle() -> None:
    stats = PerCpuStats("a", "b", "c")
    handle = stats.handle("a")
    done = threading.Event()
    added = 0

    def count() -> None:
        nonlocal added
        while not done.is_set():
            handle.inc()
            stats.add_at(b"\1\1")
            PerCpuStats("x", "y").inc("x")
            added += 1

    def in_child() -> None:
        before = stats["c"]
        seen = stats["a"]
        for _ in range(100):
            stats.inc("c")
            handle.inc()
        assert stats["c"] == before + 100
        assert stats["a"] == seen + 100
        assert stats.snapshot()["b"] % 2 in (0, 1)
        stats.check()
        PerCpuStats([f"{i}" for i in range(300)]).inc("299")

    def fork() -> None:
        for _ in range(8):
            run_forked(in_child)
        done.set()

    if sys.version_info >= (3, 12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            run_together(count, fork)
    else:
        run_together(count, fork)
    assert (stats["a"], stats["b"], stats["c"]) == (added, 2 * added, 0)


def torture(updaters: int, readers: int) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    stats = PerCpuStats(f"{i}" for i in range(64))
    totals = [0] * updaters
    end = time.monotonic() + 0.12

    def update(me: int) -> None:
        rng = random.Random(me)
        handles = [stats.handle(i) for i in range(64)]
        while time.monotonic() < end:
            os.sched_setaffinity(0, {rng.choice(cpus)})
            for _ in range(50):
                n = rng.randrange(-(2**62), 2**62)
                handles[rng.randrange(64)].add(n)
                stats.inc("0", -n)
            stats.add_at(bytes(range(64)))
            totals[me] += 64

    def read() -> None:
        while time.monotonic() < end:
            stats.snapshot()
            stats.check()

    run_together(*(partial(update, me) for me in range(updaters)), *[read] * readers)
    stats.check()
    assert (sum(stats.snapshot().array) - sum(totals)) % 2**64 == 0


@pytest.mark.parametrize(("updaters", "readers"), [(6, 0), (1, 5), (3, 3)])
def test_torture(updaters: int, readers: int) -> None:
    """More threads than CPUs, that change their CPU, update, read, or both: exact at the end."""
    torture(updaters, readers)
