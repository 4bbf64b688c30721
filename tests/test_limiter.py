"""PerCpuLimiter: what is refused and how it says so, its life as an object, and tortures: threads
that acquire and release, hogs that hold everything, signal handlers, finalizers and forks.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import time
import weakref
from collections.abc import Callable
from operator import attrgetter

import pytest
from conftest import THOROUGH
from together import run_forked, run_python, run_together, storm

import percpu
from percpu import ClosedError, PerCpuLimiter, PerCpuPool, PoolExhausted
from percpu._machine import gil_enabled

SECONDS = 0.5 if THOROUGH else 0.2
THREADS = 6
Body = Callable[[], None]

# ---- answers -----------------------------------------------------------------------------------


def test_exactly_the_capacity_then_exactly_zero() -> None:
    limiter = PerCpuLimiter(10)
    assert limiter.acquire(4) is True
    assert limiter.acquire(7) is False
    assert [limiter.acquire() for _ in range(8)] == [True] * 6 + [False] * 2
    assert (limiter.outstanding(), limiter.available()) == (10, 0)
    limiter.release(9)
    limiter.release()
    assert (limiter.outstanding(), limiter.available()) == (0, 10)


def test_more_than_the_capacity_is_never_there() -> None:
    assert PerCpuLimiter(3).acquire(4) is False
    assert PerCpuLimiter(0).acquire() is False
    assert PerCpuLimiter(0).outstanding() == 0


def test_releasing_more_than_acquired_is_refused_and_changes_nothing() -> None:
    limiter = PerCpuLimiter(10)
    limiter.acquire(3)
    with pytest.raises(ValueError, match=r"^n must be at most 3, .*outstanding, not 4$"):
        limiter.release(4)
    limiter.release(3)
    with pytest.raises(ValueError, match=r"^n must be at most 0, .*outstanding, not 1$"):
        limiter.release()
    assert limiter.outstanding() == 0
    limiter.check()


class Closing:
    """A number that closes the limiter when it is asked for."""

    def __init__(self, limiter: PerCpuLimiter) -> None:
        self.limiter = limiter

    def __index__(self) -> int:
        self.limiter.close()
        return 1


@pytest.mark.parametrize("method", ["acquire", "release"])
@pytest.mark.parametrize(
    ("n", "exception", "message"),
    [
        (0, ValueError, r"n must be from 1 to 9223372036854775807, not 0"),
        (-1, ValueError, r"n must be from 1 .*, not -1"),
        (-(2**80), ValueError, r"n must be from 1 .*, not -12089258196146"),
        (2**63, ValueError, r"n must be from 1 .*, not 9223372036854775808"),
        (1.0, TypeError, r"n must be an int, not float 1.0"),
        ("1", TypeError, r"n must be an int, not str '1'"),
        (None, TypeError, r"n must be an int, not NoneType"),
    ],
)
def test_bad_numbers_of_tokens(
    method: str, n: object, exception: type[Exception], message: str
) -> None:
    limiter = PerCpuLimiter(5)
    limiter.acquire(2)
    with pytest.raises(exception, match=message):
        getattr(limiter, method)(n)
    with pytest.raises(TypeError, match=rf"{method}\(\) takes at most 1 argument \(2 given\)"):
        getattr(limiter, method)(1, 1)
    with pytest.raises(TypeError):
        getattr(limiter, method)(n=1)
    assert limiter.outstanding() == 2
    with pytest.raises(ClosedError):
        getattr(limiter, method)(Closing(limiter))


def test_what_has_an_index_is_a_number() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    limiter = PerCpuLimiter(Two())
    assert limiter.acquire(Two())
    limiter.release(Two())
    assert limiter.acquire(True)


def test_bad_arguments_of_the_constructor() -> None:
    small = PerCpuPool(4)
    for make, exception, message in [
        (lambda: PerCpuLimiter(), TypeError, "missing the argument 'capacity'"),
        (lambda: PerCpuLimiter(-1), ValueError, "capacity must be from 0 to 9223372036854775807"),
        (lambda: PerCpuLimiter(2**63), ValueError, "capacity must be .*not 9223372036854775808"),
        (lambda: PerCpuLimiter(1.5), TypeError, "capacity must be an int, not float 1.5"),
        (lambda: PerCpuLimiter(1, None), TypeError, "pool is keyword-only"),
        (lambda: PerCpuLimiter(1, pool=small), ValueError, "a limiter"),
        (lambda: PerCpuLimiter(1, pool=1), TypeError, "pool must be"),
        (lambda: PerCpuLimiter(1, size=1), TypeError, "unexpected keyword argument 'size'"),
    ]:
        with pytest.raises(exception, match=message):
            make()


def test_no_memory() -> None:
    pool = PerCpuPool(2048, stride=4096, max_ranges=1)
    kept = [PerCpuLimiter(1, pool=pool) for _ in range(pool.capacity)]
    with pytest.raises(PoolExhausted):
        PerCpuLimiter(1, pool=pool)
    kept.pop().close()
    gc.collect()
    assert PerCpuLimiter(2, pool=pool).acquire(2)


def test_a_new_limiter_takes_nothing_over_from_a_recycled_item() -> None:
    pool = PerCpuPool(8)
    for capacity in range(1, 300):
        limiter = PerCpuLimiter(capacity, pool=pool)
        assert limiter.outstanding() == 0
        assert limiter.acquire(capacity)
        limiter.check()


# ---- its life ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["itself", "its pool", "with"])
def test_a_closed_limiter_raises(by: str) -> None:
    pool = PerCpuPool(8)
    limiter = PerCpuLimiter(7, pool=pool)
    assert not limiter.closed
    if by == "with":
        with limiter as entered:
            assert entered is limiter
    else:
        (pool if by == "its pool" else limiter).close()
    assert limiter.closed
    for name in ("acquire", "release", "outstanding", "available", "check"):
        with pytest.raises(ClosedError, match="PerCpuLimiter is closed"):
            getattr(limiter, name)()
    assert repr(limiter) == "<PerCpuLimiter closed>"
    assert (limiter.capacity, limiter.pool) == (7, pool)
    limiter.close()


def test_repr_is_telling() -> None:
    limiter = PerCpuLimiter(2**40)
    limiter.acquire(12)
    cpus = len(percpu.PerCpuVar("b"))
    mode = percpu.info().rseq
    assert repr(limiter) == f"<PerCpuLimiter 12 of {2**40} outstanding mode={mode} cpus={cpus}>"


def test_subclasses_weak_references_and_cycles() -> None:
    class Permits(PerCpuLimiter):
        me: Permits

    permits = Permits(3)
    assert repr(permits).startswith("<Permits 0 of 3 outstanding")
    permits.me = permits
    watch = weakref.ref(permits)
    del permits
    gc.collect()
    assert watch() is None
    with pytest.raises(AttributeError):
        PerCpuLimiter(1).name = 1


@pytest.mark.parametrize("name", ["capacity", "pool", "closed"])
def test_attributes_are_read_only(name: str) -> None:
    limiter = PerCpuLimiter(3)
    with pytest.raises(AttributeError):
        setattr(limiter, name, attrgetter(name)(limiter))


def test_there_is_no_second_one_of_the_same() -> None:
    for duplicate in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(PerCpuLimiter(1))


def test_robust_pools_see_a_limiter_that_was_not_closed() -> None:
    pool = PerCpuPool(8, robust=True)
    limiter = PerCpuLimiter(1, pool=pool)
    limiter.acquire()
    with pytest.raises(percpu.CorruptionError, match="leak"):
        pool.close()
    with PerCpuPool(8, robust=True) as other:
        PerCpuLimiter(1, pool=other).close()


# ---- tortures ----------------------------------------------------------------------------------


class Held:
    """How much each thread says that it holds: added up, never more than what is acquired.

    A thread counts a token after it got it, and no more before it gives it back.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.limiter = PerCpuLimiter(capacity)
        self.by_thread: list[int] = []
        self.refused = 0

    def check(self) -> None:
        if gil_enabled():  # otherwise they are not of one instant
            assert sum(self.by_thread) <= self.capacity
        assert 0 <= self.limiter.outstanding() <= self.capacity
        self.limiter.check()

    def run(self, *bodies: Callable[[Held, int, float], None], after: Body | None = None) -> None:
        """Run the bodies, then check that everything is there, and nothing more."""
        self.by_thread = [0] * len(bodies)
        end = time.monotonic() + SECONDS
        threads = [lambda i=i, body=body: body(self, i, end) for i, body in enumerate(bodies)]
        run_together(*threads, *([after] if after else []))
        assert sum(self.by_thread) == 0
        assert self.limiter.outstanding() == 0
        self.limiter.check()
        assert all(self.limiter.acquire() for _ in range(self.capacity))
        assert not self.limiter.acquire()
        self.limiter.release(self.capacity)
        with pytest.raises(ValueError, match="at most 0"):
            self.limiter.release()

    def acquire(self, who: int, n: int) -> bool:
        if not self.limiter.acquire(n):
            self.refused += 1
            return False
        self.by_thread[who] += n
        return True

    def release(self, who: int, n: int) -> None:
        self.by_thread[who] -= n
        self.limiter.release(n)


def update(held: Held, who: int, end: float) -> None:
    while time.monotonic() < end:
        for _ in range(20):
            if held.acquire(who, 1):
                held.release(who, 1)


def read(held: Held, who: int, end: float) -> None:
    while time.monotonic() < end:
        held.check()


def mixed(held: Held, who: int, end: float) -> None:
    chance, cpus = random.Random(who), sorted(os.sched_getaffinity(0))
    while time.monotonic() < end:
        n = chance.randint(1, 5)
        if held.by_thread[who] + n <= 5 and chance.random() < 0.5:
            held.acquire(who, n)
        elif held.by_thread[who] > 0:
            held.release(who, min(n, held.by_thread[who]))
        if chance.random() < 0.05:
            os.sched_setaffinity(0, {chance.choice(cpus)})
    if held.by_thread[who]:
        held.release(who, held.by_thread[who])


def hog(held: Held, who: int, end: float) -> None:
    while time.monotonic() < end:
        if not held.acquire(who, held.capacity):
            while held.acquire(who, 1):
                pass
        if held.by_thread[who]:
            held.release(who, held.by_thread[who])


def test_update_heavy() -> None:
    held = Held(THREADS)
    held.run(*[update] * THREADS)
    assert held.refused == 0, "all that they want together fits in the capacity"


def test_read_heavy() -> None:
    held = Held(2)
    held.run(update, read, read, update, read, read)
    assert held.refused == 0


def test_mixed() -> None:
    held = Held(5 * THREADS)
    held.run(*[mixed] * (THREADS - 2), update, read)
    assert held.refused == 0


def test_scarce() -> None:
    Held(7).run(*[mixed] * (THREADS - 1), read)


def test_a_hog_that_takes_the_whole_limit() -> None:
    held = Held(50)
    held.run(hog, hog, update, update, mixed, mixed)


def test_the_others_reach_exactly_what_the_hog_leaves() -> None:
    limiter = PerCpuLimiter(1000)
    assert limiter.acquire(1000)
    got = [0] * THREADS

    def grab(who: int) -> None:
        while limiter.acquire():
            got[who] += 1

    run_together(*[lambda who=who: grab(who) for who in range(THREADS)])
    assert got == [0] * THREADS
    limiter.release(333)
    run_together(*[lambda who=who: grab(who) for who in range(THREADS)])
    assert sum(got) == 333
    assert limiter.outstanding() == 1000
    run_together(*[lambda n=n: limiter.release(n) for n in got if n], lambda: limiter.release(667))
    assert limiter.outstanding() == 0


def test_signal_handlers_and_finalizers_use_it_too() -> None:
    """Both may come between any two steps of the main thread; with fixed demand none may fail."""
    limiter = PerCpuLimiter(THREADS + 2)
    failed: list[str] = []

    class Trash:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            pair("finalizer")

    def pair(who: str) -> None:
        if limiter.acquire():
            limiter.release()
        else:
            failed.append(who)

    end = time.monotonic() + SECONDS

    def busy() -> None:
        while time.monotonic() < end:
            pair("thread")

    def main() -> None:
        while time.monotonic() < end:
            pair("main thread")
            Trash()

    with storm(lambda: pair("handler")) as calls:
        main()
        end = time.monotonic() + SECONDS
        run_together(*[busy] * (THREADS - 1))
    gc.collect()
    assert calls[0] > 0
    assert failed == []
    assert limiter.outstanding() == 0
    limiter.check()


def test_forks_in_the_middle_of_everything() -> None:
    held = Held(9)

    def child() -> None:
        held.limiter.check()
        lost = held.limiter.outstanding()
        assert 0 <= lost <= held.capacity
        mine = 0
        while held.limiter.acquire():
            mine += 1
        assert lost + mine == held.capacity == held.limiter.outstanding()
        held.limiter.release(held.capacity)
        assert held.limiter.outstanding() == 0
        held.limiter.check()

    def forks() -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            run_forked(child)

    held.run(update, mixed, hog, after=forks)


def test_in_a_process_with_rseq_in_every_mode() -> None:
    source = (
        "import percpu\n"
        "limiter = percpu.PerCpuLimiter(3)\n"
        "print([limiter.acquire() for _ in range(4)], limiter.outstanding(), end=' ')\n"
        "limiter.release(3)\n"
        "print(limiter.available(), limiter.check())\n"
    )
    for environment in (
        {"PERCPU_RSEQ": ""},
        {"PERCPU_RSEQ": "none"},
        {"GLIBC_TUNABLES": "glibc.pthread.rseq=0", "PERCPU_RSEQ": ""},
    ):
        assert run_python(source, **environment) == "[True, True, True, False] 3 3 None\n"
