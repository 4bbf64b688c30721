"""PerCpuFreeList: who owns what was put, whose code runs when, and what is left in the end."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from conftest import THOROUGH
from test_processes import FREE_THREADED
from together import (
    needs_interpreters,
    run_forked,
    run_in_interpreters,
    run_python,
    run_together,
    storm,
)

from percpu import ClosedError, PerCpuFreeList, PerCpuVar

CPUS = len(PerCpuVar("b"))
THREADS = 8
ROUNDS = 20_000 if THOROUGH else 5_000
many_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Thing:
    """An object that a weak reference can watch."""


def on(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})


# ---- getting and putting -----------------------------------------------------------------------


def test_what_was_put_last_comes_first(allowed_cpus: list[int]) -> None:
    on(allowed_cpus[0])
    freelist = PerCpuFreeList()
    things = [Thing() for _ in range(5)]
    assert all(freelist.put(thing) for thing in things)
    assert len(freelist) == 5
    assert [freelist.get() for _ in things] == things[::-1]
    assert len(freelist) == 0
    assert not freelist


def test_a_cache_makes_what_it_has_not(allowed_cpus: list[int]) -> None:
    on(allowed_cpus[0])
    freelist = PerCpuFreeList(bytearray, capacity=2)
    assert freelist.factory is bytearray
    buffer = freelist.get()
    assert buffer == bytearray()
    assert freelist.put(buffer)
    assert freelist.get() is buffer
    assert [freelist.put(bytearray()) for _ in range(4)] == [True, True, False, False]


def test_another_cpus_objects_are_found_without_a_factory(allowed_cpus: list[int]) -> None:
    if len(allowed_cpus) < 2:
        pytest.skip("one CPU")
    freelist, cache = PerCpuFreeList(), PerCpuFreeList(lambda: "new")
    here, there = allowed_cpus[:2]
    on(there)
    freelist.put("first")
    freelist.put("second")
    cache.put("old")
    on(here)
    assert [freelist.get(), freelist.get()] == ["second", "first"]
    with pytest.raises(IndexError, match="empty"):
        freelist.get()
    assert cache.get() == "new"
    assert cache.per_cpu()[there] == 1


def test_an_exception_of_the_factory_comes_through() -> None:
    error = ZeroDivisionError("no more")

    def factory() -> object:
        raise error

    freelist = PerCpuFreeList(factory)
    with pytest.raises(ZeroDivisionError) as caught:
        freelist.get()
    assert caught.value is error
    freelist.put(3)
    assert freelist.drain() == [3]


def test_a_factory_may_use_its_list(allowed_cpus: list[int]) -> None:
    on(allowed_cpus[0])
    freelist: PerCpuFreeList[object]

    def factory() -> object:
        for i in range(3):
            freelist.put(i)
        return freelist.get()

    freelist = PerCpuFreeList(factory)
    assert [freelist.get() for _ in range(4)] == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "wishes", "error", "says"),
    [
        ((3,), {}, TypeError, "factory must be a callable or None, not int 3"),
        ((), {"capacity": 0}, ValueError, "capacity must be from 1 to 65536 objects, not 0"),
        ((), {"capacity": 65537}, ValueError, "capacity must be from 1 to 65536 objects"),
        ((), {"capacity": -1}, ValueError, "capacity"),
        ((), {"capacity": 2**70}, ValueError, "capacity"),
        ((), {"capacity": 2.0}, TypeError, "capacity must be an int, not float 2.0"),
        ((None, 3), {}, TypeError, "capacity is keyword-only"),
        ((), {"size": 3}, TypeError, "unexpected keyword argument 'size'"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: tuple[object, ...], wishes: dict[str, object], error: type[Exception], says: str
) -> None:
    for cls in (PerCpuFreeList, type("Sub", (PerCpuFreeList,), {})):
        with pytest.raises(error, match=says):
            cls(*arguments, **wishes)


def test_a_large_capacity_is_one(allowed_cpus: list[int]) -> None:
    on(allowed_cpus[0])
    freelist = PerCpuFreeList(capacity=65536)
    assert all(freelist.put(i) for i in range(65536))
    assert not freelist.put(65536)
    assert freelist.drain() == list(range(65536))


# ---- references --------------------------------------------------------------------------------


@pytest.mark.skipif(FREE_THREADED, reason="reference counts are split between threads")
def test_references_are_counted_exactly(allowed_cpus: list[int]) -> None:
    on(allowed_cpus[0])
    freelist, thing = PerCpuFreeList(capacity=3), Thing()
    before = sys.getrefcount(thing)
    for _ in range(3):
        freelist.put(thing)
    assert sys.getrefcount(thing) == before + 3
    assert not freelist.put(thing)
    assert sys.getrefcount(thing) == before + 3
    assert freelist.get() is thing
    assert sys.getrefcount(thing) == before + 2
    drained = freelist.drain()
    assert sys.getrefcount(thing) == before + 2
    del drained
    assert sys.getrefcount(thing) == before


@pytest.mark.parametrize("how", ["clear", "close", "with", "del", "gc"])
def test_what_is_given_up_is_dropped(how: str) -> None:
    freelist, watched = PerCpuFreeList(), []
    for _ in range(5):
        thing = Thing()
        watched.append(weakref.ref(thing))
        freelist.put(thing)
    del thing
    assert all(reference() is not None for reference in watched)
    if how == "clear":
        freelist.clear()
        assert freelist.per_cpu() == (0,) * CPUS
    elif how == "close":
        freelist.close()
        freelist.close()
    elif how == "with":
        with freelist:
            pass
        assert freelist.closed
    elif how == "del":
        del freelist
        gc.collect()  # where reference counts are deferred
    else:
        freelist.put(freelist)
        del freelist
        gc.collect()
    assert all(reference() is None for reference in watched)


def test_a_cycle_gives_up_its_references() -> None:
    """Weak references and finalizers would be done with even if the cycle stayed for ever."""
    held = (object(), object())
    before = [sys.getrefcount(thing) for thing in held]
    for _ in range(50):
        freelist: PerCpuFreeList[object] = PerCpuFreeList(lambda held=held: held)
        freelist.put(held[0])
        freelist.put(freelist)
        freelist.put(held[1])
    del freelist
    gc.collect()
    assert [sys.getrefcount(thing) for thing in held] == before


def test_the_collector_sees_what_is_in_a_list() -> None:
    freelist, thing = PerCpuFreeList(list), Thing()
    freelist.put(thing)
    freelist.put(thing)
    assert gc.get_referents(freelist).count(thing) == 2
    assert list in gc.get_referents(freelist)
    freelist.get()
    assert gc.get_referents(freelist).count(thing) == 1
    freelist.drain()
    assert thing not in gc.get_referents(freelist)
    assert gc.is_tracked(freelist)


class Sub(PerCpuFreeList[object]):
    """One with a __dict__."""


def cycle_by_object(freelist: Sub) -> None:
    thing = Thing()
    thing.list = freelist
    freelist.put(thing)


def cycle_by_another_list(freelist: Sub) -> None:
    other: PerCpuFreeList[object] = PerCpuFreeList()
    other.put(freelist)
    freelist.put(other)


def cycle_by_attribute(freelist: Sub) -> None:
    freelist.me = freelist


@pytest.mark.parametrize("tie", [cycle_by_object, cycle_by_another_list, cycle_by_attribute])
def test_cycles_are_collected(tie: Callable[[Sub], None]) -> None:
    freelist = Sub()
    tie(freelist)
    reference = weakref.ref(freelist)
    del freelist
    gc.collect()
    assert reference() is None


def test_a_factory_that_knows_its_list_is_collected() -> None:
    def make() -> weakref.ref[PerCpuFreeList[object]]:
        freelist: PerCpuFreeList[object] = PerCpuFreeList(lambda: freelist)
        return weakref.ref(freelist)

    reference = make()
    gc.collect()
    assert reference() is None


def test_lists_in_lists_in_lists_are_freed() -> None:
    """As deep as this, a deallocator that calls itself would use up the stack."""
    freelist: PerCpuFreeList[object] = PerCpuFreeList(capacity=1)
    for _ in range(100_000):
        outer: PerCpuFreeList[object] = PerCpuFreeList(capacity=1)
        outer.put(freelist)
        freelist = outer
    reference = weakref.ref(freelist)
    del freelist, outer
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("how", ["clear", "close", "drain", "get", "del", "gc"])
def test_finalizers_may_use_the_list(how: str) -> None:
    """Each puts an object back when it dies, once, and sees a list that is in order."""
    seen: list[int] = []

    class Phoenix:
        def __init__(self, freelist: PerCpuFreeList[object], lives: int) -> None:
            self.freelist, self.lives = freelist, lives

        def __del__(self) -> None:
            try:
                seen.append(len(self.freelist))
                assert sum(self.freelist.per_cpu()) == len(self.freelist)
                if self.lives > 0:
                    self.freelist.put(Phoenix(self.freelist, self.lives - 1))
                    self.freelist.put(self.freelist.get())
                repr(self.freelist)
            except ClosedError:
                seen.append(-1)

    freelist: PerCpuFreeList[object] = PerCpuFreeList()
    for _ in range(10):
        freelist.put(Phoenix(freelist, 2))
    if how == "clear":
        for _ in range(3 * CPUS + 3):
            freelist.clear()
        assert len(freelist) == 0
    elif how == "close":
        freelist.close()
        assert freelist.closed
    elif how == "drain":
        while freelist:
            freelist.drain()
    elif how == "get":
        while freelist:
            freelist.get()
    else:
        if how == "gc":
            freelist.put(freelist)
        reference = weakref.ref(freelist)
        del freelist
        for _ in range(4):
            gc.collect()
        assert reference() is None
    assert len(seen) >= 10


def test_a_signal_handler_and_a_finalizer_may_use_the_list_at_any_time() -> None:
    """A lock would be held by the very thread that they interrupt."""
    freelist: PerCpuFreeList[list[int]] = PerCpuFreeList(list)

    class Returns:
        def __del__(self) -> None:
            freelist.put(freelist.get())

    def handler() -> None:
        freelist.put(freelist.get())
        freelist.put([])

    with storm(handler) as signals:
        end = time.monotonic() + (1 if THOROUGH else 0.3)
        while time.monotonic() < end or (signals[0] <= 20 and time.monotonic() < end + 30):
            for _ in range(50):
                freelist.put(freelist.get())
                Returns()
            freelist.clear()
            freelist.drain()
    assert signals[0] > 20


# ---- closed ------------------------------------------------------------------------------------


def test_a_closed_list_raises() -> None:
    freelist = PerCpuFreeList(list, capacity=5)
    freelist.put(3)
    freelist.close()
    calls: list[Callable[[], object]] = [
        *[freelist.get, freelist.drain, freelist.clear, freelist.per_cpu],
        *[lambda: freelist.put(1), lambda: len(freelist)],
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="PerCpuFreeList is closed"):
            call()
    assert repr(freelist) == "<PerCpuFreeList closed>"
    assert (freelist.closed, freelist.capacity, freelist.factory) == (True, 5, list)


def test_closing_beside_use_is_an_exception_at_worst() -> None:
    for _ in range(20 if THOROUGH else 5):
        freelist: PerCpuFreeList[Thing] = PerCpuFreeList(Thing)
        refused: list[ClosedError] = []

        def use(
            freelist: PerCpuFreeList[Thing] = freelist, refused: list[ClosedError] = refused
        ) -> None:
            try:
                while True:
                    freelist.put(freelist.get())
                    len(freelist)
            except ClosedError as error:
                refused.append(error)

        def close(freelist: PerCpuFreeList[Thing] = freelist) -> None:
            time.sleep(0.001)
            freelist.close()

        run_together(use, use, use, close)
        assert len(refused) == 3


# ---- threads -----------------------------------------------------------------------------------


class Token:
    """Something that one thread has at a time."""

    def __init__(self) -> None:
        self.owner: object = None
        self.uses = 0


def lend(freelist: PerCpuFreeList[Token], rounds: int) -> Callable[[], None]:
    def run() -> None:
        me = object()
        for _ in range(rounds):
            token = freelist.get()
            assert token.owner is None
            token.owner = me
            token.uses += 1
            assert token.owner is me
            token.owner = None
            assert freelist.put(token)

    return run


def test_objects_have_one_owner_at_a_time_and_none_is_lost() -> None:
    """As many objects as threads, and a thread has at most one: a get() always finds one."""
    tokens = [Token() for _ in range(THREADS)]
    freelist: PerCpuFreeList[Token] = PerCpuFreeList(capacity=THREADS)
    for token in tokens:
        assert freelist.put(token)
    run_together(*(lend(freelist, ROUNDS) for _ in tokens))
    assert set(map(id, freelist.drain())) == set(map(id, tokens))
    assert sum(token.uses for token in tokens) == THREADS * ROUNDS


def test_a_cache_loses_nothing_and_makes_nothing_up() -> None:
    made = itertools.count()
    freelist: PerCpuFreeList[int] = PerCpuFreeList(made.__next__, capacity=4)
    dropped: list[int] = []

    def work() -> None:
        held: list[int] = []
        for i in range(ROUNDS):
            if i % 3 == 2:
                value = held.pop()
                if not freelist.put(value):
                    dropped.append(value)
            else:
                held.append(freelist.get())
        dropped.extend(held)

    run_together(*[work] * THREADS)
    left = freelist.drain()
    assert len(left) <= 4 * CPUS
    assert sorted(dropped + left) == list(range(next(made)))


def test_everything_at_once() -> None:
    """Lists are drained, cleared and traversed beside use; references are right in the end."""
    freelist: PerCpuFreeList[Token] = PerCpuFreeList(Token, capacity=8)
    stop = threading.Event()

    def use() -> None:
        for _ in range(ROUNDS):
            held = [freelist.get() for _ in range(3)]
            assert len(set(map(id, held))) == 3
            for token in held:
                freelist.put(token)

    def users() -> None:
        try:
            run_together(*[use] * (THREADS - 3))
        finally:
            stop.set()

    def until_stopped(body: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            while not stop.is_set():
                body()

        return run

    def put_drained() -> None:
        for token in freelist.drain():
            freelist.put(token)

    with storm(lambda: freelist.put(freelist.get()), period=0.001):
        run_together(
            users,
            until_stopped(put_drained),
            until_stopped(freelist.clear),
            until_stopped(gc.collect),
        )
    left = freelist.drain()
    assert len(set(map(id, left))) == len(left)
    watched = [weakref.ref(token) for token in left]
    del left
    gc.collect()
    assert not any(reference() for reference in watched)


# ---- processes ---------------------------------------------------------------------------------


def test_a_child_has_a_list_of_its_own() -> None:
    freelist: PerCpuFreeList[object] = PerCpuFreeList()
    thing = Thing()
    freelist.put(thing)

    def child() -> None:
        assert freelist.get() is thing
        freelist.put(thing)
        freelist.put("child")
        assert len(freelist) == 2
        freelist.close()

    run_forked(child)
    assert freelist.drain() == [thing]


@many_threads
def test_children_of_a_busy_process_can_do_everything() -> None:
    freelist: PerCpuFreeList[Token] = PerCpuFreeList(Token, capacity=8)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            held = [freelist.get() for _ in range(5)]
            for token in held:
                freelist.put(token)

    def drain() -> None:
        while not stop.is_set():
            freelist.drain()

    def fork() -> None:
        try:
            for _ in range(20 if THOROUGH else 6):

                def child() -> None:
                    stop.set()
                    assert all(count <= 8 for count in freelist.per_cpu())
                    everything = freelist.drain()
                    assert all(type(token) is Token for token in everything)
                    assert len(set(map(id, everything))) == len(everything)
                    run_together(*(lend(freelist, 100) for _ in range(2)))
                    gc.collect()
                    freelist.close()

                run_forked(child)
        finally:
            stop.set()

    run_together(fork, use, use, use, drain)


IN_AN_INTERPRETER = """
import percpu, threading, gc
class Thing: pass
freelist = percpu.PerCpuFreeList(Thing, capacity=4)
def work():
    for _ in range(2000):
        freelist.put(freelist.get())
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert all(type(thing) is Thing for thing in freelist.drain())
freelist.put(freelist)
left = percpu.PerCpuFreeList()  # alive when the interpreter ends
left.put(left)
left.put(Thing())
gc.collect()
"""


@needs_interpreters
def test_other_interpreters_have_lists_of_their_own() -> None:
    run_in_interpreters(IN_AN_INTERPRETER)


def test_the_interpreters_end() -> None:
    """Lists are torn down in any order, with daemon threads that use them."""
    run_python(
        "import percpu, threading, time, sys, atexit\n"
        "class Late:\n"
        "    def __init__(self, freelist): self.freelist = freelist\n"
        "    def __del__(self):\n"
        "        calls = [self.freelist.get, lambda: self.freelist.put(1), self.freelist.drain]\n"
        "        for call in calls:\n"
        "            try: call()\n"
        "            except Exception: pass\n"
        "freelist = percpu.PerCpuFreeList(list)\n"
        "for _ in range(5): freelist.put(Late(freelist))\n"
        "other = percpu.PerCpuFreeList(); other.put(freelist); sys.other = other\n"
        "busy = percpu.PerCpuFreeList(list)\n"
        "def work():\n"
        "    while True: busy.put(busy.get())\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.05)\n"
    )


# ---- memory that runs out ----------------------------------------------------------------------


@pytest.mark.skipif(FREE_THREADED, reason="its allocator has no hooks that fail")
def test_a_drain_without_memory_takes_nothing() -> None:
    """Every allocation fails once; what was taken for the result is there afterwards."""
    pytest.importorskip("_testcapi")
    run_python(
        "import _testcapi, os, percpu\n"
        "freelist = percpu.PerCpuFreeList()\n"
        "things = [object() for _ in range(40)]\n"
        "for i, thing in enumerate(things):\n"
        "    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(1))[i % 2]})\n"
        "    assert freelist.put(thing)\n"
        "before, refused = freelist.per_cpu(), 0\n"
        "for start in range(50):\n"
        "    _testcapi.set_nomemory(start, start + 1)\n"
        "    try: got = freelist.drain()\n"
        "    except MemoryError: got = None\n"
        "    finally: _testcapi.remove_mem_hooks()\n"
        "    if got is not None: break\n"
        "    refused += 1\n"
        "    assert sum(freelist.per_cpu()) == 40, freelist\n"
        "assert refused >= 2, refused\n"
        "assert set(map(id, got)) == set(map(id, things)) and len(got) == 40\n"
    )
