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
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from percpu import _harness, _machine
from percpu._bench import counters, histograms, native, pools, python, stats
from percpu._bench.line import Line, Sampler, Subject
from percpu._harness import EMPTY, Run, race_once
from percpu._stats import Spread

__all__ = ["Line", "Report", "Result", "lines", "run", "steps"]


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


def lines(only: str = "") -> list[Line]:
    """Return the lines whose title has the text `only` in it, whatever the case; all for ""."""
    everything = [
        line
        for part in (native, counters, pools, python, stats, histograms)
        for line in part.lines()
    ]
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
