"""The pictures of a histogram's snapshot: in text, as SVG, and by matplotlib."""

from __future__ import annotations

import array
import random
import re
from xml.etree import ElementTree

import pytest

from percpu import HistogramSnapshot, PerCpuHistogram

RNG = random.Random(1)
VALUES = {
    "none": [],
    "one": [3.0],
    "below": [-1.0, 0.0],
    "above": [1e300],
    "both ends": [-1.0, 1e300, 1e300],
    "far apart": [1e-9, 1e-3, 1e3, 9e8],
    "all over": [RNG.lognormvariate(0, 3) for _ in range(2000)],
    "crowded": [RNG.uniform(1, 1.01) for _ in range(500)],
}
BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 4096]


def taken(layout: str, values: list[float]) -> HistogramSnapshot:
    h = PerCpuHistogram() if layout == "log" else PerCpuHistogram(bounds=BOUNDS)
    h.observe_many(array.array("d", values))
    return h.snapshot()


every = pytest.mark.parametrize("snapshot", [
    pytest.param(taken(layout, values), id=f"{layout}, {name}")
    for layout in ("log", "bounds")
    for name, values in VALUES.items()
])  # fmt: skip


@every
def test_the_text_shows_every_observation(
    snapshot: HistogramSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    head, *rows = str(snapshot).splitlines()
    if not snapshot.count:
        assert (head, rows) == ("no observations", [])
        return
    assert head.startswith(f"{snapshot.count:,} observation")
    assert rows.pop().startswith("p50 ")
    assert all(len(row) <= 80 for row in rows)
    assert len(rows) <= 30
    counts = []
    for row in rows:
        shown = re.search(r"  ([\d,]+)(  \S+)?$", row)
        assert shown is not None
        counts.append(int(shown[1].replace(",", "")))
        assert bool(shown[2]) == (counts[-1] > 0)
    assert sum(counts) == snapshot.count


@every
def test_the_svg_image_shows_every_observation(snapshot: HistogramSnapshot) -> None:
    root = ElementTree.fromstring(snapshot._repr_svg_())
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    shown = [title.rpartition(": ")[2] for title in titles[1:]]
    if snapshot.layout == "log":
        shown += re.findall(r"(?:below \S+|and above): ([\d,]+)", texts[-1])
    assert sum(int(count.replace(",", "")) for count in shown) == snapshot.count
    for shape in root.iter("{http://www.w3.org/2000/svg}rect"):
        if shape.get("class") == "bar":
            assert 0 <= float(shape.get("x", "")) <= 760
            assert 0 <= float(shape.get("height", "")) <= 300


@pytest.mark.parametrize("bounds", [(-1.7e308, 1.7e308), (-1e308, 0.0, 5e-324, 1e308)])
def test_bounds_further_apart_than_the_largest_float(bounds: tuple[float, ...]) -> None:
    counts = [0] * (len(bounds) + 1)
    counts[-2] = 3
    picture = HistogramSnapshot("bounds", bounds, tuple(counts), 0.0)._repr_svg_()
    assert '"nan' not in picture
    assert "Mnan" not in picture


def test_quantiles_have_as_many_digits_as_the_text_has() -> None:
    snapshot = taken("bounds", [5000.0])
    assert "p50 4096, p90 4096" in str(snapshot)
    assert "p50 p90 p99 4096<" in snapshot._repr_svg_()


@every
def test_matplotlib_draws_every_observation(snapshot: HistogramSnapshot) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = snapshot.plot(figure.add_subplot())
    figure.draw_without_rendering()
    if snapshot.layout == "bounds":
        assert sum(bar.get_height() for bar in axes.patches) == snapshot.count
    elif snapshot.count:
        ends = {"below": snapshot.counts[0], "above": snapshot.counts[-1]}
        assert all((word in axes.get_xlabel()) == (count > 0) for word, count in ends.items())
