"""What `PerCpuStats.snapshot()` returns: all counts at one time, and differences of two of them."""

from __future__ import annotations

import html
import shutil
import sys
import time
from array import array
from collections.abc import Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    import numpy
    from matplotlib.axes import Axes

    _Values = TypeVar("_Values", bound="_Counts")

_MOST_ROWS = 50
_BAR = 30


class _Counts(Mapping[str, int]):
    """Names and as many 64-bit numbers."""

    __slots__ = ("_names", "_numbers", "_positions")

    def __init__(self, names: tuple[str, ...], numbers: array[int]) -> None:
        self._names = names
        self._numbers = numbers
        self._positions: dict[str, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return self._names

    @property
    def array(self) -> array[int]:
        """The numbers, in the order of the names: ``array('q')``, which NumPy takes as it is."""
        return self._numbers

    def as_dict(self) -> dict[str, int]:
        """Return a new dict of names and numbers."""
        return dict(zip(self._names, self._numbers, strict=True))

    def __getitem__(self, name: str) -> int:
        if self._positions is None:
            self._positions = {each: position for position, each in enumerate(self._names)}
        return self._numbers[self._positions[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        """For :func:`numpy.asarray`: the numbers, not copied unless they have to be."""
        import numpy

        numbers = numpy.frombuffer(self._numbers, numpy.int64)
        if dtype is not None and numbers.dtype != dtype:
            if copy is False:
                raise ValueError(f"int64 cannot be seen as {dtype} without a copy")
            return numbers.astype(dtype)
        return numbers.copy() if copy else numbers

    def _columns(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads of the columns of numbers, and for each name what is in them."""
        return ["count"], [[f"{number:,}"] for number in self._numbers]

    def _title(self) -> str:
        raise NotImplementedError

    def _rows(self) -> tuple[list[tuple[str, list[str], float]], str]:
        """Return what is not 0, as name, numbers and share of the largest; and what was left out.

        Of more than some dozens, those furthest from 0.
        """
        numbers = self._numbers
        shown = [position for position, number in enumerate(numbers) if number]
        zeros, small = len(numbers) - len(shown), len(shown) - _MOST_ROWS
        if small > 0:
            largest = sorted(shown, key=lambda position: -abs(numbers[position]))
            shown = sorted(largest[:_MOST_ROWS])
        most = max((abs(numbers[position]) for position in shown), default=1)
        cells = self._columns()[1]
        rows = [
            (self._names[position], cells[position], abs(numbers[position]) / most)
            for position in shown
        ]
        left_out = [f"{small:,} smaller"] if small > 0 else []
        left_out += [f"{zeros:,} {'is' if zeros == 1 else 'are'} 0"] if zeros else []
        return rows, ", ".join(left_out)

    def __str__(self) -> str:
        rows, left_out = self._rows()
        heads = self._columns()[0]
        lines = [self._title()]
        if rows:
            width = max(len(_printable(name)) for name, _, _ in rows)
            widths = [
                max(len(head), *(len(cells[column]) for _, cells, _ in rows))
                for column, head in enumerate(heads)
            ]
            room = shutil.get_terminal_size().columns - width - sum(widths) - 2 * len(widths) - 4
            bar = max(8, min(_BAR, room))
            block = "█" if _can_print("█") else "#"
            for name, cells, share in rows:
                numbers = "".join(
                    f"  {cell:>{size}}" for cell, size in zip(cells, widths, strict=True)
                )
                drawn = block * max(1, round(share * bar))
                lines.append(f"  {_printable(name):<{width}}{numbers}  {drawn}")
        if left_out:
            lines.append(f"  ({left_out})")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows, left_out = self._rows()
        heads = "".join(f"<th style='text-align:right'>{head}</th>" for head in self._columns()[0])
        lines = [
            "<table><caption style='text-align:left'>"
            f"{html.escape(self._title())}</caption>"
            f"<thead><tr><th style='text-align:left'>name</th>{heads}<th></th></tr></thead><tbody>"
        ]
        for name, cells, share in rows:
            numbers = "".join(f"<td style='text-align:right'>{cell}</td>" for cell in cells)
            lines.append(
                f"<tr><td style='text-align:left'>{html.escape(_escaped(name))}</td>{numbers}"
                "<td style='text-align:left;min-width:12em'><div style='background:#0072B2;"
                f"height:0.8em;width:{max(1.0, 100 * share):.1f}%'></div></td></tr>"
            )
        if left_out:
            lines.append(f"<tr><td colspan='{len(self._columns()[0]) + 2}'>({left_out})</td></tr>")
        return "\n".join([*lines, "</tbody></table>"])

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw what is not 0 as horizontal bars, with matplotlib, and return the axes.

        `axes`: where to draw; None: a new figure.
        """
        rows, left_out = self._rows()
        if axes is None:
            from matplotlib import pyplot

            size = 6.4, 1.2 + 0.22 * max(3, len(rows))  # inches: a name needs 0.2
            axes = pyplot.figure(figsize=size, layout="constrained").add_subplot()
        places = range(len(rows))
        values = [self[name] for name, _, _ in rows]
        axes.barh(places, values, color="#0072B2")
        axes.set_yticks(places, [_escaped(name) for name, _, _ in rows], parse_math=False)
        axes.margins(y=0.02)
        axes.invert_yaxis()
        axes.set_title(self._title(), loc="left", fontsize="medium")
        axes.set_xlabel(f"count ({left_out})" if left_out else "count")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return axes


class StatsSnapshot(_Counts):
    """All counts of a :class:`PerCpuStats` at one time: a mapping of names to numbers.

    ``later - earlier`` is a :class:`StatsDifference`; :exc:`ValueError` if they have other names.
    Prints as bars, and shows as a table in a notebook. It does not follow the stats.
    """

    __slots__ = ("_time",)

    def __init__(self, names: tuple[str, ...], numbers: array[int], time: float) -> None:
        super().__init__(names, numbers)
        self._time = time

    @property
    def time(self) -> float:
        """When it was taken, as :func:`time.monotonic` says."""
        return self._time

    def __sub__(self, earlier: StatsSnapshot) -> StatsDifference:
        if not isinstance(earlier, StatsSnapshot):
            return NotImplemented
        if earlier._names != self._names:
            odd = _odd(self._names, earlier._names)
            raise ValueError(f"a difference needs snapshots of the same names, but {odd}")
        numbers = array("q", map(_signed, map(int.__sub__, self._numbers, earlier._numbers)))
        return StatsDifference(self._names, numbers, self._time - earlier._time)

    def _title(self) -> str:
        return f"StatsSnapshot of {_count(len(self), 'name')}"

    def __repr__(self) -> str:
        return f"<{self._title()} at {self._time:.6f} s>"

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...], array[int], float]]:
        return type(self), (self._names, self._numbers, self._time)


class StatsDifference(_Counts):
    """What was counted between two snapshots: a mapping of names to numbers.

    Numbers are modulo 2**64, from -2**63 to 2**63 - 1.
    """

    __slots__ = ("_seconds",)

    def __init__(self, names: tuple[str, ...], numbers: array[int], seconds: float) -> None:
        super().__init__(names, numbers)
        self._seconds = seconds

    @property
    def seconds(self) -> float:
        """The time between the snapshots; negative if the second one is the earlier."""
        return self._seconds

    def rates(self) -> dict[str, float]:
        """Return how many there were of each per second.

        Raises :exc:`ValueError` if there was no time between the snapshots.
        """
        if not self._seconds:
            raise ValueError("there was no time between the snapshots")
        return {name: number / self._seconds for name, number in self.items()}

    def _columns(self) -> tuple[list[str], list[list[str]]]:
        heads, cells = super()._columns()
        if not self._seconds:
            return heads, cells
        for row, rate in zip(cells, self.rates().values(), strict=True):
            row.append(f"{rate:,.1f}/s")
        return [*heads, "rate"], cells

    def _title(self) -> str:
        return f"StatsDifference of {_count(len(self), 'name')} over {self._seconds:.3f} s"

    def __repr__(self) -> str:
        return f"<{self._title()}>"

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...], array[int], float]]:
        return type(self), (self._names, self._numbers, self._seconds)


def take(names: tuple[str, ...], numbers: bytes) -> StatsSnapshot:
    """Make a snapshot of what was read just now, for `_core`."""
    return StatsSnapshot(names, array("q", numbers), time.monotonic())


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _odd(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Say where names differ."""
    for position, (name, other) in enumerate(zip(names, others, strict=False)):
        if name != other:
            return f"name {position} is {name!r} in one and {other!r} in the other"
    return f"one has {len(names)} and the other {len(others)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _escaped(name: str) -> str:
    """Return the name as it is, unless it has line breaks, surrogates or the like."""
    return name if name.isprintable() else ascii(name)


def _printable(name: str) -> str:
    """Return the name as it is, unless it would break the lines."""
    return _escaped(name) if _can_print(name) else ascii(name)


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True
