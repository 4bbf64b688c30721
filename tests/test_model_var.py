"""PerCpuVar against a model, for each code: the thread is always on a known CPU, so the model knows
every copy.
"""

from __future__ import annotations

import functools
import math
import os
import struct

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import percpu

INTEGERS = "bBhHiIqQ"
Number = int | float


def limits(code: str) -> tuple[int, int]:
    bits = 8 * struct.calcsize(code)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if code.islower() else (0, 2**bits - 1)


def values_of(code: str) -> st.SearchStrategy[Number]:
    if code == "d":
        return st.floats(allow_nan=False) | st.integers(-(2**60), 2**60)
    low, high = limits(code)
    near = st.sampled_from([low, low + 1, 0, 1, high - 1, high])
    return near | st.integers(low, high)


def same(a: Number, b: Number) -> bool:
    """Equal to the last bit, but that one NaN is as good as another."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    return type(a) is type(b) and a == b


class VarMachine(RuleBasedStateMachine):
    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    def number(self, n: Number) -> Number:
        """What a copy holds after `n` was computed: wrapped, or a float."""
        if self.code == "d":
            return float(n)
        low, high = limits(self.code)
        return (int(n) - low) % (high - low + 1) + low

    def draw(self, data: st.DataObject) -> Number:
        return data.draw(values_of(self.code))

    @initialize(data=st.data(), pool=st.booleans(), extra_cpus=st.sampled_from([0, 3]))
    def make(self, data: st.DataObject, pool: bool, extra_cpus: int) -> None:
        self.hop(0)
        value = data.draw(st.just(0) | values_of(self.code))
        cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if pool else 0)
        size = struct.calcsize(self.code)
        own = percpu.PerCpuPool(size, stride=4096, cpus=cpus) if pool else None
        self.var = percpu.PerCpuVar(self.code, value, pool=own)
        self.copies: list[Number] = [self.number(value)] * len(self.var)
        assert self.var.code == self.code

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})

    @property
    def mine(self) -> Number:
        return self.copies[self.cpu]

    @mine.setter
    def mine(self, value: Number) -> None:
        self.copies[self.cpu] = self.number(value)

    @rule()
    def read(self) -> None:
        assert same(self.var.read(), self.mine)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        self.mine = x = self.draw(data)
        self.var.write(x)

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        n = self.draw(data)
        self.var.add(n)
        self.mine += n

    @rule(data=st.data())
    def add_return(self, data: st.DataObject) -> None:
        n = self.draw(data)
        self.mine += n
        assert same(self.var.add_return(n), self.mine)

    @rule(data=st.data())
    def sub(self, data: st.DataObject) -> None:
        n = self.draw(data)
        self.var.sub(n)
        self.mine -= n

    @rule(times=st.integers(1, 5))
    def inc(self, times: int) -> None:
        for _ in range(times):
            self.var.inc()
            self.mine += 1

    @rule(times=st.integers(1, 5))
    def dec(self, times: int) -> None:
        for _ in range(times):
            self.var.dec()
            self.mine -= 1

    @precondition(lambda self: self.code != "d")
    @rule(data=st.data())
    def and_(self, data: st.DataObject) -> None:
        mask = self.draw(data)
        assert same(self.var.and_(mask), self.mine)
        self.mine = int(self.mine) & int(mask)

    @precondition(lambda self: self.code != "d")
    @rule(data=st.data())
    def or_(self, data: st.DataObject) -> None:
        mask = self.draw(data)
        assert same(self.var.or_(mask), self.mine)
        self.mine = int(self.mine) | int(mask)

    @rule(data=st.data())
    def xchg(self, data: st.DataObject) -> None:
        x = self.draw(data)
        assert same(self.var.xchg(x), self.mine)
        self.mine = x

    @rule(data=st.data(), right=st.booleans())
    def cmpxchg(self, data: st.DataObject, right: bool) -> None:
        expect = self.mine if right else self.number(self.draw(data))
        new = self.draw(data)
        equal = same(expect, self.mine)
        if math.isnan(expect):
            return  # which NaN it is decides
        assert same(self.var.cmpxchg(expect, new), self.mine)
        if equal:
            self.mine = new

    @rule(data=st.data(), choice=st.integers(0))
    def set_any_cpu(self, data: st.DataObject, choice: int) -> None:
        cpu, x = choice % len(self.copies), self.draw(data)
        self.var[cpu] = x
        self.copies[cpu] = self.number(x)

    @rule(data=st.data(), choice=st.integers(0))
    def write_through_the_buffer(self, data: st.DataObject, choice: int) -> None:
        cpu, x = choice % len(self.copies), self.number(self.draw(data))
        with memoryview(self.var) as view:
            view[cpu] = x
        self.copies[cpu] = x

    @invariant()
    def every_copy_is_as_modelled(self) -> None:
        if not hasattr(self, "var"):
            return
        assert len(self.var) == len(self.copies)
        assert all(map(same, self.var, self.copies))
        assert all(same(self.var[cpu], copy) for cpu, copy in enumerate(self.copies))
        with memoryview(self.var) as view:
            assert (view.format, view.shape) == (self.code, (len(self.copies),))
            assert all(map(same, view, self.copies))

    @invariant()
    def sums_and_extremes_are_those_of_the_copies(self) -> None:
        if not hasattr(self, "var"):
            return
        if self.code == "d":
            # Not sum(): that of Python 3.12 and later keeps the rounding errors.
            total = functools.reduce(lambda a, b: a + b, self.copies, 0.0)
            assert same(self.var.sum(), total)
        else:
            low = -(2**63) if self.code.islower() else 0
            assert self.var.sum() == (sum(map(int, self.copies)) - low) % 2**64 + low
        if any(map(math.isnan, self.copies)):
            assert math.isnan(self.var.min())
            assert math.isnan(self.var.max())
        else:
            assert self.var.min() == min(self.copies)
            assert self.var.max() == max(self.copies)


@pytest.mark.parametrize("code", [*INTEGERS, "d"])
def test_var(code: str) -> None:
    run_state_machine_as_test(functools.partial(VarMachine, code))
