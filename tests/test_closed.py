"""What was closed or freed raises ClosedError from every method, says so in its picture, and never
touches memory that has a new owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import percpu
from percpu import ClosedError, PerCpuCounter, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
Call = Callable[[], object]


def all_methods_of_a_closed_counter(c: PerCpuCounter) -> list[Call]:
    return [
        *[c.inc, c.dec, c.read, c.read_bounds, c.sum, c.check, c.per_cpu, c.__bool__, c.__int__],
        *[lambda: c.add(1), lambda: c.sub(1), lambda: c.set(1), lambda: c.exchange(1)],
        *[c.delta, c.upgrade, lambda: c.try_add(1, 2), lambda: c.try_sub(1, 2)],
        *[lambda: c.add_many(b"1"), lambda: c.compare(1), lambda: c < 1],
        *[lambda: c < 1, lambda: c == 1, lambda: PerCpuCounter() < c],
        *[lambda: c.__iadd__(1), lambda: c.__isub__(1), lambda: c.add(2**60), lambda: c.sub(2**60)],
    ]


def all_methods_of_a_closed_var(v: PerCpuVar) -> list[Call]:
    return [
        *[v.read, v.inc, v.dec, v.sum, v.min, v.max, lambda: v[0], lambda: v.__setitem__(0, 1)],
        *[lambda: v.write(1), lambda: v.add(1), lambda: v.sub(1), lambda: v.add_return(1)],
        *[lambda: v.and_(1), lambda: v.or_(1), lambda: v.xchg(1), lambda: v.cmpxchg(1, 2)],
        *[lambda: list(v), lambda: memoryview(v)],
    ]


def all_methods_of_a_closed_pool(p: PerCpuPool) -> list[Call]:
    return [
        *[p.alloc, p.check, p.drain, p.stats, p.__len__, lambda: p.alloc(b"x")],
        *[lambda: PerCpuVar("q", pool=p), lambda: PerCpuCounter(pool=p)],
    ]


def all_methods_of_a_freed_item(i: percpu.PerCpuItem) -> list[Call]:
    return [i.free, i.address, lambda: i[0], lambda: list(i), lambda: memoryview(i)]


def assert_all_raise_closed(calls: list[Call]) -> None:
    for call in calls:
        with pytest.raises(ClosedError, match=r"closed|freed"):
            call()


@pytest.mark.parametrize("by", ["itself", "its pool"])
def test_a_closed_counter_raises(by: str) -> None:
    pool = PerCpuPool(16)
    counter = PerCpuCounter(3, pool=pool)
    (counter if by == "itself" else pool).close()
    assert counter.closed
    assert_all_raise_closed(all_methods_of_a_closed_counter(counter))
    assert "closed" in repr(counter)
    counter.close()
    assert (counter.batch, counter.pool) == (32, pool)


@pytest.mark.parametrize("by", ["itself", "its pool"])
def test_a_closed_var_raises(by: str) -> None:
    pool = PerCpuPool(8)
    var = PerCpuVar("q", pool=pool)
    (var if by == "itself" else pool).close()
    assert var.closed
    assert_all_raise_closed(all_methods_of_a_closed_var(var))
    assert "closed" in repr(var)
    var.close()
    assert (var.code, len(var), var.pool) == ("q", CPUS, pool)


def test_a_closed_pool_raises_and_so_do_its_items() -> None:
    pool = PerCpuPool(16)
    item = pool.alloc()
    pool.close()
    assert pool.closed
    assert_all_raise_closed(all_methods_of_a_closed_pool(pool))
    assert_all_raise_closed([*all_methods_of_a_freed_item(item), lambda: pool.free(item)])
    assert item.closed
    assert "closed" in repr(pool)
    pool.close()
    item.close()
    assert (pool.item_size, pool.capacity > 0) == (16, True)


def test_a_freed_item_raises_even_after_its_memory_has_a_new_owner() -> None:
    pool = PerCpuPool(16)
    item = pool.alloc()
    item.free()
    successor = pool.alloc(b"mine")
    assert_all_raise_closed([*all_methods_of_a_freed_item(item), lambda: pool.free(item)])
    assert bytes(successor[0][:4]) == b"mine"
    assert len(pool) == 1
    pool.check()
    assert re.search("freed|closed", repr(item))
