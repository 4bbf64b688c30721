"""The race: no scheme that promises exact sums loses a count, whatever the threads do."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

import percpu
from percpu import _core, race
from percpu._harness import EMPTY, POOL, Reads, Run, race_once
from percpu._plot import _apart
from percpu._stats import Spread

SCHEMES = {scheme.name: scheme for scheme in race.schemes()}
EXACT = [name for name, scheme in SCHEMES.items() if scheme.promise == "exact"]
CPUS = sorted(os.sched_getaffinity(0))
needs_two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="this process may use one CPU only")


@pytest.fixture
def affinity() -> Iterator[None]:
    """Put the calling thread's affinity mask back afterwards."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


# ---- counts -------------------------------------------------------------------------------


def test_these_are_the_schemes() -> None:
    assert list(SCHEMES) == [
        "racy",
        "mutex",
        "atomic",
        "packed",
        "padded",
        "tls",
        "var",
        "counter-32",
        "counter-1024",
        "counter-lazy",
    ]
    assert [name for name in SCHEMES if name not in EXACT] == ["racy"]
    with_read = [name for name, scheme in SCHEMES.items() if scheme.has_read]
    assert with_read == ["counter-32", "counter-1024", "counter-lazy"]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("name", EXACT)
def test_exact_schemes_lose_nothing(name: str, threads: int) -> None:
    for _ in range(3):
        run = race_once(name, threads, 0.02)
        assert run.adds >= threads * 1024  # a chunk each, at least
        assert run.sum == run.adds
        assert run.lost == 0


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("name", EXACT)
def test_sums_are_right_while_threads_add(name: str, threads: int) -> None:
    run = race_once(name, threads, 0.05, read=True)
    reads = run.reads
    assert reads is not None
    assert run.lost == 0
    assert reads.sums_checked > 0
    assert reads.sums_wrong == 0
    assert reads.sum_ns > 0
    if SCHEMES[name].has_read:
        assert reads.reads_checked is not None
        assert reads.reads_checked > 0
        assert reads.worst_error is not None
        assert reads.promised_error is not None
        assert 0 <= reads.worst_error <= reads.promised_error
    else:
        assert (reads.reads_checked, reads.read_ns, reads.promised_error) == (None, None, None)


@needs_two_cpus
def test_the_racy_scheme_loses_counts() -> None:
    """If it did not, the race could not tell a right scheme from a wrong one."""
    for _ in range(200):
        run = race_once("racy", 2, 0.05)
        assert run.lost >= 0
        if run.lost:
            return
    pytest.fail("two threads never lost a count in 10 seconds of racing")


@needs_two_cpus
def test_the_reader_notices_wrong_sums() -> None:
    """The racy scheme's sums are wrong while its threads add, and the sampler says so."""
    for _ in range(200):
        reads = race_once("racy", 2, 0.05, read=True).reads
        assert reads is not None
        if reads.sums_wrong:
            return
    pytest.fail("no sum was seen to be wrong in 10 seconds of racing")


@needs_two_cpus
def test_a_rough_read_is_seen_to_be_off() -> None:
    """If it never were, its worst error would say nothing."""
    for _ in range(200):
        reads = race_once("counter-1024", 2, 0.05, read=True).reads
        assert reads is not None
        if reads.worst_error:
            return
    pytest.fail("no rough read was off in 10 seconds of racing")


def test_racy_is_exact_with_one_thread() -> None:
    assert race_once("racy", 1, 0.02).lost == 0


def test_what_is_no_scheme_can_be_timed_too() -> None:
    assert race_once(EMPTY, 2, 0.01).ns_per_add > 0
    run = race_once(POOL, 2, 0.01)
    assert run.sum == 0  # allocations that failed
    assert EMPTY not in SCHEMES
    assert POOL not in SCHEMES


def test_counts_stay_exact_while_the_affinity_of_all_threads_changes() -> None:
    """The threads are herded from CPU to CPU, the ones the harness pinned included."""
    done = threading.Event()

    def herd() -> None:
        turn = 0
        while not done.wait(0.002):
            turn += 1
            for task in os.listdir("/proc/self/task"):
                try:
                    os.sched_setaffinity(int(task), {CPUS[turn % len(CPUS)]})
                except ProcessLookupError:
                    continue  # it ended meanwhile
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), CPUS)

    herder = threading.Thread(target=herd)
    herder.start()
    try:
        for name in EXACT:
            for threads in (1, 2, 3):
                run = race_once(name, threads, 0.03, read=True)
                assert run.lost == 0, name
                assert run.reads is not None
                assert run.reads.sums_wrong == 0, name
    finally:
        done.set()
        herder.join()


# ---- the harness --------------------------------------------------------------------------


def test_threads_are_pinned_while_there_is_a_cpu_for_each() -> None:
    cpus = len(CPUS)
    run = race_once("var", cpus, 0.01)
    assert (run.cpus, run.pinned) == (cpus, cpus)
    assert race_once("var", cpus + 1, 0.01).pinned == 0
    assert race_once("var", cpus, 0.01, pin=False).pinned == 0


@pytest.mark.usefixtures("affinity")
def test_threads_stay_on_the_cpus_that_the_caller_may_use() -> None:
    os.sched_setaffinity(0, {CPUS[-1]})
    run = race_once("var", 1, 0.01)
    assert (run.cpus, run.pinned, run.lost) == (1, 1, 0)
    run = race_once("var", 2, 0.01)
    assert (run.cpus, run.pinned, run.lost) == (1, 0, 0)


def test_cost_is_wall_time_by_cpus_at_work() -> None:
    run = Run("var", threads=4, adds=1000, sum=990, wall_ns=500, cpu_ns=750, cpus=2, pinned=0)
    assert run.ns_per_add == 1.0
    assert run.cpu_share == 0.75
    assert run.lost == 10
    assert replace(run, threads=1).ns_per_add == 0.5


def test_the_gil_is_released_while_threads_add() -> None:
    about_to_start = threading.Event()
    runs = []

    def work() -> None:
        about_to_start.set()
        runs.append(race_once("atomic", 1, 0.5))

    thread = threading.Thread(target=work)
    thread.start()
    about_to_start.wait()
    turns = 0
    while thread.is_alive():
        time.sleep(0.01)
        turns += 1
    assert runs[0].lost == 0
    assert turns >= 5


@pytest.mark.parametrize("read", [False, True])
def test_ctrl_c_ends_a_run(read: bool) -> None:
    """The run would take 10 minutes: pytest's own limit, or a person's patience, fails this."""
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        race_once("var", 2, 600, read=read)
    killer.join()
    assert race_once("var", 2, 0.01, read=read).lost == 0


def test_many_threads() -> None:
    run = race_once("counter-32", 200, 0.01)
    assert run.lost == 0
    assert run.adds >= 200 * 1024


def test_no_room_for_threads_is_an_error_and_the_next_run_works() -> None:
    code = """
        import resource
        from percpu._harness import race_once
        race_once("var", 2, 0.01)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        limit = used + (64 << 20)  # stacks for about 256 threads
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            race_once("var", 4096, 0.01)
        except (OSError, MemoryError) as error:
            print(type(error).__name__)
        assert race_once("var", 2, 0.01).lost == 0
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("BlockingIOError", "MemoryError", "OSError")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nonsense", 1, 0.01, True, False), ValueError, "nonsense"),
        (("var", 0, 0.01, True, False), ValueError, "threads must be from 1 to 4096, not 0"),
        (("var", 4097, 0.01, True, False), ValueError, "not 4097"),
        (("var", 1, 0.0, True, False), ValueError, "seconds"),
        (("var", 1, -1.0, True, False), ValueError, "seconds"),
        (("var", 1, math.nan, True, False), ValueError, "seconds"),
        (("var", 1, math.inf, True, False), ValueError, "seconds"),
        (("var", 1.5, 0.01, True, False), TypeError, "float"),
        (("var", 10**30, 0.01, True, False), OverflowError, "too large"),
        (("var", "1", 0.01, True, False), TypeError, "str"),
        ((1, 1, 0.01, True, False), TypeError, "int"),
        (("var",), TypeError, "5 arguments"),
    ],
)
def test_bad_arguments_of_a_run(
    arguments: tuple[object, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        _core._race_run(*arguments)  # type: ignore[arg-type]


def test_sizes() -> None:
    assert SCHEMES["padded"].size(512, 1) == 512 * 64
    assert SCHEMES["packed"].size(512, 1) == 512 * 8
    assert SCHEMES["atomic"].size(512, 512) == SCHEMES["atomic"].size(1, 1) == 8
    assert SCHEMES["tls"].size(1, 100) > SCHEMES["tls"].size(100, 1)
    assert SCHEMES["counter-32"].size(513, 1) - SCHEMES["counter-32"].size(512, 1) == 16
    with pytest.raises(ValueError, match="cpus"):
        SCHEMES["var"].size(0, 1)
    with pytest.raises(ValueError, match="threads"):
        SCHEMES["var"].size(1, 0)


# ---- the report ---------------------------------------------------------------------------


OPTIONS = race.Options(
    schemes=("racy", "var", "counter-32"), threads=(1, 2), seconds=0.005, repeats=3, python=True
)


@pytest.fixture(scope="module")
def report() -> race.Report:
    return race.run(OPTIONS)


def test_a_run_goes_in_rounds(report: race.Report) -> None:
    order = [(run.threads, run.scheme) for run in report.adds]
    one_round = [(n, name) for n in (1, 2) for name in (EMPTY, *OPTIONS.schemes)]
    assert order == one_round * 3
    assert [(run.threads, run.scheme) for run in report.reads] == [
        (n, name) for n in (1, 2) for name in OPTIONS.schemes
    ]
    assert all(len(samples) == 3 for samples in report.calls.values())


def test_progress_is_told_before_each_step() -> None:
    told: list[str] = []
    options = race.Options(schemes=("var",), threads=(2,), seconds=0.001, repeats=2, python=False)
    race.run(options, told.append)
    assert told == ["empty, 2 threads", "var, 2 threads"] * 2 + ["var, 2 threads"]
    assert len(race.steps(options)) == len(told)


def test_python_calls_count_what_they_say(report: race.Report) -> None:
    assert list(report.calls) == [
        "empty loop",
        "no-op C method",
        "no-op C method of 1 argument",
        "c.inc()",
        "c.add(1)",
        "c += 1",
        "o.n += 1",
        "with lock: o.n += 1",
        "next(itertools.count())",
    ]
    from percpu import _calls

    counter = percpu.PerCpuCounter()
    _calls.inc(counter).loop()(3)
    assert counter.sum() == 30
    _calls.add(counter).loop()(2)
    assert counter.sum() == 50


def test_the_json_has_every_sample(report: race.Report) -> None:
    content = json.loads(report.to_json())
    assert content["format"] == 1
    assert content["options"]["threads"] == [1, 2]
    machine = content["machine"]
    assert {"cpu", "kernel", "python", "gil", "percpu", "info", "cpus_allowed"} <= set(machine)
    assert machine["info"]["rseq"] == percpu.info().rseq
    assert [s["name"] for s in content["schemes"]] == list(OPTIONS.schemes)
    assert all(s["bytes_here"] > 0 and s["bytes_on_512_cpus"] > 0 for s in content["schemes"])
    assert len(content["add_runs"]) == 3 * 2 * 4
    for run in content["add_runs"]:
        assert run["ns_per_add"] > 0
        assert ("lost" in run) == (run["scheme"] != EMPTY)
    assert len(content["read_runs"]) == 2 * 3
    assert all(run["reads"]["sums_checked"] > 0 for run in content["read_runs"])
    for row in content["ns_per_add"]:
        assert row["least"] <= row["low"] <= row["median"] <= row["high"] <= row["most"]
    assert len(content["python_calls"]) == 9
    assert all(len(row["samples"]) == 3 for row in content["python_calls"])
    assert content["broken_promises"] == []


def test_broken_promises_are_found(report: race.Report) -> None:
    good = next(run for run in report.adds if run.scheme == "var")
    reads = next(run.reads for run in report.reads if run.scheme == "counter-32")
    assert reads is not None
    bad = [
        replace(good, sum=good.adds - 3),
        replace(good, sum=good.adds + 1),
        replace(good, reads=Reads(sums_checked=10, sums_wrong=1, sum_ns=1.0)),
        replace(good, scheme="counter-32", reads=replace(reads, worst_error=6, promised_error=5)),
    ]
    sentences = [race.Report(OPTIONS, {}, adds=[run]).broken_promises() for run in bad]
    assert [len(found) for found in sentences] == [1, 1, 1, 1]
    assert "lost 3 of" in sentences[0][0]
    assert "made up 1 of" in sentences[1][0]
    assert "1 wrong sums of 10" in sentences[2][0]
    assert "6 off, beyond the promised 5" in sentences[3][0]
    racy = replace(good, scheme="racy", sum=0)
    assert race.Report(OPTIONS, {}, adds=[racy]).broken_promises() == []


def test_other_programs_are_noticed() -> None:
    busy = Run(EMPTY, threads=2, adds=1, sum=0, wall_ns=100, cpu_ns=150, cpus=2, pinned=2)
    assert race.Report(OPTIONS, {}, adds=[busy]).taken_by_others() == pytest.approx(0.25)
    assert race.Report(OPTIONS, {}).taken_by_others() == 0


def test_spread() -> None:
    spread = Spread.of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (spread.least, spread.low, spread.median, spread.high, spread.most) == (1, 2, 3, 4, 100)
    assert spread.half_width == 1
    assert Spread.of([7.0]) == Spread(7, 7, 7, 7, 7)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@pytest.mark.parametrize(
    "wanted", [[], [1.0], [0.0, 5.0, 9.0], [1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 6.0]]
)
def test_labels_are_moved_apart_but_no_further_than_needed(wanted: list[float]) -> None:
    placed = _apart(wanted, 1.0)
    assert len(placed) == len(wanted)
    assert all(b - a >= 1.0 - 1e-9 for a, b in pairwise(placed))
    assert sum(placed) == pytest.approx(sum(wanted))
    if all(b - a >= 1.0 for a, b in pairwise(wanted)):
        assert placed == pytest.approx(wanted)
