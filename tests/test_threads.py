"""More threads than CPUs, with the GIL and without, and a signal storm beside them: every count
is there in the end, and closing beside use is an exception at worst.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable

import pytest
from conftest import THOROUGH
from together import run_together, storm

import percpu
from percpu import ClosedError, PerCpuCounter, PerCpuPool, PerCpuVar, PoolExhausted

THREADS = 8
ROUNDS = 80_000 if THOROUGH else 20_000
INDEXES = ["cpu", *(["cid"] if percpu.info().mm_cid or percpu.info().rseq == "none" else [])]
each_index = pytest.mark.parametrize("index", INDEXES)


def repeat(body: Callable[[], object], times: int = ROUNDS) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            body()

    return run


@each_index
@pytest.mark.parametrize("batch", [1, 32])
def test_a_counter_counts_exactly(index: str, batch: int) -> None:
    counter = PerCpuCounter(batch=batch, pool=PerCpuPool(16, index=index))
    bodies = [
        counter.inc,
        lambda: counter.add(3),
        lambda: counter.sub(1),
        counter.dec,
        lambda: counter.__iadd__(2),
        counter.inc,
        lambda: counter.add(2**40),
        lambda: counter.sub(2**40),
    ]
    with storm(counter.inc) as signals:
        run_together(*(repeat(body) for body in bodies))
    counter.check()
    assert counter.sum() == ROUNDS * (1 + 3 - 1 - 1 + 2 + 1) + signals[0]
    assert abs(counter.read() - counter.sum()) <= counter.error
    assert sum(counter.per_cpu()) == counter.sum()


@each_index
@pytest.mark.parametrize("code", "bBhHiIqQd")
def test_a_variable_loses_no_operation(code: str, index: str) -> None:
    var = PerCpuVar(code, pool=PerCpuPool(8, index=index))
    rounds = ROUNDS // 4
    with storm(var.inc) as signals:
        run_together(
            *(repeat(lambda: var.add(5), rounds) for _ in range(2)),
            repeat(lambda: var.sub(2), rounds),
            repeat(var.inc, rounds),
            repeat(var.dec, rounds),
            repeat(lambda: var.add_return(7), rounds),
        )
    expected = rounds * (5 + 5 - 2 + 7) + signals[0]
    modulus = 2 ** (8 * memoryview(var).itemsize)
    assert (var.sum() == expected) if code == "d" else (var.sum() - expected) % modulus == 0


def test_the_storm_is_one() -> None:
    """The other tests would prove little if no signal came."""
    counter = PerCpuCounter()
    with storm(counter.inc) as signals:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            counter.inc()
    assert signals[0] > 20


@each_index
def test_taking_and_adding_lose_nothing(index: str) -> None:
    """What was taken and what is left is what was added; other variables' bytes are not touched."""
    var = PerCpuVar("q", pool=PerCpuPool(8, index=index))
    low = PerCpuVar("b")  # a neighbour of other variables of one byte: only its byte is written
    neighbours = [PerCpuVar("b", 11) for _ in range(20)]
    taken = [0, 0]

    def take(slot: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(ROUNDS // 4):
                taken[slot] += var.xchg(0)

        return run

    def write() -> None:
        for i in range(200):
            low[i % len(low)] = i % 100

    run_together(repeat(var.inc), repeat(lambda: var.add(2)), take(0), take(1), write)
    assert sum(taken) + var.sum() == 3 * ROUNDS
    assert all(list(neighbour) == [11] * len(low) for neighbour in neighbours)


def test_a_remote_write_is_not_undone() -> None:
    """An add that began before v[cpu] = x must not store its old sum over x."""
    var, rounds = PerCpuVar("Q"), 300
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set():
            var.inc()

    def write() -> None:
        try:
            for i in range(1, rounds):
                for cpu in range(len(var)):
                    var[cpu] = i << 40
                    assert var[cpu] >> 40 == i
        finally:
            stop.set()

    run_together(add, add, add, write)
    assert all(copy >> 40 == rounds - 1 for copy in var)


def test_exchange_takes_every_count_once() -> None:
    counter = PerCpuCounter(batch=8, lazy=False)
    taken = [0] * 3

    def take(slot: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(ROUNDS // 2):
                taken[slot] += counter.exchange(0)

        return run

    run_together(*(repeat(counter.inc) for _ in range(3)), *(take(i) for i in range(3)))
    assert sum(taken) + counter.sum() == 3 * ROUNDS
    counter.check()


def test_sum_is_exact_at_every_instant() -> None:
    """All adds that returned before sum() was called are in it, and none that began afterwards."""
    counter = PerCpuCounter(batch=4, lazy=False)
    begun, finished = [0] * 4, [0] * 4
    stop = threading.Event()

    def add(slot: int) -> Callable[[], None]:
        def run() -> None:
            for i in range(1, ROUNDS + 1):
                begun[slot] = i
                counter.inc()
                finished[slot] = i

        return run

    def read() -> None:
        while not stop.is_set():
            low = sum(finished)
            seen = counter.sum()
            assert low <= seen <= sum(begun)

    def run_adders() -> None:
        try:
            run_together(*(add(slot) for slot in range(4)))
        finally:
            stop.set()

    run_together(run_adders, read)
    assert counter.sum() == 4 * ROUNDS


@each_index
def test_items_have_one_owner_at_a_time(index: str) -> None:
    pool = PerCpuPool(16, stride=4096, max_ranges=2, index=index)

    def work(name: int) -> Callable[[], None]:
        def run() -> None:
            rng, held = random.Random(name), []
            mark = bytes([name]) * 16
            for _ in range(ROUNDS // 4):
                if held and rng.random() < 0.5:
                    item = held.pop(rng.randrange(len(held)))
                    assert all(bytes(copy) == mark for copy in item)
                    item.free()
                    continue
                try:
                    held.append(pool.alloc(mark) if rng.random() < 0.5 else pool.alloc())
                except PoolExhausted:
                    held.clear()
                    continue
                for copy in held[-1]:
                    assert bytes(copy) in (mark, bytes(16))
                    copy[:] = mark
                del copy  # a live view blocks free()

        return run

    def disturb() -> None:
        for _ in range(30):
            pool.drain()
            assert pool.stats()["ranges"] <= 2
            time.sleep(0.001)

    run_together(*(work(name) for name in range(1, THREADS)), disturb)
    pool.check()
    assert len(pool) == pool.stats()["live"]


def uses_of_counter(c: PerCpuCounter) -> list[Callable[[], object]]:
    return [c.inc, c.dec, lambda: c.add(1), c.sum, c.read, lambda: c.set(0), lambda: c < 3]


def uses_of_var(v: PerCpuVar) -> list[Callable[[], object]]:
    def view() -> None:
        with memoryview(v) as view:
            view[0] = view[0]

    return [v.inc, lambda: v.add(1), v.sum, lambda: v[0], lambda: v.__setitem__(0, 1), view]


@pytest.mark.parametrize("what", ["counter", "var", "pool"])
def test_closing_beside_use_is_an_exception_at_worst(what: str) -> None:
    """A racing close must neither unmap memory under an operation, nor hand it to a new owner."""
    turns = 30 if THOROUGH else 10
    refused: list[ClosedError] = []

    for _ in range(turns):
        pool = PerCpuPool(16, stride=4096, max_ranges=1)
        counter, var = PerCpuCounter(pool=pool), PerCpuVar("q", pool=pool)
        calls = uses_of_counter(counter) + uses_of_var(var) + [pool.alloc, pool.stats, pool.drain]

        def use(calls: list[Callable[[], object]] = calls) -> None:
            end = time.monotonic() + 30
            try:
                for call in itertools.cycle(calls):
                    call()
                    assert time.monotonic() < end, "what was closed goes on working"
            except ClosedError as error:
                refused.append(error)

        def close(thing: object = {"counter": counter, "var": var, "pool": pool}[what]) -> None:
            time.sleep(0.0005)
            while not thing.closed:
                try:
                    thing.close()
                except BufferError:
                    time.sleep(0)

        run_together(use, use, use, close)
    assert len(refused) == 3 * turns


def test_freeing_beside_use_is_an_exception_at_worst() -> None:
    """Two threads free the same items, others look at them: each item is freed once."""
    pool = PerCpuPool(16, stride=4096, max_ranges=1)
    freed = [0] * 4
    for _ in range(20):
        items = [pool.alloc(b"\7" * 16) for _ in range(100)]

        def look(items: list[percpu.PerCpuItem] = items) -> None:
            for item in items:
                try:
                    assert item[0][0] == 7
                    assert item.address() > 0
                except ClosedError:
                    continue

        def free(slot: int, items: list[percpu.PerCpuItem] = items) -> Callable[[], None]:
            def run() -> None:
                for item in items:
                    for _ in range(1000):
                        try:
                            item.free()
                            freed[slot] += 1
                        except BufferError:  # somebody is looking
                            time.sleep(0)
                            continue
                        except ClosedError:
                            pass
                        break

            return run

        run_together(free(0), free(1), look, free(2))
        del items
    assert sum(freed) == 20 * 100
    assert len(pool) == 0
    pool.check()


def test_many_threads_that_live_briefly() -> None:
    """Each registers with the kernel where glibc does not, and must leave no trace."""
    counter = PerCpuCounter()
    for _ in range(10):
        run_together(*(counter.inc for _ in range(30)))
    assert counter.sum() == 300


def test_threads_that_hop_from_cpu_to_cpu(allowed_cpus: list[int]) -> None:
    """Affinity masks change under the operations; the sum is exact all the same."""
    counter, var = PerCpuCounter(batch=3, lazy=False), PerCpuVar("H")

    def hop(seed: int) -> Callable[[], None]:
        def run() -> None:
            rng = random.Random(seed)
            for _ in range(ROUNDS // 20):
                os.sched_setaffinity(0, {rng.choice(allowed_cpus)})
                for _ in range(10):
                    counter.inc()
                    var.inc()

        return run

    run_together(*(hop(seed) for seed in range(THREADS)))
    assert counter.sum() == THREADS * (ROUNDS // 20) * 10
    assert var.sum() % 2**16 == counter.sum() % 2**16
    counter.check()


def test_objects_made_and_dropped_by_many_threads() -> None:
    """Counters and variables of the process' own pools come and go; each starts from its value."""

    def churn() -> None:
        for i in range(ROUNDS // 8):
            counter, var = PerCpuCounter(i), PerCpuVar("i", 7)
            counter.inc()
            var.inc()
            assert (counter.sum(), var.sum()) == (i + 1, 7 * len(var) + 1)

    run_together(*(churn for _ in range(THREADS)))
