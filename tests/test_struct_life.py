"""PerCpuStruct: closing, memory, threads, signals, finalizers, forks."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
import warnings
import weakref
from collections.abc import Callable

import pytest
from together import run_forked, run_python, run_together, storm

from percpu import ClosedError, CorruptionError, PerCpuPool, PerCpuStruct, PerCpuVar

np = pytest.importorskip("numpy")

CPUS = len(PerCpuVar("b"))


class Stats(ctypes.Structure):
    _fields_ = (
        ("hits", ctypes.c_long),
        ("flags", ctypes.c_ubyte),
        ("ratio", ctypes.c_double),
        ("port", ctypes.c_ushort),
    )


# ---- closing and memory ---------------------------------------------------------------------


def test_closing_closes_all_of_it() -> None:
    s = PerCpuStruct(Stats)
    hits = s.hits
    with s as same:
        assert same is s
        hits.inc()
    calls: list[Callable[[], object]] = [
        hits.inc,
        lambda: s["ratio"].add(1),
        lambda: s[0],
        s.sum,
        lambda: list(s),
        lambda: memoryview(s),
        lambda: memoryview(hits),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    s.close()
    assert s.closed
    assert hits.closed
    assert (s.size, s.pool, len(s)) == (32, None, CPUS)


@pytest.mark.parametrize("what", ["struct", "field", "item"])
def test_a_live_buffer_keeps_it_open(what: str) -> None:
    s = PerCpuStruct(Stats)
    item = s.hits.item
    assert item is not None
    view = {"struct": lambda: memoryview(s), "field": lambda: memoryview(s.ratio)}.get(
        what, lambda: item[0]
    )()
    with pytest.raises(BufferError, match="cannot close a struct while 1 memoryviews or arrays"):
        s.close()
    s.hits.inc()
    assert not s.closed
    view.release()
    s.close()
    assert s.closed


def test_closing_the_pool_closes_the_struct() -> None:
    pool = PerCpuPool(64)
    s = PerCpuStruct(Stats, pool=pool)
    view = memoryview(s)
    with pytest.raises(BufferError):
        pool.close()
    view.release()
    pool.close()
    assert s.closed
    with pytest.raises(ClosedError):
        s.hits.inc()
    s.close()


def test_memory_comes_back_with_the_last_variable() -> None:
    pool = PerCpuPool(32)
    s = PerCpuStruct(Stats, pool=pool)
    hits = s.hits
    s.close()
    del s
    gc.collect()
    assert len(pool) == 1  # an operation on `hits` might be under way
    del hits
    gc.collect()
    assert len(pool) == 0
    watched = weakref.ref(kept := PerCpuStruct(Stats, pool=pool))
    assert len(pool) == 1
    del kept
    gc.collect()
    assert watched() is None
    assert len(pool) == 0


def test_the_item_of_a_closed_struct_stays_closed() -> None:
    pool = PerCpuPool(32)
    s = PerCpuStruct(Stats, pool=pool)
    item = s.hits.item
    assert item is not None
    s.close()
    del s
    gc.collect()  # its variables are gone
    assert item.closed
    said = "the struct of this item is closed"
    with pytest.raises(ClosedError, match=said):
        item.free()
    with pytest.raises(ClosedError, match=said):
        item.var("q")
    with pytest.raises(ClosedError, match=said):
        item[0]
    item.close()
    assert len(pool) == 1
    del item
    gc.collect()
    assert len(pool) == 0


def test_a_robust_pool_finds_no_leak_of_a_closed_struct() -> None:
    pool = PerCpuPool(32, robust=True)
    s = PerCpuStruct(Stats, pool=pool)
    s.hits.inc()
    s.close()
    pool.close()
    leaking = PerCpuPool(32, robust=True)
    kept = PerCpuStruct(Stats, pool=leaking)
    with pytest.raises(CorruptionError, match="leak"):
        leaking.close()
    assert kept.closed


def test_structs_share_pages() -> None:
    """Would break if a struct had a range, or a page, of its own."""
    kept = [PerCpuStruct({"a": "q", "b": "q"}) for _ in range(100)]
    addresses = {s.a.item.address() for s in kept}
    assert len({address // 4096 for address in addresses}) <= 3


def test_a_pool_that_somebody_closed_is_replaced() -> None:
    run_python(
        "import percpu\n"
        "s = percpu.PerCpuStruct({'a': 'q'}); s.a.pool.close(); assert s.closed\n"
        "t = percpu.PerCpuStruct({'a': 'q'}); t.a.inc(); assert t.sum() == (1,)\n"
    )


def test_import_is_lazy() -> None:
    run_python(
        "import sys, percpu\n"
        "assert not {'ctypes', 'percpu._struct'} & set(sys.modules)\n"
        "assert percpu.PerCpuStruct.__module__ == 'percpu._struct'\n"
    )


def test_subclasses() -> None:
    class Mine(PerCpuStruct):
        def __init__(self, description: object, extra: int = 0, **_more: object) -> None:
            self.extra = extra  # type: ignore[assignment]

    s = Mine({"a": "q"})
    s.me = s  # type: ignore[assignment]
    assert s.extra == 0
    watched = weakref.ref(s)
    del s
    gc.collect()
    assert watched() is None


# ---- threads, signals, finalizers, forks ----------------------------------------------------


def test_threads_lose_nothing() -> None:
    s = PerCpuStruct({"a": "q", "b": "I", "c": "d", "d": "h"})
    times = 3000

    def count() -> None:
        for _ in range(times):
            s.a.inc()
            s.b.add(2)
            s["c"].add(0.5)
            s.d.dec()

    def look() -> None:
        for _ in range(times // 10):
            assert s.sum().a >= 0
            np.asarray(s)["a"].sum()

    run_together(*[count] * 6, look)
    assert s.sum()[:3] == (6 * times, 12 * times, 3.0 * times)
    assert s.sum().d == -6 * times


def close_meanwhile(pool: PerCpuPool) -> None:
    s = PerCpuStruct(Stats, pool=pool)

    def count() -> None:
        while True:
            s.hits.inc()
            with memoryview(s.ratio):
                s.sum()

    def use() -> None:
        with pytest.raises(ClosedError):
            count()

    def close() -> None:
        while not s.closed:
            try:
                s.close()
            except BufferError:
                time.sleep(0)

    run_together(use, use, use, close)


def test_closing_meanwhile_does_no_harm() -> None:
    pool = PerCpuPool(32, robust=True)
    for _ in range(20):
        close_meanwhile(pool)
        gc.collect()
    assert len(pool) == 0
    pool.check()
    pool.close()


def test_signal_handlers_and_finalizers() -> None:
    s = PerCpuStruct({"loop": "q", "handler": "q", "finalizer": "q"})

    class Dying:
        def __del__(self) -> None:
            s.finalizer.inc()
            s.sum()

    def in_handler() -> None:
        s["handler"].inc()
        with PerCpuStruct(Stats) as own:
            own.hits.inc()

    with storm(in_handler, period=0.001) as calls:
        for _ in range(10_000):
            s.loop.inc()
            Dying()
    gc.collect()
    assert calls[0] > 0
    assert s.sum() == (10_000, calls[0], 10_000)


def test_forks_in_the_middle() -> None:
    s = PerCpuStruct({"parent": "q", "child": "q"})
    done = threading.Event()
    added = 0

    def count() -> None:
        nonlocal added
        while not done.is_set():
            s.parent.inc()
            PerCpuStruct(Stats).port.inc()
            added += 1

    def in_child() -> None:
        for _ in range(100):
            s.child.inc()
        assert s.sum().child == 100
        other = PerCpuStruct(Stats)
        other.flags.write(3)
        assert other.sum().flags == 3

    def fork() -> None:
        try:
            for _ in range(8):
                run_forked(in_child)
        finally:
            done.set()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_together(count, fork)
    assert s.sum() == (added, 0)
