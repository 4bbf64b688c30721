"""PoolMap: what it says about pages is so, and people can read it, however large the pool is."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from together import run_together

import percpu
from percpu import PerCpuPool, PoolMap, _map_draw

PAGE = os.sysconf("SC_PAGESIZE")
CPUS = len(percpu.PerCpuVar("b"))
OLD_KERNEL = tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7)
exact_pages = pytest.mark.skipif(OLD_KERNEL, reason="Linux before 6.7 counts pages only read")


def drawn(
    *ranges: Sequence[bytes], initial: Sequence[bytes] | None = None, **more: object
) -> PoolMap:
    """A map of made-up pages."""
    numbers: dict[str, object] = {
        "title": "a pool",
        "cpus": len(ranges[0]) if ranges else 2,
        "copy_name": "CPU",
        "page_size": 4096,
        "pages": tuple(tuple(copies) for copies in ranges),
        "initial": tuple(initial or [b""] * len(ranges)),
        "owners": ("",) * len(ranges),
        "live": 3,
        "resident_bytes": 1 << 20,
        "virtual_bytes": 1 << 30,
        "padded_bytes": 1 << 24,
    }
    return PoolMap(**{**numbers, **more})  # type: ignore[arg-type]


def pages(text: str) -> bytes:
    return bytes(letter == "#" for letter in text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout", SimpleNamespace(encoding="utf-8"))


@pytest.mark.usefixtures("terminal")
def test_the_whole_drawing_of_a_small_pool() -> None:
    pool_map = drawn(
        [pages("####"), pages("##.."), pages("##.."), pages("...."), pages("#...")],
        [pages("#..."), pages("...."), pages("...."), pages("...."), pages("....")],
        initial=[pages("###."), pages("...#")],
    )
    assert str(pool_map) == repr(pool_map)
    assert str(pool_map).splitlines() == [
        "a pool",
        "a cell is a page of 4 KiB: █ in memory, · not",
        "range 0",
        "  CPU 0          ████",
        "  CPUs 1-2       ██··",
        "  CPU 4          █···",
        "  initial        ███·",
        "  CPU 3: no page of its own",
        "range 1",
        "  CPU 0          █···",
        "  initial        ···█",
        "  CPUs 1-4: no page of their own",
        "In memory: 1 MiB, of 1 GiB of address space: 40 KiB of CPU pages, 16 KiB",
        "of initial values, 968 KiB of headers and caches.",
        "Items: 3 live; padded to cache lines, they would take 16 MiB (93.7 %",
        "saved).",
    ]


@pytest.mark.usefixtures("terminal")
def test_ranges_that_look_alike_are_drawn_once() -> None:
    full, half, empty = [pages("##")] * 2, [pages("##"), pages("#.")], [pages("..")] * 2
    text = str(drawn(full, full, half, full, empty, empty))
    labels = [line for line in text.splitlines() if line.startswith("range")]
    assert labels == ["ranges 0-1, each", "range 2", "range 3", "ranges 4-5, each"]
    assert "  CPUs 0-1: no page of their own" in text


@pytest.mark.usefixtures("terminal")
def test_ranges_of_several_pools_say_whose_they_are() -> None:
    text = str(drawn(*[[pages("#.")]] * 3, owners=("8 bytes", "8 bytes", "64 bytes")))
    assert "ranges 0-1 of 8 bytes, each" in text
    assert "range 0 of 64 bytes" in text


GUARDED = bytes([1, 1, 0, 2]), bytes([0, 0, 0, 2])


@pytest.mark.usefixtures("terminal")
def test_guard_pages_have_a_mark_and_a_legend() -> None:
    pool_map = drawn(GUARDED, [pages("#.##"), pages("....")], initial=[pages("#..."), b""])
    assert str(pool_map).splitlines()[1:9] == [
        "a cell is a page of 4 KiB: █ in memory, · not, x guard page",
        "range 0",
        "  CPU 0          ██·x",
        "  initial        █···",
        "  CPU 1: no page of its own",
        "range 1",
        "  CPU 0          █·██",
        "  CPU 1: no page of its own",
    ]
    assert pool_map.pages_per_cpu == (5, 0)
    assert "guard" not in str(drawn([pages("##")]))


@pytest.mark.parametrize("length", [2, 54, 55, 56, 57, 160, 161, 162, 262144])
@pytest.mark.usefixtures("terminal")
def test_a_guard_page_shares_its_cell_with_no_other(length: int) -> None:
    text = str(drawn([bytes([1] * (length - 1) + [2])]))
    row = next(line for line in text.splitlines() if line.startswith("  CPU 0"))
    assert re.fullmatch("  CPU 0 +█+x", row)
    assert len(row) <= 72
    root = ElementTree.fromstring(drawn([bytes([1] * (length - 1) + [2])])._repr_svg_())
    track = next(element for element in root.iter() if element.get("class") == "track")
    right = float(track.get("x", 0)) + float(track.get("width", 0))
    (own,) = (box for e in root.iter() if e.get("class") == "own" for box in rectangles(e))
    (guard,) = (element for element in root.iter() if element.get("class") == "guard")
    cross = re.fullmatch(r"M([\d.]+) \d+l([\d.]+) 6m0 -6l-\2 6", guard.get("d", ""))
    assert cross is not None
    assert sum(own) < float(cross[1]) < float(cross[1]) + float(cross[2]) < right
    assert "crossed: a guard page" in " ".join(root.itertext())


@pytest.mark.usefixtures("terminal")
def test_a_pool_without_ranges_has_numbers_only() -> None:
    pool_map = drawn(live=0, padded_bytes=0)
    assert (pool_map.ranges, pool_map.pages_per_cpu) == (0, (0, 0))
    assert "range" not in str(pool_map)
    assert str(pool_map).endswith("Items: 0 live.")
    assert ElementTree.fromstring(pool_map._repr_svg_()).tag.endswith("svg")


def test_numbers_are_sums_of_pages() -> None:
    pool_map = drawn(
        [pages("####"), pages("##..")], [pages("#..."), pages("....")], padded_bytes=1000
    )
    assert pool_map.pages_per_cpu == (5, 2)
    assert pool_map.ranges == 2
    assert pool_map.saved_bytes == 1000 - (1 << 20)  # a few small items are no reason for a pool


def test_a_map_cannot_be_changed_and_equals_one_of_the_same() -> None:
    pool_map = drawn([pages("#.")])
    assert pool_map == drawn([pages("#.")])
    assert pool_map != drawn([pages("##")])
    with pytest.raises(AttributeError):
        pool_map.live = 4  # type: ignore[misc]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_without_these_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [bytes([1] * 600 + [0, 1] * 200 + [0] * 600)]
    assert {"█", "▒", "·"} < set(str(drawn(own)))
    for encoding in "ascii", "latin-1", "no-such-encoding", None:
        monkeypatch.setattr("sys.stdout", SimpleNamespace(encoding=encoding))
        text = str(drawn(own))
        text.encode("ascii")
        assert "####" in text
        assert "#x\n" in str(drawn([bytes([1, 2])]))
        assert "...." in text
    monkeypatch.setattr("sys.stdout", None)  # as under pythonw, or in a daemon
    str(drawn(own)).encode("ascii")


@pytest.mark.parametrize("width", [1, 40, 80, 200])
@pytest.mark.parametrize("length", [1, 16, 1000, 262144])
def test_no_line_is_wider_than_the_terminal(
    width: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    pool_map = drawn([bytes([1] * length), bytes(length)] * 200)
    assert max(map(len, str(pool_map).splitlines())) <= max(40, width)


@example(own=pages("#........"), per=9)
@example(own=pages("########."), per=9)
@given(
    own=st.binary(max_size=300).map(lambda raw: bytes(b & 1 for b in raw)), per=st.integers(1, 9)
)
def test_a_cell_is_empty_or_full_only_if_all_its_pages_are(own: bytes, per: int) -> None:
    cells = _map_draw._cells(own, per)
    assert len(cells) == -(-len(own) // per)
    for at, cell in enumerate(cells):
        part = own[at * per : (at + 1) * per]
        assert (cell == 0) == (1 not in part)
        assert (cell == 4) == (0 not in part)
        assert 0 <= cell <= 4


@given(
    st.lists(
        st.lists(
            st.sampled_from([pages("####"), pages("#.#."), pages("....")]), min_size=9, max_size=9
        ),
        max_size=30,
    )
)
def test_every_copy_of_every_range_is_in_the_picture(ranges: list[list[bytes]]) -> None:
    """Rows and ranges are folded; taken apart again, they are what was drawn."""
    pool_map = drawn(*ranges, cpus=9)
    unfolded: list[list[bytes]] = []
    for table in _map_draw.tables(pool_map, 1):
        if table.label.startswith("and "):
            assert table.label == f"and {len(ranges) - len(unfolded)} more range" + (
                "s" if len(ranges) - len(unfolded) > 1 else ""
            )
            break
        copies = [bytes(4)] * 9
        for row in table.rows:
            for cpu in numbers(row.label):
                copies[cpu] = bytes(cell // 4 for cell in row.cells)
        unfolded += [copies] * len(numbers(table.label.removesuffix(", each")))
    else:
        assert len(unfolded) == len(ranges)
    assert unfolded == ranges[: len(unfolded)]


def numbers(label: str) -> list[int]:
    """The numbers in a label such as "CPUs 0-3,7"."""
    found: list[int] = []
    for part in label.split()[1].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def test_a_large_pool_in_disorder_makes_no_giant_picture() -> None:
    chance = random.Random(7)
    copies = [bytes(chance.choices((0, 1), k=64)) for _ in range(512)]
    ranges = [copies[at:] + copies[:at] for at in range(100)]
    pool_map = drawn(*ranges, initial=[copies[0]] * 100)
    text = str(pool_map)
    assert len(text) < 60_000
    assert "and 472 more rows" in text
    assert "and 88 more ranges" in text
    assert text.count("initial  ") == 12  # not left out with the rest
    assert len(pool_map._repr_svg_()) < 600_000


@pytest.mark.parametrize(("length", "cells"), [(16, 16), (160, 160), (161, 81), (262144, 160)])
def test_the_svg_image_is_one_and_shows_the_pages(length: int, cells: int) -> None:
    half = bytes([1] * (length // 2) + [0] * (length - length // 2))
    image = drawn([half, bytes(length)], initial=[half], title="<&> 'pool'")._repr_svg_()
    root = ElementTree.fromstring(image)
    shapes = [(element.get("class") or "", element) for element in root.iter()]
    track = next(element for names, element in shapes if names == "track")
    left, width = float(track.get("x", 0)), float(track.get("width", 0))
    assert left + width <= 760
    for kind in "own", "initial":
        boxes = [box for names, shape in shapes if names == kind for box in rectangles(shape)]
        assert min(x for x, _ in boxes) == left
        assert sum(w for _, w in boxes) == pytest.approx(width / 2, abs=width / cells)
    assert "<&> 'pool'" in {element.text for element in root.iter()}
    assert all(rule.startswith(".percpu-map ") for rule in rules(root))


def rectangles(path: ElementTree.Element) -> list[tuple[float, float]]:
    """Where each rectangle of a path starts, and how wide it is."""
    found = re.findall(r"M([\d.]+) \d+h([\d.]+)v14h-\2z", path.get("d", ""))
    assert len(found) == path.get("d", "").count("M")
    return [(float(x), float(width)) for x, width in found]


def rules(root: ElementTree.Element) -> list[str]:
    """The rules of the image's style, which apply to the whole notebook page."""
    style = next(element.text or "" for element in root.iter() if element.tag.endswith("style"))
    return [f"{rule.strip()}}}" for rule in style.split("}") if rule.strip()]


def test_sizes_read_well() -> None:
    text = _map_draw.size_text
    assert [text(n) for n in (0, 1, 640, 1023)] == ["0 bytes", "1 byte", "640 bytes", "1,023 bytes"]
    assert [text(n << 10) for n in (1, 4, 1000, 1023)] == [
        "1 KiB",
        "4 KiB",
        "1,000 KiB",
        "1,023 KiB",
    ]
    assert [text(n) for n in (1280 << 10, 655_360_000, 1 << 46)] == [
        "1.25 MiB",
        "625 MiB",
        "64 TiB",
    ]
    assert text((1 << 20) - 1) == "1,024 KiB"
    assert text(1 << 60) == "1,024 PiB"


# ---- of real pools -------------------------------------------------------------------------


def own_pages(pool: PerCpuPool) -> set[tuple[int, int, int]]:
    """Range, CPU and page of what the map says is there."""
    return {
        (number, cpu, page)
        for number, copies in enumerate(pool.map().pages)
        for cpu, own in enumerate(copies)
        for page, there in enumerate(own)
        if there
    }


@exact_pages
@pytest.mark.parametrize("populate", ["zero", "init"])
@given(
    writes=st.lists(st.tuples(st.integers(0, 47), st.integers(0, 5), st.integers(0, PAGE - 1))),
    reads=st.lists(st.tuples(st.integers(0, 47), st.integers(0, 5))),
)
def test_a_map_has_the_pages_that_were_written_and_no_others(
    populate: str, writes: list[tuple[int, int, int]], reads: list[tuple[int, int]]
) -> None:
    cpus = max(6, CPUS)
    with PerCpuPool(PAGE, populate=populate, cpus=cpus, stride=16 * PAGE) as pool:
        items = sorted((pool.alloc() for _ in range(48)), key=lambda item: item.address())
        bases = sorted({item.address() // pool.stride for item in items})
        assert len(bases) == 3
        ranges = pool.map().pages  # oldest first, and addresses may go the other way
        assert [len(copies) for copies in ranges] == [cpus] * 3
        for item, cpu in reads:
            assert bytes(items[item][cpu]) == bytes(PAGE)
        assert own_pages(pool) == set()
        for item, cpu, at in writes:
            items[item][cpu][at] = 1
        drawn_pages = own_pages(pool)
        assert len(drawn_pages) == len({(item, cpu) for item, cpu, _ in writes})
        written = {(items[i].address() % pool.stride // PAGE, cpu) for i, cpu, _ in writes}
        assert {(page, cpu) for _, cpu, page in drawn_pages} == written
        assert pool.map().pages_per_cpu == tuple(
            len({item for item, on, _ in writes if on == cpu}) for cpu in range(cpus)
        )


@exact_pages
def test_a_map_draws_initial_values_once() -> None:
    with PerCpuPool(64, populate="init", init=b"start", cpus=max(4, CPUS), name="starts") as pool:
        items = [pool.alloc() for _ in range(10)]
        assert all(bytes(items[9][cpu][:5]) == b"start" for cpu in range(4))
        picture = pool.map()
        assert picture.title == f"PerCpuPool 'starts': 64 bytes x {pool.cpus} CPUs"
        assert sum(picture.pages_per_cpu) == 0
        assert picture.initial[0][0] == 1
        items[3][2][0] = 0
        assert own_pages(pool) == {(0, 2, 0)}
        assert "initial" in str(pool.map())


@pytest.mark.parametrize("populate", ["zero", "init"])
def test_the_map_of_a_guarded_pool_shows_its_guard_pages(populate: str) -> None:
    with PerCpuPool(64, populate=populate, guard=True, stride=4 * PAGE) as pool:
        pool.alloc()[0][0] = 1
        picture = pool.map()
        assert picture.pages[0] == (b"\1\0\0\2", *[b"\0\0\0\2"] * (pool.cpus - 1))
        assert sum(picture.pages_per_cpu) == 1
        assert all(2 not in own for own in picture.initial)
    mixed = [PerCpuPool(8, guard=True), PerCpuPool(16)]
    with percpu.PerCpuPoolSet(mixed) as pool_set:
        assert [copies[0][-1] for copies in pool_set.map().pages] == [2, 0]


def test_numbers_are_those_of_the_pool() -> None:
    with PerCpuPool(65, cpus=max(3, CPUS)) as pool:
        items = [pool.alloc() for _ in range(2000)]
        for item in items:
            item[1][0] = 1
        picture, stats = pool.map(), pool.stats()
        for name in "ranges", "live", "resident_bytes", "virtual_bytes", "padded_bytes":
            assert getattr(picture, name) == stats[name]
        assert (picture.live, picture.padded_bytes) == (2000, 2000 * pool.cpus * 128)
        assert picture.saved_bytes == picture.padded_bytes - picture.resident_bytes
        assert picture.cpus == pool.cpus
        assert picture.page_size * picture.pages_per_cpu[1] <= picture.resident_bytes
        pages = tuple(n // PAGE for n in stats["resident_per_cpu"])
        assert picture.pages_per_cpu == pages


def test_copies_are_called_what_they_are() -> None:
    with PerCpuPool(8, scope="global", cpus=2) as pool:
        pool.alloc()[1][0] = 1
        assert pool.map().title == "PerCpuPool: 8 bytes x 2 copies"
        assert "  copy 1 " in str(pool.map())
        assert "  copy 0: no page of its own" in str(pool.map())
    if percpu.info().mm_cid or percpu.info().rseq == "none":
        with PerCpuPool(8, index="cid") as pool:
            assert pool.map().copy_name == "id"
            assert "concurrency id" in pool.map().title


def test_a_closed_pool_has_no_map() -> None:
    pool = PerCpuPool(8)
    pool.close()
    with pytest.raises(percpu.ClosedError):
        pool.map()


def test_maps_of_512_cpus_and_10000_items_are_small() -> None:
    with PerCpuPool(8, cpus=512) as pool:
        items = [pool.alloc() for _ in range(10_000)]
        for item in items:
            for cpu in 0, 1:
                item[cpu][0] = 1
        picture = pool.map()
        assert picture.resident_bytes <= 1 << 20
        assert picture.padded_bytes == 10_000 * 512 * 64
        assert len(str(picture).splitlines()) < 14
        assert len(picture._repr_svg_()) < 5000


def test_maps_are_drawn_while_others_allocate_and_trim() -> None:
    with PerCpuPool(1000, stride=4096, populate="init") as pool:

        def churn() -> None:
            for _ in range(30):
                items = [pool.alloc(b"x") for _ in range(20)]
                for item in items:
                    item.free()
                pool.trim()

        def draw() -> None:
            for _ in range(100):
                picture = pool.map()
                assert len(picture.pages) == len(picture.initial) == picture.ranges
                assert str(picture)

        run_together(churn, churn, draw)
