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


def test_dir_names_what_is_public() -> None:
    names = dir(percpu)
    assert names == sorted(names)
    assert set(percpu.__all__) <= set(names)
    assert {"__doc__", "__file__", "__name__"} <= set(names)
    assert not [n for n in names if n not in percpu.__all__ and not n.startswith("__")]
    assert all(hasattr(percpu, name) for name in names)


def test_sources_that_are_not_built_say_so(tmp_path: Path) -> None:
    package = tmp_path / "percpu"
    package.mkdir()
    source = Path(percpu.__file__).read_text()
    (package / "__init__.py").write_text(source)
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        # An editable install's finder would find the real extension.
        "sys.meta_path = [f for f in sys.meta_path if f.__module__.startswith('_frozen')]\n"
        "try:\n"
        "    import percpu\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, getattr(error.__cause__, 'name', None), error)\n"
    )
    said = run_python(code)
    assert said.startswith("ImportError percpu._core the extension module of percpu is not built")
    assert str(package) in said
    assert "pip install -e ." in said
    (package / "_core.py").write_text("import percpu_no_such_module")
    said = run_python(code)
    assert said == "ModuleNotFoundError None No module named 'percpu_no_such_module'\n"


def test_concurrency_ids_are_documented_as_they_are() -> None:
    assert "number of possible CPUs" in (percpu.current_cid.__doc__ or "")
    assert "always below the number of threads" not in (percpu.PerCpuPool.__doc__ or "")
    assert "does not grow" in (percpu.PerCpuCounter.read.__doc__ or "")
