"""The native harness with types: what can be raced, and one race of one scheme.

The measuring is done in C: `csrc/race/harness.h` says how, and what each number means.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from percpu import _core

MAX_THREADS = 4096
"""The most threads that one race can have."""

EMPTY = "empty"
"""The loop with nothing in it: not a scheme, but raced with them."""

POOL = "pool"
"""Allocating an item of a pool and freeing it: not a scheme either."""

ROBUST = "robust"
"""The same in a robust pool."""

HANDOVER = "handover"
"""Items allocated by one thread and freed by another: `ns_per_add` is the time per item."""

RING = "ring"
"""What the items of `HANDOVER` go through, without a pool."""

LIMITER = "limiter"
"""Acquiring a token of a limiter and releasing it: `ns_per_add` is the time of both."""

ATOMIC_PAIR = "atomic-pair"
"""Two atomic instructions on one word."""


UPGRADED = "counter-upgraded"
"""A counter that was lazy, with its memory on each CPU: as `counter-32`, so it is not raced."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to count.

    `promise` is "exact" or "racy". `has_read`: besides the sum there is a cheaper, rough read.
    """

    name: str
    title: str
    promise: str
    has_read: bool

    def size(self, cpus: int, threads: int) -> int:
        """Return the bytes of one counter with so many CPUs, and so many threads counting."""
        return _core._race_bytes(self.name, cpus, threads)


def schemes() -> list[Scheme]:
    """Return all schemes, in the order of a report."""
    everything = (Scheme(*row) for row in _core._race_schemes())
    return [s for s in everything if s.promise != "no sum" and s.name != UPGRADED]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a reader saw while the threads were adding.

    `sum_ns` and `read_ns` are ns for one exact and one rough read. `worst_error` is how far off
    the worst rough read was at least, `promised_error` how far it may be. The last four are None
    for a scheme with no rough read.
    """

    sums_checked: int
    sums_wrong: int
    sum_ns: float
    reads_checked: int | None = None
    read_ns: float | None = None
    worst_error: int | None = None
    promised_error: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One race of one scheme: `adds` by all threads together, and the `sum` that it had then.

    `cpu_ns` is the time that all threads together were on a CPU, `cpus` how many CPUs they were
    allowed to use, `pinned` how many threads had one to themselves.
    """

    scheme: str
    threads: int
    adds: int
    sum: int
    wall_ns: int
    cpu_ns: int
    cpus: int
    pinned: int
    reads: Reads | None = None

    @property
    def ns_per_add(self) -> float:
        """The time one add took the CPU that did it.

        That is wall time x CPUs at work / adds, so a scheme that scales perfectly has the same
        figure for any number of threads, more threads than CPUs included.
        """
        return self.wall_ns * min(self.threads, self.cpus) / self.adds

    @property
    def cpu_share(self) -> float:
        """How much of the CPUs that they could use the threads had: 1 unless they waited.

        The empty loop never waits, so there the rest went to other programs.
        """
        return self.cpu_ns / (self.wall_ns * min(self.threads, self.cpus))

    @property
    def lost(self) -> int:
        """How many adds the sum lacks; negative if it has too many."""
        return self.adds - self.sum


def taken_by_others(runs: Iterable[Run]) -> float:
    """Return the share of the CPUs that other programs had during races of the empty loop."""
    shares = [run.cpu_share for run in runs if run.scheme == EMPTY]
    return max(0.0, 1 - statistics.fmean(shares)) if shares else 0.0


def race_once(
    name: str, threads: int, seconds: float, *, pin: bool = True, read: bool = False
) -> Run:
    """Race one scheme, with a reader beside the threads if `read`.

    Raises ValueError for a bad argument and OSError if the system has no room for the threads.
    """
    raw = _core._race_run(name, threads, seconds, pin, read)
    reads = Reads(**raw.pop("reads")) if read else None
    return Run(scheme=name, threads=threads, reads=reads, **raw)
