"""Callables of a pool: init for new ranges, ctor and dtor for items. Their exceptions, what they
keep, what they may call, and what the end of the pool makes of them.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
from together import run_python, run_together

import percpu
from percpu import ClosedError, PerCpuCounter, PerCpuItem, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
PAGE = resource.getpagesize()

each_populate = pytest.mark.parametrize("populate", ["zero", "init"])


def own_pages(pool: PerCpuPool) -> list[int]:
    """How many pages of its own each CPU has."""
    return [sum(copy.count(1) for copy in column) for column in zip(*pool._pages(), strict=True)]


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The exceptions that went to sys.unraisablehook."""
    caught: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_value))
    return caught


def copies(item: PerCpuItem) -> set[bytes]:
    """What the copies of an item hold: one thing, mostly."""
    return {bytes(copy) for copy in item}


# ---- init, a callable --------------------------------------------------------------------------


class Writer:
    """Fills each CPU's memory with its number plus 1, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int | None, int]] = []

    def __call__(self, cpu: int | None, memory: memoryview) -> None:
        self.calls.append((cpu, len(memory)))
        assert not any(memory[:100])
        memory[:] = bytes([0 if cpu is None else cpu + 1]) * len(memory)


@each_populate
@pytest.mark.parametrize("robust", [False, True])
def test_init_is_called_for_each_range_and_cpu(populate: str, robust: bool) -> None:
    init = Writer()
    pool = PerCpuPool(PAGE, stride=4 * PAGE, populate=populate, init=init, robust=robust)
    usable = 4 * PAGE - PAGE * pool.guard
    assert init.calls == [(cpu, usable) for cpu in range(CPUS)]
    items = [pool.alloc() for _ in range(3 * pool.capacity)]
    assert init.calls == [(cpu, usable) for cpu in range(CPUS)] * 3
    for item in items:
        assert [bytes(copy) for copy in item] == [bytes([cpu + 1]) * PAGE for cpu in range(CPUS)]
        item.free()
    pool.check()  # init wrote between the items too, which is no finding
    pool.close()


def test_init_is_called_before_the_constructor_returns_or_raises() -> None:
    error = ZeroDivisionError("mine")
    calls: list[int | None] = []

    def init(cpu: int | None, memory: memoryview) -> None:
        calls.append(cpu)
        if cpu == CPUS - 1:
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        PerCpuPool(16, init=init)
    assert caught.value is error
    assert calls == list(range(CPUS))


@each_populate
def test_an_exception_of_init_is_that_of_the_allocation(populate: str) -> None:
    fail: list[BaseException] = []

    def init(cpu: int | None, memory: memoryview) -> None:
        memory[0] = 5
        if fail and cpu == 1:
            raise fail[0]

    pool = PerCpuPool(PAGE, stride=2 * PAGE, init=init, populate=populate)
    kept = [pool.alloc() for _ in range(pool.capacity)]
    stats = pool.stats()
    calls: list[Callable[[], object]] = [
        pool.alloc,
        lambda: pool.alloc(b"x"),
        lambda: pool.reserve(1),
        lambda: PerCpuVar("q", pool=pool),
        lambda: PerCpuCounter(pool=pool),
    ]
    for error in (LookupError("mine"), KeyboardInterrupt()):
        fail.append(error)
        for call in calls:
            with pytest.raises(type(error)) as caught:
                call()
            assert caught.value is error
        fail.clear()
    assert (len(pool), pool.stats()["virtual_bytes"]) == (len(kept), stats["virtual_bytes"])
    pool.check()
    assert PerCpuCounter(3, pool=pool).sum() == 3
    assert PerCpuVar("q", 3, pool=pool).sum() == 3 * CPUS


def test_what_init_keeps_outlives_the_memory() -> None:
    kept: list[memoryview] = []
    pool = PerCpuPool(16, init=lambda cpu, memory: kept.append(memory))
    item = pool.alloc()
    for view in kept:
        view[:16] = b"too late to tell"
    assert copies(item) == {bytes(16)}
    item.free()
    assert pool.trim() > 0
    pool.close()
    del pool, item
    gc.collect()
    for view in kept:
        assert bytes(view[:16]) == b"too late to tell"


def test_an_array_that_init_keeps_outlives_the_memory() -> None:
    np = pytest.importorskip("numpy")
    kept: list[object] = []

    def init(cpu: int | None, memory: memoryview) -> None:
        array = np.asarray(memory)
        array[::2] = 7
        kept.append(array)

    pool = PerCpuPool(16, init=init)
    assert copies(pool.alloc()) == {bytes([7, 0] * 8)}
    pool.close()
    assert all(array.sum() == 7 * array.size // 2 for array in kept)


def test_pages_that_init_left_alone_cost_nothing() -> None:
    def init(cpu: int | None, memory: memoryview) -> None:
        memory[3 * PAGE + 5] = 1

    pool = PerCpuPool(64, init=init)
    assert own_pages(pool) == [1] * CPUS
    assert own_pages(PerCpuPool(64, init=lambda cpu, memory: None)) == [0] * CPUS


def test_allocating_in_init_ends_in_an_exception() -> None:
    pools: list[PerCpuPool] = []

    def init(cpu: int | None, memory: memoryview) -> None:
        if pools:
            pools[0].alloc()

    pool = PerCpuPool(PAGE, stride=PAGE, init=init)
    kept = pool.alloc()
    pools.append(pool)
    with pytest.raises(RecursionError, match="nested too deep"):
        pool.alloc()
    pools.clear()
    pool.check()
    assert (len(pool), pool.stats()["ranges"]) == (1, 1)
    assert pool.alloc().address() != kept.address()


def test_init_may_use_other_pools_and_this_one() -> None:
    other, found = PerCpuPool(16, init=b"other"), []
    pools: list[PerCpuPool] = []

    def init(cpu: int | None, memory: memoryview) -> None:
        memory[:5] = bytes(other.alloc()[0][:5])
        for pool in pools:
            found.append((len(pool), pool.stats()["ranges"], pool.trim(), pool.closed))
            pool.check()
            pool.drain()
            pools[0].close() if cpu == CPUS - 1 else None

    pool = PerCpuPool(PAGE, stride=PAGE, init=init)
    first = pool.alloc()
    pools.append(pool)
    second = pool.alloc()  # of a pool that is closed meanwhile
    assert bytes(first.pool is pool and b"") == b""
    assert found[0][1:] == (1, 0, False)
    assert len(found) == CPUS
    assert (second.closed, first.closed, pool.closed) == (True, True, True)


def test_garbage_of_every_kind_in_init() -> None:
    for init in (lambda: None, lambda cpu: None, lambda cpu, memory, more: None):
        with pytest.raises(TypeError, match="argument"):
            PerCpuPool(16, init=init)
    with pytest.raises(ValueError, match="memoryview assignment"):
        PerCpuPool(16, init=lambda cpu, memory: memory.__setitem__(slice(0, 3), b"12345"))
    with pytest.raises(ValueError, match="released"):
        PerCpuPool(16, init=lambda cpu, memory: (memory.release(), memory[0]))
    PerCpuPool(16, init=lambda cpu, memory: memory.release())


def test_init_and_the_initial_bytes_of_an_allocation() -> None:
    pool = PerCpuPool(16, init=Writer())
    item = pool.alloc(b"given")
    assert copies(item) == {b"given" + bytes(11)}
    item.free()
    assert bytes(pool.alloc()[0][:5]) in (b"given", b"\1" * 5)  # the same item, or a fresh one


# ---- ctor and dtor -----------------------------------------------------------------------------


class Builder:
    """A ctor and a dtor that number the items, and remember."""

    def __init__(self) -> None:
        self.built: list[int] = []
        self.ended: list[int] = []

    def ctor(self, item: PerCpuItem) -> None:
        for copy in item:
            copy[:8] = (len(self.built) + 1).to_bytes(8, "little")
        self.built.append(item.address())

    def dtor(self, item: PerCpuItem) -> None:
        assert len(copies(item)) == 1
        self.ended.append(item.address())


def number_of(item: PerCpuItem) -> int:
    return int.from_bytes(item[CPUS - 1][:8], "little")


@each_populate
@pytest.mark.parametrize("robust", [False, True])
def test_each_item_is_constructed_once_and_destructed_once(populate: str, robust: bool) -> None:
    builder = Builder()
    pool = PerCpuPool(
        512,
        stride=4 * PAGE,
        populate=populate,
        robust=robust,
        ctor=builder.ctor,
        dtor=builder.dtor,
    )
    assert pool.constructed
    for _ in range(4):
        items = [pool.alloc() for _ in range(60)]
        assert [1 + builder.built.index(item.address()) for item in items] == [
            number_of(item) for item in items
        ]
        for item in items:
            item.free()
    assert len(set(builder.built)) == len(builder.built) < 240
    assert builder.ended == []
    pool.check()
    kept = pool.alloc()
    pool.trim()
    assert builder.ended
    assert kept.address() not in builder.ended
    assert number_of(kept) == 1 + builder.built.index(kept.address())
    kept.free()
    pool.close()
    assert sorted(builder.ended) == sorted(builder.built)


def test_a_range_that_comes_back_to_the_same_place_is_constructed_again() -> None:
    built: list[int] = []
    pool = PerCpuPool(64, ctor=lambda item: built.append(item.address()))
    for turn in range(1, 4):
        pool.alloc().free()
        assert pool.trim() > 0
        assert len(built) == turn


def test_alloc_returns_what_ctor_was_given() -> None:
    seen: list[PerCpuItem] = []
    pool = PerCpuPool(16, ctor=seen.append)
    item = pool.alloc()
    assert item is seen[0]
    views = list(seen[0])
    with pytest.raises(BufferError, match="release them first"):
        item.free()
    views.clear()
    item.free()
    assert pool.alloc() is not seen[0]
    assert len(seen) == 1


def test_bytes_that_are_asked_for_come_after_ctor() -> None:
    builder = Builder()
    pool = PerCpuPool(16, ctor=builder.ctor)
    item = pool.alloc(b"given")
    assert copies(item) == {b"given" + bytes(11)}
    item.free()
    assert copies(pool.alloc()) == {b"given" + bytes(11)}  # as it was left
    assert copies(pool.alloc(b"")) == {bytes(16)}
    assert copies(PerCpuPool(16, constructed=True, init=b"x").alloc(b"given")) == {
        b"given" + bytes(11)
    }


def test_constructed_bytes_stay_as_the_program_left_them() -> None:
    pool = PerCpuPool(16, constructed=True, init=b"built")
    item = pool.alloc()
    assert copies(item) == {b"built" + bytes(11)}
    item[0][:] = b"n" * 16
    item.free()
    assert bytes(pool.alloc()[0]) == b"n" * 16
    assert pool.stats()["restores"] == 0
    for make in (lambda: PerCpuVar("q", pool=pool), lambda: PerCpuCounter(pool=pool)):
        with pytest.raises(ValueError, match="items that are not constructed"):
            make()


def test_an_exception_of_ctor_is_that_of_the_allocation() -> None:
    """The item is not lost, and is constructed when it is allocated the next time."""
    fail: list[BaseException] = []
    built: list[int] = []

    def ctor(item: PerCpuItem) -> None:
        if fail:
            raise fail[0]
        built.append(item.address())

    pool = PerCpuPool(PAGE, stride=PAGE, max_ranges=1, ctor=ctor)
    for error in (LookupError("mine"), KeyboardInterrupt(), LookupError("again")):
        fail.append(error)
        with pytest.raises(type(error)) as caught:
            pool.alloc()
        assert caught.value is error
        assert (len(pool), pool.stats()["live"], built) == (0, 0, [])
        fail.clear()
    item = pool.alloc()
    assert built == [item.address()]
    pool.check()


def test_a_view_that_a_failing_ctor_keeps_keeps_the_item() -> None:
    views: list[memoryview] = []

    def ctor(item: PerCpuItem) -> None:
        views.append(item[0])
        raise LookupError

    pool = PerCpuPool(16, ctor=ctor)
    for _ in range(2):
        with pytest.raises(LookupError):
            pool.alloc()
    assert len(pool) == 2
    for view in views:
        view[:4] = b"mine"
    with pytest.raises(BufferError):
        pool.close()
    del view
    views.clear()
    gc.collect()
    assert len(pool) == 0
    pool.close()


def test_ctor_cannot_take_the_item_away() -> None:
    def ctor(item: PerCpuItem) -> None:
        with pytest.raises(BufferError):
            item.free()
        with pytest.raises(BufferError):
            item.pool.free(item)
        with pytest.raises(BufferError):
            item.pool.close()
        assert item.pool.trim() == 0

    pool = PerCpuPool(16, ctor=ctor)
    pool.alloc().free()
    assert len(pool) == 0


def test_ctor_may_allocate_from_its_pool_but_not_for_ever() -> None:
    depth = 3
    extra: list[PerCpuItem] = []

    def ctor(item: PerCpuItem) -> None:
        if len(extra) < depth:
            extra.append(item)
            extra.append(item.pool.alloc())

    pool = PerCpuPool(16, ctor=ctor)
    extra.append(pool.alloc())
    assert len({item.address() for item in extra}) == 4
    depth = 1 << 30
    with pytest.raises(RecursionError, match="nested too deep"):
        pool.alloc()
    extra.clear()
    gc.collect()
    pool.check()


def test_what_dtor_is_given_is_dead_afterwards() -> None:
    kept: list[tuple[PerCpuItem, memoryview]] = []

    def dtor(item: PerCpuItem) -> None:
        assert not item.closed
        assert ctypes.string_at(item.address(1), 4) == b"here"
        item.close()
        with pytest.raises(ClosedError, match="being destructed"):
            item.free()
        with pytest.raises(ClosedError, match="being destructed"), item:
            item.pool.free(item)
        kept.append((item, memoryview(item)))
        kept.append((item, item[CPUS - 1]))

    pool = PerCpuPool(16, dtor=dtor, init=b"here")
    item = pool.alloc()
    item.free()
    assert pool.trim() > 0
    pool.close()
    del pool
    gc.collect()
    (item, whole), (_, last) = kept
    assert whole.shape == (CPUS, 16)
    assert [bytes(row) for row in whole.tolist()] == [b"here" + bytes(12)] * CPUS
    assert bytes(last) == b"here" + bytes(12)
    last[0] = 1  # nobody's memory but its own
    assert item.closed
    assert "freed" in repr(item)
    calls: list[Callable[[], object]] = [item.address, item.free, lambda: item[0]]
    for call in [*calls, lambda: memoryview(item)]:
        with pytest.raises(ClosedError):
            call()
    item.close()


def test_an_exception_of_dtor_is_unraisable_and_stops_nothing(
    unraisable: list[BaseException],
) -> None:
    errors = [LookupError(n) for n in range(3)]
    left = list(errors)

    def dtor(item: PerCpuItem) -> None:
        raise left.pop()

    pool = PerCpuPool(16, dtor=dtor)
    items = [pool.alloc() for _ in range(3)]
    for item in items:
        item.free()
    assert pool.trim() > 0
    assert unraisable == errors[::-1]
    assert pool.stats()["ranges"] == 0


@pytest.mark.parametrize(
    "way", ["close", "with", "del", "cycle", "last item", "last item of cycle"]
)
def test_dtor_runs_however_the_pool_ends(way: str, unraisable: list[BaseException]) -> None:
    class Pool(PerCpuPool):
        pass

    ended: list[int] = []

    def dtor(item: PerCpuItem) -> None:
        assert isinstance(item.pool, Pool)
        ended.append(number_of(item))

    builder = Builder()
    pool = Pool(16, ctor=builder.ctor, dtor=dtor)
    items = [pool.alloc() for _ in range(3)]
    if way == "last item":
        pool.close()
        items.pop()
        assert ended == []
    elif way == "last item of cycle":
        pool.items = items[:1]
    items.clear()
    if way == "close":
        pool.close()
    elif way == "with":
        with pool:
            pass
    elif way == "cycle":
        pool.me = pool
    del pool
    gc.collect()
    assert sorted(ended) == [1, 2, 3]
    assert unraisable == []


def test_a_cycle_through_the_callables_is_collected() -> None:
    ended: list[int] = []

    def make() -> weakref.ref[PerCpuPool]:
        held: list[PerCpuPool] = []
        pool = PerCpuPool(
            16,
            ctor=lambda item: held.append(item.pool),
            dtor=lambda item: ended.append(len(held)),
        )
        held.append(pool)
        pool.alloc()
        return weakref.ref(pool)

    reference = make()
    gc.collect()
    assert reference() is None
    assert ended == [2]


def test_dtor_may_bring_its_pool_back(unraisable: list[BaseException]) -> None:
    saved: list[PerCpuPool] = []
    pool = PerCpuPool(16, dtor=lambda item: saved.append(item.pool))
    pool.alloc().free()
    del pool
    gc.collect()
    assert len(saved) == 1
    item = saved[0].alloc()
    item[0][:5] = b"alive"
    saved[0].check()
    del item
    saved.clear()
    gc.collect()
    assert saved == []  # finalized once, as all Python objects
    assert unraisable == []


def test_dtor_may_use_its_pool(unraisable: list[BaseException]) -> None:
    found: list[object] = []

    def dtor(item: PerCpuItem) -> None:
        pool = item.pool
        if pool.closed:
            with pytest.raises(ClosedError):
                pool.alloc()
            found.append("closed")
            return
        found.append((pool.stats()["live"], pool.trim()))
        if len(found) == 1:
            pool.alloc().free()
            pool.close()

    pool = PerCpuPool(16, dtor=dtor)
    items = [pool.alloc() for _ in range(2)]
    items.clear()
    assert pool.trim() > 0
    assert found[0] == (0, 0)
    assert found[1:] == ["closed", "closed"]
    assert unraisable == []


def test_dtor_that_makes_work_for_itself_ends(unraisable: list[BaseException]) -> None:
    def dtor(item: PerCpuItem) -> None:
        if not item.pool.closed:
            item.pool.alloc().free()
            item.pool.trim()

    pool = PerCpuPool(16, dtor=dtor)
    pool.alloc().free()
    pool.trim()
    assert {type(error) for error in unraisable} == {RecursionError}
    pool.check()
    pool.close()


def test_a_subclass_with_del_that_asks_its_base(unraisable: list[BaseException]) -> None:
    ended: list[int] = []

    class Pool(PerCpuPool):
        def __del__(self) -> None:
            super().__del__()

    pool = Pool(16, dtor=lambda item: ended.append(1))
    pool.alloc().free()
    del pool
    gc.collect()
    assert ended == [1]
    assert unraisable == []


def test_del_called_by_hand_leaves_a_pool_that_works(unraisable: list[BaseException]) -> None:
    """As after any finalizer: dtor is not called any more, everything else is as before."""
    builder = Builder()
    pool = PerCpuPool(
        2048, stride=2 * PAGE, init=lambda cpu, memory: None, ctor=builder.ctor, dtor=builder.dtor
    )
    kept = pool.alloc()
    pool.__del__()
    assert builder.ended == [kept.address()]
    items = [pool.alloc() for _ in range(10)]
    items.clear()
    assert pool.trim() > 0
    pool.__del__()
    again = [pool.alloc() for _ in range(10)]
    assert sorted(map(number_of, again)) == list(
        range(len(builder.built) - 9, len(builder.built) + 1)
    )
    pool.check()
    pool.close()
    pool.__del__()
    assert unraisable == []


def test_c_code_may_trim(unraisable: list[BaseException]) -> None:
    """It has no thread state to run dtor with; ctor sees what comes to the same place."""
    core = ctypes.CDLL(percpu._core.__file__)
    builder = Builder()
    pool = PerCpuPool(64, ctor=builder.ctor, dtor=builder.dtor)
    memory = ctypes.c_void_p.from_address(id(pool) + object.__basicsize__)
    for turn in range(1, 4):
        item = pool.alloc()
        assert number_of(item) == len(builder.built) == turn
        item.free()
        core.percpu_pool_trim(memory)
    del pool
    gc.collect()
    assert (builder.ended, unraisable) == ([], [])


# ---- threads, interpreters ---------------------------------------------------------------------


def test_threads_construct_each_item_once() -> None:
    lock = threading.Lock()
    built: list[int] = []
    ended: list[int] = []
    calls: list[int | None] = []

    def ctor(item: PerCpuItem) -> None:
        item[0][0] += 1
        with lock:
            built.append(item.address())

    def dtor(item: PerCpuItem) -> None:
        assert item[0][0] == 1
        with lock:
            ended.append(item.address())

    def init(cpu: int | None, memory: memoryview) -> None:
        with lock:
            calls.append(cpu)

    pool = PerCpuPool(1024, stride=2 * PAGE, init=init, ctor=ctor, dtor=dtor)

    def work() -> None:
        for turn in range(60):
            items = [pool.alloc() for _ in range(turn % 7 + 1)]
            for item in items:
                item.free()
            if turn % 10 == 9:
                pool.trim()

    run_together(*[work] * 6)
    pool.check()
    assert len(pool) == 0
    pool.close()
    assert sorted(ended) == sorted(built)
    assert len(calls) % CPUS == 0


def test_a_callback_may_wait_for_a_thread_that_allocates() -> None:
    """No lock is held in a callback, not even the GIL against those that wait for a lock."""
    others_turn, my_turn = threading.Event(), threading.Event()
    first = threading.get_ident()

    def init(cpu: int | None, memory: memoryview) -> None:
        if threading.get_ident() == waiter[0] and cpu == 0:
            others_turn.set()
            assert my_turn.wait(60)

    waiter = [0]
    pool = PerCpuPool(PAGE, stride=PAGE, init=init)
    kept = [pool.alloc()]

    def wait() -> None:
        waiter[0] = threading.get_ident()
        kept.append(pool.alloc())

    def allocate() -> None:
        assert others_turn.wait(60)
        for _ in range(5):
            kept.append(pool.alloc())
        pool.stats()
        pool.trim()
        pool.check()
        kept.pop().free()
        PerCpuCounter(pool=pool).inc()
        my_turn.set()

    run_together(wait, allocate)
    assert first != waiter[0]
    gc.collect()
    assert len(pool) == len(kept) == 6


IN_AN_INTERPRETER = """
import percpu, sys
log = []
def init(cpu, memory):
    memory[:2] = b'in'; log.append(cpu)
def ctor(item):
    item[0][2:4] = b'ct'; log.append('ctor')
pool = percpu.PerCpuPool(16, init=init, ctor=ctor, dtor=lambda item: log.append('dtor'))
with percpu.PerCpuPool(4096, stride=4096, init=init) as other:
    items = [other.alloc() for _ in range(3)]
    assert bytes(items[2][0][:2]) == b'in'
    counter = percpu.PerCpuCounter(pool=other)
    items.clear()
item = pool.alloc(); item.free(); assert pool.trim() > 0
assert log.count('ctor') == log.count('dtor') == 1, log
def fail(cpu, memory): raise LookupError('mine')
try: percpu.PerCpuPool(16, init=fail); raise SystemExit('no exception')
except LookupError: pass
left = pool.alloc()
"""


def test_callbacks_run_in_the_interpreter_that_made_the_pool() -> None:
    if sys.version_info >= (3, 14):
        run = "from concurrent import interpreters as i; run = lambda s: i.create().exec(s)"
    elif sys.version_info >= (3, 13):
        run = "import _interpreters as i; run = lambda s: i.exec(i.create(), s)"
    else:
        run = "import _xxsubinterpreters as i; run = lambda s: i.run_string(i.create(), s)"
    run_python(
        f"{run}\nimport threading, percpu\nsource = {IN_AN_INTERPRETER!r}\nerrors = []\n"
        "def one():\n"
        "    try:\n"
        "        error = run(source)\n"
        "        if error is not None: errors.append(error)\n"
        "    except BaseException as error: errors.append(error)\n"
        "def init(cpu, memory):\n"
        "    if cpu == 0: one()\n"
        "percpu.PerCpuPool(16, init=init)  # another interpreter inside of a callback\n"
        "threads = [threading.Thread(target=one) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "exec(source)\n"
        "for thread in threads: thread.join()\n"
        "assert not errors, errors\n",
        deadline=120,
        PYTHONWARNINGS="ignore" if sys.version_info < (3, 13) else "error",
    )


def test_callbacks_at_the_interpreters_end() -> None:
    out = run_python(
        "import percpu\n"
        "def dtor(item, print=print): print('dtor', item[0][0])\n"
        "pool = percpu.PerCpuPool(16, dtor=dtor, init=b'A')\n"
        "pool.alloc().free()\n"
        "class Pool(percpu.PerCpuPool): pass\n"
        "cycle = Pool(16, dtor=dtor, init=b'B'); cycle.me = [cycle, cycle.alloc()]\n"
        "live = percpu.PerCpuPool(16, dtor=dtor, init=b'C'); item = live.alloc()\n"
        "print('end')\n"
    )
    assert out.splitlines()[0] == "end"
    assert sorted(out.splitlines()[1:]) == ["dtor 65", "dtor 66", "dtor 67"]


def test_threads_that_are_in_callbacks_at_the_interpreters_end() -> None:
    run_python(
        "import percpu\n"
        "import threading, time\n"
        "other = percpu.PerCpuPool(4096, stride=4096, init=lambda cpu, memory: time.sleep(0.001),\n"
        "    ctor=lambda item: time.sleep(0.001), dtor=lambda item: time.sleep(0.001))\n"
        "def work():\n"
        "    while True: other.alloc(); other.trim()\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.05)\n"
    )


def test_callers_in_c_cannot_run_python() -> None:
    """Without a thread state a callback is an error, and no crash."""
    core = ctypes.CDLL(percpu._core.__file__, use_errno=True)
    core.percpu_pool_alloc_initial.restype = ctypes.c_void_p
    pool = PerCpuPool(PAGE, stride=PAGE, init=lambda cpu, memory: None)
    kept = pool.alloc()
    # The first field of the object is the address of what C knows as the pool.
    memory = ctypes.c_void_p.from_address(id(pool) + object.__basicsize__)
    assert core.percpu_pool_owns(memory, ctypes.c_void_p(kept.address()))
    assert core.percpu_pool_alloc_initial(memory) is None
    assert ctypes.get_errno() != 0
    found: list[object] = []
    other = PerCpuPool(
        16, init=lambda cpu, view: found.append(core.percpu_pool_alloc_initial(memory))
    )
    assert found == [None] * CPUS
    assert other.alloc() is not None
    assert pool.alloc() is not None
    pool.check()


def test_a_dtor_that_allocates_at_the_end_of_its_pool_comes_to_an_end() -> None:
    """Found by the garbage collector, the pool is not closed while its items are destructed."""
    destructed: list[int] = []

    def use_a_pool() -> set[int]:
        cycle: dict[str, PerCpuPool] = {}

        def dtor(item: PerCpuItem) -> None:
            destructed.append(item.address())
            cycle["pool"].alloc()

        cycle["pool"] = PerCpuPool(16, dtor=dtor)
        return {item.address() for item in [cycle["pool"].alloc() for _ in range(10)]}

    addresses = use_a_pool()
    gc.collect()
    assert len(destructed) == 10
    assert set(destructed) == addresses


@pytest.mark.parametrize("robust", [False, True])
def test_what_init_wrote_can_be_the_constructed_state(robust: bool) -> None:
    def init(cpu: int | None, memory: memoryview) -> None:
        memory[:] = b"\7" * len(memory)

    pool = PerCpuPool(16, init=init, constructed=True, robust=robust)
    for _ in range(1000):
        item = pool.alloc()
        assert copies(item) == {b"\7" * 16}
        item[0][3] = 9
        item[0][3] = 7
        item.free()
    pool.check()
    pool.close()
