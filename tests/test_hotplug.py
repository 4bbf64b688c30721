"""A CPU goes offline and comes back while threads count on it. Needs root, and a second CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Alone
from together import run_together

import percpu
from percpu import PerCpuCounter, PerCpuPool, PerCpuVar

PATIENCE = 60  # seconds, after which the CPU comes back whatever became of the test


def switch_of(cpu: int) -> Path:
    return Path(f"/sys/devices/system/cpu/cpu{cpu}/online")


@pytest.fixture
def removable_cpu(allowed_cpus: list[int], alone: Alone) -> Iterator[int]:
    """A CPU that may be taken offline; it is online again afterwards, whatever happens."""
    if len(allowed_cpus) < 2:
        pytest.skip("only one CPU is allowed")
    cpu = allowed_cpus[-1]
    switch = switch_of(cpu)
    if not os.access(switch, os.W_OK):
        pytest.skip(f"CPU {cpu} cannot be taken offline by this user")
    with alone() as granted:
        if not granted:
            pytest.skip("another session of these tests runs on this machine")
        # Outlives this process if somebody kills it in the middle.
        guardian = subprocess.Popen(
            ["sh", "-c", f"sleep {PATIENCE}; echo 1 > {switch}"], start_new_session=True
        )
        try:
            yield cpu
        finally:
            switch.write_text("1")
            os.killpg(guardian.pid, signal.SIGKILL)
            guardian.wait()
            os.sched_setaffinity(0, allowed_cpus)


@contextmanager
def offline(cpu: int) -> Iterator[None]:
    try:
        switch_of(cpu).write_text("0")
    except OSError as error:
        pytest.skip(f"the kernel does not take CPU {cpu} offline: {error}")
    try:
        yield
    finally:
        switch_of(cpu).write_text("1")


def pinned(cpu: int, body: Callable[[], object], stop: threading.Event) -> Callable[[], None]:
    """Run `body` on a CPU for as long as there is that CPU, then wherever the kernel wants."""

    def run() -> None:
        os.sched_setaffinity(0, {cpu})
        while not stop.is_set():
            body()

    return run


def test_a_cpu_goes_and_comes_back_under_running_threads(removable_cpu: int) -> None:
    """Copies are per possible CPU, so nothing moves; what its copy held stays in every sum."""
    cpu = removable_cpu
    counter = PerCpuCounter(batch=8, lazy=False)
    by_cpu, by_cid = PerCpuVar("q"), PerCpuVar("q")
    if percpu.info().mm_cid:
        by_cid = PerCpuVar("q", pool=PerCpuPool(8, index="cid"))
    done = [0] * 4
    stop = threading.Event()

    def count(slot: int) -> Callable[[], None]:
        def body() -> None:
            for _ in range(50):
                counter.inc()
                by_cpu.add(2)
                by_cid.add(3)
            done[slot] += 50

        return body

    def switch() -> None:
        try:
            time.sleep(0.05)
            for _ in range(2):
                with offline(cpu):
                    assert cpu not in percpu.info().cpus_online
                    assert cpu in percpu.info().cpus_possible
                    low = sum(done)
                    time.sleep(0.1)
                    assert counter.sum() >= low
                assert cpu in percpu.info().cpus_online
                time.sleep(0.05)
        finally:
            stop.set()

    here = min(os.sched_getaffinity(0))
    bodies = [pinned(cpu if slot < 2 else here, count(slot), stop) for slot in range(4)]
    run_together(switch, *bodies)
    assert counter.sum() == sum(done) > 0
    assert by_cpu.sum() == 2 * sum(done)
    assert by_cid.sum() == 3 * sum(done)
    assert by_cpu[cpu] > 0
    counter.check()


def test_the_copies_of_an_offline_cpu_can_be_used(removable_cpu: int) -> None:
    """Remote writes, free items in its cache, and counts on it, while it does not exist."""
    cpu = removable_cpu
    pool = PerCpuPool(64, stride=4096, max_ranges=1)
    counter, var = PerCpuCounter(lazy=False), PerCpuVar("i")
    here = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    for _ in range(10):
        counter.inc()
        var.inc()
    items = [pool.alloc() for _ in range(pool.capacity)]
    for item in items:
        item.free()
    os.sched_setaffinity(0, {here})
    with offline(cpu):
        assert (counter.sum(), var[cpu], counter.per_cpu()[cpu]) == (10, 10, 10)
        var[cpu] = 5
        items = [pool.alloc(b"back") for _ in range(pool.capacity)]
        assert all(bytes(item[cpu][:4]) == b"back" for item in items)
        pool.check()
        assert counter.exchange(0) == 10
        with PerCpuPool(8) as fresh:
            assert fresh.cpus == pool.cpus
        assert percpu.current_cpu() == here
    os.sched_setaffinity(0, {cpu})
    var.inc()
    counter.inc()
    assert (var[cpu], counter.sum()) == (6, 1)
    del items
    pool.check()
