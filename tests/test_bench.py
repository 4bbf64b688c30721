"""The benchmark: every target is there, says what it compares, and why it is not measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import percpu
from percpu import _core, _machine, bench

TARGETS = {
    "this_cpu_add, 1 thread / lock xadd": 0.20,
    "this_cpu_add, 2 threads / 1 thread": 1.10,
    "counter add, batch 32 / lock xadd": 0.25,
    "counter add, batch 1024 / lock xadd": 0.18,
    "pool alloc+free, 1 thread / lock xadd": 0.80,
    "pool alloc+free, 2 threads / 1 thread": 1.20,
    "fresh item, 512-CPU pool / {few}-CPU pool": 1.50,
    "make + close, 512-CPU pool / map+touch+unmap": 8.0,
    "extra memory, 512-CPU pool": 16.0,
    "Python c.inc() / no-op method": 1.35,
    "Python c.add(1) / no-op method(1)": 1.60,
    "Python shared c, 2 threads / a counter each": 1.30,
}


def test_every_target_has_its_line() -> None:
    few = max(2, _machine.copies())
    if few > 512:
        pytest.skip("the pools of this benchmark are larger on this machine")
    lines = {line.title(): line for line in bench.lines()}
    aimed_at = _machine.gil_enabled() and sys.version_info < (3, 14)
    for title, target in TARGETS.items():
        line = lines[title.format(few=few)]
        for_python = title.startswith("Python c.")
        assert line.target == (target if aimed_at or not for_python else None), title
    others = [line for title, line in lines.items() if line.target is None]
    assert {line.subject.name for line in others} >= {"mutex + add, 1 thread", "empty native loop"}


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
    assert measured == ["fresh item, 512-CPU pool", "extra memory, 512-CPU pool"]


def test_two_threads_count_on_the_counters_they_were_given() -> None:
    shared, one, two = (percpu.PerCpuCounter() for _ in range(3))
    bench._two_threads((shared, shared))(0.001)
    assert shared.sum() > 0
    bench._two_threads((one, two))(0.001)
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
    for name in ("this_cpu_add, 1 thread", "counter add, batch 32", "pool alloc+free, 1 thread"):
        assert reasons[name] == "rseq is off in this process"
    assert reasons["Python c.inc()"] == ""


def test_on_one_cpu_two_threads_are_not_measured() -> None:
    reasons = _titles_and_reasons("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
    assert reasons["this_cpu_add, 2 threads"] in ("needs two CPUs", "rseq is off in this process")
    assert reasons["Python shared c, 2 threads"] != ""
    assert reasons["mutex + add, 1 thread"] == ""


# ---- the native functions -----------------------------------------------------------------


def test_the_extra_memory_of_a_large_pool_is_small() -> None:
    """512 CPUs' worth of copies cost address space, not memory. 64 KiB leaves room for others."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("there is no smaps_rollup in /proc")
    cpus = max(512, _machine.copies())
    resident, written = _core._bench_resident(cpus, 512)
    assert written == 2 * 512 * 64
    assert resident - written < 64 << 10


def test_the_address_space_of_a_pool_is_what_it_is_compared_with() -> None:
    cpus = max(512, _machine.copies())
    ns, length = _core._bench_create(cpus, 1e-6)
    assert ns > 0
    assert length >= cpus * (64 << 10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _core._bench_fresh(0, 0.01), "cpus must be from"),
        (lambda: _core._bench_fresh(8193, 0.01), "not 8193"),
        (lambda: _core._bench_fresh(512, 0.0), "seconds"),
        (lambda: _core._bench_create(512, float("nan")), "seconds"),
        (lambda: _core._bench_create(-1, 0.01), "not -1"),
        (lambda: _core._bench_map(0, 0.01), "length must be from 1"),
        (lambda: _core._bench_resident(512, 0), "items must be from 1"),
    ],
)
def test_bad_arguments_of_the_native_functions(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words):
        call()


def test_too_many_items_or_too_much_address_space_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        _core._bench_resident(max(2, _machine.copies()), 1 << 20)  # more than one range holds
    with pytest.raises(MemoryError):
        _core._bench_map(1 << 60, 0.01)
