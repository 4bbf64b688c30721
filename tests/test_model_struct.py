"""PerCpuStruct against a model: the thread is always on a known CPU, so the model knows every
field of every copy.
"""

from __future__ import annotations

import ctypes
import os
import struct

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import percpu
from percpu import PerCpuPool, PerCpuStruct

CODES = "bBhHiIqQd"
TYPES = dict(
    zip(
        CODES,
        (
            *(ctypes.c_int8, ctypes.c_uint8, ctypes.c_int16, ctypes.c_uint16, ctypes.c_int32),
            *(ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double),
        ),
        strict=True,
    )
)
Number = int | float


def wrapped(code: str, number: Number) -> Number:
    if code == "d":
        return float(number)
    bits = 8 * struct.calcsize(code)
    low = -(2 ** (bits - 1)) if code.islower() else 0
    return (int(number) - low) % 2**bits + low


def values_of(code: str) -> st.SearchStrategy[Number]:
    if code == "d":  # which add up exactly, in any order
        return st.integers(-(2**40), 2**40)
    bits = 8 * struct.calcsize(code)
    low = -(2 ** (bits - 1)) if code.islower() else 0
    return st.integers(low, low + 2**bits - 1)


class StructMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        codes=st.lists(st.sampled_from(CODES), min_size=1, max_size=12),
        how=st.sampled_from(["mapping", "pairs", "ctypes"]),
        pool=st.booleans(),
        extra_cpus=st.sampled_from([0, 3]),
    )
    def make(self, codes: list[str], how: str, pool: bool, extra_cpus: int) -> None:
        self.hop(0)
        self.codes = {f"f{i}": code for i, code in enumerate(codes)}
        # C's layout, as the struct module knows it, with the alignment of the whole at the end.
        largest = max(codes, key=struct.calcsize)
        self.layout = "".join(codes) + "0" + largest
        size = struct.calcsize(self.layout)
        description: object = self.codes
        if how == "pairs":
            description = iter(self.codes.items())
        elif how == "ctypes":
            fields = [(name, TYPES[code]) for name, code in self.codes.items()]
            description = type("Fields", (ctypes.Structure,), {"_fields_": fields})
            assert ctypes.sizeof(description) == size  # type: ignore[arg-type]
        cpus = len(percpu.PerCpuVar("b")) + (extra_cpus if pool else 0)
        own = PerCpuPool(size + 8, stride=4096, cpus=cpus) if pool else None
        self.struct = PerCpuStruct(description, pool=own)
        self.copies: list[dict[str, Number]] = [
            {name: wrapped(code, 0) for name, code in self.codes.items()} for _ in range(cpus)
        ]
        assert (self.struct.size, self.struct.pool, len(self.struct)) == (size, own, cpus)

    def field(self, choice: int) -> tuple[str, str]:
        name = list(self.codes)[choice % len(self.codes)]
        return name, self.codes[name]

    def change(self, name: str, value: Number) -> None:
        self.copies[self.cpu][name] = wrapped(self.codes[name], value)

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})

    @rule(data=st.data(), choice=st.integers(0), by_name=st.booleans())
    def add(self, data: st.DataObject, choice: int, by_name: bool) -> None:
        name, code = self.field(choice)
        n = data.draw(values_of(code))
        (self.struct[name] if by_name else getattr(self.struct, name)).add(n)
        self.change(name, self.copies[self.cpu][name] + n)

    @rule(choice=st.integers(0))
    def inc(self, choice: int) -> None:
        name, _ = self.field(choice)
        getattr(self.struct, name).inc()
        self.change(name, self.copies[self.cpu][name] + 1)

    @rule(data=st.data(), choice=st.integers(0))
    def exchange(self, data: st.DataObject, choice: int) -> None:
        name, code = self.field(choice)
        x = data.draw(values_of(code))
        assert self.struct.fields[name].xchg(x) == self.copies[self.cpu][name]
        self.change(name, x)

    @rule(data=st.data(), choice=st.integers(0), cpu=st.integers(0))
    def set_any_cpu(self, data: st.DataObject, choice: int, cpu: int) -> None:
        name, code = self.field(choice)
        cpu %= len(self.copies)
        x = data.draw(values_of(code))
        self.struct[name][cpu] = x
        self.copies[cpu][name] = wrapped(code, x)

    @rule(data=st.data(), cpu=st.integers(0))
    def write_a_whole_copy_through_the_buffer(self, data: st.DataObject, cpu: int) -> None:
        cpu %= len(self.copies)
        values = [data.draw(values_of(code)) for code in self.codes.values()]
        address = self.struct.fields["f0"].item.address(cpu)  # type: ignore[union-attr]
        packed = struct.pack(self.layout, *map(wrapped, self.codes.values(), values))
        ctypes.memmove(address, packed, len(packed))
        for (name, code), value in zip(self.codes.items(), values, strict=True):
            self.copies[cpu][name] = wrapped(code, value)

    @invariant()
    def every_copy_is_as_modelled(self) -> None:
        if not hasattr(self, "struct"):
            return
        assert [copy._asdict() for copy in self.struct] == self.copies
        for cpu, copy in enumerate(self.copies):
            assert self.struct[cpu] == tuple(copy.values())
        for name, variable in self.struct.fields.items():
            assert list(variable) == [copy[name] for copy in self.copies]

    @invariant()
    def sums_are_those_of_the_copies(self) -> None:
        if not hasattr(self, "struct"):
            return
        for name, total in self.struct.sum()._asdict().items():
            code = self.codes[name]
            wanted = sum(copy[name] for copy in self.copies)
            assert total == wrapped("d" if code == "d" else "q" if code.islower() else "Q", wanted)

    @invariant()
    def the_buffer_is_the_copies(self) -> None:
        if not hasattr(self, "struct"):
            return
        with memoryview(self.struct) as view:
            assert (view.shape, view.itemsize) == ((len(self.copies),), self.struct.size)
            rows = struct.iter_unpack(self.layout, view.tobytes())
            assert list(rows) == [tuple(copy.values()) for copy in self.copies]


TestStruct = StructMachine.TestCase
