"""The project's speed targets, measured on this machine: `python -m percpu bench`.

Each line compares two things that were measured in turn within one run: the ratio of their medians
stands beside the target. There are references because nanoseconds say more about the machine than
about the code. Nothing is subtracted from anything.

Example:
    >>> from percpu import bench
    >>> report = bench.run(bench.lines("batch 32"), seconds=0.002, repeats=3)
    >>> [(result.line.title(), result.figure > 0) for result in report.results]
    [('counter add, batch 32 / lock xadd', True)]

"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import percpu
from percpu import _bench_stats, _calls, _core, _harness, _machine
from percpu._harness import (
    ATOMIC_PAIR,
    EMPTY,
    HANDOVER,
    LIMITER,
    POOL,
    RING,
    ROBUST,
    Run,
    race_once,
)
from percpu._stats import Spread

__all__ = ["Line", "Report", "Result", "lines", "run", "steps"]

_MANY_CPUS = 512
_ITEMS_WRITTEN = 512
_SMALL_ITEMS = 10_000
_KIB = 1024

Sampler = Callable[[float], float]
"""Takes how many seconds to measure for, and gives one sample."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure."""

    name: str
    sample: Sampler
    unit: str = "ns"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what is measured, and what it is compared with.

    reference: None where the figure itself has the target. target: the most that the ratio may
    be; None where there is none. why_not: why it cannot be measured here, "" if it can be.
    """

    subject: Subject
    reference: Subject | None
    target: float | None
    why_not: str = ""

    def subjects(self) -> list[Subject]:
        """Return what has to be measured for it."""
        return [self.subject, self.reference] if self.reference else [self.subject]

    def title(self) -> str:
        """Return what it compares, for choosing among lines."""
        return " / ".join(subject.name for subject in self.subjects())


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a line: the samples of both sides, or the error that kept it from running."""

    line: Line
    measured: list[float]
    compared: list[float]
    error: str = ""

    @property
    def figure(self) -> float | None:
        """The ratio of the medians, or the median where there is no reference."""
        if self.error or not self.measured:
            return None
        median = Spread.of(self.measured).median
        return median / Spread.of(self.compared).median if self.compared else median

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is no target or no figure."""
        if self.figure is None or self.line.target is None:
            return None
        return self.figure <= self.line.target


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run, the machine, and races of the empty loop on all CPUs."""

    results: list[Result]
    machine: dict[str, object]
    idle: list[Run]

    def taken_by_others(self) -> float:
        """Return the share of the CPUs that other programs had: how far off all times may be."""
        return _harness.taken_by_others(self.idle)

    def errors(self) -> list[str]:
        """Return a sentence for each line that failed."""
        return [f"{r.line.subject.name}: {r.error}" for r in self.results if r.error]

    def to_json(self) -> str:
        """Return everything as JSON: the machine, each line with all its samples."""
        content = {
            "format": 1,
            "machine": self.machine,
            "taken_by_others": self.taken_by_others(),
            "lines": [
                {
                    "what": result.line.subject.name,
                    "reference": result.line.reference.name if result.line.reference else None,
                    "unit": result.line.subject.unit,
                    "measured": result.measured,
                    "compared": result.compared,
                    "figure": result.figure,
                    "target": result.line.target,
                    "met": result.met,
                    "why_not": result.line.why_not,
                    "error": result.error,
                }
                for result in self.results
            ],
        }
        return json.dumps(content, indent=1) + "\n"


# ---- what is measured ---------------------------------------------------------------------


def _adds(scheme: str, threads: int = 1) -> Sampler:
    """Sample ns per add of a scheme, in the harness that the race uses."""
    return lambda seconds: race_once(scheme, threads, seconds).ns_per_add


def _call(call: _calls.Call) -> Sampler:
    """Sample ns per call from Python."""
    loop = call.loop()
    turns = 0

    def sample(seconds: float) -> float:
        nonlocal turns
        turns = turns or _calls.turns_for(loop, seconds)
        return _calls.ns_per_call(loop, turns)

    return sample


def _two_threads(counters: tuple[percpu.PerCpuCounter, percpu.PerCpuCounter]) -> Sampler:
    """Sample ns per inc() of each of two Python threads, on these counters."""
    loops = (_calls.inc(counters[0]).loop(), _calls.inc(counters[1]).loop())
    turns = 0

    def sample(seconds: float) -> float:
        nonlocal turns
        turns = turns or _calls.turns_for(loops[0], seconds)
        return _calls.ns_per_call_of_two(loops, turns)

    return sample


def _pool(what: str, cpus: int) -> Sampler:
    """Sample ns of an operation on pools for `cpus` CPUs, as csrc/race/bench.h has them."""
    return lambda seconds: _core._bench_pool(what, cpus, seconds)


def _map(cpus: int) -> Sampler:
    """Sample ns of mapping, touching and unmapping what a pool for `cpus` takes of addresses."""
    return lambda seconds: _core._bench_map(_core._bench_length(cpus), seconds)


def _extra_memory(cpus: int) -> float:
    """Return the KiB that written items took beyond the pages they are in."""
    resident, written, _ = _core._bench_resident(cpus, _ITEMS_WRITTEN, 64)
    return (resident - written) / _KIB


def _all_memory(cpus: int) -> float:
    """Return the MiB that many small items took in all."""
    return _core._bench_resident(cpus, _SMALL_ITEMS, 8)[0] / _KIB**2


def _native_lines() -> list[Line]:
    off = "rseq is off in this process" if percpu.info().rseq == "none" else ""
    off_2 = off or _one_cpu()
    xadd = Subject("lock xadd", _adds("atomic"))
    var = Subject("this_cpu_add, 1 thread", _adds("var"))
    var_2 = Subject("this_cpu_add, 2 threads", _adds("var", 2))
    pool = Subject("pool alloc+free, 1 thread", _adds(POOL))
    pool_2 = Subject("pool alloc+free, 2 threads", _adds(POOL, 2))
    pair = replace(pool, name="pool alloc+free")
    limiter = Subject("limiter acquire+release", _adds(LIMITER))
    limiter_2 = Subject("limiter, 2 threads", _adds(LIMITER, 2))
    xadd_pair = Subject("lock xadd pair", _adds(ATOMIC_PAIR))
    return [
        Line(var, xadd, 0.20, off),
        Line(var_2, replace(var, name="1 thread"), 1.10, off_2),
        Line(Subject("counter add, batch 32", _adds("counter-32")), xadd, 0.25, off),
        Line(Subject("counter add, batch 1024", _adds("counter-1024")), xadd, 0.18, off),
        Line(pool, xadd, 0.60, off),
        Line(pool_2, replace(pool, name="1 thread"), 1.20, off_2),
        # Per item, the ring's own part included; and that part by itself.
        Line(Subject("producer/consumer + ring", _adds(HANDOVER, 2)), pair, 10.0, off_2),
        Line(Subject("that ring without a pool", _adds(RING, 2)), pair, None, off_2),
        Line(Subject("robust pool alloc+free", _adds(ROBUST)), pair, 3.0, off),
        Line(limiter, xadd_pair, 0.60, off),
        Line(limiter_2, replace(limiter, name="1 thread"), 1.20, off_2),
        Line(Subject("mutex + add, 1 thread", _adds("mutex")), xadd, None),
        Line(Subject("empty native loop", _adds(EMPTY)), xadd, None),
    ]


def _pool_lines() -> list[Line]:
    few = max(2, _machine.copies())
    many = max(_MANY_CPUS, few)
    no_rollup = "" if os.path.exists("/proc/self/smaps_rollup") else "needs /proc/self/smaps_rollup"

    def against_few(name: str, what: str, kind: str, target: float | None) -> Line:
        subject = Subject(f"{name}, {many}-CPU {kind}", _pool(what, many))
        reference = Subject(f"{few}-CPU {kind}", _pool(what, few))
        return Line(subject, reference, target, "this machine is as large" if many == few else "")

    make = Subject(f"make + close, {many}-CPU pool", _pool("make", many))
    make_init = Subject(f"make + close, {many}-CPU init", _pool("make init", many))
    extra = Subject(f"extra memory, {many}-CPU pool", lambda s: _extra_memory(many), "KiB")
    small = Subject(f"memory of {_SMALL_ITEMS} items, MiB", lambda s: _all_memory(many), "MiB")
    return [
        against_few("fresh item", "fresh", "pool", 1.50),
        against_few("reused item", "recycled", "pool", 4.0),
        Line(make, Subject("map+touch+unmap", _map(many)), 8.0),
        against_few("same bytes", "fresh same", "init", 1.50),
        against_few("other bytes", "fresh other", "init", None),
        Line(make_init, Subject(f"{many} file maps", _pool("file maps", many)), 1.30),
        Line(extra, None, 16.0, no_rollup),
        Line(small, None, 1.0, no_rollup),
    ]


def _python_lines() -> list[Line]:
    gil = "" if not _machine.gil_enabled() else "needs a free-threaded Python"
    # The targets of calls are for these interpreters.
    aimed_at = bool(gil) and (3, 11) <= sys.version_info[:2] <= (3, 13)
    one = percpu.PerCpuCounter()
    two = (percpu.PerCpuCounter(), percpu.PerCpuCounter())
    noop = Subject("no-op method", _call(_calls.noop()))
    noop_1 = Subject("no-op method(1)", _call(_calls.noop_1()))
    inc = Subject("Python c.inc()", _call(_calls.inc(one)))
    add = Subject("Python c.add(1)", _call(_calls.add(one)))
    shared = Subject("Python shared c, 2 threads", _two_threads((one, one)))
    return [
        Line(inc, noop, 1.35 if aimed_at else None),
        Line(add, noop_1, 1.60 if aimed_at else None),
        Line(shared, Subject("a counter each", _two_threads(two)), 1.30, gil or _one_cpu()),
        Line(Subject("empty Python loop", _call(_calls.EMPTY_LOOP)), noop, None),
        *_bench_stats.lines(_call, aimed_at),
    ]


def _one_cpu() -> str:
    return "needs two CPUs" if len(os.sched_getaffinity(0)) < 2 else ""


def lines(only: str = "") -> list[Line]:
    """Return the lines whose title has the text `only` in it, whatever the case; all for ""."""
    everything = [*_native_lines(), *_pool_lines(), *_python_lines()]
    return [line for line in everything if only.lower() in line.title().lower()]


# ---- measuring ----------------------------------------------------------------------------


def _subjects(lines: Iterable[Line]) -> list[Subject]:
    """Return what has to be measured for these lines, each thing once."""
    found: dict[Sampler, Subject] = {}
    for line in lines:
        if not line.why_not:
            for subject in line.subjects():
                found.setdefault(subject.sample, subject)
    return list(found.values())


def steps(lines: list[Line], repeats: int) -> int:
    """Return how many samples a run takes."""
    return len(_subjects(lines)) * repeats


def run(
    lines: list[Line],
    seconds: float = 0.03,
    repeats: int = 9,
    advance: Callable[[str], None] = lambda what: None,
) -> Report:
    """Measure `lines`: everything once, then all of it again, `repeats` times.

    `advance` is called before each sample with what it is. A subject that fails with OSError or
    MemoryError is an error of its lines; the others are measured all the same.
    """
    samples: dict[Sampler, list[float]] = {}
    failed: dict[Sampler, str] = {}
    idle: list[Run] = []
    for _ in range(repeats):
        idle.append(race_once(EMPTY, len(os.sched_getaffinity(0)), seconds))
        for subject in _subjects(lines):
            advance(subject.name)
            if subject.sample in failed:
                continue
            try:
                samples.setdefault(subject.sample, []).append(subject.sample(seconds))
            except (OSError, MemoryError) as error:
                failed[subject.sample] = f"{type(error).__name__}: {error}"
    return Report([_result(line, samples, failed) for line in lines], _machine.describe(), idle)


def _result(line: Line, samples: dict[Sampler, list[float]], failed: dict[Sampler, str]) -> Result:
    if line.why_not:
        return Result(line, [], [])
    sides = [samples.get(subject.sample, []) for subject in line.subjects()]
    errors = [failed[subject.sample] for subject in line.subjects() if subject.sample in failed]
    return Result(line, sides[0], sides[1] if len(sides) > 1 else [], "".join(errors[:1]))
