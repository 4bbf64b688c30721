"""The objects as Python objects: life and death, subclasses, weak references, copies, pictures,
comparisons, context managers.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable

import pytest

import percpu
from percpu import ClosedError, PerCpuCounter, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
MODE = percpu.info().rseq
MAKERS: dict[str, Callable[[], object]] = {
    "pool": lambda: PerCpuPool(16),
    "item": lambda: PerCpuPool(16).alloc(),
    "var": lambda: PerCpuVar("q"),
    "counter": lambda: PerCpuCounter(),
    "limiter": lambda: percpu.PerCpuLimiter(3),
    "freelist": lambda: percpu.PerCpuFreeList(),
    "ref": lambda: percpu.PerCpuRef(),
}
each_object = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def live(pool: PerCpuPool) -> int:
    """What lives in a pool, once garbage is collected (references may be counted late)."""
    gc.collect()
    return len(pool)


@each_object
def test_weak_references_die_with_the_object(make: Callable[[], object]) -> None:
    thing = make()
    died: list[object] = []
    reference = weakref.ref(thing, died.append)
    assert reference() is thing
    del thing
    gc.collect()
    assert reference() is None
    assert died == [reference]


@each_object
def test_pickles_and_copies_are_refused(make: Callable[[], object]) -> None:
    """A copy would share memory with its original, or count twice."""
    thing = make()
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=f"cannot pickle.*{type(thing).__name__}"):
            call(thing)


@each_object
def test_a_with_block_closes(make: Callable[[], object]) -> None:
    with make() as thing:
        assert not thing.closed
    assert thing.closed
    thing.close()
    assert "closed" in repr(thing) or "freed" in repr(thing)
    with pytest.raises(ZeroDivisionError), make() as thing:
        raise ZeroDivisionError
    assert thing.closed


@each_object
def test_classes_cannot_be_changed_but_have_docstrings(make: Callable[[], object]) -> None:
    cls = type(make())
    with pytest.raises(TypeError):
        cls.sum = None
    with pytest.raises(AttributeError):
        make().novelty = 1
    assert cls.__module__ == "percpu"
    assert cls.__doc__
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_"):
            assert member.__doc__, name


def test_garbage_gives_its_memory_back() -> None:
    pool = PerCpuPool(16)
    things = [pool.alloc(), PerCpuVar("i", pool=pool), PerCpuCounter(pool=pool)]
    things.append(percpu.PerCpuLimiter(3, pool=pool))
    assert len(pool) == 4
    del things
    assert live(pool) == 0
    pool.check()


def test_cycles_are_collected() -> None:
    """A subclass has a __dict__, and so can refer to itself by way of what lives in it."""

    class Pool(PerCpuPool):
        pass

    class Counter(PerCpuCounter):
        pass

    pool = Pool(16)
    pool.items = [pool.alloc(), PerCpuVar("q", pool=pool), Counter(pool=pool)]
    pool.items[-1].me = pool.items
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None


def test_finalizers_may_use_what_they_refer_to() -> None:
    seen: list[object] = []

    class Counter(PerCpuCounter):
        def __del__(self) -> None:
            seen.append(self.sum())
            self.inc()

    counter = Counter(5, pool=PerCpuPool(16))
    del counter
    gc.collect()
    assert seen == [5]


def test_an_object_can_be_resurrected() -> None:
    saved: list[PerCpuVar] = []

    class Var(PerCpuVar):
        def __del__(self) -> None:
            saved.append(self)

    pool = PerCpuPool(8)
    var = Var("q", 6, pool=pool)
    del var
    gc.collect()
    assert list(saved[0]) == [6] * CPUS
    saved[0].add(1)
    assert saved[0].sum() == 6 * CPUS + 1
    assert len(pool) == 1


def test_subclasses_work_and_take_the_same_arguments() -> None:
    class Pool(PerCpuPool):
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.wishes = kwargs

    class Counter(PerCpuCounter):
        def twice(self) -> int:
            return 2 * self.sum()

    class Var(PerCpuVar):
        __slots__ = ("extra",)

    pool = Pool(16, stride=4096, max_ranges=1)
    assert pool.wishes == {"stride": 4096, "max_ranges": 1}
    counter = Counter(21, batch=4, pool=pool)
    counter += 0
    assert (counter.twice(), counter.batch, type(counter)) == (42, 4, Counter)
    var = Var("q", 2, pool=pool)
    var.extra = "more"
    assert (var.sum(), len(pool)) == (2 * CPUS, 2)
    assert counter == Counter(21)
    assert counter > PerCpuCounter(20)
    assert "Counter 21" in repr(counter)
    with pytest.raises(ValueError, match="batch"):
        Counter(batch=0)


def test_pictures_say_what_matters() -> None:
    counter = PerCpuCounter(-5, batch=64)
    assert repr(counter) == f"<PerCpuCounter -5 batch=64 mode={MODE} cpus={CPUS} lazy>"
    counter.upgrade()
    assert repr(counter) == f"<PerCpuCounter -5 batch=64 mode={MODE} cpus={CPUS}>"
    assert repr(PerCpuVar("h", 3)) == f"<PerCpuVar 'h' sum={3 * CPUS} mode={MODE} cpus={CPUS}>"
    assert f"sum={0.5 * CPUS}" in repr(PerCpuVar("d", 0.5))
    pool = PerCpuPool(64)
    item = pool.alloc()
    assert repr(pool) == f"<PerCpuPool of 64 bytes x {CPUS} CPUs, 1 live>"
    assert f"{item.address():#x}" in repr(item)
    assert f"64 bytes x {CPUS} CPUs" in repr(item)


def test_identity_is_equality_except_for_counters() -> None:
    var, other = PerCpuVar("q"), PerCpuVar("q")
    pool = PerCpuPool(8)
    assert var == var
    assert var != other
    assert {var: 1, pool: 2}[var] == 1
    assert pool != PerCpuPool(8)
    assert pool  # although it is empty
    assert len(pool) == 0
    first, second = PerCpuCounter(5), PerCpuCounter(5)
    assert first == second == 5
    assert first != "5"
    assert (first == "5") is False
    assert not PerCpuCounter(0)
    assert PerCpuCounter(-1)


def test_a_counter_compares_with_floats_exactly() -> None:
    c = PerCpuCounter(5)
    assert c == 5.0
    assert c != 5.5
    assert 4.5 < c < 5.5
    assert not c < 1.5
    assert c >= 5.0
    large = PerCpuCounter(2**53 + 1)
    assert large != float(2**53)  # a float of the sum would be equal
    assert large > float(2**53)
    assert c < float("inf")
    assert c != float("nan")
    assert not c <= float("nan")
    c.close()
    for use in (float, int, "{:,}".format, lambda c: c == 5.0):
        with pytest.raises(ClosedError):
            use(c)


def test_a_counter_as_a_number() -> None:
    c = PerCpuCounter(1_234_567, batch=1)
    assert (int(c), float(c)) == (1_234_567, 1_234_567.0)
    assert f"{c:,}" == "1,234,567"
    assert f"{c:>10.1e}" == "   1.2e+06"
    assert f"{c}" == str(c) == repr(c)


def test_compare_takes_what_has_index() -> None:
    numpy = pytest.importorskip("numpy")
    c = PerCpuCounter(5)
    assert [c.compare(numpy.int64(n)) for n in (4, 5, 6)] == [1, 0, -1]
    assert c == numpy.int64(5)
    assert c < numpy.float64(5.5)


def test_numpy_reads_items_as_the_docstring_says() -> None:
    np = pytest.importorskip("numpy")
    item = PerCpuPool(16).alloc(bytes(range(16)))
    one = np.frombuffer(item[0], np.uint64)
    firsts = np.asarray(item).view(np.uint64)[:, 0]
    assert list(firsts) == [one[0]] * CPUS
    firsts[0] = 7
    assert (one[0], bytes(item[0][:2])) == (7, b"\x07\x00")


@each_object
def test_what_has_views_says_what_to_do(make: Callable[[], object]) -> None:
    thing = make()
    exporter = thing.alloc() if isinstance(thing, PerCpuPool) else thing
    if not isinstance(exporter, PerCpuVar | percpu.PerCpuItem):
        with pytest.raises(TypeError):
            memoryview(exporter)
        return
    with memoryview(exporter), pytest.raises(BufferError, match=r"1 .*live: release them first"):
        thing.close()
    thing.close()


def test_a_closed_counter_equals_itself_no_more() -> None:
    counter = PerCpuCounter()
    counter.close()
    with pytest.raises(ClosedError):
        _ = counter == 0


def test_a_counter_of_another_pool_or_batch_compares() -> None:
    pool = PerCpuPool(32)
    one, two = PerCpuCounter(3, pool=pool, batch=1), PerCpuCounter(4, batch=1000)
    assert one < two
    assert two > one
    assert one.compare(two) == -1
    assert one <= 3 <= one
    two.sub(1)
    assert one == two


def test_exhaustion_of_one_pool_leaves_others_alone() -> None:
    small, large = PerCpuPool(2048, stride=4096, max_ranges=1), PerCpuPool(2048)
    kept = [small.alloc(), small.alloc()]
    with pytest.raises(percpu.PoolExhausted):
        small.alloc()
    assert large.alloc() is not None
    assert len(kept) == len(small)


def test_closing_a_pool_gives_the_memory_back_at_the_last_item() -> None:
    def mapped() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0])

    pool = PerCpuPool(64, stride=1 << 30, cpus=max(CPUS, 64))
    item = pool.alloc()
    high = mapped()
    pool.close()
    assert mapped() == high
    del item
    gc.collect()
    assert high - mapped() >= 64 << 18  # pages of 4 KiB


def test_signatures_and_stub_agree_with_the_code() -> None:
    """help() shows signatures; __text_signature__ is what it reads."""
    for cls in (PerCpuPool, PerCpuVar, PerCpuCounter, percpu.PerCpuItem, percpu.PerCpuLimiter):
        for name, member in inspect.getmembers(cls, inspect.isroutine):
            if not name.startswith("_"):
                assert inspect.signature(member), f"{cls.__name__}.{name}"
