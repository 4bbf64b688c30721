"""PerCpuPoolSet: every size gets an item that is large enough, holds what was asked for, and costs
no more than its class.
"""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import pickle
import random
import threading
import weakref
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from together import run_together

import percpu
from percpu import ClosedError, PerCpuPool, PerCpuPoolSet, PoolExhausted, _pool_set

CPUS = len(percpu.PerCpuVar("b"))


def contents(item: percpu.PerCpuItem) -> set[bytes]:
    return {bytes(view) for view in item}


# ---- which pool ----------------------------------------------------------------------------


def test_an_item_comes_from_the_smallest_pool_that_fits() -> None:
    pools = PerCpuPool(100), PerCpuPool(8), PerCpuPool(64)
    pool_set = PerCpuPoolSet(pools)
    assert [pool.item_size for pool in pool_set] == [8, 64, 100]
    assert pool_set.pools == tuple(pool_set) == (pools[1], pools[2], pools[0])
    assert len(pool_set) == 3
    for size, expected in [(1, 8), (8, 8), (9, 64), (64, 64), (65, 100), (100, 100)]:
        item = pool_set.alloc(size)
        assert item.pool.item_size == expected
        assert contents(item) == {bytes(expected)}


def test_the_next_larger_pool_follows_when_one_is_full() -> None:
    pools = [PerCpuPool(size, stride=4096, max_ranges=1) for size in (512, 1024, 2048)]
    pool_set = PerCpuPoolSet(pools)
    items = [pool_set.alloc(500) for _ in range(8 + 4 + 2)]
    assert [item.pool.item_size for item in items] == [512] * 8 + [1024] * 4 + [2048] * 2
    with pytest.raises(PoolExhausted, match="no pool of the set with items of 500 bytes or more"):
        pool_set.alloc(500)
    items[9].free()
    assert pool_set.alloc(500).pool is pools[1]
    items[0].free()
    assert pool_set.alloc(500).pool is pools[0]


def test_what_no_pool_can_hold_is_exhaustion() -> None:
    with pytest.raises(PoolExhausted, match="items of 65 bytes: the largest has 64"):
        PerCpuPoolSet([PerCpuPool(64)]).alloc(65)
    with pytest.raises(PoolExhausted, match="items of 1 bytes: it has no pools"):
        PerCpuPoolSet().alloc(1)


def test_initial_bytes_arrive() -> None:
    pools = [PerCpuPool(size, stride=4096, max_ranges=1) for size in (16, 2048)]
    pool_set = PerCpuPoolSet(pools)
    kept = [pool_set.alloc(3, b"abc") for _ in range(pools[0].capacity)]
    assert contents(kept[-1]) == {b"abc" + bytes(13)}
    larger = pool_set.alloc(3, bytearray(b"xy"))
    assert contents(larger) == {b"xy" + bytes(2046)}
    larger[0][:] = b"\xff" * 2048
    larger.free()
    assert contents(pool_set.alloc(2000, memoryview(b"recycled"))) == {b"recycled" + bytes(2040)}


def test_pools_keep_what_they_were_made_with() -> None:
    """The set chooses the pool; the pool's own initial bytes are what an item then holds."""
    with PerCpuPoolSet(
        [PerCpuPool(8, populate="init", init=b"small"), PerCpuPool(32, init=b"large")]
    ) as pool_set:
        assert contents(pool_set.alloc(5)) == {b"small" + bytes(3)}
        assert contents(pool_set.alloc(9)) == {b"large" + bytes(27)}
        assert contents(pool_set.alloc(5, b"other")) == {b"other" + bytes(3)}


# ---- size classes --------------------------------------------------------------------------


def test_classes_are_at_most_a_quarter_apart() -> None:
    sizes = [pool.item_size for pool in PerCpuPoolSet.classes(40_000)]
    assert sizes[:15] == [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224]
    assert sizes[-2] < 40_000 <= sizes[-1]
    for low, high in itertools.pairwise(sizes):
        assert high - low <= max(8, low / 4)


def test_a_record_of_72_bytes_costs_80_and_not_128() -> None:
    pool_set = PerCpuPoolSet.classes(1024)
    items = [pool_set.alloc(72) for _ in range(2000)]
    assert {item.pool.item_size for item in items} == {80}
    for item in items:
        item[0][:72] = b"\xff" * 72
    used = pool_set.stats()["resident_per_cpu"][0]
    assert 2000 * 72 <= used < 2000 * 82 < 2000 * 128


def test_classes_share_their_ranges() -> None:
    pool_set = PerCpuPoolSet.classes(4096, stride=1 << 20)
    items = [pool_set.alloc(size) for size in (8, 100, 1000, 4000)]
    assert pool_set.stats()["ranges"] == 1
    assert pool_set.map().ranges == 1
    assert len({item.address() >> 20 for item in items}) == 1


def test_a_class_gets_the_pages_that_another_gave_up() -> None:
    pool_set = PerCpuPoolSet.classes(2048, max_ranges=1, stride=65536)

    def fill(size: int) -> list[percpu.PerCpuItem]:
        items = []
        try:
            while True:
                items.append(pool_set.alloc(size))
        except PoolExhausted:
            return items

    for item in (small := fill(8)):
        assert item.pool.item_size == 8
        item.free()
    assert len(small) * 8 >= 65536 * 0.9
    large = fill(2000)  # no other class is as large, so pages are taken back before this fails
    assert len(large) * 2048 >= 65536 * 0.9
    for item in large:
        item.free()
    assert pool_set.alloc(8).pool.item_size == 2048  # free, and larger: that comes first
    pool_set.trim()
    assert pool_set.alloc(8).pool.item_size == 8


def test_classes_take_the_attributes_of_pools() -> None:
    with PerCpuPoolSet.classes(
        500, cpus=CPUS + 1, stride=1 << 17, populate="init", robust=True, name="records"
    ) as pool_set:
        assert {(p.cpus, p.stride, p.populate, p.name) for p in pool_set} == {
            (CPUS + 1, 1 << 17, "init", "records")
        }
        assert contents(pool_set.alloc(300, b"start")) == {b"start" + bytes(315)}
        pool_set.check()


def test_classes_of_a_subclass_are_of_that_class() -> None:
    class Records(PerCpuPoolSet):
        pass

    assert type(Records.classes(64)) is Records


# ---- giving back ---------------------------------------------------------------------------


def test_items_are_freed_in_any_order_and_way() -> None:
    pool_set = PerCpuPoolSet.classes(512)
    items = [pool_set.alloc(size) for size in range(1, 500, 7)]
    random.Random(3).shuffle(items)
    for number, item in enumerate(items):
        if number % 2:
            pool_set.free(item)
        else:
            item.free()
    assert pool_set.stats()["live"] == 0
    pool_set.check()


def test_an_item_is_freed_once_and_only_by_its_set() -> None:
    pool_set, other = PerCpuPoolSet.classes(64), PerCpuPoolSet.classes(64)
    item = pool_set.alloc(10)
    with pytest.raises(ValueError, match="item must be an item of a pool of this set, not <"):
        other.free(item)
    pool_set.free(item)
    with pytest.raises(ClosedError):
        pool_set.free(item)
    with pytest.raises(TypeError, match="item must be a PerCpuItem, not int 5"):
        pool_set.free(5)  # type: ignore[arg-type]


def test_trim_gives_back_what_nobody_has() -> None:
    pool_set = PerCpuPoolSet.classes(4096, stride=1 << 16)
    items = [pool_set.alloc(size) for size in (8, 4096) for _ in range(100)]
    kept = items.pop()
    while items:
        items.pop().free()
    before = pool_set.stats()
    given = pool_set.trim()
    after = pool_set.stats()
    assert given == before["virtual_bytes"] - after["virtual_bytes"] > 0
    assert after["ranges"] == 1
    assert after["live"] == 1
    assert contents(kept) == {bytes(4096)}
    kept.free()
    pool_set.trim()
    assert pool_set.stats()["ranges"] == 0
    assert contents(pool_set.alloc(5)) == {bytes(8)}


def test_reserve_maps_ahead() -> None:
    pool_set = PerCpuPoolSet([PerCpuPool(64, stride=4096), PerCpuPool(512, stride=4096)])
    pool_set.reserve(50, 1000)
    ranges = pool_set.stats()["ranges"]
    items = [pool_set.alloc(50) for _ in range(1000)]
    assert pool_set.stats()["ranges"] == ranges
    assert {item.pool.item_size for item in items} == {64}
    with pytest.raises(PoolExhausted, match="items of 513 bytes"):
        pool_set.reserve(513, 1)


def test_drain_empties_the_caches_of_all_pools() -> None:
    pool_set = PerCpuPoolSet.classes(64)
    for size in range(1, 65):
        pool_set.alloc(size).free()
    assert pool_set.stats()["cached"] > 0
    pool_set.drain()
    assert pool_set.stats()["cached"] == 0


# ---- numbers -------------------------------------------------------------------------------


RESIDENT = ("resident_bytes", "resident_per_cpu")


def test_stats_add_up_and_count_shared_ranges_once() -> None:
    apart = [PerCpuPool(8), PerCpuPool(64)]
    classes = PerCpuPoolSet.classes(32)
    for pool_set in PerCpuPoolSet(apart), classes:
        items = [pool_set.alloc(size) for size in (3, 30)]
        for item in items:
            item[CPUS - 1][:] = b"\xff" * len(item[0])
        numbers = pool_set.stats()
        each = [pool.stats() for pool in pool_set]
        assert numbers.keys() == each[0].keys()
        for key in numbers.keys() - {"ranges", "virtual_bytes", *RESIDENT}:
            assert numbers[key] == sum(stats[key] for stats in each)
        assert numbers["padded_bytes"] == 2 * 64 * CPUS
        assert numbers["resident_bytes"] <= numbers["virtual_bytes"]
        assert len(numbers["resident_per_cpu"]) == CPUS
    assert numbers["ranges"] == 1
    assert numbers["resident_per_cpu"] == each[0]["resident_per_cpu"]
    of_ranges = each[1]["resident_bytes"]  # of a class not in use: it has no caches yet
    caches = [stats["resident_bytes"] - of_ranges for stats in each]
    assert numbers["resident_bytes"] == of_ranges + sum(caches)
    assert caches[0] > 0
    assert caches[3] > 0
    assert numbers["virtual_bytes"] < 2 * each[0]["virtual_bytes"]
    assert PerCpuPoolSet(apart).stats()["ranges"] == 2


def test_sharing_is_known_in_another_set_too() -> None:
    """The pools of one set put into another still have their ranges in common."""
    classes = PerCpuPoolSet.classes(32)
    pools, numbers = classes.pools, classes.stats()
    del classes
    gc.collect()
    assert PerCpuPoolSet(pools).stats() == numbers


def test_an_empty_set_has_numbers() -> None:
    pool_set = PerCpuPoolSet()
    assert pool_set.stats()["ranges"] == 0
    assert pool_set.trim() == 0
    assert str(pool_set.map()).startswith("PerCpuPoolSet: no pools")
    assert repr(pool_set) == "<PerCpuPoolSet of no pools>"
    assert pool_set


def test_pictures_say_what_matters() -> None:
    pool_set = PerCpuPoolSet.classes(64)
    assert repr(pool_set) == f"<PerCpuPoolSet of 8 pools, 8 to 64 bytes x {CPUS} CPUs>"
    item = pool_set.alloc(5)
    item[0][0] = 1
    picture = pool_set.map()
    assert picture.title == f"PerCpuPoolSet: 8 pools, 8 to 64 bytes x {CPUS} CPUs"
    assert (picture.live, picture.ranges) == (1, 1)
    assert picture.padded_bytes == CPUS * 64
    assert picture.pages_per_cpu == (1, *[0] * (CPUS - 1))
    mixed = PerCpuPoolSet([PerCpuPool(8), PerCpuPool(64)])
    assert "range 0 of 8 bytes\n" in str(mixed.map())
    assert "range 0 of 64 bytes\n" in str(mixed.map())
    assert pool_set._repr_html_() == picture._repr_svg_()
    pool_set.close()
    assert repr(pool_set) == "<PerCpuPoolSet closed>"
    assert pool_set._repr_html_() is None


# ---- bad input -----------------------------------------------------------------------------


def test_pools_must_go_together() -> None:
    pool_set = PerCpuPoolSet([PerCpuPool(8)])
    bad: list[tuple[PerCpuPool, str]] = [
        (PerCpuPool(8), "pool must have an item_size that the set lacks, not 8"),
        (PerCpuPool(16, stride=4096), "pool must have stride 65536, as the set's others, not 4096"),
        (PerCpuPool(16, cpus=CPUS + 1), f"pool must have cpus {CPUS}, as .* not {CPUS + 1}"),
        (
            PerCpuPool(16, scope="global", cpus=CPUS),
            "pool must have scope 'percpu', as .* not 'global'",
        ),
    ]
    for pool, message in bad:
        with pytest.raises(ValueError, match=message):
            pool_set.add(pool)
        with pytest.raises(ValueError, match=message):
            PerCpuPoolSet([PerCpuPool(8), pool])
        assert not pool.closed
    assert len(pool_set) == 1
    with pytest.raises(TypeError, match="pool must be a PerCpuPool, not int 8"):
        pool_set.add(8)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable"):
        PerCpuPoolSet(8)  # type: ignore[arg-type]


def test_a_pool_is_in_one_set() -> None:
    pool_set, other = PerCpuPoolSet([PerCpuPool(8)]), PerCpuPoolSet([PerCpuPool(16)])
    for pools in pool_set, [PerCpuPool(32), *pool_set]:
        with pytest.raises(ValueError, match="pool must be in no other set, not in <PerCpuPoolSet"):
            PerCpuPoolSet(pools)
    with pytest.raises(ValueError, match="pool must be in no other set"):
        other.add(pool_set.pools[0])
    assert [len(pool_set), len(other)] == [1, 1]


def test_a_pool_is_free_again_without_its_set() -> None:
    pool, alike = PerCpuPool(8), PerCpuPool(8)
    with pytest.raises(ValueError, match="item_size") as caught:
        PerCpuPoolSet([pool, alike])
    pool_set = PerCpuPoolSet([pool])  # while the traceback still has the set that failed
    assert caught.value.__traceback__ is not None
    del pool_set
    gc.collect()
    with PerCpuPoolSet([pool]):
        assert not pool.closed
    assert pool.closed
    PerCpuPoolSet([alike]).close()


def test_bad_sizes_and_bytes_are_refused_and_cost_nothing() -> None:
    pool_set = PerCpuPoolSet.classes(64)
    for size in 0, -1, -(1 << 80):
        with pytest.raises(ValueError, match=f"size must be at least 1, not {size}"):
            pool_set.alloc(size)
        with pytest.raises(ValueError, match=f"size must be at least 1, not {size}"):
            pool_set.reserve(size, 1)
    for bad in 8.0, "8":
        with pytest.raises(TypeError, match=r"size must be an integer, not (float 8\.0|str '8')"):
            pool_set.alloc(bad)  # type: ignore[arg-type]
    with pytest.raises(PoolExhausted):
        pool_set.alloc(1 << 80)
    with pytest.raises(ValueError, match="init must have at most size bytes, which is 3, not 4"):
        pool_set.alloc(3, b"1234")  # although an item has 8
    with pytest.raises(TypeError, match="init must be a bytes-like object or None, not str 'abc'"):
        pool_set.alloc(3, "abc")  # type: ignore[arg-type]
    assert pool_set.stats()["live"] == 0


@pytest.mark.parametrize(
    "attributes", [{"init": b"x"}, {"slot_size": 64}, {"stride": 100}, {"max_ranges": -1}]
)
def test_classes_refuse_what_is_not_for_them(attributes: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(attributes))):
        PerCpuPoolSet.classes(64, **attributes)


@pytest.mark.parametrize("keyword", ["foo", "item_size", "slot_size"])
def test_classes_refuse_unknown_keywords_in_their_own_name(keyword: str) -> None:
    with pytest.raises(TypeError, match=rf"PerCpuPoolSet\.classes\(\) got .* '{keyword}'"):
        PerCpuPoolSet.classes(100, **{keyword: 1})


def test_classes_know_every_keyword_of_pools() -> None:
    keywords = [*inspect.signature(PerCpuPool).parameters][1:]
    assert set(_pool_set._OF_CLASSES) == set(keywords)


def test_the_largest_class_can_be_had() -> None:
    with PerCpuPoolSet.classes(1 << 29) as pool_set:
        assert pool_set.pools[-1].item_size == 1 << 29


def test_classes_refuse_bad_sizes() -> None:
    for size in 0, -1:
        with pytest.raises(ValueError, match=f"max_item_size must be at least 1, not {size}"):
            PerCpuPoolSet.classes(size)
    for size in (1 << 29) + 1, 1 << 30, 1 << 80:
        with pytest.raises(ValueError, match=rf"max_item_size .* 2\*\*29 bytes, .* not {size}"):
            PerCpuPoolSet.classes(size)
    with pytest.raises(TypeError, match="max_item_size must be an integer, not str '64'"):
        PerCpuPoolSet.classes("64")  # type: ignore[arg-type]


# ---- life ----------------------------------------------------------------------------------


def test_closing_closes_all_pools() -> None:
    with PerCpuPoolSet.classes(64) as pool_set:
        item = pool_set.alloc(5)
        assert not pool_set.closed
    assert pool_set.closed
    assert all(pool.closed for pool in pool_set.pools)
    assert item.closed
    uses: list[Callable[[], object]] = [
        lambda: pool_set.alloc(5),
        lambda: pool_set.reserve(5, 1),
        lambda: pool_set.add(PerCpuPool(512)),
        pool_set.drain,
        pool_set.trim,
        pool_set.check,
        pool_set.stats,
        pool_set.map,
        pool_set.__enter__,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="this PerCpuPoolSet is closed"):
            use()
    with pytest.raises(ClosedError):
        pool_set.free(item)
    pool_set.close()


def test_closing_waits_for_views_and_allocates_no_more() -> None:
    pool_set = PerCpuPoolSet([PerCpuPool(8), PerCpuPool(64), PerCpuPool(128)])
    item, other = pool_set.alloc(60), pool_set.alloc(60)
    with memoryview(item):
        with pytest.raises(BufferError):
            pool_set.close()
        assert [pool.closed for pool in pool_set] == [True, False, True]
        with pytest.raises(ClosedError):
            pool_set.alloc(60)
        pool_set.free(other)
    pool_set.close()
    assert all(pool.closed for pool in pool_set)


def test_a_set_of_robust_pools_reports_leaks_as_its_pools_do() -> None:
    pools = [PerCpuPool(size, robust=True) for size in (8, 64, 512)]
    pool_set = PerCpuPoolSet(pools)
    kept = [pool_set.alloc(8), pool_set.alloc(500)]
    with pytest.raises(percpu.CorruptionError, match="leak") as caught:
        pool_set.close()
    assert caught.value.pool is pools[0]
    assert [note for note in caught.value.__notes__ if "leak" in note]
    assert all(pool.closed for pool in pools)
    assert all(item.closed for item in kept)


def test_an_exception_in_a_with_block_is_what_is_raised() -> None:
    pool_set = PerCpuPoolSet([PerCpuPool(8), PerCpuPool(64)])
    view = memoryview(pool_set.alloc(8))
    with pytest.raises(ZeroDivisionError) as caught, pool_set:
        raise ZeroDivisionError
    assert "release them first" in caught.value.__notes__[0]
    assert [pool.closed for pool in pool_set] == [False, True]
    view.release()
    pool_set.close()


def test_a_closed_pool_cannot_be_added() -> None:
    pool = PerCpuPool(8)
    pool.close()
    with pytest.raises(ClosedError):
        PerCpuPoolSet([pool])


def test_garbage_gives_the_memory_back() -> None:
    pool_set = PerCpuPoolSet.classes(64)
    references = [weakref.ref(pool) for pool in pool_set]
    reference = weakref.ref(pool_set)
    item = pool_set.alloc(10)
    del pool_set
    gc.collect()
    assert reference() is None
    assert [r() for r in references if r() is not None] == [item.pool]
    assert contents(item) == {bytes(16)}
    del item
    gc.collect()
    assert not any(r() for r in references)


def test_pickles_and_copies_are_refused() -> None:
    pool_set = PerCpuPoolSet.classes(8)
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle 'PerCpuPoolSet' object"):
            call(pool_set)


# ---- threads -------------------------------------------------------------------------------


def test_threads_share_a_set_while_it_grows_and_is_trimmed() -> None:
    pool_set = PerCpuPoolSet.classes(256, max_ranges=64)
    done = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        mine: list[tuple[percpu.PerCpuItem, bytes]] = []
        for _ in range(1500):
            if mine and chance.random() < 0.5:
                item, text = mine.pop(chance.randrange(len(mine)))
                assert contents(item) == {text.ljust(len(item[0]), b"\0")}
                pool_set.free(item)
            else:
                text = chance.randbytes(chance.randint(1, 256))
                mine.append((pool_set.alloc(len(text), text), text))
        while mine:
            pool_set.free(mine.pop()[0])

    def look() -> None:
        while not done.is_set():
            pool_set.trim()
            pool_set.stats()
            str(pool_set.map())
            pool_set.check()

    def add() -> None:
        for size in range(300, 2000, 100):
            pool_set.add(PerCpuPool(size))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        run_together(*(lambda seed=seed: work(seed) for seed in range(3)), add)
    finally:
        done.set()
        watcher.join()
    assert pool_set.stats()["live"] == 0
    pool_set.check()


def test_closing_beside_allocations_raises_closed_and_nothing_else() -> None:
    for _ in range(20):
        pool_set = PerCpuPoolSet.classes(128)

        def allocate(pool_set: PerCpuPoolSet = pool_set) -> None:
            try:
                for size in itertools.cycle(range(1, 129)):
                    pool_set.alloc(size, b"x")
            except ClosedError:
                pass

        run_together(allocate, allocate, pool_set.close)
        assert pool_set.closed


# ---- a model -------------------------------------------------------------------------------


class SetMachine(RuleBasedStateMachine):
    """Allocates and frees records of all sizes; knows what each holds and what its pool may be."""

    @initialize(
        largest=st.integers(1, 5000),
        max_ranges=st.sampled_from([0, 0, 1, 2]),
        populate=st.sampled_from(["zero", "init"]),
        robust=st.booleans(),
        guard=st.booleans(),
    )
    def make(self, largest: int, max_ranges: int, populate: str, robust: bool, guard: bool) -> None:
        self.items: list[tuple[percpu.PerCpuItem, bytes]] = []
        self.pool_set = PerCpuPoolSet.classes(
            largest, max_ranges=max_ranges, populate=populate, robust=robust, guard=guard
        )
        self.limited = max_ranges > 0
        self.sizes = [pool.item_size for pool in self.pool_set]

    @rule(
        size=st.integers(1, 6000), data=st.binary(max_size=300) | st.none(), many=st.integers(1, 30)
    )
    def alloc(self, size: int, data: bytes | None, many: int) -> None:
        data = data if data is None else data[:size]
        if size > self.sizes[-1]:
            with pytest.raises(PoolExhausted, match=f"the largest has {self.sizes[-1]}"):
                self.pool_set.alloc(size, data)
            return
        for _ in range(many):
            try:
                item = self.pool_set.alloc(size, data)
            except PoolExhausted:
                assert self.limited
                return
            fitting = next(s for s in self.sizes if s >= size)
            got = item.pool.item_size
            assert got == fitting or (self.limited and got > fitting and got in self.sizes)
            self.items.append((item, (data or b"").ljust(got, b"\0")))

    @precondition(lambda self: self.items)
    @rule(choice=st.integers(0), cpu=st.integers(0), what=st.binary(min_size=1, max_size=9))
    def write(self, choice: int, cpu: int, what: bytes) -> None:
        item, _ = self.items.pop(choice % len(self.items))
        copy = item[cpu % len(item)]
        copy[-len(what) :] = what[-len(copy) :]
        del copy
        self.pool_set.free(item)

    @precondition(lambda self: self.items)
    @rule(choice=st.integers(0), many=st.integers(1, 60))
    def free(self, choice: int, many: int) -> None:
        for _ in range(min(many, len(self.items))):
            item, text = self.items.pop(choice % len(self.items))
            assert contents(item) == {text}
            self.pool_set.free(item)
            assert item.closed

    @rule()
    def trim(self) -> None:
        before = self.pool_set.stats()["virtual_bytes"]
        given = self.pool_set.trim()
        assert before - self.pool_set.stats()["virtual_bytes"] == given

    @rule()
    def drain(self) -> None:
        self.pool_set.drain()
        assert self.pool_set.stats()["cached"] == 0

    @invariant()
    def walk(self) -> None:
        if not hasattr(self, "pool_set"):
            return
        self.pool_set.check()
        stats = self.pool_set.stats()
        assert stats["live"] == len(self.items) == self.pool_set.map().live
        for item, text in self.items[-20:]:
            assert contents(item) == {text}
        spans = sorted((item.address(), item.pool.item_size) for item, _ in self.items)
        for (low, size), (high, _) in itertools.pairwise(spans):
            assert low + size <= high


TestSet = SetMachine.TestCase
