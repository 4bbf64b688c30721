"""PerCpuStats, PerCpuStat and snapshots: what they refuse and say, closing, threads, signals,
finalizers, forks. What they count is in test_model_stats.py.
"""

from __future__ import annotations

import copy
import os
import pickle
import random
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
from together import run_python, run_together

from percpu import (
    ClosedError,
    PerCpuPool,
    PerCpuStat,
    PerCpuStats,
    StatsDifference,
    StatsSnapshot,
)

np = pytest.importorskip("numpy")

NAMES = ("pgfault", "pgmajfault", "pgalloc", "pgfree")


# ---- names ----------------------------------------------------------------------------------


def test_one_iterable_of_names_is_as_good_as_arguments() -> None:
    for stats in (
        PerCpuStats(*NAMES),
        PerCpuStats(NAMES),
        PerCpuStats(list(NAMES)),
        PerCpuStats(name for name in NAMES),
        PerCpuStats(dict.fromkeys(NAMES)),
    ):
        assert stats.names == NAMES
        assert list(stats) == list(NAMES)
        assert len(stats) == 4
    assert PerCpuStats("abc").names == ("abc",)  # not a, b, c
    assert PerCpuStats(["abc"]).names == ("abc",)


class Name(str):
    """A str that lies: only its characters may count."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise AssertionError("never asked")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("never asked")


def test_subclasses_of_str_are_what_they_spell() -> None:
    stats = PerCpuStats(Name("a"), "b")
    assert [type(name) for name in stats.names] == [str, str]
    stats.inc(Name("b"))
    stats.handle(Name("b")).inc()
    assert (stats["a"], stats[Name("b")]) == (0, 2)
    assert Name("b") in stats
    assert Name("c") not in stats
    with pytest.raises(ValueError, match="'a' is there twice"):
        PerCpuStats("a", Name("a"))


def test_any_text_is_a_name() -> None:
    names = ["\0", "\xe9", "e\u0301", "\ud800", "\u540d", "\U0001f600", " "]
    names += ["a" * 10_000, "a" * 9_999]
    stats = PerCpuStats(names)
    for i, name in enumerate(names):
        stats.inc(name, i)
        stats.inc("".join(list(name)), 1)  # equal, but another object
    assert [stats[name] for name in names] == [i + 1 for i in range(len(names))]


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ((), ValueError, "one str or more"),
        (([],), ValueError, "one str or more"),
        (("a", "b", "a"), ValueError, "'a' is there twice"),
        ((["a", "b", "b"],), ValueError, "'b' is there twice"),
        (("a", ""), ValueError, r"names\[1\] must be a str that is not empty"),
        (("a", 1), TypeError, r"names\[1\] must be a str, not int 1"),
        ((["a", b"b"],), TypeError, r"names\[1\] must be a str, not bytes b'b'"),
        ((["a"], "b"), TypeError, r"names\[0\] must be a str, not list"),
        ((7,), TypeError, "names must be str, or one iterable of str, not int 7"),
        ((None,), TypeError, "NoneType None"),
    ],
)
def test_bad_names(names: tuple[object, ...], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        PerCpuStats(*names)  # type: ignore[arg-type]


def test_bad_arguments_of_the_class() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'spool'"):
        PerCpuStats("a", spool=None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="pool must be a PerCpuPool or None, not int 3"):
        PerCpuStats("a", pool=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"at least 24 bytes, aligned to 8, for .* not of 16"):
        PerCpuStats("a", "b", "c", pool=PerCpuPool(16))
    with pytest.raises(ValueError, match="scope 'percpu'"):
        PerCpuStats("a", pool=PerCpuPool(16, scope="global"))
    with pytest.raises(TypeError, match="PerCpuStat"):
        PerCpuStat()

    def failing() -> object:
        yield "a"
        raise LookupError("an iterable that fails")

    with pytest.raises(LookupError, match="an iterable that fails"):
        PerCpuStats(failing())  # type: ignore[arg-type]


# ---- which count ----------------------------------------------------------------------------

ASKERS: list[Callable[[PerCpuStats, object], object]] = [
    lambda stats, which: stats.inc(which),  # type: ignore[arg-type]
    lambda stats, which: stats.inc(which, 5),  # type: ignore[arg-type]
    lambda stats, which: stats.inc(which, n=5),  # type: ignore[arg-type]
    lambda stats, which: stats.add(which, 5),  # type: ignore[arg-type]
    lambda stats, which: stats.handle(which),  # type: ignore[arg-type]
    lambda stats, which: stats.sum(which),  # type: ignore[arg-type]
    lambda stats, which: stats.per_cpu(which),  # type: ignore[arg-type]
    lambda stats, which: stats[which],  # type: ignore[index]
]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is new in Python 3.12")
def test_weights_whose_buffer_fails() -> None:
    class Fails:
        def __buffer__(self, flags: int) -> memoryview:
            raise ValueError("no buffer today")

        def __index__(self) -> int:
            return 1

    stats = PerCpuStats(*NAMES)
    with pytest.raises(ValueError, match="no buffer today"):
        stats.add_at(b"\0", Fails())
    assert set(stats.snapshot().values()) == {0}


def test_names_are_not_suggested_out_of_too_many() -> None:
    stats = PerCpuStats(f"name {i}" for i in range(1001))
    with pytest.raises(KeyError, match=r"no name of this PerCpuStats is 'nam 1'\"$"):
        stats.inc("nam 1")


@pytest.mark.parametrize("ask", ASKERS)
def test_what_is_no_count_is_refused_everywhere(
    ask: Callable[[PerCpuStats, object], object],
) -> None:
    stats = PerCpuStats(*NAMES)
    with pytest.raises(KeyError, match="'pgfalt': did you mean 'pgfault', 'pgmajfault' or"):
        ask(stats, "pgfalt")
    with pytest.raises(KeyError, match=r"no name of this PerCpuStats is 'zzz'\"$"):
        ask(stats, "zzz")
    for index in (4, -1, 2**70, -(2**70)):
        with pytest.raises(IndexError, match=f"index from 0 to 3, not {index}"):
            ask(stats, index)
    for other in (1.0, None, b"pgfault", [], PerCpuStats("a")):
        with pytest.raises(TypeError, match="which must be a name, an index or a handle, not"):
            ask(stats, other)
    with pytest.raises(ValueError, match="which must be a handle of these stats"):
        ask(stats, PerCpuStats(*NAMES).handle("pgfault"))
    assert not any(stats.snapshot().array)


@pytest.mark.parametrize("n", [2**63, -(2**63) - 1, 10**30])
def test_addends_beyond_64_bits_overflow(n: int) -> None:
    stats = PerCpuStats("a")
    adders: list[Callable[[], None]] = [
        lambda: stats.inc("a", n),
        lambda: stats.add("a", n),
        lambda: stats.handle("a").add(n),
        lambda: stats.add_at(array("B", [0]), n),
    ]
    for adder in adders:
        with pytest.raises(OverflowError, match=r"must be from -9223372036854775808"):
            adder()
    assert stats["a"] == 0


def test_addends_that_are_no_int() -> None:
    stats = PerCpuStats("a")
    for n in (1.0, "1", None):
        for adder in (
            lambda n=n: stats.inc("a", n),
            lambda n=n: stats.add("a", n),
            lambda n=n: stats.handle("a").add(n),
        ):
            with pytest.raises(TypeError, match="n must be an int"):
                adder()
    for call in (stats.inc, stats.add):
        with pytest.raises(TypeError, match="missing the argument 'which'"):
            call()  # type: ignore[operator]
        with pytest.raises(TypeError, match="at most 2 positional"):
            call("a", 1, 2)  # type: ignore[operator]
        with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
            call("a", m=1)  # type: ignore[operator]
    with pytest.raises(TypeError, match="missing the argument 'n'"):
        stats.add("a")  # type: ignore[call-arg]
    assert stats["a"] == 0


def test_items_are_not_assigned() -> None:
    stats = PerCpuStats("a")
    with pytest.raises(TypeError, match=r"use stats\.add\(name, n\)"):
        stats["a"] += 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="cannot be deleted"):
        del stats["a"]  # type: ignore[arg-type]


def test_names_alone_are_in_it() -> None:
    stats = PerCpuStats("a")
    handle = stats.handle("a")
    assert "a" in stats
    assert all(other not in stats for other in ("b", 0, None, handle, [], "A"))


def test_a_sum_beyond_64_bits_wraps(allowed_cpus: list[int]) -> None:
    stats = PerCpuStats("a")
    for cpu in allowed_cpus[:2]:
        os.sched_setaffinity(0, {cpu})
        stats.add("a", 2**63 - 1)
        stats.inc("a")
    expected = (len(allowed_cpus[:2]) * 2**63 + 2**63) % 2**64 - 2**63
    assert stats["a"] == stats.handle("a").sum() == stats.snapshot()["a"] == expected


# ---- add_at ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "<i8", "=u2", ">i4", ">u8"]
)
@pytest.mark.parametrize("step", [1, 3, -2])
def test_integers_of_every_type_are_taken_as_they_are(kind: str, step: int) -> None:
    stats = PerCpuStats(f"{i}" for i in range(100))
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 100, 1000).astype(kind)[::step]
    info = np.iinfo(kind)
    weights = rng.integers(info.min, info.max, 1000, info.dtype.newbyteorder("="), endpoint=True)
    weights = weights.astype(kind)[::step]
    stats.add_at(indices, weights)
    expected = [0] * 100
    for i, n in zip(indices.tolist(), weights.tolist(), strict=True):
        expected[i] = (expected[i] + n + 2**63) % 2**64 - 2**63
    assert list(stats.snapshot().array) == expected


def test_one_weight_for_all() -> None:
    stats = PerCpuStats("a", "b")
    stats.add_at(array("B", [0, 1, 1]), 5)
    stats.add_at(array("B", [0, 1, 1]), np.int32(-1))
    stats.add_at(array("B", [0, 1, 1]), np.array(10))  # of no dimension
    stats.add_at(array("B", [1]), weights=None)
    stats.add_at(bytes([0]), True)
    assert stats.snapshot().as_dict() == {"a": 15, "b": 29}


def test_nothing_in_bulk() -> None:
    stats = PerCpuStats("a")
    stats.add_at(b"")
    stats.add_at(array("q"), array("b"))
    stats.add_at(np.zeros(0, int), 7)
    assert stats["a"] == 0


@pytest.mark.parametrize("count", [3, 255, 256, 257, 5000])
@pytest.mark.parametrize("value", [10, -1, 2**63 - 1, -(2**63)])
def test_one_bad_index_and_nothing_is_added(count: int, value: int) -> None:
    stats = PerCpuStats(f"{i}" for i in range(10))
    for bad in {0, 1, count - 1}:
        indices = np.zeros(count, np.int64)
        indices[bad] = value
        with pytest.raises(IndexError, match=rf"indices\[{bad}\] must be from 0 to 9, not {value}"):
            stats.add_at(indices)
    with pytest.raises(IndexError, match=rf"not {2**64 - 1}$"):
        stats.add_at(np.array([2**64 - 1], np.uint64))
    assert not any(stats.snapshot().array)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (([0],), TypeError, "indices must be a buffer of ints.* not list"),
        ((0,), TypeError, "indices must be a buffer of ints.* not int 0"),
        ((np.zeros(2),), TypeError, "indices must be a buffer of ints .* not of format 'd'"),
        ((np.zeros(2, bool),), TypeError, r"not of format '\?'"),
        ((np.zeros((2, 1), int),), ValueError, "indices must have 1 dimension, not 2"),
        ((np.array(0),), ValueError, "indices must have 1 dimension, not 0"),
        ((np.zeros(2, "i4,i4"),), TypeError, "not of format 'T"),
        ((b"\0", b"\1\2"), ValueError, "as many as indices, 1, not 2"),
        ((b"", b"\1"), ValueError, "as many as indices, 0, not 1"),
        ((b"\0", 1.5), TypeError, "weights must be an int, a buffer .* not float 1.5"),
        ((b"\0", [1]), TypeError, "weights must be an int, a buffer .* not list"),
        ((b"\0", np.zeros(1)), TypeError, "weights must be a buffer of ints"),
        ((b"\0", np.zeros((1, 1), int)), ValueError, "weights must have 1 dimension"),
        ((b"\0", np.float64(1)), TypeError, "weights must be a buffer of ints"),
        ((), TypeError, "missing the argument 'indices'"),
    ],
)
def test_bad_bulk(arguments: tuple[object, ...], error: type[Exception], said: str) -> None:
    stats = PerCpuStats("a", "b")
    with pytest.raises(error, match=said):
        stats.add_at(*arguments)  # type: ignore[arg-type]
    assert not any(stats.snapshot().array)


def test_buffers_are_let_go() -> None:
    """Would break if an error left a buffer in use: then the array could not grow."""
    stats = PerCpuStats("a")
    indices, weights = array("q", [0, 9]), array("q", [1, 1, 1])
    for _ in range(3):
        with pytest.raises(ValueError, match="as many as"):
            stats.add_at(indices, weights)
        with pytest.raises(IndexError):
            stats.add_at(indices, weights[:2])
        with pytest.raises(TypeError):
            stats.add_at(indices, array("d", [1, 2]))
    indices.append(1)
    weights.append(1)
    stats.close()
    with pytest.raises(ClosedError):
        stats.add_at(array("q", [0]), weights[:1])
    weights.append(1)


def test_indices_that_change_meanwhile_do_no_harm() -> None:
    """What is used is what was checked: another thread writes nonsense into the buffer."""
    stats = PerCpuStats("a", "b")
    indices = np.zeros(200_000, np.int64)
    done = threading.Event()
    refused = 0

    def spoil() -> None:
        rng = random.Random(1)
        while not done.is_set():
            position = rng.randrange(len(indices))
            indices[position] = rng.choice([2, -1, 2**40, 2**62])
            indices[position] = 0

    def add() -> None:
        nonlocal refused
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                stats.add_at(indices)
            except IndexError:
                refused += 1
        done.set()

    run_together(spoil, add)
    stats.check()
    assert stats["b"] == 0
    assert stats["a"] > 0


# ---- snapshots ------------------------------------------------------------------------------


def test_a_snapshot_is_a_mapping_and_an_array() -> None:
    stats = PerCpuStats(*NAMES)
    stats.inc("pgalloc", -7)
    before = time.monotonic()
    snapshot = stats.snapshot()
    assert before <= snapshot.time <= time.monotonic()
    assert isinstance(snapshot, Mapping)
    assert isinstance(snapshot, StatsSnapshot)
    assert snapshot.names == tuple(snapshot) == NAMES
    assert snapshot == {"pgfault": 0, "pgmajfault": 0, "pgalloc": -7, "pgfree": 0}
    assert snapshot.as_dict() is not snapshot.as_dict()
    assert snapshot.array == array("q", [0, 0, -7, 0])
    numbers = np.asarray(snapshot)
    assert numbers.dtype == np.int64
    assert np.shares_memory(numbers, np.frombuffer(snapshot.array, np.int64))
    assert np.asarray(snapshot, np.float64).tolist() == [0, 0, -7, 0]
    assert not np.shares_memory(np.array(snapshot), numbers)
    with pytest.raises(KeyError):
        snapshot["nothing"]
    stats.inc("pgalloc")
    assert snapshot["pgalloc"] == -7


def test_differences_and_rates() -> None:
    first = StatsSnapshot(("a", "b"), array("q", [5, -(2**63)]), 10.0)
    second = StatsSnapshot(("a", "b"), array("q", [25, 2**63 - 1]), 14.0)
    difference = second - first
    assert isinstance(difference, StatsDifference)
    assert difference.seconds == 4.0
    assert dict(difference) == {"a": 20, "b": -1}  # modulo 2**64
    assert difference.rates() == {"a": 5.0, "b": -0.25}
    assert dict(first - second) == {"a": -20, "b": 1}
    assert (first - second).rates() == difference.rates()
    with pytest.raises(ValueError, match="no time between"):
        (first - first).rates()
    with pytest.raises(ValueError, match="name 1 is 'b' in one and 'c' in the other"):
        first - StatsSnapshot(("a", "c"), array("q", [0, 0]), 0.0)
    with pytest.raises(ValueError, match="one has 2 and the other 1"):
        first - StatsSnapshot(("a",), array("q", [0]), 0.0)
    with pytest.raises(TypeError):
        first - {"a": 1}  # type: ignore[operator]


def test_pictures_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first = StatsSnapshot(("a<b", "long_name", "zero"), array("q", [1, 0, 0]), 1.0)
    second = StatsSnapshot(first.names, array("q", [1_001, -500, 0]), 3.0)
    text = str(second - first).splitlines()
    assert text[0] == "StatsDifference of 3 names over 2.000 s"
    assert text[1].split()[:3] == ["a<b", "1,000", "500.0/s"]
    assert text[2].split()[:3] == ["long_name", "-500", "-250.0/s"]
    assert len(text[1].split()[3]) == 2 * len(text[2].split()[3])  # the bars
    assert text[3:] == ["  (1 is 0)"]
    assert all(len(line) <= 80 for line in text)
    assert str(first - first).splitlines()[1:] == ["  (3 are 0)"]
    assert repr(second) == "<StatsSnapshot of 3 names at 3.000000 s>"
    markup = second._repr_html_()
    assert "a&lt;b" in markup
    assert "a<b" not in markup
    assert "1,001" in markup
    many = StatsSnapshot(tuple(f"n{i}" for i in range(200)), array("q", range(200)), 0.0)
    assert "149 smaller, 1 is 0" in str(many)
    assert "n199" in str(many)
    assert "n100 " not in str(many)
    assert len(str(many).splitlines()) == 52


def test_a_snapshot_is_drawn_by_matplotlib() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    snapshot = StatsSnapshot(("a", "b", "c"), array("q", [3, 0, -2]), 0.0)
    axes = snapshot.plot(figure.add_subplot())
    assert [bar.get_width() for bar in axes.patches] == [3, -2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "c"]
    assert "1 is 0" in axes.get_xlabel()


def test_names_of_any_characters_are_drawn() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    names = (r"$\frac$", "$a_b$", "two\nlines", "\udc80")
    snapshot = StatsSnapshot(names, array("q", [1, 2, 3, 4]), 0.0)
    axes = snapshot.plot(figure.add_subplot())
    figure.draw_without_rendering()
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert texts == [*names[:2], r"'two\nlines'", r"'\udc80'"]
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())
    assert rb"&#x27;\udc80&#x27;" in snapshot._repr_html_().encode()


def test_a_new_figure_has_room_for_the_names() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    for count in (0, 1, 50):
        numbers = array("q", range(1, count + 1)) + array("q", [0])
        snapshot = StatsSnapshot(tuple(f"n{i}" for i in range(count + 1)), numbers, 0.0)
        figure = snapshot.plot().figure
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert len(boxes) == count
        assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
        pyplot.close(figure)


def test_snapshots_travel() -> None:
    stats = PerCpuStats(*NAMES)
    stats.inc("pgfree", 3)
    snapshot = stats.snapshot()
    for each in (snapshot, snapshot - snapshot):
        twin = pickle.loads(pickle.dumps(each))
        assert type(twin) is type(each)
        assert (twin, twin.names, twin.array) == (each, each.names, each.array)
        assert copy.copy(each) == each


def test_import_is_lazy() -> None:
    run_python(
        "import sys, percpu\n"
        "s = percpu.PerCpuStats('a'); s.inc('a')\n"
        "assert not {'percpu._stats_snapshot', 'difflib', 'html'} & set(sys.modules)\n"
        "assert s.snapshot() == {'a': 1} and 'matplotlib' not in sys.modules\n"
        "assert percpu.StatsSnapshot is type(s.snapshot())\n"
    )
