"""How a `HistogramSnapshot` is drawn, in text and as SVG.

A row of text, or a bar of the drawing, is a bucket, or several neighbours where there are many:
log-linear ones in groups that start where octaves do. What lies outside of the first and the last
bucket that have any is left out.
"""

from __future__ import annotations

import html
import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from percpu._histogram import HistogramSnapshot

_TEXT_ROWS = 24
_SVG_BARS = 120
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Bar:
    """Neighbouring buckets: from, to (infinite at the ends), and how many observations."""

    low: float
    high: float
    count: int

    @property
    def ended(self) -> bool:
        """Whether it has two ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def bars(snapshot: HistogramSnapshot, most: int) -> list[Bar]:
    """Sum up the buckets, those without an end apart, into at most about `most` bars."""
    filled = [at for at, count in enumerate(snapshot.counts) if count]
    if not filled:
        return []
    ends = (0, len(snapshot.bounds))
    edges = (-math.inf, *snapshot.bounds, math.inf)
    if snapshot.layout == "bounds":  # all are shown that lie between two that are
        between = [at for at in range(filled[0], filled[-1] + 1) if at not in ends]
    else:  # no page of rows for one value that is far from all others
        between = [at for at in filled if at not in ends]
    inner = range(between[0], between[-1] + 1) if between else range(0)
    found = [Bar(edges[0], edges[1], snapshot.counts[0])] if filled[0] == 0 else []
    per_bar, phase = 1, 0
    while len(inner) > per_bar * most:
        per_bar *= 2
    if snapshot.layout == "log":
        phase = _parts_before(snapshot)
    start = inner.start
    while start < inner.stop:
        stop = min(inner.stop, start + per_bar - (start - 1 + phase) % per_bar)
        found.append(Bar(edges[start], edges[stop], sum(snapshot.counts[start:stop])))
        start = stop
    if filled[-1] == ends[1]:
        found.append(Bar(edges[-2], edges[-1], snapshot.counts[-1]))
    return found


def _parts_before(snapshot: HistogramSnapshot) -> int:
    """Return how many parts of its octave lie before the first bound."""
    low, after = snapshot.bounds[:2]
    return round((low - 2.0 ** (math.frexp(low)[1] - 1)) / (after - low))


def number_texts(numbers: Sequence[float]) -> list[str]:
    """Write numbers as short as they are different, and with no fewer than 4 digits."""
    texts: list[str] = []
    for digits in range(4, 18):
        texts = [f"{number:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(set(numbers)):
            break
    return texts


def labels(snapshot: HistogramSnapshot, drawn: Sequence[Bar]) -> list[str]:
    """Name the bars."""
    numbers = sorted({edge for bar in drawn for edge in (bar.low, bar.high) if math.isfinite(edge)})
    texts = dict(zip(numbers, number_texts(numbers), strict=True))
    log = snapshot.layout == "log"
    names = []
    for bar in drawn:
        if bar.low == -math.inf:
            names.append(f"{'below' if log else 'up to'} {texts[bar.high]}")
        elif bar.high == math.inf:
            names.append(f"{texts[bar.low]} and above" if log else f"above {texts[bar.low]}")
        else:
            names.append(f"{texts[bar.low]} to {texts[bar.high]}")
    return names


def headline(snapshot: HistogramSnapshot) -> str:
    """Say how many observations there are, and of what size."""
    count = snapshot.count
    if not count:
        return "no observations"
    plural = "" if count == 1 else "s"
    return f"{count:,} observation{plural}, sum {snapshot.sum:.6g}, mean {snapshot.mean:.4g}"


def quantile_line(snapshot: HistogramSnapshot) -> str:
    """Say what the usual quantiles are."""
    wanted = (*QUANTILES, 0.999)
    pairs = zip(wanted, snapshot.quantiles(wanted), strict=True)
    return ", ".join(f"p{100 * q:g} {value:.4g}" for q, value in pairs)


# ---- text ---------------------------------------------------------------------------------

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def _bar_text(share: float, cells: int) -> str:
    """Draw a bar of `share` of so many cells; what is not nothing shows."""
    try:
        _EIGHTHS.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#" * math.ceil(share * cells)
    eighths = math.ceil(share * cells * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def text(snapshot: HistogramSnapshot, width: int) -> str:
    """Draw with characters, in lines of about `width`."""
    lines = [headline(snapshot)]
    drawn = bars(snapshot, _TEXT_ROWS)
    if not drawn:
        return lines[0]
    names = labels(snapshot, drawn)
    name_width = max(map(len, names))
    counts = [f"{bar.count:,}" for bar in drawn]
    count_width = max(map(len, counts))
    cells = max(8, width - name_width - count_width - 6)
    top = max(bar.count for bar in drawn)
    for bar, name, count in zip(drawn, names, counts, strict=True):
        row = f"  {name:>{name_width}}  {count:>{count_width}}  {_bar_text(bar.count / top, cells)}"
        lines.append(row.rstrip())
    lines.append(quantile_line(snapshot))
    return "\n".join(lines)


# ---- SVG ----------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 76, 44
_FLOOR, _TALL = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
_RULES = {
    "text": "font: 12px sans-serif; fill: #1f2328",
    "text.title": "font-size: 14px; font-weight: 600",
    "text.note": "fill: #59636e",
    "text.quantile": "fill: #c9343e; stroke: none",
    ".bar": "fill: #2f6fdb",
    ".axis": "stroke: #59636e; stroke-width: 1; fill: none",
    ".grid": "stroke: #eceff2; stroke-width: 1; fill: none",
    ".quantile": "stroke: #c9343e; stroke-width: 1.2; stroke-dasharray: 4 3; fill: none",
}
_STYLE = "".join(f".percpu-histogram {what} {{ {how} }} " for what, how in _RULES.items())


def heights(snapshot: HistogramSnapshot, drawn: Sequence[Bar]) -> list[float]:
    """Return how high bars are.

    The parts of an octave are of one width, and so not on a logarithmic axis: there the area stands
    for the count, and the height is what there would be in an octave.
    """
    if snapshot.layout == "bounds":
        return [float(bar.count) for bar in drawn]
    return [bar.count / math.log2(bar.high / bar.low) for bar in drawn]


def ends_text(snapshot: HistogramSnapshot, ends: Sequence[Bar]) -> str:
    """Say what a logarithmic axis has no place for."""
    pairs = zip(labels(snapshot, ends), ends, strict=True)
    return "; ".join(f"{name}: {bar.count:,}" for name, bar in pairs)


def quantile_names(snapshot: HistogramSnapshot) -> dict[float, str]:
    """Return what the usual quantiles are, those that are the same together."""
    names: dict[float, str] = {}
    for q, value in zip(QUANTILES, snapshot.quantiles(QUANTILES), strict=True):
        names[value] = f"{names[value]} " if value in names else ""
        names[value] += f"p{100 * q:g}"
    return names


class _Axis:
    """Where bars and values are, from left to right.

    Log-linear bars are as wide as the logarithms of their values; those of explicit bounds are all
    of one width, since bounds may be anything.
    """

    def __init__(self, snapshot: HistogramSnapshot, drawn: Sequence[Bar]) -> None:
        self.log = snapshot.layout == "log"
        self._drawn = drawn
        widths = [math.log(bar.high / bar.low) if self.log else 1.0 for bar in drawn]
        scale = (_WIDTH - _LEFT - _RIGHT) / sum(widths)
        starts = [_LEFT + scale * before for before in accumulate(widths, initial=0.0)]
        self.places = list(pairwise(starts))

    def x(self, value: float) -> float:
        """Return where `value` is."""
        at = bisect_left(self._drawn, value, key=lambda bar: bar.high)
        if at == len(self._drawn):
            return self.places[-1][1]
        (left, right), bar = self.places[at], self._drawn[at]
        if value <= bar.low or not math.isfinite(bar.high):
            return left
        if not math.isfinite(bar.low):
            return right
        if self.log:
            share = math.log(value / bar.low) / math.log(bar.high / bar.low)
        elif math.isinf(bar.high - bar.low):
            share = (value / 2 - bar.low / 2) / (bar.high / 2 - bar.low / 2)
        else:
            share = (value - bar.low) / (bar.high - bar.low)
        return left + share * (right - left)

    def ticks(self) -> list[float]:
        """Return the values to name: powers of ten, with what lies between if those are few; or
        bounds.
        """
        edges = sorted({e for bar in self._drawn for e in (bar.low, bar.high) if math.isfinite(e)})
        if self.log:
            low, high = edges[0], edges[-1]
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
                found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
                if len(found) >= 4:
                    edges = found
                    break
        return edges[:: -(-len(edges) // 12)]


def _height_ticks(top: float) -> list[int]:
    """Return round numbers up to `top`, from two to six."""
    power = 10 ** max(0, math.floor(math.log10(top)) - 1)
    step = next(power * factor for factor in (1, 2, 5, 10, 20, 50) if top <= 5 * power * factor)
    return list(range(0, math.floor(top) + 1, step))


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">'
        f"{html.escape(words)}</text>"
    )


def _grid(top: float) -> list[str]:
    shapes = []
    for tick in _height_ticks(top):
        y = _FLOOR - _TALL * tick / top
        shapes.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        shapes.append(_text(_LEFT - 8, y + 4, f"{tick:,}", "note", "end"))
    return shapes


def _columns(snapshot: HistogramSnapshot, drawn: Sequence[Bar], axis: _Axis) -> list[str]:
    tall = heights(snapshot, drawn)
    top = max(tall)
    shapes = _grid(top)
    for bar, name, height, (left, right) in zip(
        drawn, labels(snapshot, drawn), tall, axis.places, strict=True
    ):
        up = _TALL * height / top
        gap = min(0.5, (right - left) / 10)
        shapes.append(
            f'<rect class="bar" x="{left + gap:.2f}" y="{_FLOOR - up:.1f}" '
            f'width="{right - left - 2 * gap:.2f}" height="{up:.1f}">'
            f"<title>{html.escape(name)}: {bar.count:,}</title></rect>"
        )
    return shapes


def _scale(axis: _Axis) -> list[str]:
    ticks = axis.ticks()
    shapes = [f'<path class="axis" d="M{_LEFT} {_FLOOR}H{_WIDTH - _RIGHT}"/>']
    for tick, words in zip(ticks, number_texts(ticks), strict=True):
        x = axis.x(tick)
        shapes.append(f'<path class="axis" d="M{x:.1f} {_FLOOR}v5"/>')
        shapes.append(_text(x, _FLOOR + 19, words, "note", "middle"))
    return shapes


def _quantiles(snapshot: HistogramSnapshot, axis: _Axis) -> list[str]:
    """Draw a line for each quantile, and its name above, higher where there is no room."""
    shapes, free = [], -math.inf
    for value, name in quantile_names(snapshot).items():
        x = axis.x(value)
        words = f"{name} {value:.4g}"
        half = 3.8 * len(words)
        centre = min(max(x, _LEFT + half), _WIDTH - _RIGHT - half)
        y = _TOP - 8 if centre - half >= free else _TOP - 22
        free = centre + half + 8 if y == _TOP - 8 else free
        shapes.append(f'<path class="quantile" d="M{x:.1f} {y + 4}V{_FLOOR}"/>')
        shapes.append(_text(centre, y, words, "quantile", "middle"))
    return shapes


def svg(snapshot: HistogramSnapshot) -> str:
    """Draw as an SVG image, on a ground of its own: a notebook's may be dark."""
    drawn = bars(snapshot, _SVG_BARS)
    shapes = [_text(12, 24, headline(snapshot), "title")]
    ends: list[Bar] = []
    if snapshot.layout == "log":
        ends = [bar for bar in drawn if not bar.ended]
        drawn = [bar for bar in drawn if bar.ended]
    tall = _HEIGHT if drawn else 60 if ends else 40
    if drawn:
        axis = _Axis(snapshot, drawn)
        shapes += _columns(snapshot, drawn, axis)
        shapes += _scale(axis)
        shapes += _quantiles(snapshot, axis)
        unit = "per octave" if axis.log else "observations"
        shapes.append(_text(12, 42, unit, "note"))
    if ends:
        shapes.append(_text(_LEFT if drawn else 12, tall - 8, ends_text(snapshot, ends), "note"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {tall}" '
        f'width="{_WIDTH}" height="{tall}" class="percpu-histogram" role="img">'
        f"<title>{html.escape(headline(snapshot))}</title><style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>{"".join(shapes)}</svg>'
    )
