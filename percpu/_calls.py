"""What a call from Python costs: statements in a loop, ten to a turn, as `timeit` does it.

Nothing is subtracted: a report shows what the empty loop costs beside the rest.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import percpu
from percpu import _core

_UNROLL = 10

Loop = Callable[[int], None]
"""A loop over a statement: takes how many turns of ten it is to make."""


class _Plain:
    """An object with an attribute to count in."""

    def __init__(self) -> None:
        self.n = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A statement to time, and the objects that it names."""

    name: str
    statement: str
    objects: dict[str, object] = field(default_factory=dict)

    def loop(self) -> Loop:
        """Compile a loop of its own: the interpreter's adaptive caches are kept per code object."""
        names = "".join(f", {name}={name}" for name in self.objects)
        turn = textwrap.indent("\n".join([self.statement] * _UNROLL), " " * 8)
        source = f"def loop(times{names}):\n    for _ in repeat(None, times):\n{turn}\n"
        namespace: dict[str, object] = {"repeat": itertools.repeat, **self.objects}
        exec(compile(source, f"<{self.name}>", "exec"), namespace)
        loop: Loop = namespace["loop"]  # type: ignore[assignment]
        return loop


EMPTY_LOOP = Call("empty loop", "pass")


def noop() -> Call:
    """Return a call of a C method that does nothing: what inc() can be at best."""
    return Call("no-op C method", "o.noargs()", {"o": _core._noop()})


def noop_1() -> Call:
    """Return the same with one argument: what add(1) can be at best."""
    return Call("no-op C method of 1 argument", "o.o(1)", {"o": _core._noop()})


def inc(counter: percpu.PerCpuCounter) -> Call:
    """Return a call that adds 1 to a counter by `inc`."""
    return Call("c.inc()", "c.inc()", {"c": counter})


def add(counter: percpu.PerCpuCounter) -> Call:
    """Return a call that adds 1 to a counter by `add`."""
    return Call("c.add(1)", "c.add(1)", {"c": counter})


def total(counter: percpu.PerCpuCounter) -> Call:
    """Return a call that sums a counter."""
    return Call("c.sum()", "c.sum()", {"c": counter})


def make_counter() -> Call:
    """Return a call that makes a counter; the one before it is dropped."""
    return Call("c = PerCpuCounter()", "c = make()", {"make": percpu.PerCpuCounter})


def make_small() -> Call:
    """Return the same with a small class of Python, which has one attribute."""
    return Call("o = Small()", "o = make()", {"make": _Plain})


def stat_calls(stats: percpu.PerCpuStats) -> tuple[Call, Call, Call]:
    """Return calls that add 1 to a count: by its handle, by the stats with that or with a name."""
    name = stats.names[len(stats) // 2]
    handle = stats.handle(name)
    return (
        Call("h.inc()", "h.inc()", {"h": handle}),
        Call("s.inc(h)", "s.inc(h)", {"s": stats, "h": handle}),
        Call("s.inc('name')", f"s.inc({name!r})", {"s": stats}),
    )


def histogram_calls() -> tuple[Call, Call]:
    """Return calls that observe a value: with log-linear buckets, and with explicit bounds."""
    bounds = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    return (
        Call("h.observe(x)", "h.observe(0.03)", {"h": percpu.PerCpuHistogram()}),
        Call("b.observe(x)", "b.observe(0.03)", {"b": percpu.PerCpuHistogram(bounds=bounds)}),
    )


def prometheus_observe() -> Call | None:
    """Return a call of `prometheus_client`'s histogram, with its bounds; None if it is absent."""
    try:
        client = importlib.import_module("prometheus_client")
    except ModuleNotFoundError:
        return None
    histogram = client.Histogram("percpu_bench", "Of a benchmark.", registry=None)
    return Call("prometheus_client's observe", "p.observe(0.03)", {"p": histogram})


def all_calls() -> list[Call]:
    """Return everything for the race's second table."""
    return [
        EMPTY_LOOP,
        noop(),
        noop_1(),
        inc(percpu.PerCpuCounter()),
        add(percpu.PerCpuCounter()),
        Call("c += 1", "c += 1", {"c": percpu.PerCpuCounter()}),
        Call("o.n += 1", "o.n += 1", {"o": _Plain()}),
        Call(
            "with lock: o.n += 1",
            "with lock:\n    o.n += 1",
            {"lock": threading.Lock(), "o": _Plain()},
        ),
        Call("next(itertools.count())", "next(it)", {"it": itertools.count()}),
    ]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def turns_for(loop: Loop, seconds: float) -> int:
    """Return how many turns of `loop` take about `seconds`: found by trying, which warms it up."""
    wanted = seconds * 1e9
    turns = 16
    while True:
        elapsed = _elapsed(loop, turns)
        if elapsed * 4 >= wanted:
            return max(1, round(turns * wanted / elapsed))
        turns *= 2


def _elapsed(loop: Loop, turns: int) -> int:
    with _no_garbage_collection():
        start = time.perf_counter_ns()
        loop(turns)
        return max(1, time.perf_counter_ns() - start)


def ns_per_call(loop: Loop, turns: int) -> float:
    """Time `turns` turns of `loop`, in ns per statement."""
    return _elapsed(loop, turns) / (turns * _UNROLL)


def ns_per_call_of_two(loops: tuple[Loop, Loop], turns: int) -> float:
    """Time two threads with a loop each, from the first one's start to the last one's end.

    In ns per statement of one thread. Raises RuntimeError if a thread did not finish.
    """
    together = threading.Barrier(2)
    times: list[tuple[int, int]] = []

    def work(loop: Loop) -> None:
        together.wait()
        start = time.perf_counter_ns()
        loop(turns)
        times.append((start, time.perf_counter_ns()))

    threads = [threading.Thread(target=work, args=(loop,)) for loop in loops]
    with _no_garbage_collection():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(times) != 2:
        raise RuntimeError("a thread of the benchmark failed")
    wall = max(end for _, end in times) - min(start for start, _ in times)
    return wall / (turns * _UNROLL)
