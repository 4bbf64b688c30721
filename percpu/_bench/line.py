"""What a line of the benchmark is made of, and the samplers that most lines share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import percpu
from percpu import _calls, _core, _machine
from percpu._harness import race_once

MANY_CPUS = 512

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


# ---- samplers -----------------------------------------------------------------------------


def adds(scheme: str, threads: int = 1) -> Sampler:
    """Sample ns per add of a scheme, in the harness that the race uses."""
    return lambda seconds: race_once(scheme, threads, seconds).ns_per_add


def native(what: str, cpus: int) -> Sampler:
    """Sample ns of an operation on what has a copy for `cpus` CPUs; csrc/race/bench.h has them."""
    return lambda seconds: _core._bench_pool(what, cpus, seconds)


def call(statement: _calls.Call) -> Sampler:
    """Sample ns per call from Python."""
    loop = statement.loop()
    turns = 0

    def sample(seconds: float) -> float:
        nonlocal turns
        turns = turns or _calls.turns_for(loop, seconds)
        return _calls.ns_per_call(loop, turns)

    return sample


def repeated(work: Callable[[], object], operations: int) -> Sampler:
    """Sample ns per operation of work that does many of them."""

    def sample(seconds: float) -> float:
        start = time.perf_counter_ns()
        end, times = start + round(seconds * 1e9), 0
        while True:
            work()
            times += 1
            now = time.perf_counter_ns()
            if now >= end:
                return (now - start) / (times * operations)

    return sample


# ---- where targets hold -------------------------------------------------------------------


def few_and_many() -> tuple[int, int]:
    """Return the numbers of CPUs to compare: about this machine's, and a large one's."""
    few = max(2, _machine.copies())
    return few, max(MANY_CPUS, few)


def rseq_off() -> str:
    """Say why a target of critical sections cannot be measured, or ""."""
    return "rseq is off in this process" if percpu.info().rseq == "none" else ""


def one_cpu() -> str:
    """Say why two threads cannot be measured, or ""."""
    return "needs two CPUs" if len(os.sched_getaffinity(0)) < 2 else ""


def aimed_at() -> bool:
    """Return whether the targets of calls from Python are for this interpreter."""
    return _machine.gil_enabled() and (3, 11) <= sys.version_info[:2] <= (3, 13)
