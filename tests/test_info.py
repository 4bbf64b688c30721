"""What percpu says about the machine: it agrees with what the system says elsewhere."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import pytest
from together import run_python

import percpu

SYSFS = Path("/sys/devices/system")
info = percpu.info()


def ids(text: str) -> tuple[int, ...]:
    """The ids of the kernel's list format, "0-3,8"."""
    found: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low:
            found += range(int(low), int(high or low) + 1)
    return tuple(found)


def test_cpus_and_nodes_are_those_of_sysfs() -> None:
    assert info.cpus_possible == ids((SYSFS / "cpu/possible").read_text())
    assert info.cpus_online == ids((SYSFS / "cpu/online").read_text())
    if (SYSFS / "node/online").exists():
        assert tuple(info.nodes) == ids((SYSFS / "node/online").read_text())
        for node, cpus in info.nodes.items():
            assert cpus == ids((SYSFS / f"node/node{node}/cpulist").read_text())


def test_there_is_a_copy_for_every_possible_cpu() -> None:
    assert len(percpu.PerCpuVar("q")) == max(info.cpus_possible) + 1


def test_allowed_cpus_follow_the_affinity_mask(allowed_cpus: list[int]) -> None:
    assert percpu.info().cpus_allowed == tuple(allowed_cpus)
    for cpu in allowed_cpus:
        os.sched_setaffinity(0, {cpu})
        assert percpu.info().cpus_allowed == (cpu,)
        assert percpu.current_cpu() == cpu
        assert percpu.current_node() in info.nodes
        assert cpu in info.nodes[percpu.current_node()]


def test_the_mode_is_the_one_asked_for() -> None:
    asked = os.environ.get("PERCPU_RSEQ")
    assert info.rseq in ("glibc", "own", "none")
    assert info.reason
    if asked == "none":
        assert info.rseq == "none"
        assert "PERCPU_RSEQ=none" in info.reason
    if info.rseq == "none":
        assert (info.feature_size, info.mm_cid, info.node_id) == (0, False, False)
    else:
        assert info.fence
        assert info.mm_cid == (info.feature_size >= 28)
        assert info.node_id == (info.feature_size >= 24)


def test_concurrency_ids_are_small_or_refused() -> None:
    if info.mm_cid:
        assert 0 <= percpu.current_cid() <= max(info.cpus_possible)
    else:
        with pytest.raises(OSError, match="mm_cid"):
            percpu.current_cid()


def test_the_picture_has_everything() -> None:
    text = str(info)
    assert info.rseq in text
    assert info.reason in text
    assert platform.release() in text
    assert re.search(r"CPUs possible\s+0", text)
    html = info._repr_html_()
    assert "<table" in html
    assert platform.release() in html


def test_headers_are_where_get_include_says() -> None:
    include = Path(percpu.get_include())
    assert (include / "percpu" / "percpu.h").is_file()
    assert (include / "percpu" / "arch" / "generic.h").is_file()


def test_an_unreadable_sysfs_is_survived() -> None:
    """Through the core's test hook: fewer facts, the same copies, and everything still counts."""
    run_python(
        "import ctypes, os, percpu\n"
        "core = ctypes.CDLL(percpu._core.__file__)\n"
        "before = len(percpu.PerCpuVar('q'))\n"
        "core.percpu_topology_set_root(ctypes.c_char_p(b'/nonexistent'))\n"
        "info = percpu.info()\n"
        "assert set(os.sched_getaffinity(0)) <= set(info.cpus_online), info\n"
        "assert set(info.cpus_online) <= set(info.cpus_possible), info\n"
        "assert list(info.nodes) == [0], info\n"
        "str(info), info._repr_html_()\n"
        "counter, var = percpu.PerCpuCounter(), percpu.PerCpuVar('q', 1)\n"
        "counter.inc(); var[0] = 2\n"
        "assert counter.sum() == 1 and len(var) == before\n"
        "percpu.current_cpu(); percpu.current_node()\n"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = percpu.nothing
    assert set(percpu.__all__) <= {*dir(percpu), "Info"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", percpu.__version__)
