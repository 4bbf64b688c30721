"""Race every way for threads to count together: the main job, `python -m percpu race`.

The threads are native and run with the GIL released; the harness is `csrc/race`. Measuring goes
in rounds, every scheme with every number of threads once and then all of it again, so that a
machine that gets faster or slower does so for all alike.

Example:
    >>> from percpu import race
    >>> report = race.run(race.Options(schemes=("atomic",), threads=(1,), repeats=3))
    >>> report.cost("atomic", 1).median > 0
    True
    >>> report.broken_promises()
    []

"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from percpu import _calls, _harness, _machine
from percpu._harness import EMPTY, MAX_THREADS, Run, Scheme, race_once, schemes
from percpu._stats import Spread

__all__ = [
    "EMPTY",
    "LARGE_MACHINE",
    "MAX_THREADS",
    "Options",
    "Report",
    "Scheme",
    "Spread",
    "Step",
    "run",
    "schemes",
    "steps",
]

LARGE_MACHINE = 512
"""How many CPUs and threads a report assumes when it says how large a counter gets."""


def _all_names() -> tuple[str, ...]:
    return tuple(scheme.name for scheme in schemes())


@dataclass(frozen=True, slots=True)
class Options:
    """What to race.

    schemes: names, in the order of the report; by default all.
    threads: numbers of threads, each 1 to MAX_THREADS.
    seconds: length of one sample. repeats: samples of each cost; a third as many of reading.
    pin: bind each thread to a CPU where there are enough. python: time calls from Python, too.
    """

    schemes: tuple[str, ...] = field(default_factory=_all_names)
    threads: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 0.05
    repeats: int = 7
    pin: bool = True
    python: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to measure: `kind` is "add", "read" or "call", `name` a scheme or a call."""

    kind: str
    name: str
    threads: int = 1


def steps(options: Options) -> list[Step]:
    """Return what a run does, in order."""
    adds = [
        Step("add", name, threads)
        for threads in options.threads
        for name in (EMPTY, *options.schemes)
    ]
    reads = [Step("read", name, threads) for threads in options.threads for name in options.schemes]
    calls = [Step("call", call.name) for call in _calls.all_calls()] if options.python else []
    return adds * options.repeats + reads * max(1, options.repeats // 3) + calls * options.repeats


@dataclass(frozen=True, slots=True)
class Report:
    """All samples of a run.

    adds: races without a reader, for what an add costs. reads: races with one.
    calls: ns per call from Python, by name.
    """

    options: Options
    machine: dict[str, object]
    adds: list[Run] = field(default_factory=list)
    reads: list[Run] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=dict)

    def schemes(self) -> list[Scheme]:
        """Return the schemes that were raced."""
        return [scheme for scheme in schemes() if scheme.name in self.options.schemes]

    def cost(self, name: str, threads: int) -> Spread:
        """Return ns per add; `name` may be EMPTY."""
        return Spread.of(
            [run.ns_per_add for run in self.adds if (run.scheme, run.threads) == (name, threads)]
        )

    def taken_by_others(self) -> float:
        """Return the share of the CPUs that other programs had: how far off all times may be."""
        return _harness.taken_by_others(self.adds)

    def counts(self, name: str, threads: int) -> tuple[int, int]:
        """Return how many adds there were in all runs together, and how many were lost."""
        runs = [
            run for run in self.adds + self.reads if (run.scheme, run.threads) == (name, threads)
        ]
        return sum(run.adds for run in runs), sum(abs(run.lost) for run in runs)

    def sum_cost(self, name: str, threads: int) -> Spread:
        """Return ns per exact read."""
        return Spread.of([r.sum_ns for r in self._reads(name, threads)])

    def read_cost(self, name: str, threads: int) -> Spread | None:
        """Return ns per rough read; None for a scheme that has none."""
        samples = [r.read_ns for r in self._reads(name, threads) if r.read_ns is not None]
        return Spread.of(samples) if samples else None

    def read_error(self, name: str, threads: int) -> tuple[int, int] | None:
        """Return the worst error of a rough read, and the promised one; None if there is none."""
        seen = [
            (r.worst_error, r.promised_error)
            for r in self._reads(name, threads)
            if r.worst_error is not None and r.promised_error is not None
        ]
        return (max(worst for worst, _ in seen), seen[0][1]) if seen else None

    def _reads(self, name: str, threads: int) -> list[_harness.Reads]:
        return [
            run.reads
            for run in self.reads
            if (run.scheme, run.threads) == (name, threads) and run.reads is not None
        ]

    def broken_promises(self) -> list[str]:
        """Return a sentence for each promise that a scheme did not keep."""
        exact = {scheme.name for scheme in self.schemes() if scheme.promise == "exact"}
        broken = []
        for run in self.adds + self.reads:
            who = f"{run.scheme} with {run.threads} thread{'' if run.threads == 1 else 's'}"
            if run.scheme in exact and run.lost:
                what = "lost" if run.lost > 0 else "made up"
                broken.append(f"{who} {what} {abs(run.lost):,} of {run.adds:,} counts")
            reads = run.reads
            if reads and run.scheme in exact and reads.sums_wrong:
                broken.append(
                    f"{who} gave {reads.sums_wrong:,} wrong sums of {reads.sums_checked:,}"
                )
            if (
                reads
                and reads.worst_error is not None
                and reads.promised_error is not None
                and reads.worst_error > reads.promised_error
            ):
                broken.append(
                    f"{who} read a value that was {reads.worst_error:,} off, "
                    f"beyond the promised {reads.promised_error:,}"
                )
        return broken

    def to_json(self) -> str:
        """Return everything as JSON: the machine, the options, each sample, and what came of it."""
        cpus = _machine.copies()
        content = {
            "format": 1,
            "machine": self.machine,
            "options": asdict(self.options),
            "schemes": [
                {
                    **asdict(scheme),
                    "bytes_here": scheme.size(cpus, cpus),
                    f"bytes_on_{LARGE_MACHINE}_cpus": scheme.size(LARGE_MACHINE, LARGE_MACHINE),
                }
                for scheme in self.schemes()
            ],
            "add_runs": [_run_json(run) for run in self.adds],
            "read_runs": [_run_json(run) for run in self.reads],
            "ns_per_add": [
                {"scheme": name, "threads": threads, **asdict(self.cost(name, threads))}
                for name in (EMPTY, *self.options.schemes)
                for threads in self.options.threads
            ],
            "python_calls": [
                {"call": name, "samples": samples, **asdict(Spread.of(samples))}
                for name, samples in self.calls.items()
            ],
            "taken_by_others": self.taken_by_others(),
            "broken_promises": self.broken_promises(),
        }
        return json.dumps(content, indent=1) + "\n"


def _run_json(run: Run) -> dict[str, object]:
    content = {**asdict(run), "ns_per_add": run.ns_per_add}
    if run.scheme == EMPTY:
        del content["sum"]
    else:
        content["lost"] = run.lost
    return content


def run(options: Options, advance: Callable[[str], None] = lambda what: None) -> Report:
    """Race. `advance` is called before each of `steps(options)`, with what it is.

    Raises ValueError for an option that is out of range, OSError if the system has no room for
    that many threads. Ctrl-C ends it within a moment.
    """
    report = Report(options, _machine.describe())
    loops = {call.name: call.loop() for call in _calls.all_calls()} if options.python else {}
    turns: dict[str, int] = {}
    for step in steps(options):
        if step.kind == "call":
            loop = loops[step.name]
            advance(step.name)
            if step.name not in turns:
                turns[step.name] = _calls.turns_for(loop, options.seconds)
            sample = _calls.ns_per_call(loop, turns[step.name])
            report.calls.setdefault(step.name, []).append(sample)
            continue
        advance(f"{step.name}, {step.threads} threads")
        reading = step.kind == "read"
        runs = report.reads if reading else report.adds
        runs.append(
            race_once(step.name, step.threads, options.seconds, pin=options.pin, read=reading)
        )
    return report
