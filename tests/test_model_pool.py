"""PerCpuPool against a model, which knows every byte of every CPU's copy of every item."""

from __future__ import annotations

import gc
import itertools
import os
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from together import run_forked

import percpu

Contents = list[bytearray]  # for each CPU

# Each alone and with others; what excludes each other is put right in make().
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from(["cpu", "cid"]),
        "scope": st.sampled_from(["percpu", "global"]),
        "init": st.just(b""),
        "constructed": st.booleans(),
        "ctor": st.booleans(),
        "robust": st.booleans(),
        "poison": st.sampled_from([0, 0x6B6B6B6B6B6B6B6B, 2**64 - 1]),
        "guard": st.booleans(),
        "numa": st.booleans(),
        "name": st.sampled_from(["model", "a name"]),
        "cache_bytes": st.sampled_from([1, 1000, 1 << 20]),
    },
)


class PoolMachine(RuleBasedStateMachine):
    """Allocates, writes and frees, hopping from CPU to CPU, so that all CPUs' caches have items."""

    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)
        self.items: list[tuple[percpu.PerCpuItem, Contents]] = []
        self.built: set[int] = set()  # addresses, of pools with a ctor

    def teardown(self) -> None:
        try:
            if hasattr(self, "pool"):
                self.teardown_pool()
        finally:
            os.sched_setaffinity(0, self.affinity)

    @initialize(
        item_size=st.integers(1, 9) | st.integers(1, 700) | st.sampled_from([64, 2048, 4096]),
        stride=st.sampled_from([16384, 8192, None]),
        max_ranges=st.sampled_from([0, 1, 2]),
        extra_cpus=st.sampled_from([0, 0, 3, 600]),
        populate=st.sampled_from(["zero", "init"]),
        options=OPTIONS,
        data=st.data(),
    )
    def make(
        self,
        item_size: int,
        stride: int | None,
        max_ranges: int,
        extra_cpus: int,
        populate: str,
        options: dict[str, Any],
        data: st.DataObject,
    ) -> None:
        if options.get("index") == "cid" and not percpu.info().mm_cid:
            options["index"] = "cpu"
        if "init" in options:
            options["init"] = data.draw(st.binary(max_size=item_size), "init")
        if options.get("constructed"):
            options.pop("poison", None)
        if options.pop("ctor", False) and options.get("constructed"):
            options |= {"ctor": self.construct, "dtor": self.destruct}
        self.start: bytes = options.get("init", b"")
        self.constructed = bool(options.get("constructed"))
        possible = len(percpu.PerCpuVar("b"))
        cpus = possible + extra_cpus if options.get("scope") != "global" else 1 + extra_cpus % 4
        self.pool = percpu.PerCpuPool(
            item_size, stride=stride, max_ranges=max_ranges, cpus=cpus, populate=populate, **options
        )
        note(f"PerCpuPool({item_size}, {stride=}, {max_ranges=}, {cpus=}, {populate=}, {options})")
        assert self.pool.item_size == item_size
        assert self.pool.stride == (stride or 65536)
        assert (self.pool.cpus, self.pool.max_ranges) == (cpus, max_ranges)
        assert (self.pool.populate, self.pool.index) == (populate, options.get("index", "cpu"))
        assert 1 <= self.pool.capacity <= self.pool.stride // item_size

    def construct(self, item: percpu.PerCpuItem) -> None:
        """Once for each item; what it finds is the initial bytes."""
        assert item.address() not in self.built
        assert bytes(item[0]) == self.contents_of(self.start)[0]
        self.built.add(item.address())

    def destruct(self, item: percpu.PerCpuItem) -> None:
        self.built.remove(item.address())

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        os.sched_setaffinity(0, {sorted(self.affinity)[choice % len(self.affinity)]})

    def contents_of(self, start: bytes) -> Contents:
        size = self.pool.item_size
        return [bytearray(start + bytes(size - len(start))) for _ in range(self.pool.cpus)]

    def allocate(self, init: bytes | None) -> None:
        size = self.pool.item_size
        if self.pool.max_ranges and len(self.items) == self.pool.max_ranges * self.pool.capacity:
            with pytest.raises(percpu.PoolExhausted, match=f"{size} bytes.*max_ranges"):
                self.pool.alloc(init)
            return
        item = self.pool.alloc() if init is None else self.pool.alloc(init)
        start = self.start if init is None else init
        self.items.append((item, self.contents_of(start)))

    def reconstruct(self, item: percpu.PerCpuItem, contents: Contents) -> None:
        """Bring an item of a constructed pool back to its state, as its user must."""
        for cpu, right in enumerate(self.contents_of(self.start)):
            if self.constructed and contents[cpu] != right:
                item[cpu][:] = right

    def take(self, choice: int) -> percpu.PerCpuItem:
        item, contents = self.items.pop(choice % len(self.items))
        self.reconstruct(item, contents)
        return item

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
        item = self.take(choice)
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
            self.take(-1).free()

    @rule()
    def drain(self) -> None:
        self.pool.drain()
        assert self.pool.stats()["cached"] == 0

    @rule()
    def trim(self) -> None:
        before = self.pool.stats()["virtual_bytes"]
        given_back = self.pool.trim()
        stats = self.pool.stats()
        assert before - stats["virtual_bytes"] == given_back
        assert stats["cached"] == 0
        assert self.items or stats["ranges"] == 0
        assert self.items or self.built == set()

    @rule(items=st.integers(0, 50))
    def reserve(self, items: int) -> None:
        room = self.pool.max_ranges * self.pool.capacity - len(self.items)
        if self.pool.max_ranges and items > room:
            return
        self.pool.drain()
        self.pool.reserve(items)
        assert self.pool.stats()["free"] >= items

    @rule()
    def check(self) -> None:
        """Not an invariant: it drains the caches, and then nothing else would be tested."""
        self.pool.check()

    @rule(init=st.binary(max_size=8), parent_first=st.booleans())
    def fork(self, init: bytes, parent_first: bool) -> None:
        """The child has all items as they were; what it does is not seen here."""
        init = init[: self.pool.item_size]

        def child() -> None:
            self.compare()
            for _ in range(min(3, len(self.items))):
                self.take(-1).free()
            for _ in range(3):
                self.allocate(init)
            for item, contents in self.items:
                item[0][:] = contents[0][:] = b"c" * self.pool.item_size
            self.compare()
            self.pool.check()

        if parent_first:
            self.allocate(init)
            self.allocate(None)
        run_forked(child)
        self.compare()
        self.allocate(init)
        self.compare()

    def compare(self) -> None:
        for item, contents in self.items[-50:]:
            for cpu in {*range(min(self.pool.cpus, 4)), self.pool.cpus - 1}:
                assert bytes(item[cpu]) == contents[cpu]

    def teardown_pool(self) -> None:
        while self.items:
            self.take(-1).free()
        self.pool.check()
        self.pool.close()
        assert self.built == set()

    @invariant()
    def walk(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert stats["live"] == len(self.items) == len(self.pool)
        free = stats["cached"] + stats["free"]
        assert stats["live"] + free == stats["ranges"] * self.pool.capacity
        assert not self.pool.max_ranges or stats["ranges"] <= self.pool.max_ranges
        assert stats["resident_bytes"] <= stats["virtual_bytes"]
        self.compare()

    @invariant()
    def no_two_items_overlap(self) -> None:
        if not hasattr(self, "pool"):
            return
        addresses = sorted(item.address() for item, _ in self.items)
        for low, high in itertools.pairwise(addresses):
            assert high - low >= self.pool.item_size


TestPool = PoolMachine.TestCase
