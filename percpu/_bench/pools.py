"""Lines about pools, and about what is made of them for many CPUs."""

from __future__ import annotations

import os

from percpu import _core
from percpu._bench.line import Line, Sampler, Subject, few_and_many, native

_ITEMS_WRITTEN = 512
_SMALL_ITEMS = 10_000
_KIB = 1024


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


def lines() -> list[Line]:
    """Return the lines."""
    few, many = few_and_many()
    no_rollup = "" if os.path.exists("/proc/self/smaps_rollup") else "needs /proc/self/smaps_rollup"

    def against_few(name: str, what: str, kind: str, target: float | None) -> Line:
        subject = Subject(f"{name}, {many}-CPU {kind}", native(what, many))
        reference = Subject(f"{few}-CPU {kind}", native(what, few))
        return Line(subject, reference, target, "this machine is as large" if many == few else "")

    make = Subject(f"make + close, {many}-CPU pool", native("make", many))
    make_init = Subject(f"make + close, {many}-CPU init", native("make init", many))
    extra = Subject(f"extra memory, {many}-CPU pool", lambda s: _extra_memory(many), "KiB")
    small = Subject(f"memory of {_SMALL_ITEMS} items, MiB", lambda s: _all_memory(many), "MiB")
    return [
        against_few("fresh item", "fresh", "pool", 1.50),
        against_few("reused item", "recycled", "pool", 4.0),
        Line(make, Subject("map+touch+unmap", _map(many)), 8.0),
        against_few("same bytes", "fresh same", "init", 1.50),
        against_few("other bytes", "fresh other", "init", None),
        Line(make_init, Subject(f"{many} file maps", native("file maps", many)), 1.30),
        Line(extra, None, 16.0, no_rollup),
        Line(small, None, 1.0, no_rollup),
    ]
