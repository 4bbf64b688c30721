"""PerCpuHistogram: what it takes and refuses, buffers of every kind, quantiles beside sorted data,
snapshots, merging, and its life.
"""

from __future__ import annotations

import array
import copy
import gc
import math
import pickle
import sys
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from together import run_python

import percpu
from percpu import ClosedError, HistogramSnapshot, PerCpuHistogram, PerCpuPool, PoolExhausted

LOW, HIGH = 2.0**-1022, 2.0**1023
INT_CODES = "bBhHiIlLqQ"
finite = st.floats(allow_nan=False, allow_infinity=False)


def boundless() -> PerCpuHistogram:
    return PerCpuHistogram(bounds=[-1, 0, 0.5, 2])


# ---- making -------------------------------------------------------------------------------


def test_the_default_is_what_the_docstring_says() -> None:
    h = PerCpuHistogram()
    assert (h.layout, h.error, len(h.bounds)) == ("log", 1 / 32, 958)
    assert h.low <= 1e-9 < h.bounds[1]
    assert h.bounds[-2] < 1e9 <= h.high
    assert (h.bounds[0], h.bounds[-1]) == (h.low, h.high)
    assert "959 buckets" in (PerCpuHistogram.__doc__ or "")
    assert "7680 bytes" in (PerCpuHistogram.__doc__ or "")
    with PerCpuPool(7680) as pool:
        PerCpuHistogram(pool=pool)


def test_explicit_bounds_are_kept() -> None:
    h = PerCpuHistogram(bounds=iter((-1, 0.5, 2**60)))
    assert (h.layout, h.error, h.bounds) == ("bounds", None, (-1.0, 0.5, 2.0**60))
    assert (h.low, h.high) == (-1.0, 2.0**60)


@pytest.mark.parametrize(
    ("relative_error", "parts"), [(0.99, 1), (0.5, 1), (0.26, 2), (0.25, 2), (0.05, 16), (0.01, 64)]
)
def test_octaves_have_as_few_parts_as_the_error_allows(relative_error: float, parts: int) -> None:
    h = PerCpuHistogram(relative_error, low=1, high=4)
    starts = [2**e * (1 + i / parts) for e in (0, 1) for i in range(parts)]
    assert h.bounds == (*starts, 4)
    assert h.error == 0.5 / parts


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"relative_error": 0}, ValueError, "relative_error must be above 0 and below 1, not 0"),
        ({"relative_error": 1}, ValueError, "relative_error must be above 0 and below 1, not 1"),
        ({"relative_error": math.nan}, ValueError, "relative_error must be .*, not nan"),
        ({"relative_error": "1"}, TypeError, "relative_error must be an int or a float, not str"),
        ({"low": 0}, ValueError, r"low must be from 2\*\*-1022 to 2\*\*1023, not 0"),
        ({"low": LOW / 2}, ValueError, "low must be from"),
        ({"low": math.nan}, ValueError, "low must be from .*, not nan"),
        ({"high": math.inf}, ValueError, r"high must be from 2\*\*-1022 to 2\*\*1023, not inf"),
        ({"high": HIGH * 1.5}, ValueError, "high must be from"),
        ({"high": 10**400}, OverflowError, "high must be in the range of a float"),
        ({"low": 2, "high": 2}, ValueError, r"low must be below high, which is 2\.0, not 2\.0"),
        ({"high": 1e-10}, ValueError, r"low must be below high, which is 1e-10, not 1e-09"),
        ({"relative_error": 1e-9}, ValueError, "make more than 1048576 buckets"),
        ({"low": None}, TypeError, "low must be an int or a float, not NoneType"),
        ({"bounds": []}, ValueError, "bounds must have from 1 to 1048575 numbers, not 0"),
        ({"bounds": [0] * 2**20}, ValueError, "bounds must have from 1 to 1048575 numbers"),
        ({"bounds": [1, 1]}, ValueError, r"bounds\[1\] must be above the one before, not 1"),
        ({"bounds": [2, 1]}, ValueError, r"bounds\[1\] must be above the one before, not 1"),
        ({"bounds": [0.0, -0.0]}, ValueError, r"bounds\[1\] must be above the one before"),
        ({"bounds": [1, math.inf]}, ValueError, r"bounds\[1\] must be finite, not inf"),
        ({"bounds": [math.nan]}, ValueError, r"bounds\[0\] must be finite, not nan"),
        ({"bounds": ["1"]}, TypeError, r"bounds\[0\] must be an int or a float, not str '1'"),
        ({"bounds": [1, 10**400]}, OverflowError, r"bounds\[1\] must be in the range of a float"),
        ({"bounds": 3}, TypeError, "bounds must be an iterable of numbers, not int 3"),
        ({"bounds": "12"}, TypeError, r"bounds\[0\] must be an int or a float, not str"),
        ({"bounds": [1], "low": 1}, ValueError, "bounds cannot be had together with"),
        ({"bounds": [1], "relative_error": 0.1}, ValueError, "bounds cannot be had together"),
        ({"pool": 3}, TypeError, "pool must be a PerCpuPool or None, not int 3"),
        ({"wrong": 3}, TypeError, "wrong"),
    ],
)
def test_bad_arguments_name_themselves(
    arguments: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        PerCpuHistogram(**arguments)  # type: ignore[call-overload]


def test_an_exception_of_the_bounds_goes_through() -> None:
    def bounds() -> object:
        yield 1.0
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        PerCpuHistogram(bounds=bounds())  # type: ignore[call-overload]


def test_a_pool_must_have_room_and_is_used() -> None:
    with pytest.raises(ValueError, match="items of at least 7680 bytes, aligned to 8, for a histo"):
        PerCpuHistogram(pool=PerCpuPool(7672))
    with pytest.raises(ValueError, match="with a copy for each CPU, for a histogram"):
        PerCpuHistogram(pool=PerCpuPool(8000, scope="global"))
    pool = PerCpuPool(48, max_ranges=1, stride=4096, cpus=percpu.PerCpuVar("b").__len__() + 3)
    h = PerCpuHistogram(bounds=[1, 2, 3], pool=pool)
    assert h.pool is pool
    assert len(h.per_cpu()) == pool.cpus
    assert len(pool) == 1
    others = [PerCpuHistogram(bounds=[1, 2, 3], pool=pool) for _ in range(pool.capacity - 1)]
    with pytest.raises(PoolExhausted):
        PerCpuHistogram(bounds=[1, 2, 3], pool=pool)
    del h, others
    gc.collect()
    assert len(pool) == 0
    pool.check()


def test_a_robust_pool_finds_a_histogram_that_was_not_closed() -> None:
    pool = PerCpuPool(64, robust=True)
    h = PerCpuHistogram(bounds=[1], pool=pool)
    h.observe(1)
    with pytest.raises(percpu.CorruptionError, match="test_histogram"):
        pool.close()
    with PerCpuPool(64, robust=True) as pool, PerCpuHistogram(bounds=[1], pool=pool) as h:
        h.observe(1)
        pool.check()


# ---- observing ----------------------------------------------------------------------------


class Index:
    def __init__(self, value: int, act: Callable[[], object] = lambda: None) -> None:
        self.value, self.act = value, act

    def __index__(self) -> int:
        self.act()
        return self.value


def test_ints_floats_and_what_is_like_them() -> None:
    h = PerCpuHistogram(bounds=[0, 1, 2, 3])

    class Float(float):
        pass

    for x in (1, 1.0, True, np.float64(1), Float(1), np.int8(1), Index(1)):
        h.observe(x)
    h.observe(2**62)
    h.observe(-(2**70))
    assert h.snapshot().counts == (1, 7, 0, 0, 1)
    assert h.sum == 7 + 2.0**62 - 2.0**70


@pytest.mark.parametrize("make", [PerCpuHistogram, boundless])
@pytest.mark.parametrize("x", [math.nan, -math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_would_spoil_the_sum_is_refused(make: Callable[[], PerCpuHistogram], x: float) -> None:
    h = make()
    h.observe(1)
    with pytest.raises(ValueError, match=rf"^x must be finite, not .*{abs(x)}"):
        h.observe(x)
    for n, at in ((1, 0), (65, 64), (1000, 999), (1000, 511), (1000, 512), (5, 2)):
        values = np.ones(n)
        values[at] = x
        with pytest.raises(ValueError, match=rf"^values\[{at}\] must be finite, not -?{abs(x)}"):
            h.observe_many(values)
    assert (h.count, h.sum) == (1, 1.0)


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        ("1", TypeError, "x must be an int or a float, not str '1'"),
        (None, TypeError, "x must be an int or a float, not NoneType"),
        (1j, TypeError, "x must be an int or a float, not complex"),
        (10**400, OverflowError, "x must be in the range of a float"),
        (-(10**400), OverflowError, "x must be in the range of a float"),
    ],
)
def test_bad_observations_name_themselves(x: object, error: type[Exception], says: str) -> None:
    h = PerCpuHistogram()
    with pytest.raises(error, match=says):
        h.observe(x)  # type: ignore[arg-type]
    assert h.count == 0


def test_an_index_that_raises_or_closes() -> None:
    h = PerCpuHistogram()

    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        h.observe(Index(1, fail))
    with pytest.raises(ClosedError):
        h.observe(Index(1, h.close))


# ---- buffers ------------------------------------------------------------------------------


def assert_as_one_by_one(values: object, numbers: list[float]) -> None:
    for make in (PerCpuHistogram, boundless):
        many, single = make(), make()
        many.observe_many(values)  # type: ignore[arg-type]
        for number in numbers:
            single.observe(number)
        rounding = 1e-13 * sum(map(abs, numbers))  # sums are added up in different orders
        assert many.snapshot().counts == single.snapshot().counts
        assert many.sum == pytest.approx(single.sum, rel=0, abs=rounding)
        many.check()


@pytest.mark.parametrize("code", "df" + INT_CODES)
def test_arrays_of_every_code(code: str) -> None:
    numbers = [0, 1, 2, 3, 100, 127] * 200 + [5]
    if code in "bhilq":
        size = array.array(code).itemsize
        numbers += [-1, -128, -(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1]
    elif code in "BHILQ":
        numbers += [2 ** (8 * array.array(code).itemsize) - 1]
    assert_as_one_by_one(array.array(code, numbers), [float(n) for n in numbers])


@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("order", ["<", ">", "="])
def test_numpy_types_orders_and_strides(kind: str, order: str) -> None:
    numbers = np.arange(1501) % 120
    values = numbers.astype(order + kind)
    assert_as_one_by_one(values, numbers.tolist())
    assert_as_one_by_one(values[::3], numbers[::3].tolist())
    assert_as_one_by_one(values[::-1], numbers[::-1].tolist())
    assert_as_one_by_one(values[:0], [])
    values.flags.writeable = False
    assert_as_one_by_one(values[700:], numbers[700:].tolist())
    table = np.stack([values, values[::-1]], axis=1)
    assert_as_one_by_one(table[:, 1], numbers[::-1].tolist())
    packed = np.zeros(1501, dtype=np.dtype([("pad", "u1"), ("x", order + kind)]))
    packed["x"] = values
    assert_as_one_by_one(packed["x"], numbers.tolist())  # no item is aligned
    assert_as_one_by_one(np.broadcast_to(values[5:6], (777,)), [5.0] * 777)  # stride 0


def test_bytes_and_memoryviews() -> None:
    assert_as_one_by_one(b"\x00\x01\xff", [0, 1, 255])
    assert_as_one_by_one(memoryview(array.array("d", [1.5, 2.5, 3.5]))[::2], [1.5, 3.5])


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ([1.0, 2.0], TypeError, "values must be a buffer of .*, not list"),
        (3.0, TypeError, "values must be a buffer"),
        (np.ones((2, 2)), ValueError, "values must have 1 dimension, not 2"),
        (np.array(1.0), ValueError, "values must have 1 dimension, not 0"),
        (
            np.ones(3, dtype=complex),
            TypeError,
            "values must be a buffer of floats .* not of format 'Zd'",
        ),
        (np.ones(3, dtype=bool), TypeError, r"not of format '\?'"),
        (np.ones(3, dtype=np.float16), TypeError, "not of format 'e'"),
        (np.ones(3, dtype=np.longdouble), TypeError, "not of format 'g'"),
        (np.zeros(3, dtype="S3"), TypeError, "not of format '3s'"),
        (np.zeros(3, dtype=[("a", "f8")]), TypeError, r"not of format 'T\{"),
        (np.array([object()]), TypeError, "not of format 'O'"),
    ],
)
def test_other_buffers_are_refused(values: object, error: type[Exception], says: str) -> None:
    h = PerCpuHistogram()
    with pytest.raises(error, match=says):
        h.observe_many(values)  # type: ignore[arg-type]
    assert h.count == 0


def test_the_buffer_is_let_go() -> None:
    values = array.array("d", [1.0, math.nan])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"values\[1\]"):
            PerCpuHistogram().observe_many(values)
        values.append(2.0)  # BufferError while a view of it lives
    with pytest.raises(ValueError, match="1 dimension"):
        PerCpuHistogram().observe_many(memoryview(values).cast("B").cast("d", (2, 2)))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is new in Python 3.12")
def test_a_buffer_that_closes_the_histogram() -> None:
    h = PerCpuHistogram()

    class Closes:
        def __buffer__(self, flags: int) -> memoryview:
            h.close()
            return memoryview(array.array("d", [1.0]))

    with pytest.raises(ClosedError):
        h.observe_many(Closes())


def test_ints_beyond_exact_floats_are_rounded() -> None:
    h = PerCpuHistogram()
    h.observe_many(np.array([2**63 - 1, 2**53 + 1], dtype="i8"))
    h.observe_many(np.array([2**64 - 1], dtype="u8"))
    assert h.sum == 2.0**63 + 2.0**53 + 2.0**64


# ---- quantiles ----------------------------------------------------------------------------

inside = st.floats(1e-9, 1e9, exclude_max=True)
quantile = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])


@given(st.lists(inside, min_size=1), st.lists(quantile, min_size=1), st.floats(0.001, 0.6))
@example([1.0], [0.0], 0.05)
def test_quantiles_are_within_the_error_of_sorted_data(
    values: list[float], qs: list[float], relative_error: float
) -> None:
    h = PerCpuHistogram(relative_error)
    assert h.error is not None
    assert h.error <= max(relative_error, 0)
    h.observe_many(array.array("d", values))
    values.sort()
    for q, found in zip(qs, h.quantiles(qs), strict=True):
        rank = max(1, math.ceil(q * len(values)))
        true = values[rank - 1]
        assert abs(found - true) <= h.error * true
        assert h.quantile(q) == found


@given(st.lists(finite), quantile, st.sampled_from(["log", "bounds"]))
def test_a_snapshot_finds_the_same_quantiles(values: list[float], q: float, layout: str) -> None:
    h = PerCpuHistogram() if layout == "log" else boundless()
    h.observe_many(array.array("d", values))
    found, again = h.quantile(q), h.snapshot().quantile(q)
    assert found == again or (math.isnan(found) and math.isnan(again) and not values)
    if values:
        assert h.low <= found <= h.high or (layout == "bounds" and 0 <= found <= h.high)


@pytest.mark.parametrize("relative_error", [1e-300, 2.0**-53, 2.0**-52])
def test_buckets_of_one_float_or_two(relative_error: float) -> None:
    h = PerCpuHistogram(relative_error, low=1, high=1 + 1e-14)
    values = [-0.0, -0.5, -1.0, -1e308]
    h.observe_many(array.array("d", values))
    for value in values:
        h.observe(value)
    assert h.snapshot().counts[0] == h.count == 8
    for value in h.bounds:
        now = PerCpuHistogram(relative_error, low=1, high=1 + 1e-14)
        now.observe(value)
        found = now.quantile(0.5)
        assert found == now.snapshot().quantile(0.5)
        assert abs(found - value) <= relative_error


@given(st.lists(finite, min_size=1), st.lists(quantile, min_size=2))
def test_quantiles_do_not_go_down(values: list[float], qs: list[float]) -> None:
    for h in (PerCpuHistogram(), boundless()):
        h.observe_many(array.array("d", values))
        found = h.quantiles(sorted(qs))
        assert found == sorted(found)


def test_quantiles_outside_of_the_buckets() -> None:
    h = PerCpuHistogram(low=1, high=1024)
    assert math.isnan(h.quantile(0.5))
    assert math.isnan(h.mean)
    h.observe_many(array.array("d", [-5, 0, 0.99, 10, 2000]))
    assert h.quantiles([0, 0.6, 1]) == [1.0, 1.0, 1024.0]
    assert h.quantile(0.8) == pytest.approx(10, rel=1 / 32)


def test_explicit_bounds_interpolate_as_prometheus_does() -> None:
    h = PerCpuHistogram(bounds=[1, 2, 4])
    h.observe_many(array.array("d", [0.1, 1.0, 3, 3, 3, 4, 9, 9]))
    assert h.snapshot().counts == (2, 0, 4, 2)
    assert h.quantiles([0, 0.125, 0.25, 0.5, 0.75, 0.9]) == [0, 0.5, 1, 3, 4, 4]


@pytest.mark.parametrize(
    ("q", "error", "says"),
    [
        (-0.1, ValueError, "must be from 0 to 1, not -0.1"),
        (1.1, ValueError, "must be from 0 to 1, not 1.1"),
        (math.nan, ValueError, "must be from 0 to 1, not nan"),
        ("0.5", TypeError, "must be an int or a float, not str '0.5'"),
    ],
)
def test_bad_quantiles_name_themselves(q: float, error: type[Exception], says: str) -> None:
    h = PerCpuHistogram()
    for each in (h, h.snapshot()):
        with pytest.raises(error, match=f"^q {says}$"):
            each.quantile(q)
        with pytest.raises(error, match=rf"^qs\[1\] {says}$"):
            each.quantiles([0.5, q])
        with pytest.raises(TypeError, match=r"^qs must be an iterable of numbers, not float 0\.5$"):
            each.quantiles(0.5)  # type: ignore[arg-type]


# ---- snapshots and merging ----------------------------------------------------------------


def filled(*values: float) -> PerCpuHistogram:
    h = PerCpuHistogram(bounds=[0, 1, 2])
    h.observe_many(array.array("d", values))
    return h


def test_snapshots_add_up_and_differ() -> None:
    h = filled(0.5, 0.5, 3)
    before = h.snapshot()
    h.observe(1.5)
    after = h.snapshot()
    difference = after - before
    assert (difference.counts, difference.sum, difference.count) == ((0, 0, 1, 0), 1.5, 1)
    assert before + difference == after
    assert before.mean == 4 / 3
    assert list(before.buckets()) == [(0.0, 1.0, 2), (2.0, math.inf, 1)]
    with pytest.raises(ValueError, match="must be an earlier one"):
        before - after
    for other in (PerCpuHistogram().snapshot(), PerCpuHistogram(bounds=[0, 1]).snapshot()):
        with pytest.raises(ValueError, match="the same buckets"):
            before + other
        with pytest.raises(ValueError, match="the same buckets"):
            before - other
    with pytest.raises(TypeError):
        before + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        before - 1  # type: ignore[operator]


def test_a_snapshot_is_a_value() -> None:
    snapshot = filled(0.5).snapshot()
    assert pickle.loads(pickle.dumps(snapshot)) == copy.deepcopy(snapshot) == snapshot
    assert hash(snapshot) == hash(copy.copy(snapshot))
    with pytest.raises(AttributeError):
        snapshot.sum = 3.0  # type: ignore[misc]
    assert PerCpuHistogram(0.01).snapshot().error == PerCpuHistogram(0.01).error == 1 / 128
    assert PerCpuHistogram(0.2, low=1.3, high=9).snapshot().error == 1 / 8
    assert snapshot.error is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("linear", (1.0,), (0, 0), 0.0), "layout must be"),
        (("bounds", (), (0,), 0.0), "too few"),
        (("log", (1.0,), (0, 0), 0.0), "too few"),
        (("bounds", (1.0,), (0,), 0.0), "counts must have 2 numbers"),
        (("bounds", (1.0,), (0, -1), 0.0), "must not be negative"),
    ],
)
def test_a_snapshot_that_cannot_be(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HistogramSnapshot(*arguments)  # type: ignore[arg-type]


def test_merging_histograms_and_snapshots() -> None:
    h = filled(0.5)
    h.merge(filled(1.5, 3))
    h.merge(filled(-1).snapshot())
    h.merge(h)
    assert (h.snapshot().counts, h.sum, h.count) == ((2, 2, 2, 2), 8.0, 8)
    log, other = PerCpuHistogram(), PerCpuHistogram()
    other.observe(3.5)
    log.merge(other)
    log.merge(other.snapshot())
    assert (log.count, log.sum, log.quantile(0)) == (2, 7.0, other.quantile(0))
    log.check()


def test_what_cannot_be_merged_changes_nothing() -> None:
    h = filled(0.5)
    for other in (
        PerCpuHistogram(),
        PerCpuHistogram().snapshot(),
        PerCpuHistogram(bounds=[0, 1, 3]),
        PerCpuHistogram(bounds=[0, 1, 3]).snapshot(),
    ):
        with pytest.raises(ValueError, match="other must have the same buckets"):
            h.merge(other)
    for wrong in (3, None, (0, 1)):
        with pytest.raises(TypeError, match="other must be a PerCpuHistogram or a HistogramSn"):
            h.merge(wrong)  # type: ignore[arg-type]
    over = filled(1.7e308, 1.7e308)
    for overflown in (over, over.snapshot()):
        with pytest.raises(ValueError, match="the sum of other must be finite, not inf"):
            h.merge(overflown)
    bounds = (0.0, 1.0, 2.0)
    with pytest.raises(OverflowError, match="counts must be from 0 to"):
        h.merge(HistogramSnapshot("bounds", bounds, (2**63, 0, 0, 0), 0.0))
    with pytest.raises(TypeError, match="counts must be an int"):
        h.merge(HistogramSnapshot("bounds", bounds, (0.5, 0, 0, 0), 0.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the sum of other must be an int or a float"):
        h.merge(HistogramSnapshot("bounds", bounds, (1, 0, 0, 0), "1"))  # type: ignore[arg-type]
    closed = filled(1)
    closed.close()
    with pytest.raises(ClosedError):
        h.merge(closed)
    assert (h.snapshot().counts, h.sum) == ((0, 1, 0, 0), 0.5)


def test_two_processes_are_added_up() -> None:
    """Snapshots travel by pickle, as multiprocessing sends them."""
    parts = [pickle.dumps(filled(0.5, i).snapshot()) for i in range(3)]
    h = filled()
    for part in parts:
        h.merge(pickle.loads(part))
    assert (h.count, h.sum) == (6, 4.5)


# ---- life ---------------------------------------------------------------------------------


def all_methods(h: PerCpuHistogram) -> list[Callable[[], object]]:
    return [
        *[lambda: h.observe(1.0), lambda: h.observe(1), lambda: h.observe_many(b"1")],
        *[lambda: h.observe(2**60), lambda: h.merge(h), lambda: h.quantile(0.5)],
        *[lambda: h.quantiles([0.5]), h.snapshot, h.per_cpu, h.check],
        *[lambda: h.count, lambda: h.sum, lambda: h.mean],
    ]


def test_a_closed_histogram_raises_and_keeps_its_buckets() -> None:
    for by in ("itself", "its pool"):
        pool = PerCpuPool(64)
        h = PerCpuHistogram(bounds=[1, 2], pool=pool)
        (h if by == "itself" else pool).close()
        assert h.closed
        for call in all_methods(h):
            with pytest.raises(ClosedError, match="this PerCpuHistogram is closed"):
                call()
        assert repr(h) == "<PerCpuHistogram closed>"
        assert h._repr_html_() is None
        assert (h.bounds, h.low, h.high, h.layout, h.pool) == ((1, 2), 1, 2, "bounds", pool)
        h.close()


def test_it_is_an_object_like_the_others() -> None:
    class Mine(PerCpuHistogram):
        pass

    h = Mine(bounds=[1])
    h.note = 3  # type: ignore[attr-defined]
    h.observe(1)
    mode = percpu.info().rseq
    cpus = len(h.per_cpu())
    assert repr(h) == (
        f"<Mine count=1 sum=1.0 explicit buckets=2 from 1.0 to 1.0 mode={mode} cpus={cpus}>"
    )
    assert "log-linear buckets=959" in repr(PerCpuHistogram())
    ref = weakref.ref(h)
    with h as same_one:
        assert same_one is h
    assert h.closed
    del h, same_one
    gc.collect()
    assert ref() is None
    with pytest.raises(TypeError):
        pickle.dumps(PerCpuHistogram())
    with pytest.raises(AttributeError):
        PerCpuHistogram().count = 3  # type: ignore[misc]


def test_nothing_is_imported_before_it_is_needed() -> None:
    run_python(
        "import sys, percpu\n"
        "h = percpu.PerCpuHistogram()\n"
        "h.observe(1); h.observe_many(b'12'); h.quantile(0.5); repr(h); h.merge(h)\n"
        "assert not any(n.startswith('percpu._histogram') for n in sys.modules)\n"
        "h.snapshot(); str(h.snapshot()); h._repr_html_()\n"
        "assert 'matplotlib' not in sys.modules and 'numpy' not in sys.modules\n"
    )


def test_memory_is_given_back() -> None:
    """A hundred thousand histograms one after the other would otherwise take 700 MiB."""
    run_python(
        "import percpu, resource, gc\n"
        "def make():\n"
        "    h = percpu.PerCpuHistogram(); h.observe(1)\n"
        "    b = percpu.PerCpuHistogram(bounds=range(900)); b.observe(1)\n"
        "for _ in range(300): make()\n"
        "gc.collect()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(30_000): make()\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 40_000, grown\n"
    )
