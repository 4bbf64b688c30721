"""What `PerCpuPool.map()` returns: which pages of which CPU are really in memory, and numbers.

How it is drawn is in `percpu._map_draw`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from percpu import _map_draw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from percpu import PerCpuPool


@dataclass(frozen=True, repr=False)
class PoolMap:
    """Which pages of a pool, or of a set of pools, are in memory: a picture, and its numbers.

    Prints as a drawing in text, and shows as a drawing in a notebook. It is of the moment when it
    was asked for, and does not follow the pool.
    """

    title: str
    """What was drawn, in a line."""
    cpus: int
    """Copies of each item."""
    copy_name: str
    """What a copy belongs to: "CPU", "id" (a concurrency id), or "copy" in a global pool."""
    page_size: int
    """Bytes of a page."""
    pages: tuple[tuple[bytes, ...], ...]
    """``pages[range][cpu]`` has a byte for each page of a stride: 1 if the CPU has a page of its
    own there, 0 if it has not written it, so that it reads the initial values, 2 if it is a guard
    page, which is no memory."""
    initial: tuple[bytes, ...]
    """For each range the same of its file of initial values; empty where those are zeros."""
    owners: tuple[str, ...]
    """For each range, in a set of pools, the sizes of items that are in it; otherwise empty."""
    live: int
    """Items handed out."""
    resident_bytes: int
    """Bytes in memory: the CPUs' own pages, initial values, headers and caches."""
    virtual_bytes: int
    """Bytes of address space."""
    padded_bytes: int
    """Bytes of an array of the same live items in which every copy has cache lines of its own."""

    @property
    def ranges(self) -> int:
        """How many ranges there are."""
        return len(self.pages)

    @property
    def pages_per_cpu(self) -> tuple[int, ...]:
        """How many pages of its own each CPU has, in all ranges together."""
        totals = [0] * self.cpus
        for copies in self.pages:
            for cpu, own in enumerate(copies):
                totals[cpu] += own.count(1)
        return tuple(totals)

    @property
    def saved_bytes(self) -> int:
        """How much less memory this is than a padded array; negative if it is more."""
        return self.padded_bytes - self.resident_bytes

    def __str__(self) -> str:
        return _map_draw.text(self, shutil.get_terminal_size().columns)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return _map_draw.svg(self)


def pool_map(pool: PerCpuPool) -> PoolMap:
    """Look at one pool. Raises ClosedError."""
    name = f" {pool.name!r}" if pool.name else ""
    return map_of([[pool]], pool.stats(), f"{type(pool).__name__}{name}: {items_text([pool])}")


def items_text(pools: Sequence[PerCpuPool]) -> str:
    """Describe the items of pools, which are in order of size: 64 bytes x 512 CPUs."""
    what = {"CPU": "CPU", "id": "concurrency id", "copy": "copy"}[_copy_name(pools[0])]
    return f"{_sizes(pools)} x {_map_draw.count_text(pools[0].cpus, what)}"


def map_of(groups: Sequence[Sequence[PerCpuPool]], stats: Mapping[str, Any], title: str) -> PoolMap:
    """Look at pools with the same copies, in groups of those that share their ranges.

    `stats` are of all of them together.
    """
    pages: list[tuple[bytes, ...]] = []
    initial: list[bytes] = []
    owners: list[str] = []
    for pools in groups:
        for copies in pools[0]._pages():
            pages.append(tuple(_guarded(pools[0], own) for own in copies[: pools[0].cpus]))
            initial.append(copies[-1] if len(copies) > pools[0].cpus else b"")
            owners.append(_sizes(pools) if len(groups) > 1 else "")
    return PoolMap(
        title=title,
        cpus=groups[0][0].cpus if groups else 0,
        copy_name=_copy_name(groups[0][0]) if groups else "CPU",
        page_size=os.sysconf("SC_PAGESIZE"),
        pages=tuple(pages),
        initial=tuple(initial),
        owners=tuple(owners),
        live=stats["live"],
        resident_bytes=stats["resident_bytes"],
        virtual_bytes=stats["virtual_bytes"],
        padded_bytes=stats["padded_bytes"],
    )


def _guarded(pool: PerCpuPool, pages: bytes) -> bytes:
    """Mark the last page of a stride if it is a guard page."""
    return pages[:-1] + bytes([_map_draw.GUARD_PAGE]) if pool.guard else pages


def _sizes(pools: Sequence[PerCpuPool]) -> str:
    low, high = pools[0].item_size, pools[-1].item_size
    return f"{low:,} to {high:,} bytes" if low < high else _map_draw.count_text(low, "byte")


def _copy_name(pool: PerCpuPool) -> str:
    if pool.scope == "global":
        return "copy"
    return "id" if pool.index == "cid" else "CPU"
