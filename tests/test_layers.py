"""Every `#include` under csrc goes to its own layer or to one below.

Layers, lowest first: platform < topology < rseq < pool < counter < compat < race < python. The
directories of csrc are layers; each public header belongs to the layer that owns it, and
`percpu.h`, which includes all but librseq's, lies above the counter. The headers beside the sources
of the C core are private to their directory, and `Python.h` is the extension's alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
CORE = ["topology", "rseq", "pool", "counter"]
ORDER = ["platform", *CORE, "everything", "compat", "race", "python"]
DIRECTORIES = [*CORE, "compat", "race", "python"]
PRIVATE = {*CORE, "compat"}
HEADERS = {
    "platform.h": "platform",
    "topology.h": "topology",
    "rseq.h": "rseq",
    "ptr.h": "rseq",
    "arch.h": "rseq",
    "arch/x86_64.h": "rseq",
    "arch/aarch64.h": "rseq",
    "arch/generic.h": "rseq",
    "slow.h": "rseq",
    "this_cpu.h": "rseq",
    "sections.h": "rseq",
    "pool.h": "pool",
    "pool_set.h": "pool",
    "report.h": "pool",
    "ref.h": "counter",
    "counter.h": "counter",
    "limiter.h": "counter",
    "stats.h": "counter",
    "histogram.h": "counter",
    "percpu.h": "everything",
    "compat/rseq/mempool.h": "compat",
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def layer_of(csrc: Path, path: Path) -> str | None:
    """The layer that a file of csrc belongs to, or None if nobody gave it one."""
    public = csrc / "include" / "percpu"
    if path.is_relative_to(public):
        return HEADERS.get(path.relative_to(public).as_posix())
    directory = path.relative_to(csrc).parts[0]
    return directory if directory in DIRECTORIES else None


def resolve(csrc: Path, source: Path, name: str) -> Path | None:
    """The file of csrc that an include means, or None for the system's."""
    for directory in (source.parent, csrc, csrc / "include"):
        if (directory / name).is_file():
            return (directory / name).resolve()
    return None


def complaints(csrc: Path) -> Iterator[str]:
    """One sentence for each include, or file, that breaks the rules."""
    csrc = csrc.resolve()
    for source in sorted([*csrc.rglob("*.c"), *csrc.rglob("*.h")]):
        here, layer = source.relative_to(csrc), layer_of(csrc, source)
        if layer is None:
            yield f"{here} belongs to no layer"
            continue
        for quote, name in INCLUDE.findall(source.read_text()):
            target = resolve(csrc, source, name)
            if target is None:
                if quote == '"' or name.startswith("percpu/"):
                    yield f"{here} includes {name}, which does not exist"
                elif name == "Python.h" and layer != "python":
                    yield f"{here} includes Python.h, but is not part of the extension"
                continue
            below = layer_of(csrc, target)
            if below is None:
                continue  # complained of where it is walked itself
            if ORDER.index(below) > ORDER.index(layer):
                yield f"{here} ({layer}) includes {name} ({below}), which lies above it"
            private = target.parent.parent == csrc and target.parent.name in PRIVATE
            if private and target.parent != source.parent:
                yield f"{here} includes {name}, which is private to {below}"


def test_no_include_goes_upward() -> None:
    assert list(complaints(CSRC)) == []


def test_every_header_has_a_layer_and_exists() -> None:
    public = CSRC / "include" / "percpu"
    assert {path.relative_to(public).as_posix() for path in public.rglob("*.h")} == set(HEADERS)


@pytest.mark.parametrize(
    ("path", "line", "said"),
    [
        ("rseq/slow.c", "#include <percpu/pool.h>", "lies above"),
        ("topology/topology.c", '#  include "percpu/rseq.h"', "lies above"),
        ("include/percpu/platform.h", '#include "topology.h"', "lies above"),
        ("include/percpu/pool.h", '#include "percpu.h"', "lies above"),
        ("counter/counter.c", "#include <percpu/compat/rseq/mempool.h>", "lies above"),
        ("counter/counter.c", '#include "../pool/internal.h"', "private to pool"),
        ("compat/mempool.c", '#include "../pool/internal.h"', "private to pool"),
        ("counter/counter.c", "#include <percpu/nothing.h>", "does not exist"),
        ("pool/pool.c", "#include <Python.h>", "not part of the extension"),
        ("counter/counter.c", '#include "../planted/new.h"', "belongs to no layer"),
        ("include/percpu/new.h", "", "belongs to no layer"),
    ],
)
def test_a_planted_violation_is_found(path: str, line: str, said: str, tmp_path: Path) -> None:
    """The walk would be worth nothing if it could not fail."""
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    (csrc / "planted").mkdir()
    if "planted" in line:
        (csrc / "planted" / "new.h").write_text("#include <stdint.h>\n")
    with (csrc / path).open("a") as file:
        file.write(f"\n{line}\n")
    assert any(said in sentence for sentence in complaints(csrc))
