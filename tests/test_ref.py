"""PerCpuRef: what its callbacks may do, what is refused, and that release runs exactly once."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from types import MethodType

import pytest
from conftest import THOROUGH
from together import (
    needs_interpreters,
    run_forked,
    run_in_interpreters,
    run_python,
    run_together,
    storm,
)

from percpu import ClosedError, CorruptionError, PerCpuRef

THREADS = 8
many_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


# ---- the life of a ref -------------------------------------------------------------------------


def test_release_runs_when_the_last_reference_is_dropped() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    ref.get()
    ref.get(2)
    assert ref.tryget_live()
    assert ref.count() == 5
    ref.kill()
    assert (ref.dying, ref.zero) == (True, False)
    assert not ref.tryget_live()
    assert ref.tryget()
    ref.put(4)
    assert released == []
    ref.put()
    assert released == [ref]
    assert ref.zero
    assert not ref.tryget()


def test_a_ref_without_release_counts_too() -> None:
    for ref in (PerCpuRef(), PerCpuRef(None), PerCpuRef(release=None)):
        assert ref.release is None
        assert repr(ref).startswith("<PerCpuRef live references=1 mode=")
        ref.kill()
        assert ref.zero
        assert repr(ref).startswith("<PerCpuRef zero references=0 mode=")


def test_confirm_runs_before_the_initial_reference_is_dropped() -> None:
    events: list[tuple[str, int]] = []
    ref = PerCpuRef(lambda ref: events.append(("release", ref.count())))
    ref.kill(lambda ref: events.append(("confirm", ref.count())))
    assert events == [("confirm", 1), ("release", 0)]


def test_a_killed_ref_can_live_again() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    ref.get()
    ref.kill()
    ref.resurrect()
    assert ref.tryget_live()
    assert (ref.count(), ref.dying) == (3, False)
    ref.put(2)
    ref.kill()
    assert released == [ref]
    ref.reinit()
    ref.kill()
    assert released == [ref, ref]


@pytest.mark.parametrize("revive", ["resurrect in confirm", "reinit in release"])
def test_callbacks_may_revive_the_ref(revive: str) -> None:
    released: list[int] = []

    def release(ref: PerCpuRef) -> None:
        released.append(1)
        if len(released) == 1 and revive == "reinit in release":
            ref.reinit()

    ref = PerCpuRef(release)
    ref.kill(PerCpuRef.resurrect if revive == "resurrect in confirm" else None)
    assert (ref.dying, ref.count()) == (False, 1)
    ref.check()
    ref.kill()
    assert ref.zero
    assert len(released) == (1 if revive == "resurrect in confirm" else 2)


# ---- callbacks that raise ----------------------------------------------------------------------


class CallbackError(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("by", ["put", "kill"])
def test_what_release_raises_comes_through_once(by: str) -> None:
    error, calls = CallbackError(), []

    def release(ref: PerCpuRef) -> None:
        calls.append(ref)
        raise error

    ref = PerCpuRef(release)
    if by == "put":
        ref.get()
        ref.kill()
    with pytest.raises(CallbackError) as caught:
        getattr(ref, by)()
    assert caught.value is error
    assert ref.zero
    assert len(calls) == 1
    with pytest.raises(ValueError, match="0 references left"):
        ref.put()
    assert len(calls) == 1


def test_what_confirm_raises_comes_through_and_the_reference_is_dropped() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    with pytest.raises(ZeroDivisionError):
        ref.kill(lambda ref: 1 // 0)
    assert released == [ref]
    other = PerCpuRef(lambda ref: [][0])
    with pytest.raises(IndexError) as caught:
        other.kill(lambda ref: 1 // 0)
    assert type(caught.value.__context__) is ZeroDivisionError


def test_the_same_exception_from_both_is_raised_once() -> None:
    error = CallbackError()

    def callback(ref: PerCpuRef) -> None:
        raise error

    with pytest.raises(CallbackError) as caught:
        PerCpuRef(callback).kill(callback)
    assert caught.value is error
    assert error.__context__ is None


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PerCpuRef, type("Sub", (PerCpuRef,), {})])
def test_bad_arguments_are_refused(cls: type[PerCpuRef]) -> None:
    ref = cls()
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: cls(3), TypeError, "release must be a callable or None, not int 3"),
        (lambda: cls(None, None), TypeError, "at most 1 positional argument"),
        (lambda: ref.get(0), ValueError, "n must be from 1 to 4294967295, not 0"),
        (lambda: ref.get(-1), ValueError, "n must be from 1"),
        (lambda: ref.put(2**32), ValueError, "n must be from 1 to 4294967295"),
        (lambda: ref.put(1.0), TypeError, "n must be an int, not float 1.0"),
        (lambda: ref.get(1, 2), TypeError, "get.. takes at most 1 argument"),
        (lambda: ref.put(m=1), TypeError, "no keyword arguments"),
        (lambda: ref.kill(3), TypeError, "confirm must be a callable or None, not int 3"),
        (ref.resurrect, ValueError, "resurrect.. of a .* that lives"),
        (ref.reinit, ValueError, "reinit.. of a .* that lives"),
    ]
    for call, error, says in cases:
        with pytest.raises(error, match=says):
            call()
    assert ref.count() == 1
    assert not ref.dying


def test_a_ref_put_below_zero_is_found() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    ref.put(3)
    with pytest.raises(CorruptionError, match="more references were put than gotten"):
        ref.check()
    with pytest.raises(ValueError, match=r"3 more references .* lives on"):
        ref.kill()
    assert (ref.dying, ref.count(), released) == (False, -2, [])
    ref.get(4)
    ref.kill()
    assert released == []
    with pytest.raises(ValueError, match=r"put\(2\) of a PerCpuRef that has 1 references left"):
        ref.put(2)
    ref.put()
    assert released == [ref]
    with pytest.raises(ValueError, match="after the last reference"):
        ref.get()


def test_a_confirm_that_puts_the_initial_reference_is_found() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    with pytest.raises(ValueError, match="the initial reference was put"):
        ref.kill(PerCpuRef.put)
    assert released == [ref]


def test_an_index_that_closes_or_kills() -> None:
    class Closes:
        def __index__(self) -> int:
            ref.close()
            return 1

    ref = PerCpuRef()
    for method in (ref.get, ref.put):
        with pytest.raises(ClosedError):
            method(Closes())


def test_a_closed_ref_raises_and_releases_nothing() -> None:
    released: list[PerCpuRef] = []
    with PerCpuRef(released.append) as ref:
        ref.get()
    calls: list[Callable[[], object]] = [
        *[ref.get, ref.put, ref.tryget, ref.tryget_live, ref.kill, ref.resurrect, ref.reinit],
        *[ref.count, ref.check, lambda: ref.get(2), lambda: ref.put(2)],
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="PerCpuRef is closed"):
            call()
    assert repr(ref) == "<PerCpuRef closed>"
    assert (ref.closed, ref.dying, ref.zero, released) == (True, False, False, [])


def test_a_confirm_that_closes_the_ref() -> None:
    released: list[PerCpuRef] = []
    ref = PerCpuRef(released.append)
    ref.kill(PerCpuRef.close)
    assert (ref.closed, ref.zero, released) == (True, True, [])


# ---- garbage -----------------------------------------------------------------------------------


def test_a_release_that_knows_its_ref_is_collected() -> None:
    class Thing:
        """What a ref protects, and what has the ref."""

        def __init__(self) -> None:
            self.ref = PerCpuRef(self.release)

        def release(self, ref: PerCpuRef) -> None:
            raise AssertionError("nobody killed it")

    thing = Thing()
    watched, reference = weakref.ref(thing), weakref.ref(thing.ref)
    assert thing.release in gc.get_referents(thing.ref)
    del thing
    gc.collect()
    assert watched() is None
    assert reference() is None


def test_finalizers_may_use_the_ref() -> None:
    seen: list[object] = []

    class Holder:
        def __init__(self, ref: PerCpuRef) -> None:
            self.ref = ref
            ref.get()

        def __del__(self) -> None:
            self.ref.put()
            seen.append(self.ref.zero)

    ref = PerCpuRef(lambda ref: seen.append("released"))
    holders = [Holder(ref) for _ in range(3)]
    holders[0].cycle = holders[0]
    ref.kill()
    del holders
    gc.collect()
    assert seen.count("released") == 1
    assert seen[-1] is True
    assert len(seen) == 4


def test_refs_that_refer_to_refs_are_freed() -> None:
    """As deep as this, a deallocator that calls itself would use up the stack."""

    def release(former: PerCpuRef | None, ref: PerCpuRef) -> None: ...

    ref = None
    for _ in range(400_000):
        ref = PerCpuRef(MethodType(release, ref) if ref else None)
    alive = weakref.ref(ref)
    del ref
    gc.collect()
    assert alive() is None


# ---- threads and signals -----------------------------------------------------------------------


class Guarded:
    """Something that is used under references, and replaced when they are gone."""

    def __init__(self) -> None:
        self.alive = True
        self.releases = 0
        self.lives = 1
        self.done = threading.Event()
        self.ref = PerCpuRef(self.release)

    def release(self, ref: PerCpuRef) -> None:
        assert self.alive
        assert ref.zero
        self.alive = False
        self.releases += 1
        self.done.set()

    def use(self, live: bool = True) -> bool:
        if not (self.ref.tryget_live() if live else self.ref.tryget()):
            return False
        assert self.alive
        self.ref.get(2)
        self.ref.put(1)
        assert self.alive
        self.ref.put(2)
        return True

    def retire(self) -> None:
        self.ref.kill()
        assert not self.ref.tryget_live()
        assert self.done.wait(30)
        self.done.clear()

    def revive(self) -> None:
        self.alive = True
        self.lives += 1
        self.ref.reinit()


def test_release_runs_exactly_once_for_each_life() -> None:
    """Killed and revived while threads and a signal handler use it."""
    guarded = Guarded()
    stop = threading.Event()
    uses = [0] * THREADS

    def user(slot: int) -> Callable[[], None]:
        def run() -> None:
            while not stop.is_set():
                uses[slot] += guarded.use(live=slot % 2 == 0)

        return run

    def killer() -> None:
        try:
            end = time.monotonic() + (2 if THOROUGH else 0.5)
            while time.monotonic() < end or (signals[0] <= 20 and time.monotonic() < end + 30):
                for _ in range(5):
                    guarded.ref.kill()
                    try:
                        guarded.ref.resurrect()
                    except ValueError:
                        assert guarded.done.wait(30)
                        guarded.done.clear()
                        guarded.revive()
                guarded.retire()
                guarded.revive()
        finally:
            stop.set()

    with storm(guarded.use, period=0.001) as signals:
        run_together(killer, *(user(slot) for slot in range(THREADS - 1)))
    assert sum(uses) > 0
    assert signals[0] > 20
    assert guarded.ref.count() == 1
    guarded.ref.check()
    assert guarded.releases == guarded.lives - 1
    guarded.retire()
    assert guarded.releases == guarded.lives


def test_of_racing_killers_and_revivers_one_wins() -> None:
    ref, wins = PerCpuRef(), [[0, 0] for _ in range(6)]
    ref.get()  # so that it never gets to zero

    def race(slot: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(2000 if THOROUGH else 400):
                for number, call in enumerate((ref.kill, ref.resurrect)):
                    try:
                        call()
                        wins[slot][number] += 1
                    except ValueError:
                        pass

        return run

    run_together(*(race(slot) for slot in range(6)))
    kills, revivals = map(sum, zip(*wins, strict=True))
    assert kills - revivals == ref.dying
    assert ref.count() == 2 - ref.dying
    ref.check()


def test_closing_beside_use_is_an_exception_at_worst() -> None:
    for _ in range(20 if THOROUGH else 5):
        guarded, refused = Guarded(), []

        def use(guarded: Guarded = guarded, refused: list[int] = refused) -> None:
            try:
                while True:
                    guarded.use()
            except ClosedError:
                refused.append(1)

        def close(guarded: Guarded = guarded) -> None:
            time.sleep(0.001)
            guarded.ref.close()

        run_together(use, use, use, close)
        assert len(refused) == 3
        assert guarded.releases == 0


# ---- processes ---------------------------------------------------------------------------------


def test_a_child_has_a_count_of_its_own() -> None:
    guarded = Guarded()
    guarded.ref.get()

    def child() -> None:
        guarded.ref.check()
        guarded.ref.kill()
        assert guarded.releases == 0
        guarded.ref.put()
        assert guarded.releases == 1

    run_forked(child)
    assert (guarded.ref.count(), guarded.ref.dying, guarded.releases) == (2, False, 0)


@many_threads
def test_children_of_a_busy_process_are_consistent() -> None:
    """References of other threads stay counted; a kill is in a child as a whole, or not at all."""
    guarded, others = Guarded(), 3
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            guarded.use()

    def kill() -> None:
        while not stop.is_set():
            guarded.ref.get()
            guarded.ref.kill()
            guarded.ref.resurrect()
            guarded.ref.put()

    def child() -> None:
        ref = guarded.ref
        ref.check()
        assert 1 <= ref.count() <= 3 + 3 * others
        if ref.dying:
            ref.resurrect()
        ref.check()
        assert guarded.use()
        held = ref.count() - 1
        ref.kill()
        assert guarded.releases == (held == 0)
        if held:
            ref.put(held)
        assert guarded.releases == 1

    def fork() -> None:
        try:
            for _ in range(30 if THOROUGH else 8):
                run_forked(child)
        finally:
            stop.set()

    run_together(fork, kill, *[use] * others)
    assert guarded.ref.count() == 1
    guarded.ref.check()


IN_AN_INTERPRETER = """
import percpu, threading
released = []
ref = percpu.PerCpuRef(released.append)
def work():
    for _ in range(2000):
        if ref.tryget_live(): ref.put()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ref.check()
ref.kill()
assert released == [ref]
left = percpu.PerCpuRef(lambda ref: left)  # alive when the interpreter ends
"""


@needs_interpreters
def test_other_interpreters_have_refs_of_their_own() -> None:
    run_in_interpreters(IN_AN_INTERPRETER)


def test_the_interpreters_end() -> None:
    """Refs are torn down in any order, with daemon threads that use them."""
    run_python(
        "import percpu, threading, time, sys\n"
        "class Late:\n"
        "    def __init__(self): self.ref = percpu.PerCpuRef(self.release); self.ref.get()\n"
        "    def release(self, ref): pass\n"
        "    def __del__(self):\n"
        "        ref = self.ref\n"
        "        for call in (ref.get, ref.kill, ref.put, ref.put, ref.put, ref.reinit, repr):\n"
        "            try: call(ref) if call is repr else call()\n"
        "            except Exception: pass\n"
        "sys.late = Late()\n"
        "busy = percpu.PerCpuRef()\n"
        "def work():\n"
        "    while True: busy.tryget_live() and busy.put()\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.05)\n"
    )
