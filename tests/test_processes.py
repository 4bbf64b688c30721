"""Beyond one interpreter: its end, forked children, other interpreters, the rseq modes, memory that
must not grow.
"""

from __future__ import annotations

import gc
import sysconfig
import threading
from collections.abc import Callable

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

from percpu import PerCpuCounter, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# ---- the interpreter's end ---------------------------------------------------------------------


def test_an_interpreter_ends_with_live_objects() -> None:
    """Globals, cycles and views are torn down in any order, and after the module's state."""
    run_python(
        "import percpu, atexit, sys\n"
        "pool = percpu.PerCpuPool(64)\n"
        "item, var = pool.alloc(b'x'), percpu.PerCpuVar('q', 3, pool=pool)\n"
        "counter, view = percpu.PerCpuCounter(pool=pool), item[0]\n"
        "whole = memoryview(var)\n"
        "class Pool(percpu.PerCpuPool): pass\n"
        "own = Pool(16); own.cycle = [own, percpu.PerCpuCounter(pool=own), own.alloc()]\n"
        "class Last(percpu.PerCpuCounter):\n"
        "    def __del__(self):\n"
        "        self.inc(); assert self.sum() == 1; repr(self); self.close()\n"
        "last = Last()\n"
        "sys.modules['kept'] = [pool, item, var, counter, view, last]\n"
        "atexit.register(lambda: counter.inc() or counter.sum())\n"
        "print('end')\n"
    )


def test_errors_at_the_interpreters_end_do_not_crash() -> None:
    """A __del__ that runs when the module's state is gone gets an exception at worst."""
    run_python(
        "import percpu, sys\n"
        "class Late:\n"
        "    def __init__(self):\n"
        "        self.pool = percpu.PerCpuPool(16); self.item = self.pool.alloc()\n"
        "        self.var = percpu.PerCpuVar('b'); self.counter = percpu.PerCpuCounter()\n"
        "        self.calls = [self.pool.alloc, self.item.free, self.var.inc, self.counter.inc,\n"
        "                      lambda: self.var.add(1000), lambda: self.item[0],\n"
        "                      lambda: self.counter < self.counter, self.pool.close,\n"
        "                      lambda: percpu.PerCpuCounter(pool=self.pool), self.item.free]\n"
        "    def __del__(self):\n"
        "        for call in self.calls:\n"
        "            try: call()\n"
        "            except Exception: pass\n"
        "cycle = Late(); cycle.me = cycle; sys.late = cycle\n"
        "class Meta(type):\n"
        "    def __del__(cls): cls.late.__del__()\n"
        "class Holder(metaclass=Meta): late = Late()\n"
    )


def test_daemon_threads_that_count_until_the_end() -> None:
    """They are stopped somewhere inside a call, or afterwards, with objects in their hands."""
    for _ in range(3):
        run_python(
            "import percpu, threading, time\n"
            "pool = percpu.PerCpuPool(64)\n"
            "counter, var = percpu.PerCpuCounter(pool=pool), percpu.PerCpuVar('d')\n"
            "def work():\n"
            "    while True:\n"
            "        counter.inc(); var.add(1.5); item = pool.alloc(); item[0][0] = 1\n"
            "        del item; percpu.PerCpuCounter().inc(); var[0] = 1\n"
            "for _ in range(6): threading.Thread(target=work, daemon=True).start()\n"
            "time.sleep(0.1)\n"
        )


# ---- forked children ---------------------------------------------------------------------------


def use_everything(counter: PerCpuCounter, var: PerCpuVar, pool: PerCpuPool) -> None:
    """All that a child may want to do, with known results."""
    before, sum_before, live = counter.sum(), var.sum(), len(pool)
    for _ in range(100):
        counter.inc()
        var.inc()
    assert (counter.sum(), var.sum()) == (before + 100, sum_before + 100)
    counter.check()
    assert abs(counter.read() - counter.sum()) <= counter.error
    for cpu in range(CPUS):
        var[cpu] = 9
    items = [pool.alloc(b"child") for _ in range(300)]
    assert all(bytes(item[CPUS - 1][:6]) == b"child\0" for item in items)
    assert len(pool) == live + 300
    pool.check()
    with PerCpuPool(16) as another, PerCpuCounter(1, pool=another) as fresh:
        assert fresh.sum() == 1
    run_together(*(counter.inc for _ in range(4)))
    assert counter.sum() == before + 104


def test_a_child_has_copies_of_its_own() -> None:
    pool = PerCpuPool(16)
    counter, var = PerCpuCounter(5, pool=pool), PerCpuVar("q", 7, pool=pool)
    item = pool.alloc(b"parent")

    def child() -> None:
        use_everything(counter, var, pool)
        item[0][:6] = b"child!"
        item.free()

    run_forked(child)
    assert (counter.sum(), list(var), len(pool)) == (5, [7] * CPUS, 3)
    assert bytes(item[0][:6]) == b"parent"
    use_everything(counter, var, pool)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_of_a_busy_process_can_do_everything() -> None:
    """Other threads count, allocate and write remotely at the moment of each fork."""
    pool = PerCpuPool(64)
    counter, var = PerCpuCounter(batch=2, lazy=False), PerCpuVar("Q")
    stop = threading.Event()

    def until_stopped(body: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            while not stop.is_set():
                body()

        return run

    def fork() -> None:
        try:
            for _ in range(30 if THOROUGH else 8):
                low = counter.sum()

                def child(low: int = low) -> None:
                    stop.set()
                    assert counter.sum() >= low
                    use_everything(counter, PerCpuVar("q"), pool)
                    var[0] = 3

                run_forked(child)
        finally:
            stop.set()

    bodies = [counter.inc, pool.alloc, lambda: var.__setitem__(0, 1), lambda: var.add(1)]
    run_together(fork, *(until_stopped(body) for body in bodies))
    gc.collect()
    counter.check()
    pool.check()
    assert len(pool) == 0


def test_a_child_of_a_signal_storm() -> None:
    counter = PerCpuCounter(batch=1, lazy=False)
    with storm(counter.inc, period=0.001):
        for _ in range(5):
            run_forked(lambda: use_everything(counter, PerCpuVar("q"), PerCpuPool(64)))
    counter.check()


# ---- other interpreters ------------------------------------------------------------------------

IN_AN_INTERPRETER = """
import percpu, threading
pool = percpu.PerCpuPool(16)
counter, var = percpu.PerCpuCounter(pool=pool), percpu.PerCpuVar('q')
def work():
    for _ in range(2000):
        counter.inc(); var.add(2)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert counter.sum() == 4000 and var.sum() == 8000, (counter, var)
pool.check()
try: counter.add(1.5)
except TypeError: pass
try: pool.close(); counter.inc(); raise SystemExit('not closed')
except percpu.ClosedError: pass
left = percpu.PerCpuCounter()  # alive when the interpreter ends
"""


@needs_interpreters
def test_other_interpreters_have_their_own_types_and_all_of_the_core() -> None:
    """Each interpreter has a GIL of its own; heap types and module state keep them apart."""
    run_in_interpreters(IN_AN_INTERPRETER)


@pytest.mark.skipif(not FREE_THREADED, reason="this interpreter has the GIL")
def test_importing_percpu_does_not_bring_the_gil_back() -> None:
    run_python("import percpu, sys\nassert not sys._is_gil_enabled()\n")


# ---- modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "tunables", "allowed"),
    [
        ("none", "", {"none"}),
        ("own", "glibc.pthread.rseq=0", {"own", "none"}),
        ("", "glibc.pthread.rseq=0", {"own", "none"}),
        ("", "", {"glibc", "own", "none"}),
    ],
)
def test_every_mode_counts_exactly(asked: str, tunables: str, allowed: set[str]) -> None:
    out = run_python(
        "import percpu, threading\n"
        "counter, var = percpu.PerCpuCounter(), percpu.PerCpuVar('h')\n"
        "def work():\n"
        "    for _ in range(5000): counter.inc(); var.inc()\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "var[0] = 5\n"
        "assert counter.sum() == 20000, counter\n"
        "counter.check()\n"
        "print(percpu.info().rseq)\n",
        PERCPU_RSEQ=asked,
        GLIBC_TUNABLES=tunables,
    )
    assert out.strip() in allowed


# ---- leaks -------------------------------------------------------------------------------------


def resident_kib() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))


def make_and_drop() -> None:
    with PerCpuPool(64, stride=4096) as pool:
        items = [pool.alloc(b"x") for _ in range(10)]
        var, counter = PerCpuVar("q", 1, pool=pool), PerCpuCounter(pool=pool)
        counter.inc()
        memoryview(var).release()
        items[0][0].release()
        repr([items, var, counter, pool])
        pool.stats()
        counter.per_cpu()
        list(var)


def fail_in_every_way() -> None:
    pool = PerCpuPool(4096, stride=4096, max_ranges=1)
    kept = pool.alloc()
    calls: list[Callable[[], object]] = [
        pool.alloc,
        lambda: pool.alloc(b"x" * 5000),
        lambda: PerCpuVar("x"),
        lambda: PerCpuVar("b", 1000),
        lambda: PerCpuCounter(batch=0),
        lambda: PerCpuCounter(2**70),
        lambda: PerCpuCounter(pool=PerCpuPool(8)),
        lambda: PerCpuCounter(pool=pool),
        lambda: PerCpuPool(8, stride=5),
        lambda: PerCpuVar("q").add(1.5),
        lambda: kept[10000],
    ]
    for call in calls:
        try:
            call()
        except (ValueError, TypeError, OverflowError, MemoryError, IndexError):
            continue
        raise AssertionError(f"{call} was not refused")


@pytest.mark.parametrize("body", [make_and_drop, fail_in_every_way])
def test_memory_does_not_grow(body: Callable[[], None]) -> None:
    """What a loop leaves behind at each turn, be it 64 bytes, would show."""
    turns = 4000 if THOROUGH else 1000
    if FREE_THREADED:
        turns //= 100  # there, whoever finds a pool exhausted collects garbage first

    def repeat() -> None:
        for _ in range(turns):
            body()
        gc.collect()

    repeat()
    before = resident_kib()
    repeat()
    grown = resident_kib() - before
    assert grown < max(256, turns * 48 // 1024), f"{grown} KiB"


def test_threads_leave_nothing_behind() -> None:
    """A thread's registration and its caches are given back: RSS and threads stay level."""
    counter = PerCpuCounter()

    def many() -> None:
        for _ in range(20):
            run_together(*(counter.inc for _ in range(10)))

    for _ in range(2):
        many()
    before = resident_kib()
    many()
    grown = resident_kib() - before
    assert grown < 2048, f"{grown} KiB"  # the stacks of 200 threads alone would be more
    assert counter.sum() == 600
