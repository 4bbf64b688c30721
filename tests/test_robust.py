"""What a robust pool finds, each kind by a test of its own; and how Python is told.

Items are damaged as C code would: through addresses, behind the back of the objects.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from together import run_together

import percpu
from percpu import ClosedError, CorruptionError, PerCpuCounter, PerCpuItem, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
core = ctypes.CDLL(percpu._core.__file__)

each_populate = pytest.mark.parametrize("populate", ["zero", "init"])


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The exceptions that went to sys.unraisablehook."""
    caught: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_value))
    return caught


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


@contextmanager
def damaged(address: int, data: bytes) -> Iterator[None]:
    """Memory is overwritten, and mended afterwards."""
    before = ctypes.string_at(address, len(data))
    poke(address, data)
    yield
    poke(address, before)


def pool_of_one_item() -> tuple[PerCpuPool, int]:
    """Whatever is made in it next has the address that is returned too."""
    pool = PerCpuPool(2056, robust=True, guard=False, stride=4096, max_ranges=1)
    assert pool.capacity == 1
    item = pool.alloc()
    address = item.address()
    item.free()
    return pool, address


def free_in_c(pool: PerCpuPool, address: int) -> None:
    """What a C program does that has the pool. The object's first field is its address."""
    memory = ctypes.c_void_p.from_address(id(pool) + object.__basicsize__)
    core.percpu_pool_free_slowly(memory, ctypes.c_void_p(address))


def finding(call: Callable[[], object]) -> CorruptionError:
    """What a call is refused with."""
    with pytest.raises(CorruptionError) as caught:
        call()
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert error.kind is not None
    assert str(error).startswith((f"{error.kind} in a pool: ", f"{error.kind} in pool '"))
    assert "\n" not in str(error)
    return error


def known(error: CorruptionError) -> dict[str, object]:
    """The attributes that say something, but for the pool and the site."""
    names = ("kind", "item", "offset", "cpu", "expected", "found", "count")
    return {name: getattr(error, name) for name in names if getattr(error, name) is not None}


def here(back: int = 0) -> str:
    """The line of the caller, or of one `back` lines above, as a site of an allocation."""
    frame = inspect.stack()[1]
    return f"{frame.filename}:{frame.lineno - back} in {frame.frame.f_code.co_qualname}"


# ---- findings ----------------------------------------------------------------------------------


@each_populate
def test_writing_a_freed_item(populate: str) -> None:
    pool = PerCpuPool(24, robust=True, populate=populate, init=b"init")
    item = pool.alloc()
    site = here(1)
    address = item.address(1)
    item.free()
    pool.check()
    with damaged(address + 3, b"\xff"):
        error = finding(pool.check)
    assert known(error) == {
        "kind": "use after free",
        "item": address - pool.stride,
        "offset": 3,
        "cpu": 1,
        "expected": ord("t") if populate == "init" else 0,
        "found": 0xFF,
    }
    assert (error.pool, error.site) == (pool, site)
    assert f"allocated at {site}" in str(error)


@each_populate
def test_a_freed_item_that_was_written_is_not_handed_out_again(populate: str) -> None:
    pool = PerCpuPool(24, robust=True, populate=populate, max_ranges=1, stride=8192, guard=False)
    items = [pool.alloc() for _ in range(pool.capacity)]
    addresses = {item.address() for item in items}
    bad = items[7].address()
    for item in items:
        item.free()
    poke(bad, b"\1")
    errors = []
    kept = []
    while len(kept) + len(errors) < len(addresses):
        try:
            kept.append(pool.alloc())
        except CorruptionError as error:
            errors.append(error)
    assert [error.item for error in errors] == [bad]
    assert {item.address() for item in kept} == addresses - {bad}
    with pytest.raises(percpu.PoolExhausted):
        pool.alloc()


def test_writing_a_poisoned_item() -> None:
    pool = PerCpuPool(16, robust=True, poison=0xA5A5A5A5A5A5A5A5)
    item = pool.alloc()
    address = item.address()
    item.free()
    assert ctypes.string_at(address, 16) == b"\xa5" * 16
    with damaged(address + 15, b"\0"):
        error = finding(pool.check)
    assert (error.kind, error.offset, error.expected, error.found) == (
        "use after free",
        15,
        0xA5,
        0,
    )


@each_populate
@pytest.mark.parametrize("size", [1, 7, 8, 20, 64])
def test_writing_behind_an_item_is_found_when_it_is_freed(populate: str, size: int) -> None:
    pool = PerCpuPool(size, robust=True, populate=populate, init=b"i")
    item = pool.alloc(b"\xff" * size)
    site = here(1)
    item[0][:] = b"\xee" * size  # all of it may be written
    pool.check()
    poke(item.address(CPUS - 1) + size, b"\x01")
    expected = {
        "kind": "overflow",
        "item": item.address(),
        "offset": size,
        "cpu": CPUS - 1,
        "expected": 0,
        "found": 1,
    }
    for _ in range(2):
        error = finding(pool.check)
        assert (known(error), error.site) == (expected, site)
    error = finding(item.free)
    assert (known(error), error.site, error.pool) == (expected, site, pool)
    assert item.closed
    item.close()
    with pytest.raises(ClosedError):
        item.free()
    assert len(pool) == 0


def test_freeing_twice_in_c_is_found_by_the_second() -> None:
    """Python knows when it frees an item; C code that was lent one may free it too."""
    pool = PerCpuPool(16, robust=True)
    item = pool.alloc()
    site = here(1)
    free_in_c(pool, item.address())
    address = item.address()
    error = finding(item.free)
    assert known(error) == {"kind": "double free", "item": address}
    assert (error.site, error.pool) == (site, pool)
    with pytest.raises(ClosedError):
        item.free()
    with pytest.raises(ClosedError):
        pool.free(item)
    pool.check()


def test_what_c_code_does_is_raised_by_the_next_call() -> None:
    pool, other = PerCpuPool(16, robust=True, name="first"), PerCpuPool(16)
    item, stranger = pool.alloc(), other.alloc()
    buffer = ctypes.create_string_buffer(64)
    cases: list[tuple[int, str, int | None]] = [
        (ctypes.addressof(buffer), "foreign free", None),
        (item.address() + 5, "interior free", 5),
        (stranger.address(), "wrong pool", None),
    ]
    calls: list[Callable[[], object]] = [pool.check, pool.alloc, pool.drain, pool.trim]
    calls += [lambda: PerCpuVar("q", pool=pool), lambda: PerCpuCounter(pool=pool)]
    for address, kind, offset in cases:
        for call in calls:
            free_in_c(pool, address)
            error = finding(call)
            assert (error.kind, error.item, error.offset) == (kind, address, offset)
            assert (error.pool, error.cpu) == (pool, None)
            assert "in pool 'first': the " in str(error)
            pool.check()
    free_in_c(pool, item.address(1))
    assert finding(item.free).kind in ("interior free", "foreign free")
    assert item.closed
    assert len(pool) == 0


def test_only_the_first_finding_waits() -> None:
    pool = PerCpuPool(16, robust=True)
    item = pool.alloc()
    for offset in range(1, 10):
        free_in_c(pool, item.address() + offset)
    assert finding(pool.check).offset == 1
    pool.check()
    free_in_c(pool, item.address() + 3)
    assert finding(pool.close).offset == 3
    assert pool.closed


def test_damage_to_a_list_of_free_items_is_found() -> None:
    """The list is memory of the process, as everything: indices in the header of the range."""
    pool = PerCpuPool(16, robust=True)
    items = [pool.alloc() for _ in range(20)]
    base = items[0].address() & -pool.stride
    for item in items:
        item.free()
    pool.drain()
    header = (ctypes.c_uint32 * (pool.header_size // 4)).from_address(base - pool.header_size)
    indices = [word & (1 << 30) - 1 for word in header]
    start = next(i for i in range(len(indices)) if set(range(20)) <= set(indices[i : i + 127]))
    place = start + indices[start:].index(7)
    header[place] = header[start + indices[start:].index(8)]
    error = finding(pool.check)
    assert (error.kind, error.cpu, error.expected) == ("bad free list", None, None)
    header[place] -= 1
    pool.check()


def test_a_constructed_item_that_was_not_restored() -> None:
    pool = PerCpuPool(16, robust=True, constructed=True, init=b"built")
    item = pool.alloc()
    item[1][4:5] = b"T"
    error = finding(item.free)
    assert known(error) == {
        "kind": "not constructed",
        "item": error.item,
        "offset": 4,
        "cpu": 1,
        "expected": ord("t"),
        "found": ord("T"),
    }
    item = pool.alloc()
    item[1][4:5] = b"T"
    item[1][4:5] = b"t"
    item.free()
    pool.check()
    pool.close()


def test_variables_are_watched_as_well() -> None:
    pool, address = pool_of_one_item()
    var = PerCpuVar("q", 5, pool=pool)
    var.add(1)
    assert var.sum() == 5 * CPUS + 1
    pool.check()
    with damaged(address + pool.item_size, b"!"):
        error = finding(pool.check)
    assert (error.kind, error.item, error.site) == ("overflow", address, here(6))


# ---- leaks -------------------------------------------------------------------------------------


def test_closing_with_live_items_is_a_leak_that_says_where() -> None:
    pool = PerCpuPool(24, robust=True)
    pool.alloc().free()
    first = pool.alloc()
    site = here(1)
    second = pool.alloc()
    error = finding(pool.close)
    assert known(error) == {"kind": "leak", "item": error.item, "count": 2}
    assert (error.site, error.pool, error.cpu) == (site, pool, None)
    assert pool.closed
    assert first.closed
    assert second.closed
    pool.close()


def test_the_first_leaked_item_is_the_one_allocated_first() -> None:
    def allocate() -> PerCpuItem:
        return pool.alloc()

    pool = PerCpuPool(24, robust=True)
    items = [allocate() for _ in range(5)]
    items[0].free()
    items[0] = pool.alloc()
    items[1].free()
    address = items[2].address()
    error = finding(pool.close)
    assert (error.item, error.count) == (address, 4)
    assert error.site is not None
    assert error.site.endswith(".<locals>.allocate")


def test_what_was_freed_closed_or_collected_is_no_leak() -> None:
    class Cycle:
        def __init__(self, item: object) -> None:
            self.item, self.me = item, self

    pool = PerCpuPool(24, robust=True)
    freed, counter, var = pool.alloc(), PerCpuCounter(pool=pool), PerCpuVar("q", pool=pool)
    Cycle(pool.alloc())
    Cycle(PerCpuCounter(pool=pool))
    freed.free()
    counter.close()
    var.close()
    pool.close()
    assert counter.closed


@pytest.mark.parametrize(
    "make", [lambda p: PerCpuVar("q", pool=p), lambda p: PerCpuCounter(pool=p)]
)
def test_variables_and_counters_may_leak_too(make: Callable[[PerCpuPool], object]) -> None:
    pool = PerCpuPool(16, robust=True)
    thing = make(pool)
    error = finding(pool.close)
    assert (error.kind, error.count) == ("leak", 1)
    assert error.site is not None
    assert "<lambda>" in error.site
    assert thing is not None


def test_garbage_pools_leak_nothing(unraisable: list[BaseException]) -> None:
    class Pool(PerCpuPool):
        pass

    PerCpuPool(16, robust=True)
    pool = Pool(16, robust=True)
    pool.items = [pool.alloc() for _ in range(3)]
    del pool
    gc.collect()
    assert unraisable == []


def test_no_site_without_python_code() -> None:
    """An allocation by a thread that runs no Python function has none."""
    pool = PerCpuPool(16, robust=True)
    items: list[PerCpuItem] = []
    callback = ctypes.PYFUNCTYPE(ctypes.py_object)(pool.alloc)
    items.append(callback())
    assert finding(pool.close).kind == "leak"


# ---- with blocks -------------------------------------------------------------------------------


def test_a_with_block_reports_leaks() -> None:
    kept = []
    with pytest.raises(CorruptionError) as caught, PerCpuPool(16, robust=True) as pool:
        kept.append(pool.alloc())
    assert caught.value.kind == "leak"


def test_a_with_block_does_not_hide_its_exception() -> None:
    original = ZeroDivisionError("mine")
    pool = PerCpuPool(16, robust=True)
    kept = pool.alloc()
    with (
        damaged(kept.address() + 16, b"!"),
        pytest.raises(ZeroDivisionError) as caught,
        pool,
    ):
        raise original
    assert caught.value is original
    assert pool.closed
    (note,) = original.__notes__
    assert re.match(r"at the end of the with block: CorruptionError: overflow in a pool: ", note)
    assert "overflow" in "".join(traceback.format_exception(original))


def test_leaks_of_a_block_that_fails_are_not_news() -> None:
    pool = PerCpuPool(16, robust=True)
    kept = pool.alloc()
    with pytest.raises(ZeroDivisionError) as caught, pool:
        raise ZeroDivisionError
    assert not hasattr(caught.value, "__notes__")
    assert kept.closed


def test_views_do_not_hide_the_exception_either() -> None:
    pool = PerCpuPool(16)
    view = memoryview(pool.alloc())
    with pytest.raises(ZeroDivisionError) as caught, pool:
        raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert "BufferError: cannot close a pool while 1 " in note
    assert not pool.closed
    view.release()
    item = pool.alloc()
    view = item[0]
    with pytest.raises(ZeroDivisionError) as again, item:
        raise ZeroDivisionError
    assert "BufferError: cannot free an item" in again.value.__notes__[0]
    assert view.nbytes == 16


def test_a_with_block_of_an_item_reports_what_its_end_finds() -> None:
    pool = PerCpuPool(16, robust=True)
    with pytest.raises(CorruptionError, match="overflow"), pool.alloc() as item:
        poke(item.address() + 17, b"!")
    assert item.closed


# ---- what cannot be raised ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda pool: pool.alloc(),
        lambda pool: PerCpuVar("q", pool=pool),
        lambda pool: PerCpuCounter(pool=pool),
    ],
    ids=["item", "variable", "counter"],
)
def test_a_finding_in_garbage_goes_to_the_hook(
    make: Callable[[PerCpuPool], object], unraisable: list[BaseException]
) -> None:
    pool, address = pool_of_one_item()
    thing = [make(pool)]
    poke(address + pool.item_size, b"!")
    thing.clear()
    gc.collect()
    (error,) = unraisable
    assert isinstance(error, CorruptionError)
    assert (error.kind, error.item, error.pool) == ("overflow", address, pool)
    assert error.site is not None
    assert "<lambda>" in error.site
    assert len(pool) == 0


def test_a_finding_at_the_end_of_a_garbage_pool_goes_to_the_hook(
    unraisable: list[BaseException],
) -> None:
    pool = PerCpuPool(16, robust=True)
    item = pool.alloc()
    address = item.address()
    item.free()
    poke(address, b"!")
    del pool, item
    gc.collect()
    assert [error.kind for error in unraisable] == ["use after free"]


def test_what_close_has_said_is_not_said_again(unraisable: list[BaseException]) -> None:
    pool = PerCpuPool(16, robust=True)
    freed, kept = pool.alloc(), pool.alloc()
    address = freed.address()
    freed.free()
    poke(address, b"!")
    assert finding(pool.close).kind == "use after free"
    del kept
    gc.collect()
    assert unraisable == []


# ---- the rest ----------------------------------------------------------------------------------


def test_attributes_of_errors_that_no_pool_made() -> None:
    error = CorruptionError("mine")
    assert [error.kind, error.pool, error.item, error.offset, error.cpu] == [None] * 5
    assert [error.expected, error.found, error.count, error.site] == [None] * 4
    assert issubclass(CorruptionError, RuntimeError)


def test_a_whole_pool_passes_every_check() -> None:
    for populate in ("zero", "init"):
        for wish in ({}, {"poison": 7}, {"init": b"abc"}, {"scope": "global", "cpus": 3}):
            with PerCpuPool(40, robust=True, populate=populate, **wish) as pool:
                for turn in range(3):
                    items = [pool.alloc(b"x" * turn) for _ in range(300)]
                    pool.check()
                    for item in items[turn:]:
                        item[0][:] = b"y" * 40
                        item.free()
                    items[:] = [item for item in items if not item.closed]
                    pool.check()
                    pool.drain()
                    pool.trim()
                    pool.check()
                for item in items:
                    item.close()
                del items, item


def test_plain_pools_look_for_nothing() -> None:
    pool = PerCpuPool(24)
    item = pool.alloc()
    address = item.address()
    item.free()
    poke(address, b"!")
    assert bytes(pool.alloc()[0]) == bytes(24)
    pool.check()
    kept = pool.alloc()
    pool.close()
    assert kept.closed


def test_threads_in_a_robust_pool() -> None:
    pool = PerCpuPool(48, robust=True)

    def work() -> None:
        for turn in range(150):
            items = [pool.alloc(bytes([turn])) for _ in range(turn % 9)]
            counter = PerCpuCounter(turn, pool=pool)
            assert {item[0][0] for item in items} <= {turn}
            counter.inc()
            if turn % 3:
                counter.close()
            for item in items:
                item.free()

    def check() -> None:
        for _ in range(40):
            pool.check()
            pool.trim()

    run_together(*[work] * 4, check)
    gc.collect()
    pool.check()
    assert len(pool) == 0
    pool.close()


def test_size_classes_may_be_robust() -> None:
    pools = percpu._core._size_classes(200, robust=True)
    items = [pool.alloc() for pool in pools]
    poke(items[3].address() + pools[3].item_size, b"!")
    for number, pool in enumerate(pools):
        if number == 3:
            assert finding(pool.check).pool is pool
            assert finding(items[3].free).kind == "overflow"
        else:
            pool.check()
            items[number].free()
        if number % 2:
            pool.close()
    kept = pools[0].alloc()
    assert finding(pools[0].close).kind == "leak"
    assert kept.closed
