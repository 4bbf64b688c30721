"""The benchmark: every target is there, says what it compares, and why it is not measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import percpu
from percpu import _core, _machine, bench
from percpu._bench import python

TARGETS = {
    "this_cpu_add, 1 thread / lock xadd": 0.20,
    "this_cpu_add, 2 threads / 1 thread": 1.10,
    "counter add, batch 32 / lock xadd": 0.25,
    "counter add, batch 1024 / lock xadd": 0.18,
    "pool alloc+free, 1 thread / lock xadd": 0.60,
    "pool alloc+free, 2 threads / 1 thread": 1.20,
    "producer/consumer + ring / pool alloc+free": 10.0,
    "robust pool alloc+free / pool alloc+free": 3.0,
    "fresh item, 512-CPU pool / {few}-CPU pool": 1.50,
    "reused item, 512-CPU pool / {few}-CPU pool": 4.0,
    "make + close, 512-CPU pool / map+touch+unmap": 8.0,
    "same bytes, 512-CPU init / {few}-CPU init": 1.50,
    "make + close, 512-CPU init / 512 file maps": 1.30,
    "extra memory, 512-CPU pool": 16.0,
    "memory of 10000 items, MiB": 1.0,
    "Python c.inc() / no-op method": 1.35,
    "Python c.add(1) / no-op method(1)": 1.60,
    "Python shared c, 2 threads / a counter each": 1.30,
    "Python h.inc() / Python c.inc()": 1.30,
    "Python s.inc(h) / Python c.inc()": 1.30,
}


def test_every_target_has_its_line() -> None:
    few = max(2, _machine.copies())
    if few > 512:
        pytest.skip("the pools of this benchmark are larger on this machine")
    lines = {line.title(): line for line in bench.lines()}
    aimed_at = _machine.gil_enabled() and sys.version_info < (3, 14)
    for title, target in TARGETS.items():
        line = lines[title.format(few=few)]
        for_python = title.startswith(("Python c.", "Python h.", "Python s."))
        assert line.target == (target if aimed_at or not for_python else None), title
    others = {line.subject.name for line in lines.values() if line.target is None}
    assert others >= {
        "mutex + add, 1 thread",
        "empty native loop",
        "that ring without a pool",
        "other bytes, 512-CPU init",
    }


def test_every_line_gives_a_figure_or_a_reason() -> None:
    report = bench.run(bench.lines(), seconds=0.001, repeats=2)
    assert report.errors() == []
    for result in report.results:
        if result.line.why_not:
            assert (result.figure, result.met) == (None, None)
            assert result.measured == []
        else:
            assert len(result.measured) == 2
            assert result.figure is not None
            assert result.figure >= 0
            assert (result.met is None) == (result.line.target is None)
    content = json.loads(report.to_json())
    assert content["format"] == 1
    assert len(content["lines"]) == len(report.results)
    assert content["machine"]["info"]["rseq"] == percpu.info().rseq
    for line, result in zip(content["lines"], report.results, strict=True):
        assert line["measured"] == result.measured
        assert line["target"] == result.line.target


def test_figures_are_ratios_of_medians() -> None:
    line = bench.Line(bench.Subject("a", float), bench.Subject("b", float), 0.5)
    result = bench.Result(line, [1.0, 2.0, 9.0], [4.0, 4.0, 100.0])
    assert result.figure == 0.5
    assert result.met is True
    assert bench.Result(line, [2.1], [4.0]).met is False
    alone = bench.Line(bench.Subject("a", float), None, 16.0)
    assert bench.Result(alone, [8.0, 16.5, 99.0], []).figure == 16.5
    assert bench.Result(alone, [16.5], []).met is False


def test_lines_are_chosen_by_text_in_any_case() -> None:
    assert [line.subject.name for line in bench.lines("BATCH")] == [
        "counter add, batch 32",
        "counter add, batch 1024",
    ]
    assert bench.lines("no such text") == []


def test_a_shared_subject_is_measured_once_a_round() -> None:
    told: list[str] = []
    lines = [line for line in bench.lines("lock xadd") if line.target is None]  # in any mode
    bench.run(lines, 0.001, 3, told.append)
    assert told == ["mutex + add, 1 thread", "lock xadd", "empty native loop"] * 3
    assert bench.steps(lines, 3) == len(told)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="there is no smaps_rollup in /proc"
)
def test_what_fails_is_an_error_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(length: int, seconds: float) -> float:
        raise OSError(12, "no memory here")

    monkeypatch.setattr(_core, "_bench_map", fail)
    report = bench.run(bench.lines("512-CPU pool"), seconds=0.001, repeats=2)
    (error,) = report.errors()
    assert error.startswith("make + close, 512-CPU pool: OSError")
    assert "no memory here" in error
    measured = [result.line.subject.name for result in report.results if not result.error]
    assert measured == [
        "fresh item, 512-CPU pool",
        "reused item, 512-CPU pool",
        "extra memory, 512-CPU pool",
    ]


def test_two_threads_count_on_the_counters_they_were_given() -> None:
    shared, one, two = (percpu.PerCpuCounter() for _ in range(3))
    python.two_threads((shared, shared))(0.001)
    assert shared.sum() > 0
    python.two_threads((one, two))(0.001)
    assert 0 < two.sum() <= one.sum()  # the first was used for finding how many turns to make


def _titles_and_reasons(prepare: str, **environment: str) -> dict[str, str]:
    code = f"import os, json\n{prepare}\nfrom percpu import bench\n" + (
        "print(json.dumps({line.subject.name: line.why_not for line in bench.lines()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    reasons: dict[str, str] = json.loads(done.stdout)
    return reasons


def test_without_rseq_its_targets_are_not_measured() -> None:
    reasons = _titles_and_reasons("", PERCPU_RSEQ="none")
    for name in (
        "this_cpu_add, 1 thread",
        "counter add, batch 32",
        "pool alloc+free, 1 thread",
        "producer/consumer + ring",
        "robust pool alloc+free",
        "limiter acquire+release",
        "limiter, 2 threads",
    ):
        assert reasons[name] == "rseq is off in this process"
    assert reasons["Python c.inc()"] == ""


def test_on_one_cpu_two_threads_are_not_measured() -> None:
    reasons = _titles_and_reasons("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
    assert reasons["this_cpu_add, 2 threads"] in ("needs two CPUs", "rseq is off in this process")
    assert reasons["producer/consumer + ring"] == reasons["this_cpu_add, 2 threads"]
    assert reasons["Python shared c, 2 threads"] != ""
    assert reasons["mutex + add, 1 thread"] == ""


# ---- the native functions -----------------------------------------------------------------

POOL_BENCHES = [
    "fresh",
    "fresh same",
    "fresh other",
    "recycled",
    "make",
    "make init",
    "file maps",
]


@pytest.mark.parametrize("what", POOL_BENCHES)
def test_what_is_done_with_pools_takes_time(what: str) -> None:
    few = max(2, _machine.copies())
    for cpus in {few, max(512, few)}:
        assert _core._bench_pool(what, cpus, 1e-6) > 0


@pytest.mark.parametrize("what", POOL_BENCHES)
def test_pools_that_cannot_be_made_are_an_error(what: str) -> None:
    """With too little address space: in a process of its own, because the limit stays."""
    code = (
        "import resource\n"
        "from percpu import _core\n"
        "with open('/proc/self/statm') as sizes:\n"
        "    used = int(sizes.read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)\n"
        f"_core._bench_pool({what!r}, 8192, 1e-6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "MemoryError"


@pytest.mark.parametrize("name", ["handover", "ring"])
def test_items_are_handed_over_by_two_threads(name: str) -> None:
    for _ in range(20):  # they end in either order
        run = _core._race_run(name, 2, 0.001, True, False)
        assert run["adds"] >= 2048
        assert run["sum"] == 0  # allocations that failed
    for threads in (1, 3):
        with pytest.raises(ValueError, match=f"threads must be from 2 to 2, not {threads}"):
            _core._race_run(name, threads, 0.001, True, False)


def test_items_are_handed_over_on_one_cpu_too() -> None:
    code = (
        "import os\n"
        "from percpu import _core\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "run = _core._race_run('handover', 2, 0.02, True, False)\n"
        "print(run['adds'] >= 2048, run['sum'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"]


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="there is no smaps_rollup in /proc"
)
def test_the_memory_of_a_large_pool_is_what_was_written() -> None:
    """512 CPUs' worth of copies cost address space, not memory. 64 KiB leaves room for others."""
    cpus = max(512, _machine.copies())
    resident, written, counted = _core._bench_resident(cpus, 512, 64)
    assert written == 2 * 512 * 64
    assert resident - written < 64 << 10
    assert written < counted <= resident + (64 << 10)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="there is no smaps_rollup in /proc"
)
def test_the_memory_of_many_small_items_is_small() -> None:
    cpus = max(512, _machine.copies())
    resident, written, counted = _core._bench_resident(cpus, 10_000, 8)
    assert 2 * 10_000 * 8 <= written < 2 * (10_000 * 8 + 2 * 4096)  # in two ranges
    assert written < counted
    assert max(resident, counted) <= 1 << 20


def test_items_that_share_pages_are_not_counted_twice() -> None:
    few = max(2, _machine.copies())
    for size, slot in [(3, 4), (24, 24), (3000, 3000), (4096, 4096)]:  # in and across pages
        _, written, _ = _core._bench_resident(few, 21, size)
        least = -(-21 * slot // 4096)
        assert least <= written / (2 * 4096) <= least + 1


def test_the_address_space_of_a_pool_is_what_it_is_compared_with() -> None:
    cpus = max(512, _machine.copies())
    assert _core._bench_length(cpus) >= cpus * (64 << 10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _core._bench_pool("fresh", 0, 0.01), "cpus must be from"),
        (lambda: _core._bench_pool("make", 8193, 0.01), "not 8193"),
        (lambda: _core._bench_pool("fresh", 512, 0.0), "seconds"),
        (lambda: _core._bench_pool("recycled", 512, float("nan")), "seconds"),
        (lambda: _core._bench_pool("stale", 512, 0.01), "not 'stale'"),
        (lambda: _core._bench_length(-1), "not -1"),
        (lambda: _core._bench_map(0, 0.01), "length must be from 1"),
        (lambda: _core._bench_resident(512, 0, 8), "items must be from 1"),
        (lambda: _core._bench_resident(512, 1, 0), "size must be from 1 to"),
        (lambda: _core._bench_resident(512, 1, 4097), "not 4097"),
    ],
)
def test_bad_arguments_of_the_native_functions(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words):
        call()


def test_too_much_address_space_is_an_error() -> None:
    with pytest.raises(MemoryError):
        _core._bench_map(1 << 60, 0.01)
