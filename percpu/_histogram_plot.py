"""A `HistogramSnapshot` drawn by matplotlib."""

from __future__ import annotations

import math

from matplotlib import pyplot
from matplotlib.axes import Axes

from percpu import _histogram_draw
from percpu._histogram import HistogramSnapshot

_MOST_BARS = 200
_BLUE, _RED = "#2f6fdb", "#c9343e"


def plot(snapshot: HistogramSnapshot, axes: Axes | None) -> Axes:
    """Draw into `axes`, or a new figure of pyplot's."""
    if axes is None:
        axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")[1]
    drawn = _histogram_draw.bars(snapshot, _MOST_BARS)
    axes.set_ylabel("observations")
    if drawn and snapshot.layout == "log":
        _draw_log(snapshot, drawn, axes)
    elif drawn:
        _draw_bounds(snapshot, drawn, axes)
    axes.set_title(_histogram_draw.headline(snapshot), loc="left", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _draw_log(snapshot: HistogramSnapshot, drawn: list[_histogram_draw.Bar], axes: Axes) -> None:
    """Draw bars on a logarithmic axis, and lines for quantiles; ends are said in words."""
    inner = [bar for bar in drawn if bar.ended]
    ends = [bar for bar in drawn if not bar.ended]
    axes.set_xscale("log")
    if inner:
        edges = [inner[0].low, *(bar.high for bar in inner)]
        axes.stairs(_histogram_draw.heights(snapshot, inner), edges, fill=True, color=_BLUE)
        axes.set_ylabel("observations per octave")
    axes.set_xlabel(_histogram_draw.ends_text(snapshot, ends), fontsize=9, color="#59636e")
    for value, name in _histogram_draw.quantile_names(snapshot).items():
        axes.axvline(value, color=_RED, lw=1, ls="--")
        axes.annotate(
            name,
            xy=(value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=8,
            color=_RED,
        )


def _draw_bounds(snapshot: HistogramSnapshot, drawn: list[_histogram_draw.Bar], axes: Axes) -> None:
    """Draw a bar of the same width for each bucket: bounds may be anything."""
    places = range(len(drawn))
    width = 0.9 if len(drawn) < 40 else 1.0
    axes.bar(places, [bar.count for bar in drawn], width=width, color=_BLUE)
    step = -(-len(drawn) // 16)
    names = _histogram_draw.number_texts([bar.high for bar in drawn if math.isfinite(bar.high)])
    texts = [f"≤ {name}" for name in names] + ["above"] * (len(drawn) - len(names))
    axes.set_xticks(places[::step], texts[::step], rotation=45 if len(drawn) > 8 else 0)
