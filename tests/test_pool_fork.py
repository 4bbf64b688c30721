"""Pools and fork(): parent and child go on with copies of their own, at whatever moment it was."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import THOROUGH
from together import run_forked, run_python, run_together

from percpu import CorruptionError, PerCpuCounter, PerCpuItem, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
PAGE = resource.getpagesize()

each_populate = pytest.mark.parametrize("populate", ["zero", "init"])
each_kind = pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"init": b"initial"},
        {"robust": True},
        {"robust": True, "init": b"initial"},
        {"poison": 0x55},
        {"constructed": True, "init": b"initial"},
        {"scope": "global", "cpus": CPUS},
    ],
    ids=lambda wishes: "+".join(wishes) or "plain",
)
many_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def copies(item: PerCpuItem) -> list[bytes]:
    return [bytes(copy).rstrip(b"\0") for copy in item]


def all_of(data: bytes) -> list[bytes]:
    return [data] * CPUS


def finish(body: Callable[[], object]) -> NoReturn:
    """In a forked child: run a body, and end with what came of it."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


# ---- private copies ----------------------------------------------------------------------------


@each_populate
@each_kind
def test_parent_and_child_have_copies_of_their_own(
    populate: str, wishes: dict[str, object]
) -> None:
    pool = PerCpuPool(32, populate=populate, **wishes)
    first = wishes.get("init", b"")
    assert isinstance(first, bytes)
    untouched, written, freed = pool.alloc(), pool.alloc(), pool.alloc()
    for cpu in range(CPUS):
        written[cpu][:7] = b"written"
    if not pool.constructed:
        freed[0][:5] = b"freed"
    freed.free()
    to_child, to_parent = os.pipe(), os.pipe()

    def child() -> None:
        assert copies(untouched) == all_of(first)
        assert copies(written) == all_of(b"written")
        assert os.read(to_child[0], 1) == b"1"  # the parent has written and allocated
        assert copies(untouched) == all_of(first)
        assert copies(written) == all_of(b"written")
        untouched[0][:5] = b"child"
        use(b"child")
        pool.check()
        os.write(to_parent[1], b"2")

    def use(mine: bytes) -> None:
        for _ in range(2):
            items = [pool.alloc() for _ in range(50)]
            assert [item for item in items if copies(item) != all_of(first)] == []
            if not pool.constructed:
                items += [pool.alloc(mine) for _ in range(50)]
                assert [item for item in items[50:] if copies(item) != all_of(mine)] == []
            for item in items:
                before = bytes(item[0])
                item[0][:6] = b"dirty!"
                if pool.constructed:
                    item[0][:] = before
                item.free()

    pid = os.fork()
    if pid == 0:
        finish(child)
    untouched[1][:6] = b"parent"
    use(b"parent")
    os.write(to_child[1], b"1")
    heard = os.read(to_parent[0], 1)
    assert (heard, os.waitpid(pid, 0)[1]) == (b"2", 0)
    for end in (*to_child, *to_parent):
        os.close(end)
    assert [copy[:6] for copy in copies(untouched)] == [
        b"parent" if cpu == 1 else first[:6] for cpu in range(CPUS)
    ]
    assert copies(written) == all_of(b"written")
    use(b"parent again")
    pool.check()
    assert len(pool) == 2


@each_populate
def test_generations_of_children(populate: str) -> None:
    pool = PerCpuPool(16, populate=populate, init=b"gen")
    item = pool.alloc()

    def generation(depth: int) -> None:
        name = f"depth {depth}".encode()
        mine = pool.alloc(name)
        item[0][:7] = name
        if depth < 4:
            run_forked(lambda: generation(depth + 1))
        assert copies(mine) == all_of(name)
        assert bytes(item[0][:7]) == name
        assert copies(pool.alloc()) == all_of(b"gen")
        pool.check()

    generation(0)
    gc.collect()
    assert len(pool) == 1


def test_leaks_are_those_of_the_process() -> None:
    """A child that forgets what its parent allocated has the same items to free."""
    pool = PerCpuPool(16, robust=True)
    items = [pool.alloc() for _ in range(3)]

    def child() -> None:
        items.pop().free()
        with pytest.raises(CorruptionError) as caught:
            pool.close()
        assert (caught.value.kind, caught.value.count) == ("leak", 2)

    run_forked(child)
    assert len(items) == 3
    for item in items:
        item.free()
    pool.close()


# ---- at any moment -----------------------------------------------------------------------------


@many_threads
@each_populate
@pytest.mark.parametrize("robust", [False, True])
def test_forks_while_other_threads_allocate(populate: str, robust: bool) -> None:
    init = b"initial"
    pool = PerCpuPool(256, populate=populate, init=init, robust=robust, stride=16384)
    kept = [pool.alloc(b"kept") for _ in range(100)]
    stop = threading.Event()

    def allocate() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            mine = b"%d" % turn
            items = [pool.alloc(mine if turn % 2 else None) for _ in range(turn % 40)]
            for item in items:
                assert copies(item) == all_of(mine if turn % 2 else init)
                item.free()
            if turn % 5 == 0:
                pool.trim()

    def child() -> None:
        stop.set()
        pool.check()
        assert [item for item in kept if copies(item) != all_of(b"kept")] == []
        more = [pool.alloc() for _ in range(100)]
        assert [item for item in more if copies(item) != all_of(init)] == []
        others = [pool.alloc(b"child") for _ in range(100)]
        assert [item for item in others if copies(item) != all_of(b"child")] == []
        counter = PerCpuCounter(5, pool=pool)
        counter.inc()
        assert counter.sum() == 6
        for item in [*more, *others, *kept]:
            item.free()
        del counter
        gc.collect()
        pool.trim()
        pool.check()
        with PerCpuPool(64, populate=populate, init=b"new") as new:
            assert copies(new.alloc()) == all_of(b"new")

    def fork() -> None:
        try:
            for _ in range(40 if THOROUGH else 10):
                run_forked(child)
        finally:
            stop.set()

    run_together(fork, *[allocate] * 3, deadline=120)
    gc.collect()
    pool.check()
    assert len(pool) == len(kept)
    assert [item for item in kept if copies(item) != all_of(b"kept")] == []


def mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@each_populate
def test_a_thousand_forks_leave_nothing_behind(populate: str) -> None:
    pool = PerCpuPool(64, populate=populate, init=b"initial")
    kept = pool.alloc()

    def turn(number: int) -> None:
        mine = b"%d" % number
        item = pool.alloc(mine)
        pid = os.fork()
        if pid == 0:
            os._exit(copies(item) != all_of(mine) or copies(pool.alloc(b"c")) != all_of(b"c"))
        assert os.waitpid(pid, 0)[1] == 0
        assert copies(item) == all_of(mine)
        item.free()

    for number in range(50):
        turn(number)
    pool.trim()
    before = mappings(), descriptors(), pool.stats()["ranges"]
    for number in range(1000):
        turn(number)
    pool.trim()
    after = mappings(), descriptors(), pool.stats()["ranges"]
    assert after[1:] == before[1:]
    assert after[0] <= before[0] + 8  # arenas of malloc's
    assert copies(kept) == all_of(b"initial")
    pool.check()


@many_threads
def test_other_ways_to_start_processes() -> None:
    """They replace the program, so nothing of a pool is to be copied or frozen."""
    pool = PerCpuPool(64, populate="init", init=b"initial")
    kept = pool.alloc(b"kept")
    stop = threading.Event()

    def allocate() -> None:
        while not stop.is_set():
            assert copies(pool.alloc(b"mine")) == all_of(b"mine")

    def start() -> None:
        try:
            for _ in range(10):
                subprocess.run(["/bin/true"], check=True)
                pid = os.posix_spawn("/bin/true", ["true"], {})
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            stop.set()

    run_together(start, allocate, allocate)
    gc.collect()
    assert (len(pool), copies(kept)) == (1, all_of(b"kept"))
    out = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/maps').read())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "percpu:" not in out.stdout


def test_a_child_that_is_killed_while_it_allocates() -> None:
    pool = PerCpuPool(64, populate="init", init=b"initial")
    item = pool.alloc()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            while True:
                pool.alloc(b"child").free()
        assert copies(pool.alloc(b"parent")) == all_of(b"parent")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert copies(item) == all_of(b"initial")
    pool.check()


# ---- in callbacks ------------------------------------------------------------------------------

FORK_IN_CALLBACKS = """
import os, sys, percpu
depth, children = [0], []

def fork(where):
    if depth[0] < 2:
        pid = os.fork()
        if pid == 0:
            depth[0] += 1
            children.clear()
        else:
            children.append((where, pid))

def init(cpu, memory):
    memory[:] = b'i' * len(memory)
    if cpu == 1:
        fork('init')

def ctor(item):
    fork('ctor')
    for copy in item:
        assert bytes(copy) == bytes([copy[0]]) * len(copy)
        copy[:4] = b'ctor'

ended = []
def dtor(item):
    assert bytes(item[0][:4]) == b'ctor'
    ended.append(item.address())
    fork('dtor')

def use(wishes):
    pool = percpu.PerCpuPool(2048, stride=8192, populate=POPULATE, **wishes)
    items = [pool.alloc() for _ in range(5)]
    for item in items:
        assert wishes.keys() == {'init'} or bytes(item[1][:4]) == b'ctor', bytes(item[1][:8])
    pool.check()
    for item in items:
        item.free()
    pool.trim()
    assert 'dtor' not in wishes or len(ended) == 5, ended
    ended.clear()
    again = pool.alloc()
    pool.check()
    assert len(pool) == 1
    del again
    pool.close()
    ended.clear()

use({'init': init})
use({'ctor': ctor, 'dtor': dtor})
use({'init': init, 'ctor': ctor, 'dtor': dtor, 'robust': True})
for where, pid in children:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, (where, depth, status)
if depth[0] == 0:
    assert {where for where, pid in children} == {'init', 'ctor', 'dtor'}
sys.stdout.flush(); sys.stderr.flush()
os._exit(0)
"""


@each_populate
def test_forks_in_callbacks(populate: str) -> None:
    """The child goes on in the middle of the callback, and ends the parent's call as its own."""
    run_python(f"POPULATE = {populate!r}\n{FORK_IN_CALLBACKS}", deadline=120)


@many_threads
def test_forks_while_another_thread_is_in_a_callback() -> None:
    """Its range is not made in the child, and nobody there waits for it."""
    inside, forked = threading.Event(), threading.Event()

    def init(cpu: int | None, memory: memoryview) -> None:
        if kept and cpu == 0 and threading.current_thread() is not threading.main_thread():
            inside.set()
            assert forked.wait(60)

    kept: list[PerCpuItem] = []
    pool = PerCpuPool(PAGE, stride=PAGE, populate="init", init=init, max_ranges=3)
    kept.append(pool.alloc())
    grower = threading.Thread(target=lambda: kept.append(pool.alloc()))
    grower.start()
    assert inside.wait(60)

    def child() -> None:
        pool.check()
        kept.append(pool.alloc())
        kept.append(pool.alloc())
        with pytest.raises(MemoryError):
            pool.alloc()
        assert pool.stats()["ranges"] == 3

    run_forked(child)
    forked.set()
    grower.join(60)
    assert not grower.is_alive()
    kept.append(pool.alloc())
    assert (len(kept), pool.stats()["ranges"]) == (3, 3)
    pool.check()


def test_descriptors_of_ranges_are_not_left_open() -> None:
    before = descriptors()
    pool = PerCpuPool(PAGE, stride=PAGE, populate="init", init=b"x")
    items = [pool.alloc() for _ in range(50)]
    assert (descriptors(), pool.stats()["ranges"]) == (before, 50)
    assert not [link for link in Path("/proc/self/fd").iterdir() if "memfd:percpu" in read(link)]
    assert len(items) == 50


def read(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""
