"""What `percpu.info()` returns: facts about this machine, and what percpu decided from them."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from percpu import _core


def _ranges(ids: Iterable[int]) -> str:
    """Write sorted ids as the kernel does: 0-3,8."""
    runs: list[tuple[int, int]] = []
    for number in ids:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"


def _python() -> str:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if "t" not in sys.abiflags:
        return f"CPython {version}"
    on = getattr(sys, "_is_gil_enabled", bool)()
    return f"CPython {version} free-threaded" + (", GIL switched on" if on else "")


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError):
        return "unknown"


@dataclass(frozen=True)
class Info:
    """Facts about this machine and process. Prints as a table, in a terminal and in a notebook."""

    rseq: str
    """How operations are made safe: "glibc" or "own" (restartable sequences, registered by glibc or
    by percpu), or "none" (atomic instructions)."""
    reason: str
    """Why that, in a sentence."""
    feature_size: int
    """Bytes of the rseq area that the kernel fills; 0 without restartable sequences."""
    mm_cid: bool
    """Whether the kernel gives concurrency ids: `current_cid()`, and pools with index "cid"."""
    node_id: bool
    """Whether the kernel gives the NUMA node without a system call."""
    fence: bool
    """Whether membarrier can restart other CPUs' sequences: what makes ``v[cpu] = x`` safe."""
    guard_pages: bool
    """Whether the kernel can turn a page into a guard page (MADV_GUARD_INSTALL, Linux 6.13)."""
    cpus_possible: tuple[int, ...]
    """CPUs that the machine may ever have."""
    cpus_online: tuple[int, ...]
    """CPUs that are there now."""
    cpus_allowed: tuple[int, ...]
    """CPUs that the affinity mask of the calling thread allows."""
    nodes: Mapping[int, tuple[int, ...]]
    """The CPUs of each NUMA node."""
    kernel: str
    """The kernel's release."""
    libc: str
    """The C library's name and version."""
    python: str
    """The interpreter's version, and whether it is a free-threaded build."""

    def _rows(self) -> list[tuple[str, str]]:
        def yes(fact: bool) -> str:
            return "yes" if fact else "no"

        return [
            ("rseq", f"{self.rseq}: {self.reason}"),
            ("rseq area", f"{self.feature_size} bytes filled by the kernel"),
            ("mm_cid", yes(self.mm_cid)),
            ("node_id", yes(self.node_id)),
            ("fence", yes(self.fence)),
            ("guard pages", yes(self.guard_pages)),
            ("CPUs possible", _ranges(self.cpus_possible)),
            ("CPUs online", _ranges(self.cpus_online)),
            ("CPUs allowed", _ranges(self.cpus_allowed)),
            *((f"node {node}", f"CPUs {_ranges(cpus)}") for node, cpus in self.nodes.items()),
            ("kernel", self.kernel),
            ("libc", self.libc),
            ("python", self.python),
        ]

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table>{rows}</table>"


def collect() -> Info:
    """Ask the C core and the system."""
    facts = _core._facts()
    return Info(
        rseq=facts["rseq"],
        reason=facts["reason"],
        feature_size=facts["feature_size"],
        mm_cid=facts["mm_cid"],
        node_id=facts["node_id"],
        fence=facts["fence"],
        guard_pages=facts["guard_pages"],
        cpus_possible=facts["cpus_possible"],
        cpus_online=facts["cpus_online"],
        cpus_allowed=facts["cpus_allowed"],
        nodes=MappingProxyType(facts["nodes"]),
        kernel=os.uname().release,
        libc=_libc(),
        python=_python(),
    )
