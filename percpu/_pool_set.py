"""PerCpuPoolSet: pools of several item sizes behind one allocator."""

from __future__ import annotations

import operator
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex, cast
from weakref import WeakKeyDictionary, ref

from percpu import _core
from percpu._core import ClosedError, PerCpuItem, PerCpuPool, PoolExhausted

if TYPE_CHECKING:
    from weakref import ReferenceType

    from typing_extensions import Buffer

    from percpu._core import _PoolStats
    from percpu._map import PoolMap

_shared_ranges: WeakKeyDictionary[PerCpuPool, object] = WeakKeyDictionary()
"""For pools that are size classes: the same object for all that have their ranges in common."""

_set_of: WeakKeyDictionary[PerCpuPool, ReferenceType[PerCpuPoolSet]] = WeakKeyDictionary()
"""The set that a pool belongs to. Changed without a lock, which a fork might leave taken."""

_LARGEST_CLASS = 1 << 29

_OF_CLASSES = (
    *("populate", "stride", "cpus", "max_ranges", "index", "scope", "init", "constructed", "ctor"),
    *("dtor", "robust", "poison", "guard", "numa", "name", "cache_bytes"),
)
"""The keywords of PerCpuPool. `_core` says which of them are not for size classes, and why."""

_ALIKE = ("stride", "cpus", "index", "scope")
"""What the pools of a set have in common."""

_OF_RANGES = ("ranges", "virtual_bytes", "resident_bytes", "resident_per_cpu")
"""Statistics that are about ranges, which size classes have in common."""

_OF_ITEMS = (
    *("live", "cached", "free", "padded_bytes"),
    *("refills", "overflows", "restores", "aborts"),
)
"""Statistics that add up over pools."""


class PerCpuPoolSet:
    """Pools of several item sizes behind one allocator, for records of variable size.

    `pools` are :class:`PerCpuPool` objects of different item sizes with the same stride, copies,
    index and scope. They belong to the set, and to no other: closing it closes them. Iteration
    gives the pools in order of size, :func:`len` how many there are. Leaving a ``with`` block
    closes the set.

    An item comes from the smallest pool that fits, and from the next larger one when that has no
    more. :meth:`classes` makes a set whose pools share their ranges.

    Raises :exc:`ValueError` for two pools of one item size, pools that do not go together and
    pools of another set, :exc:`TypeError` for what is no pool, and :exc:`ClosedError` for a closed
    one.
    """

    __slots__ = ("__weakref__", "_closed", "_lock", "_members")

    def __init__(self, pools: Iterable[PerCpuPool] = ()) -> None:
        self._lock = threading.Lock()  # of changes; who only reads takes _members once
        self._closed = False
        self._members: tuple[tuple[int, ...], tuple[PerCpuPool, ...]] = (), ()
        try:
            for pool in pools:
                self.add(pool)
        except BaseException:
            for pool in self.pools:  # they belong to nobody, although the traceback knows the set
                _set_of.pop(pool, None)
            raise

    @classmethod
    def classes(cls, max_item_size: SupportsIndex, **attributes: Any) -> Self:
        """Make a set of size classes: pools that share one set of ranges.

        Item sizes go from 8 bytes to the first that holds `max_item_size`, in steps of 8 and then
        of at most 1/4: 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160 and so on, up to 2**29
        bytes. A class takes from a range only the pages that it needs.

        `attributes` are keywords of :class:`PerCpuPool`, for all the pools together:
        ``max_ranges`` and ``cache_bytes`` are limits of their sum. Initial bytes and constructed
        items are not for classes. Raises what :class:`PerCpuPool` raises.
        """
        largest = _positive("max_item_size", max_item_size)
        if largest > _LARGEST_CLASS:
            raise ValueError(
                f"max_item_size must be at most 2**29 bytes, the largest class, not {largest}"
            )
        for keyword in attributes:
            if keyword not in _OF_CLASSES:
                raise TypeError(
                    f"{cls.__name__}.classes() got an unexpected keyword argument {keyword!r}"
                )
        pools = _core._size_classes(largest, **attributes)
        together = object()
        for pool in pools:
            _shared_ranges[pool] = together
        return cls(pools)

    def add(self, pool: PerCpuPool) -> None:
        """Add a pool, which then belongs to the set. Other threads may be using the set.

        Raises :exc:`ValueError` if the set has a pool of that item size, or other copies, stride,
        index or scope, or if the pool is in another set; :exc:`TypeError`; :exc:`ClosedError`.
        """
        if not isinstance(pool, PerCpuPool):
            raise _wrong_type("pool", "a PerCpuPool", pool)
        with self._lock:
            self._check_open()
            if pool.closed:
                raise ClosedError("this PerCpuPool is closed")
            sizes, pools = self._members
            if pool.item_size in sizes:
                raise ValueError(
                    f"pool must have an item_size that the set lacks, not {pool.item_size}"
                )
            for attribute in _ALIKE if pools else ():
                wanted, found = getattr(pools[0], attribute), getattr(pool, attribute)
                if found != wanted:
                    raise ValueError(
                        f"pool must have {attribute} {wanted!r}, as the set's others, not {found!r}"
                    )
            self._claim(pool)
            pools = tuple(sorted((*pools, pool), key=operator.attrgetter("item_size")))
            self._members = tuple(each.item_size for each in pools), pools

    def _claim(self, pool: PerCpuPool) -> None:
        mine = ref(self)
        owner = _set_of.setdefault(pool, mine)()
        if owner is None:  # that set is gone, and its pool is not
            _set_of[pool] = mine
        elif owner is not self:
            raise ValueError(f"pool must be in no other set, not in {owner!r}")

    @property
    def closed(self) -> bool:
        """Whether the set was closed."""
        return self._closed

    @property
    def pools(self) -> tuple[PerCpuPool, ...]:
        """The pools, in order of item size."""
        return self._members[1]

    def alloc(self, size: SupportsIndex, init: Buffer | None = None) -> PerCpuItem:
        """Allocate an item of at least `size` bytes on each CPU.

        It has the item size of its pool, ``item.pool.item_size``. Its copies hold what those of
        ``pool.alloc(init)`` hold: `init`, at most `size` bytes, with zeros following; or by default
        the pool's initial bytes.

        Raises :exc:`PoolExhausted` where no pool with items as large has one, or can make one;
        :exc:`ValueError` if `size` is below 1 or `init` longer than it; :exc:`ClosedError`.
        """
        wanted = _positive("size", size)
        if init is not None:
            _check_init(init, wanted)
        self._check_open()
        sizes = self._members[0]
        if not sizes or wanted > sizes[-1]:
            largest = f"the largest has {sizes[-1]}" if sizes else "it has no pools"
            raise PoolExhausted(f"no pool of the set has items of {wanted} bytes: {largest}")
        try:
            return self._try_pools(wanted, init)
        except PoolExhausted:
            for pool in self.pools:  # pages that one class does not use another may need
                pool.trim()
            return self._try_pools(wanted, init)

    def _try_pools(self, size: int, init: Buffer | None) -> PerCpuItem:
        sizes, pools = self._members
        for at in range(bisect_left(sizes, size), len(sizes)):
            try:
                return pools[at].alloc(init)
            except PoolExhausted as exhausted:
                reason = exhausted
        raise PoolExhausted(
            f"no pool of the set with items of {size} bytes or more has a free one"
        ) from reason

    def free(self, item: PerCpuItem, /) -> None:
        """Give the memory of `item` back to its pool; ``item.free()`` does the same.

        Raises :exc:`ValueError` if it is not of a pool of this set, and what
        :meth:`PerCpuPool.free` raises.
        """
        if not isinstance(item, PerCpuItem):
            raise _wrong_type("item", "a PerCpuItem", item)
        pool = item.pool
        if not any(pool is mine for mine in self.pools):
            raise ValueError(f"item must be an item of a pool of this set, not {item!r}")
        pool.free(item)

    def reserve(self, size: SupportsIndex, items: SupportsIndex) -> None:
        """Let the smallest pool that fits have `items` free items of at least `size` bytes.

        Raises :exc:`PoolExhausted`, also where no pool fits; :exc:`ValueError`;
        :exc:`ClosedError`.
        """
        wanted = _positive("size", size)
        self._check_open()
        sizes, pools = self._members
        at = bisect_left(sizes, wanted)
        if at == len(sizes):
            raise PoolExhausted(f"no pool of the set has items of {wanted} bytes")
        pools[at].reserve(items)

    def drain(self) -> None:
        """Move the free items in all caches back to the ranges. Raises :exc:`ClosedError`."""
        self._check_open()
        for pool in self.pools:
            pool.drain()

    def trim(self) -> int:
        """Drain the caches, and give ranges in which no item is handed out back to the kernel.

        Returns the bytes of address space that were given back. Raises :exc:`ClosedError`.
        """
        self._check_open()
        return sum(pool.trim() for pool in self.pools)

    def check(self) -> None:
        """Test every pool as :meth:`PerCpuPool.check` does.

        Raises :exc:`CorruptionError` for the first finding; :exc:`ClosedError`.
        """
        self._check_open()
        for pool in self.pools:
            pool.check()

    def stats(self) -> _PoolStats:
        """Return a dict of numbers: those of :meth:`PerCpuPool.stats`, of all pools together.

        Ranges that several pools share are counted once. Raises :exc:`ClosedError`.
        """
        self._check_open()
        totals: dict[str, Any] = {
            **dict.fromkeys(_OF_RANGES + _OF_ITEMS, 0),
            "resident_per_cpu": (),
        }
        for group in self._groups():
            stats = [pool.stats() for pool in group]
            totals["ranges"] += stats[0]["ranges"]
            totals["virtual_bytes"] += _virtual_bytes(group, stats)
            totals["resident_bytes"] += _resident_bytes(stats)
            totals["resident_per_cpu"] = _add_up(
                totals["resident_per_cpu"], stats[0]["resident_per_cpu"]
            )
            for numbers in stats:
                for key in _OF_ITEMS:
                    totals[key] += numbers[key]  # type: ignore[literal-required]
        return cast("_PoolStats", totals)

    def map(self) -> PoolMap:
        """Draw which pages of which CPU are in memory: a :class:`PoolMap` of all the pools.

        Raises :exc:`ClosedError`.
        """
        from percpu import _map

        self._check_open()
        title = f"{type(self).__name__}: {self._what()}"
        return _map.map_of(self._groups(), self.stats(), title)

    def close(self) -> None:
        """Close the set and its pools; as :meth:`PerCpuPool.close`, for each of them.

        From now on the set allocates nothing. While a memoryview or array of an item lives, its
        pool stays open and :exc:`BufferError` is raised: close the set again later. What other
        pools raise becomes a note of the first exception. Closing a closed set does nothing.
        """
        self._close(lambda pool: pool.close())

    def _close(self, close: Callable[[PerCpuPool], object]) -> None:
        with self._lock:
            self._closed = True
        first: Exception | None = None
        for pool in self.pools:
            try:
                close(pool)
            except Exception as failure:
                if first is None:
                    first = failure
                else:
                    first.add_note(str(failure))
        if first is not None:
            raise first

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} is closed")

    def _groups(self) -> list[list[PerCpuPool]]:
        """Return the pools, those together that share their ranges."""
        groups: dict[int, list[PerCpuPool]] = {}
        for pool in self.pools:
            groups.setdefault(id(_shared_ranges.get(pool, pool)), []).append(pool)
        return list(groups.values())

    def _what(self) -> str:
        from percpu import _map

        pools = self.pools
        if not pools:
            return "no pools"
        return f"{len(pools)} pool{'s' if len(pools) > 1 else ''}, {_map.items_text(pools)}"

    def __len__(self) -> int:
        return len(self.pools)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[PerCpuPool]:
        return iter(self.pools)

    def __repr__(self) -> str:
        if self._closed:
            return f"<{type(self).__name__} closed>"
        return f"<{type(self).__name__} of {self._what()}>"

    def _repr_html_(self) -> str | None:
        return None if self._closed else self.map()._repr_svg_()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._close(lambda pool: pool.__exit__(*exception))

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


def _virtual_bytes(group: list[PerCpuPool], stats: list[_PoolStats]) -> int:
    """Return the address space of the ranges that a group has in common, and of all its caches."""
    pool = group[0]
    strides = pool.cpus + (pool.populate == "init")  # the file of initial values is one more
    of_range = pool.header_size + strides * pool.stride
    caches = sum(numbers["virtual_bytes"] - numbers["ranges"] * of_range for numbers in stats)
    return stats[0]["ranges"] * of_range + caches


def _resident_bytes(stats: list[_PoolStats]) -> int:
    """Return what is in memory of the ranges that pools have in common, and of their caches.

    The ranges are in each pool's number. Without caches, that is the number of a pool not in use:
    of several classes there is nearly always one.
    """
    each = [numbers["resident_bytes"] for numbers in stats]
    return sum(each) - (len(each) - 1) * min(each)


def _add_up(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(operator.add, one, other)) if one else other


def _wrong_type(name: str, right: str, value: object) -> TypeError:
    return TypeError(f"{name} must be {right}, not {type(value).__name__} {value!r}")


def _positive(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise _wrong_type(name, "an integer", value) from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _check_init(init: Buffer, size: int) -> None:
    try:
        with memoryview(init) as view:
            length = view.nbytes
    except TypeError:
        raise _wrong_type("init", "a bytes-like object or None", init) from None
    if length > size:
        raise ValueError(f"init must have at most size bytes, which is {size}, not {length}")
