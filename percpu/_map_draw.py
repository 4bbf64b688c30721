"""How a `PoolMap` is drawn, in text and as SVG.

A range is a table: a row for each CPU, a cell for each page, or for several where a stride has
many. Neighbouring CPUs whose rows look alike share one, so do ranges that look alike, and CPUs with
no page of their own share a line of words: 512 CPUs of which three work make three rows. What is
still too much is counted, not drawn.
"""

from __future__ import annotations

import html
import itertools
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from percpu._info import _ranges as id_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from percpu._map import PoolMap

_MOST_ROWS = 40
_MOST_TABLES = 12
_FULL = 4
_GUARD = 5
"""Cells say how many of their pages are in memory: 0 none, 1 to 3 some, 4 all. A guard page has a
cell of its own, 5."""

GUARD_PAGE = 2
"""What a guard page is in `PoolMap.pages`."""


def size_text(size: int) -> str:
    """Write a number of bytes for people: 640 bytes, 4 KiB, 1.25 MiB, 328 GiB."""
    if size < 1024:
        return count_text(size, "byte")
    power = min(5, int(math.log2(size)) // 10)
    figure = size / 1024**power
    digits = 2 if figure < 9.995 else 1 if figure < 99.95 else 0
    text = f"{figure:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {'KMGTP'[power - 1]}iB"


def _plural(noun: str, number: int) -> str:
    if number == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def count_text(number: int, noun: str) -> str:
    """Write how many there are of something: 1 item, 10,000 items, 2 copies."""
    return f"{number:,} {_plural(noun, number)}"


# ---- what there is to draw ----------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """Copies that look alike, or the initial values: a label, and a byte for each cell."""

    label: str
    cells: bytes
    initial: bool = False


@dataclass(slots=True)
class Table:
    """Ranges that look alike: a label, rows, and what is only said in words."""

    label: str
    rows: list[Row]
    words: list[str]


def most_pages(pool_map: PoolMap) -> int:
    """Return the pages of a stride."""
    return max((len(own) for copies in pool_map.pages for own in copies), default=0)


def has_guards(pool_map: PoolMap) -> bool:
    """Return whether strides end in guard pages, if only those of some ranges."""
    return any(own.endswith(bytes([GUARD_PAGE])) for copies in pool_map.pages for own in copies[:1])


def pages_per_cell(pool_map: PoolMap, most_cells: int) -> int:
    """Return how many pages share a cell, so that a row has no more cells than that."""
    guard = has_guards(pool_map)
    return max(1, -(-(most_pages(pool_map) - guard) // (most_cells - guard)))


def _cells(own: bytes, per_cell: int) -> bytes:
    if own.endswith(bytes([GUARD_PAGE])):
        return _cells(own[:-1], per_cell) + bytes([_GUARD])
    if per_cell == 1:
        return own.replace(b"\1", bytes([_FULL]))
    parts = (own[at : at + per_cell] for at in range(0, len(own), per_cell))
    return bytes(map(_fullness, parts))


def _fullness(pages: bytes) -> int:
    there = pages.count(1)
    if there in (0, len(pages)):
        return _FULL if there else 0
    return 1 + there * (_FULL - 1) // len(pages)


def _label(noun: str, ids: Sequence[int]) -> str:
    """Name copies or ranges; where the list of their numbers is long, say only how many."""
    numbers = id_list(ids)
    if len(numbers) > 32:
        return count_text(len(ids), noun)
    return f"{_plural(noun, len(ids))} {numbers}"


def _rows(copies: Iterable[bytes], per_cell: int, noun: str) -> tuple[list[Row], list[str]]:
    """Return the rows of one range, and words about the copies that have none."""
    idle: list[int] = []
    runs: list[list[int]] = []
    last = b""
    rows: list[Row] = []
    for number, own in enumerate(copies):
        if 1 not in own:
            idle.append(number)
            continue
        cells = _cells(own, per_cell)
        if runs and runs[-1][-1] == number - 1 and last == cells:
            runs[-1].append(number)
        else:
            runs.append([number])
            rows.append(Row("", cells))
            last = cells
    for row, run in zip(rows, runs, strict=True):
        row.label = _label(noun, run)
    its = "its" if len(idle) == 1 else "their"
    return rows, [f"{_label(noun, idle)}: no page of {its} own"] if idle else []


def _shorten(table: Table) -> None:
    """Keep as many rows as one can look at."""
    kept = [row for at, row in enumerate(table.rows) if at < _MOST_ROWS or row.initial]
    if left_out := len(table.rows) - len(kept):
        table.words.insert(0, f"and {count_text(left_out, 'more row')}")
        table.rows = kept


def tables(pool_map: PoolMap, per_cell: int) -> Iterator[Table]:
    """Sum up pages, so many to a cell, and CPUs and ranges."""
    found: list[tuple[str, list[int], Table]] = []
    numbers: dict[str, Iterator[int]] = {}
    for owner, copies, initial in zip(
        pool_map.owners, pool_map.pages, pool_map.initial, strict=True
    ):
        number = next(numbers.setdefault(owner, itertools.count()))
        rows, words = _rows(copies, per_cell, pool_map.copy_name)
        if initial:
            rows.append(Row("initial", _cells(initial, per_cell), initial=True))
        table = Table("", rows, words)
        if found and found[-1][0] == owner and found[-1][2] == table:
            found[-1][1].append(number)
        else:
            found.append((owner, [number], table))
    for owner, ranges, table in found[:_MOST_TABLES]:
        table.label = _label("range", ranges) + (f" of {owner}" if owner else "")
        table.label += ", each" if len(ranges) > 1 else ""
        _shorten(table)
        yield table
    if left_out := sum(len(ranges) for _, ranges, _ in found[_MOST_TABLES:]):
        yield Table(f"and {count_text(left_out, 'more range')}", [], [])


def cell_text(pool_map: PoolMap, per_cell: int) -> str:
    """Say what a cell is."""
    if per_cell == 1:
        return f"a cell is a page of {size_text(pool_map.page_size)}"
    return f"a cell is {per_cell} pages, {size_text(per_cell * pool_map.page_size)}"


def totals(pool_map: PoolMap) -> list[str]:
    """Say what the picture comes to, in sentences."""
    own = sum(pool_map.pages_per_cpu) * pool_map.page_size
    initial = sum(pages.count(1) for pages in pool_map.initial) * pool_map.page_size
    parts = [f"{size_text(own)} of {pool_map.copy_name} pages"]
    if any(pool_map.initial):
        parts.append(f"{size_text(initial)} of initial values")
    rest = max(0, pool_map.resident_bytes - own - initial)
    parts.append(f"{size_text(rest)} of headers and caches")
    memory = (
        f"In memory: {size_text(pool_map.resident_bytes)}, of "
        f"{size_text(pool_map.virtual_bytes)} of address space: {', '.join(parts)}."
    )
    items = f"Items: {pool_map.live:,} live"
    if pool_map.live:
        items += f"; padded to cache lines, they would take {size_text(pool_map.padded_bytes)}"
    if pool_map.saved_bytes > 0:
        percent = math.floor(1000 * pool_map.saved_bytes / pool_map.padded_bytes) / 10
        items += f" ({percent} % saved)"
    return [memory, f"{items}."]


# ---- text ---------------------------------------------------------------------------------

_TEXT_LABEL = 14
"""Characters of a row's label."""


def _glyphs() -> str:
    """Return characters for cells, empty to full and guard, that standard output can take."""
    shades = "·░▒▓█x"
    try:
        shades.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ".:+*#x"
    return shades


def text(pool_map: PoolMap, width: int) -> str:
    """Draw with characters, in lines of `width` (at least 40)."""
    width = max(40, width)
    per_cell = pages_per_cell(pool_map, width - _TEXT_LABEL - 3)
    glyphs = _glyphs()
    lines = textwrap.wrap(pool_map.title, width)
    if pool_map.pages:
        there = f"{glyphs[_FULL]} in memory, {glyphs[0]} not"
        if per_cell > 1:
            there = f"{glyphs[_FULL]} in memory, {glyphs[1:_FULL]} part of it, {glyphs[0]} not"
        there += f", {glyphs[_GUARD]} guard page" if has_guards(pool_map) else ""
        lines += textwrap.wrap(f"{cell_text(pool_map, per_cell)}: {there}", width)
    for table in tables(pool_map, per_cell):
        lines.append(table.label)
        for row in table.rows:
            cells = "".join(glyphs[level] for level in row.cells)
            lines.append(f"  {row.label:<{_TEXT_LABEL}} {cells}")
        lines += (f"  {words}" for words in table.words)
    for sentence in totals(pool_map):
        lines += textwrap.wrap(sentence, width)
    return "\n".join(lines)


# ---- SVG ----------------------------------------------------------------------------------

_SVG_WIDTH = 760
_SVG_LABEL = 110
_SVG_CELLS = 160
"""The most cells in a row."""
_ROW, _LINE = 16, 20
_RULES = {
    "text": "font: 12px sans-serif; fill: #1f2328",
    "text.title": "font-size: 14px; font-weight: 600",
    "text.head": "font-weight: 600",
    "text.note": "fill: #59636e",
    ".track": "fill: #eceff2",
    ".own": "fill: #2f6fdb",
    ".initial": "fill: #2a9d5c",
    ".guard": "stroke: #c9343e; stroke-width: 1.5; fill: none",
    ".grid": "stroke: #fff; stroke-width: 1; fill: none",
}
_STYLE = "".join(f".percpu-map {what} {{ {how} }} " for what, how in _RULES.items())


class _Canvas:
    """Shapes from the top down: `y` is where the next goes."""

    def __init__(self) -> None:
        self.y = 0
        self.shapes: list[str] = []

    def text(self, words: str, style: str = "", x: int = 12) -> None:
        self.y += _LINE
        self.shapes.append(
            f'<text x="{x}" y="{self.y}" class="{style}">{html.escape(words)}</text>'
        )

    def paragraph(self, words: str, style: str = "") -> None:
        for line in textwrap.wrap(words, 112):
            self.text(line, style)

    def rows(self, rows: list[Row]) -> None:
        """Draw the cells of a table."""
        if not rows:
            return
        cells = max(len(row.cells) for row in rows)
        width = min(24.0, (_SVG_WIDTH - _SVG_LABEL - 24) / cells)
        top = self.y + 8
        for at, row in enumerate(rows):
            y = top + at * _ROW
            self.shapes.append(
                f'<text x="24" y="{y + 11}">{html.escape(row.label)}</text>'
                f'<rect class="track" x="{_SVG_LABEL}" y="{y}" height="{_ROW - 2}" '
                f'width="{cells * width:g}"/>'
            )
            self.shapes += _shapes(row, y, width)
        self.y = top + len(rows) * _ROW
        if width >= 4:
            lines = (f"M{_SVG_LABEL + at * width:g} {top}V{self.y}" for at in range(1, cells))
            self.shapes.append(f'<path class="grid" d="{"".join(lines)}"/>')


def _shapes(row: Row, y: int, width: float) -> Iterator[str]:
    """Draw a row: one path for each fullness, of a rectangle for each run of cells that have it.

    A guard page is a cross.
    """
    paths: dict[int, str] = {}
    at = 0
    for level, run in itertools.groupby(row.cells):
        x, length = _SVG_LABEL + at * width, len(list(run))
        across = f"{length * width:g}"
        if level == _GUARD:
            half = min(width, 12) / 4
            cross = f"M{x + width / 2 - half:g} {y + 4}l{2 * half:g} 6m0 -6l-{2 * half:g} 6"
            yield f'<path class="guard" d="{cross}"/>'
        elif level:
            box = f"M{x:g} {y}h{across}v{_ROW - 2}h-{across}z"
            paths[level] = paths.get(level, "") + box
        at += length
    colour = "initial" if row.initial else "own"
    for level, path in paths.items():
        yield f'<path class="{colour}" fill-opacity="{level / _FULL:g}" d="{path}"/>'


def svg(pool_map: PoolMap) -> str:
    """Draw as an SVG image, on a ground of its own: a notebook's may be dark."""
    per_cell = pages_per_cell(pool_map, _SVG_CELLS)
    canvas = _Canvas()
    canvas.y = 6
    canvas.paragraph(pool_map.title, "title")
    if pool_map.pages:
        some = "" if per_cell == 1 else "; pale: part of it"
        some += "; crossed: a guard page" if has_guards(pool_map) else ""
        canvas.paragraph(
            f"Coloured cells are in memory, grey ones are not; "
            f"{cell_text(pool_map, per_cell)}{some}.",
            "note",
        )
    for table in tables(pool_map, per_cell):
        canvas.y += 6
        canvas.text(table.label, "head")
        canvas.rows(table.rows)
        for words in table.words:
            canvas.text(words, "note", x=24)
    canvas.y += 6
    for sentence in totals(pool_map):
        canvas.paragraph(sentence)
    height = canvas.y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SVG_WIDTH} {height}" '
        f'width="{_SVG_WIDTH}" height="{height}" class="percpu-map" role="img">'
        f"<title>{html.escape(pool_map.title)}</title><style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>{"".join(canvas.shapes)}</svg>'
    )
