"""The picture of a race: ns per add against threads, on logarithmic axes, drawn by matplotlib."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from percpu import _machine
from percpu._stats import Spread
from percpu.race import Report

# Colours that people who see red and green alike can tell apart (after Okabe and Ito). What has
# no per-CPU critical section is drawn thinner, so that the eye finds the rest.
_COLOURS = {
    "racy": "#999999",
    "mutex": "#D55E00",
    "atomic": "#E69F00",
    "packed": "#CC79A7",
    "padded": "#8C6D31",
    "tls": "#56B4E9",
    "var": "#009E73",
    "counter-32": "#0072B2",
    "counter-1024": "#1B2A6B",
    "counter-lazy": "#6A3D9A",
}
_OURS = ("var", "counter-32", "counter-1024", "counter-lazy")
_LABEL_POINTS = 11.0
"""Height of a label's line, in points."""


def _plain(value: float, _position: object = None) -> str:
    return f"{value:g}"


def _apart(wanted: list[float], distance: float) -> list[float]:
    """Move sorted positions as little as it takes to be `distance` apart.

    Neighbours that are too close form a block around their mean, and blocks that touch merge.
    """
    blocks: list[list[float]] = []  # [mean of (position - distance * rank in the block), members]
    for position in wanted:
        blocks.append([position, 1.0])
        while len(blocks) > 1:
            (low, members), (high, more) = blocks[-2], blocks[-1]
            if low + members * distance <= high:
                break
            total = members + more
            merged = (low * members + (high - members * distance) * more) / total
            blocks[-2:] = [[merged, total]]
    return [start + rank * distance for start, members in blocks for rank in range(int(members))]


def _draw_scheme(axes: Axes, name: str, threads: tuple[int, ...], costs: list[Spread]) -> None:
    colour = _COLOURS.get(name, "#000000")
    ours = name in _OURS
    axes.fill_between(
        threads, [c.low for c in costs], [c.high for c in costs], color=colour, alpha=0.2, lw=0
    )
    axes.vlines(
        threads, [c.least for c in costs], [c.most for c in costs], color=colour, lw=1, alpha=0.6
    )
    axes.plot(
        threads,
        [c.median for c in costs],
        color=colour,
        lw=2.4 if ours else 1.3,
        ls="--" if name == "racy" else "-",
        marker="o",
        ms=5.5 if ours else 4,
        zorder=3 if ours else 2,
    )


def _label_lines(axes: Axes, figure: Figure, report: Report) -> None:
    """Name each line at its right end: names apart, a hair line from each to where it belongs."""
    last = max(report.options.threads)
    ends = sorted(
        (math.log10(report.cost(scheme.name, last).median), scheme) for scheme in report.schemes()
    )
    low, high = (math.log10(limit) for limit in axes.get_ylim())
    points = axes.get_position().height * figure.get_figheight() * 72
    places = _apart([end for end, _ in ends], _LABEL_POINTS * (high - low) / points)
    for place, (end, scheme) in zip(places, ends, strict=True):
        colour = _COLOURS.get(scheme.name, "#000000")
        note = " (loses counts)" if scheme.promise == "racy" else ""
        axes.annotate(
            f"{scheme.name}  {_figure(10**end)}{note}",
            xy=(last, 10**end),
            xytext=(1.045, 10**place),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            fontweight="bold" if scheme.name in _OURS else "normal",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 5},
            annotation_clip=False,
        )


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _mark_cpus(axes: Axes, threads: tuple[int, ...], cpus: int) -> None:
    if not threads[0] <= cpus < threads[-1]:
        return
    axes.axvline(cpus, color="#888888", lw=0.8, ls=":", zorder=1)
    axes.annotate(
        f"{cpus} CPU{'s' if cpus != 1 else ''}",
        xy=(cpus, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -11),
        textcoords="offset points",
        fontsize=8,
        color="#666666",
    )


def draw(report: Report, path: Path) -> None:
    """Draw a race into `path`, in the format that its suffix names. Raises OSError."""
    threads = tuple(sorted(report.options.threads))
    figure = Figure(figsize=(9, 5.4))
    axes = figure.add_axes((0.075, 0.105, 0.68, 0.765))
    for scheme in report.schemes():
        costs = [report.cost(scheme.name, count) for count in threads]
        _draw_scheme(axes, scheme.name, threads, costs)

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(threads, [str(count) for count in threads])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.margins(x=0.04, y=0.06)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("threads")
    axes.set_ylabel("ns per add")
    figure.text(
        0.075, 0.945, "What one add costs while all threads add", fontsize=13, weight="bold"
    )
    figure.text(
        0.075,
        0.905,
        f"{_machine.summary()}. Line: median; band: quartiles; bar: least to most.",
        fontsize=7.5,
        color="#555555",
    )
    _mark_cpus(axes, threads, report.adds[0].cpus)
    _label_lines(axes, figure, report)
    with rc_context({"svg.fonttype": "none"}):  # text stays text: it can be read and searched
        figure.savefig(path, dpi=150)
