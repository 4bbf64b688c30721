"""What `PerCpuHistogram.snapshot()` returns: the counts of all buckets at one moment.

How it is drawn is in `percpu._histogram_draw`.
"""

from __future__ import annotations

import math
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from percpu import _histogram_draw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class HistogramSnapshot:
    """What a histogram had observed at one moment.

    ``a + b`` adds two snapshots with the same buckets, of several processes for instance.
    ``b - a`` is what was observed from `a` to `b`, a later snapshot of the same histogram. Both
    raise :exc:`ValueError` for other buckets, and ``b - a`` for an `a` that is later than `b`.

    Prints as a drawing in text, and shows as a drawing in a notebook; :meth:`plot` draws it with
    matplotlib.
    """

    layout: Literal["log", "bounds"]
    """What kind of buckets there are: log-linear, or with explicit bounds."""
    bounds: tuple[float, ...]
    """The bounds between the buckets. The first bucket has what is below the first, the last
    what is above the last. What is equal to a bound belongs to the bucket above it if the layout
    is "log", below it if that is "bounds"."""
    counts: tuple[int, ...]
    """How many observations fell into each bucket: one more than there are bounds."""
    sum: float
    """The sum of the observations."""

    def __post_init__(self) -> None:
        if self.layout not in ("log", "bounds"):
            raise ValueError(f"layout must be 'log' or 'bounds', not {self.layout!r}")
        if len(self.bounds) < 1 + (self.layout == "log"):
            raise ValueError(f"bounds has too few numbers for {self.layout!r}: {self.bounds!r}")
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(
                f"counts must have {len(self.bounds) + 1} numbers, one more than bounds, "
                f"not {len(self.counts)}"
            )
        if min(self.counts) < 0:
            raise ValueError(f"counts must not be negative, as {min(self.counts)} is")

    @property
    def count(self) -> int:
        """How many observations there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The sum by the count; NaN if there is no observation."""
        count = self.count
        return self.sum / count if count else math.nan

    @property
    def error(self) -> float | None:
        """The relative error of quantiles between the bounds; None with explicit bounds."""
        if self.layout == "bounds":
            return None
        octave = 2.0 ** (math.frexp(self.bounds[0])[1] - 1)
        return (self.bounds[1] - self.bounds[0]) / octave / 2

    def quantile(self, q: float) -> float:
        """Return the quantile `q`, as :meth:`PerCpuHistogram.quantile` does."""
        return self._quantiles([q], "q")[0]

    def quantiles(self, qs: Iterable[float]) -> list[float]:
        """Return a list of quantiles, one for each of `qs`, an iterable of numbers from 0 to 1."""
        if not isinstance(qs, Iterable):
            raise TypeError(f"qs must be an iterable of numbers, not {type(qs).__name__} {qs!r}")
        return self._quantiles(qs, "qs[{}]")

    def _quantiles(self, qs: Iterable[float], name: str) -> list[float]:
        up_to = [float(count) for count in accumulate(self.counts)]
        found = []
        for place, q in enumerate(qs):
            if not (isinstance(q, float) or hasattr(q, "__index__")):
                kind = type(q).__name__
                raise TypeError(f"{name.format(place)} must be an int or a float, not {kind} {q!r}")
            if not 0 <= q <= 1:
                raise ValueError(f"{name.format(place)} must be from 0 to 1, not {q!r}")
            found.append(self._quantile(q, up_to))
        return found

    def _quantile(self, q: float, up_to: list[float]) -> float:
        if not up_to[-1]:
            return math.nan
        rank = q * up_to[-1]
        bucket = bisect_left(up_to, rank) if rank > 0 else bisect_right(up_to, 0)
        if self.layout == "log":
            return self._middle(bucket)
        before = up_to[bucket - 1] if bucket else 0.0
        return self._between(bucket, (rank - before) / self.counts[bucket])

    def _middle(self, bucket: int) -> float:
        """Return what stands for the values of a log-linear bucket."""
        if bucket in (0, len(self.bounds)):
            return self.bounds[0 if bucket == 0 else -1]
        low, high = self.bounds[bucket - 1 : bucket + 1]
        middle = low + (high - low) / 2
        return middle if middle < high else low  # there is no float between

    def _between(self, bucket: int, share: float) -> float:
        """Return where `share` of the values are below, if they lie evenly in the bucket."""
        if bucket == len(self.bounds) or (bucket == 0 and self.bounds[0] <= 0):
            return self.bounds[0 if bucket == 0 else -1]
        low, high = self.bounds[bucket - 1] if bucket else 0.0, self.bounds[bucket]
        return min(high, max(low, low * (1 - share) + high * share))

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """Yield ``(low, high, count)`` for each bucket that has any, the ends being infinite."""
        edges = (-math.inf, *self.bounds, math.inf)
        for low, high, count in zip(edges, edges[1:], self.counts, strict=False):
            if count:
                yield low, high, count

    def _same_buckets(self, other: HistogramSnapshot) -> None:
        if (self.layout, self.bounds) != (other.layout, other.bounds):
            raise ValueError("the snapshots must have the same buckets")

    def __add__(self, other: object) -> HistogramSnapshot:
        if not isinstance(other, HistogramSnapshot):
            return NotImplemented
        self._same_buckets(other)
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return replace(self, counts=counts, sum=self.sum + other.sum)

    def __sub__(self, other: object) -> HistogramSnapshot:
        if not isinstance(other, HistogramSnapshot):
            return NotImplemented
        self._same_buckets(other)
        counts = tuple(a - b for a, b in zip(self.counts, other.counts, strict=True))
        if min(counts) < 0:
            raise ValueError(
                "the second snapshot must be an earlier one of the same histogram: "
                "it has counts that the first has not"
            )
        return replace(self, counts=counts, sum=self.sum - other.sum)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw with matplotlib, into `axes` or a new figure; return the axes."""
        from percpu import _histogram_plot

        return _histogram_plot.plot(self, axes)

    def __str__(self) -> str:
        return _histogram_draw.text(self, shutil.get_terminal_size().columns)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return _histogram_draw.svg(self)
