"""PerCpuPool against a model, which knows every byte of every CPU's copy of every item."""

from __future__ import annotations

import gc
import itertools
import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import percpu

Contents = list[bytearray]  # for each CPU


class PoolMachine(RuleBasedStateMachine):
    """Allocates, writes and frees, hopping from CPU to CPU, so that all CPUs' caches have items."""

    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)
        self.items: list[tuple[percpu.PerCpuItem, Contents]] = []

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        item_size=st.integers(1, 9) | st.integers(1, 700) | st.sampled_from([64, 4096]),
        stride=st.sampled_from([4096, 8192, None]),
        max_ranges=st.sampled_from([0, 1, 2]),
        extra_cpus=st.sampled_from([0, 0, 3]),
        index=st.sampled_from(["cpu", "cpu", "cid"]),
    )
    def make(
        self, item_size: int, stride: int | None, max_ranges: int, extra_cpus: int, index: str
    ) -> None:
        if index == "cid" and not (percpu.info().mm_cid or percpu.info().rseq == "none"):
            index = "cpu"
        cpus = len(percpu.PerCpuVar("b")) + extra_cpus
        self.pool = percpu.PerCpuPool(
            item_size, stride=stride, max_ranges=max_ranges, cpus=cpus, index=index
        )
        assert self.pool.item_size == item_size
        assert self.pool.stride == (stride or 65536)
        assert (self.pool.cpus, self.pool.max_ranges, self.pool.index) == (cpus, max_ranges, index)
        assert 1 <= self.pool.capacity <= self.pool.stride // item_size

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        os.sched_setaffinity(0, {sorted(self.affinity)[choice % len(self.affinity)]})

    def allocate(self, init: bytes | None) -> None:
        size, cpus = self.pool.item_size, self.pool.cpus
        if self.pool.max_ranges and len(self.items) == self.pool.max_ranges * self.pool.capacity:
            with pytest.raises(percpu.PoolExhausted, match=f"{size} bytes.*max_ranges"):
                self.pool.alloc(init)
            return
        item = self.pool.alloc() if init is None else self.pool.alloc(init)
        start = init or b""
        contents = [bytearray(start + bytes(size - len(start))) for _ in range(cpus)]
        self.items.append((item, contents))

    @rule()
    def alloc(self) -> None:
        self.allocate(None)

    @rule(data=st.data())
    def alloc_init(self, data: st.DataObject) -> None:
        init = data.draw(st.binary(max_size=min(self.pool.item_size, 64)))
        self.allocate(init)

    @precondition(lambda self: self.pool.max_ranges and self.pool.capacity < 600)
    @rule()
    def exhaust(self) -> None:
        """Every item of every range can be had, those in other CPUs' caches included."""
        for _ in range(self.pool.max_ranges * self.pool.capacity - len(self.items)):
            self.allocate(None)
        self.allocate(None)

    @precondition(lambda self: self.items)
    @rule(choice=st.integers(0), cpu=st.integers(0), at=st.integers(0), what=st.binary(min_size=1))
    def write(self, choice: int, cpu: int, at: int, what: bytes) -> None:
        item, contents = self.items[choice % len(self.items)]
        cpu, at = cpu % self.pool.cpus, at % self.pool.item_size
        what = what[: self.pool.item_size - at]
        item[cpu][at : at + len(what)] = what
        contents[cpu][at : at + len(what)] = what

    @precondition(lambda self: self.items)
    @rule(choice=st.integers(0), cpu=st.integers(0))
    def fill(self, choice: int, cpu: int) -> None:
        """The last byte too: it is next to the next item's first."""
        item, contents = self.items[choice % len(self.items)]
        item[cpu % self.pool.cpus][:] = contents[cpu % self.pool.cpus][:] = (
            b"\xff" * self.pool.item_size
        )

    @precondition(lambda self: self.items)
    @rule(choice=st.integers(0), how=st.sampled_from(["item", "pool", "close", "garbage"]))
    def free(self, choice: int, how: str) -> None:
        item, _ = self.items.pop(choice % len(self.items))
        if how == "garbage":
            del item
            gc.collect(0)
            return
        {"item": item.free, "close": item.close, "pool": lambda: self.pool.free(item)}[how]()
        assert item.closed
        with pytest.raises(percpu.ClosedError):
            item.free()
        with pytest.raises(percpu.ClosedError):
            self.pool.free(item)

    @rule(how_many=st.integers(1, 200))
    def free_many(self, how_many: int) -> None:
        """More than a CPU's cache holds, so that half of it goes back to the ranges."""
        for _ in range(min(how_many, len(self.items))):
            self.items.pop()[0].free()

    @rule()
    def drain(self) -> None:
        self.pool.drain()
        assert self.pool.stats()["cached"] == 0

    @invariant()
    def walk(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        stats = self.pool.stats()
        assert stats["live"] == len(self.items) == len(self.pool)
        free = stats["cached"] + stats["free"]
        assert stats["live"] + free == stats["ranges"] * self.pool.capacity
        assert not self.pool.max_ranges or stats["ranges"] <= self.pool.max_ranges
        assert stats["resident_bytes"] <= stats["virtual_bytes"]
        for item, contents in self.items[-50:]:
            for cpu in range(self.pool.cpus):
                assert bytes(item[cpu]) == contents[cpu]

    @invariant()
    def no_two_items_overlap(self) -> None:
        if not hasattr(self, "pool"):
            return
        addresses = sorted(item.address() for item, _ in self.items)
        for low, high in itertools.pairwise(addresses):
            assert high - low >= self.pool.item_size


TestPool = PoolMachine.TestCase
