"""PerCpuItem.var(): variables that are part of an item, and what they keep from being freed."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import percpu
from percpu import ClosedError, PerCpuPool, PerCpuVar, _core

np = pytest.importorskip("numpy")

CPUS = len(PerCpuVar("b"))


def test_a_variable_of_an_item_is_its_bytes() -> None:
    pool = PerCpuPool(24)
    item = pool.alloc()
    low, high = item.var("H", 2), item.var(code="q", offset=16)
    low.write(0x1234)
    high[CPUS - 1] = -1
    assert any(bytes(item[cpu])[2:4] == b"\x34\x12" for cpu in range(CPUS))
    assert bytes(item[CPUS - 1])[16:] == b"\xff" * 8
    assert (low.item, low.pool, low.code) == (item, pool, "H")
    assert PerCpuVar("q").item is None
    assert np.asarray(high).strides == (pool.stride,)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("q", 1), ValueError, "offset must be a multiple of 8 for code 'q', not 1"),
        (("i", 6), ValueError, "offset must be a multiple of 4 for code 'i', not 6"),
        (("q", 17), ValueError, "offset must be from 0 to 16 for code 'q', not 17"),
        (("b", 24), ValueError, "offset must be from 0 to 23 for code 'b', not 24"),
        (("b", -1), ValueError, "offset must be from 0 to 23"),
        (("b", 2**80), ValueError, "offset must be from 0 to 23"),
        (("b", 1.0), TypeError, "offset must be an int, not float 1.0"),
        (("z",), ValueError, "code must be one of b B"),
        ((7,), TypeError, "code must be a str"),
        ((), TypeError, "missing the argument 'code'"),
    ],
)
def test_bad_variables_of_an_item(
    arguments: tuple[Any, ...], error: type[Exception], said: str
) -> None:
    item = PerCpuPool(24).alloc()
    with pytest.raises(error, match=said):
        item.var(*arguments)
    item.free()  # none of them holds it


def test_items_too_small_or_global() -> None:
    with pytest.raises(ValueError, match="code 'q' needs 8 bytes, and the item has 4"):
        PerCpuPool(4).alloc().var("q")
    with pytest.raises(ValueError, match="scope 'percpu'"):
        PerCpuPool(8, scope="global").alloc().var("q")


@pytest.mark.parametrize("closed", [False, True])
def test_a_variable_keeps_the_item_from_being_freed(closed: bool) -> None:
    pool = PerCpuPool(24)
    item = pool.alloc()
    first, second = item.var("q"), item.var("q", 8)
    if closed:
        first.close()
        with pytest.raises(ClosedError, match="this PerCpuVar is closed"):
            first.inc()
        second.inc()
    for free in (item.free, item.close, lambda: pool.free(item)):
        with pytest.raises(BufferError, match="cannot free an item while 2 variables of it live"):
            free()
    del first
    gc.collect()
    with pytest.raises(BufferError, match="while 1 variables"):
        item.free()
    view = memoryview(second)
    with pytest.raises(BufferError, match="while 1 memoryviews"):
        item.free()
    with pytest.raises(BufferError):
        second.close()
    view.release()
    del second
    gc.collect()
    item.free()
    with pytest.raises(ClosedError, match="this item was freed"):
        item.var("q")
    assert len(pool) == 0


def test_a_variable_keeps_an_item_that_nobody_else_has() -> None:
    pool = PerCpuPool(8)
    var = pool.alloc().var("q")
    gc.collect()
    var.add(5)
    assert var.sum() == 5
    assert len(pool) == 1
    del var
    gc.collect()
    assert len(pool) == 0


def test_variables_and_pools_that_close() -> None:
    pool = PerCpuPool(8)
    item = pool.alloc()
    var = item.var("q")
    view = memoryview(var)
    with pytest.raises(BufferError, match="cannot close a pool while 1"):
        pool.close()
    view.release()
    pool.close()
    assert var.closed
    for call in (var.inc, lambda: item.var("q"), lambda: memoryview(var)):
        with pytest.raises(ClosedError):
            call()


def test_an_item_that_is_being_destructed_has_no_variables() -> None:
    seen: list[str] = []

    def dtor(item: percpu.PerCpuItem) -> None:
        for make in (lambda: item.var("q"), lambda: _core._Records(item, b"q", 8)):
            try:
                make()
            except ClosedError as error:
                seen.append(str(error))

    pool = PerCpuPool(8, constructed=True, ctor=lambda item: None, dtor=dtor)
    pool.alloc().free()
    pool.close()
    assert seen == ["this item is free: it is being destructed"] * 2


def test_a_constructor_may_make_a_variable() -> None:
    kept: list[PerCpuVar[int]] = []
    pool = PerCpuPool(8, constructed=True, ctor=lambda item: kept.append(item.var("q")))
    item = pool.alloc()
    kept[0].add(3)
    assert kept[0].sum() == 3
    with pytest.raises(BufferError):
        item.free()


def test_records_refuse_what_is_no_item() -> None:
    item = PerCpuPool(8).alloc()
    for arguments, error in (
        ((3, b"q", 8), TypeError),
        ((item, "q", 8), TypeError),
        ((item, b"q", 0), ValueError),
        ((item, b"q", 9), ValueError),
        ((item, b"q"), TypeError),
    ):
        with pytest.raises(error):
            _core._Records(*arguments)  # type: ignore[arg-type]
    assert np.asarray(_core._Records(item, b"q", 8)).tolist() == [0] * CPUS
