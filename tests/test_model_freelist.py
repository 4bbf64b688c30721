"""PerCpuFreeList against a model: a Python list for each CPU, which is exact because the thread is
always on a known CPU.
"""

from __future__ import annotations

import os
import weakref

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import percpu


class Thing:
    """An object that the list can hold and a weak reference can watch."""


class NoThingError(Exception):
    """What a factory raises that has none."""


class FreeListMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        capacity=st.integers(1, 4) | st.sampled_from([64, 600]),
        with_factory=st.booleans(),
        choice=st.integers(0),
    )
    def make(self, capacity: int, with_factory: bool, choice: int) -> None:
        self.hop(choice)
        self.cpus = len(percpu.PerCpuVar("b"))
        factory = self.produce if with_factory else None
        self.freelist = percpu.PerCpuFreeList(factory, capacity=capacity)
        self.capacity, self.with_factory = capacity, with_factory
        self.stacks: list[list[Thing]] = [[] for _ in range(self.cpus)]
        self.produced: list[Thing] = []
        self.refuses = False
        self.mine: list[Thing] = []
        assert self.freelist.capacity == capacity
        assert self.freelist.factory == factory

    def produce(self) -> Thing:
        if self.refuses:
            raise NoThingError
        self.produced.append(Thing())
        return self.produced[-1]

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})
        assert percpu.current_cpu() == self.cpu

    @rule(times=st.integers(1, 8))
    def put_new_ones(self, times: int) -> None:
        for _ in range(times):
            self.put(Thing())

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def put_one_again(self, data: st.DataObject) -> None:
        self.put(data.draw(st.sampled_from(self.mine)))

    def put(self, thing: Thing) -> None:
        stack = self.stacks[self.cpu]
        fits = len(stack) < self.capacity
        assert self.freelist.put(thing) is fits
        if fits:
            stack.append(thing)

    @rule(times=st.integers(1, 8))
    def get(self, times: int) -> None:
        for _ in range(times):
            self.get_one()

    def get_one(self) -> None:
        local = self.stacks[self.cpu]
        # Where there is no factory, the other CPUs are asked in the order of their numbers.
        filled = [local] if local else [stack for stack in self.stacks if stack]
        if local or (filled and not self.with_factory):
            assert self.freelist.get() is filled[0][-1]
            self.mine = [*self.mine[-5:], filled[0].pop()]
        elif self.with_factory:
            made = self.freelist.get()
            assert made is self.produced[-1]
        else:
            with pytest.raises(IndexError, match="empty"):
                self.freelist.get()

    @precondition(lambda self: self.with_factory)
    @rule()
    def a_factory_fails(self) -> None:
        self.refuses = True
        try:
            while self.stacks[self.cpu]:
                self.get_one()
            with pytest.raises(NoThingError):
                self.freelist.get()
        finally:
            self.refuses = False

    @rule()
    def drain(self) -> None:
        drained = self.freelist.drain()
        expected = [thing for stack in self.stacks for thing in stack]
        assert len(drained) == len(expected)
        assert all(a is b for a, b in zip(drained, expected, strict=True))
        self.stacks = [[] for _ in range(self.cpus)]

    @rule()
    def clear(self) -> None:
        thing = Thing()
        watched = weakref.ref(thing)
        self.freelist.put(thing)
        del thing
        self.freelist.clear()
        assert watched() is None
        self.stacks = [[] for _ in range(self.cpus)]

    @invariant()
    def every_stack_is_as_modelled(self) -> None:
        if not hasattr(self, "freelist"):
            return
        assert self.freelist.per_cpu() == tuple(map(len, self.stacks))
        assert len(self.freelist) == sum(map(len, self.stacks))
        assert f" {len(self.freelist)} objects" in repr(self.freelist)


TestFreeList = FreeListMachine.TestCase
