"""What a pool can be asked for: each attribute, alone and with others, good values and bad."""

from __future__ import annotations

import ctypes
import errno
import inspect
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from together import run_python

import percpu
from percpu import PerCpuCounter, PerCpuItem, PerCpuPool, PerCpuVar, PoolExhausted

CPUS = len(PerCpuVar("b"))
PAGE = resource.getpagesize()

each_populate = pytest.mark.parametrize("populate", ["zero", "init"])


def copies(item: PerCpuItem) -> set[bytes]:
    """What the copies of an item hold: one thing, mostly."""
    return {bytes(copy) for copy in item}


# ---- values ------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    pool = PerCpuPool(24)
    assert (pool.item_size, pool.slot_size, pool.stride, pool.cpus) == (24, 24, 65536, CPUS)
    assert (pool.populate, pool.index, pool.scope, pool.max_ranges) == ("zero", "cpu", "percpu", 0)
    assert (pool.robust, pool.guard, pool.constructed, pool.name) == (False, False, False, None)
    assert pool.capacity == 65536 // 24
    assert 2 <= pool.cache_items <= 65536 // 24
    assert pool.header_size % PAGE == 0


def test_attributes_are_what_was_asked_for_and_stay_so() -> None:
    pool = PerCpuPool(
        100,
        populate="init",
        stride=1 << 16,
        cpus=CPUS + 3,
        max_ranges=7,
        init=b"abc",
        robust=True,
        poison=0xDEADBEEF,
        numa=True,
        name="the name",
        cache_bytes=4096,
    )
    expected = {
        "item_size": 100,
        "populate": "init",
        "stride": 1 << 16,
        "cpus": CPUS + 3,
        "max_ranges": 7,
        "index": "cpu",
        "scope": "percpu",
        "constructed": False,
        "robust": True,
        "guard": True,
        "name": "the name",
        "closed": False,
    }
    assert {name: getattr(pool, name) for name in expected} == expected
    assert pool.slot_size >= 108
    assert pool.capacity == ((1 << 16) - PAGE) // pool.slot_size
    assert pool.cache_items * pool.slot_size <= 4096
    pool.close()
    assert {name: getattr(pool, name) for name in expected} == expected | {"closed": True}
    assert repr(pool) == "<PerCpuPool 'the name' closed>"


def test_the_signature_has_every_attribute() -> None:
    parameters = inspect.signature(PerCpuPool).parameters
    assert list(parameters) == [
        *["item_size", "populate", "stride", "cpus", "max_ranges", "index", "scope", "init"],
        *["constructed", "ctor", "dtor", "robust", "poison", "guard", "numa", "name"],
        "cache_bytes",
    ]
    kinds = {p.kind for name, p in parameters.items() if name != "item_size"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


BAD: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"populate": "full"}, ValueError, "populate must be 'zero' or 'init', not 'full'"),
    ({"populate": None}, TypeError, "populate must be 'zero' or 'init', not NoneType None"),
    ({"scope": "shared"}, ValueError, "scope must be 'percpu' or 'global', not 'shared'"),
    ({"scope": 1}, TypeError, "scope must be .*, not int 1"),
    ({"scope": "global", "cpus": 0}, ValueError, r"cpus must be from 1 to 8192 .*, not 0"),
    ({"scope": "global", "cpus": 8193}, ValueError, "cpus must be .*, not 8193"),
    ({"init": "text"}, TypeError, "init must be a bytes-like object, a callable or None, not str"),
    ({"init": 3}, TypeError, "init must be .*, not int 3"),
    ({"init": bytes(17)}, ValueError, "init must have at most item_size bytes, .* 16, not 17"),
    ({"ctor": b""}, TypeError, "ctor must be callable, or None, not bytes b''"),
    ({"dtor": 3}, TypeError, "dtor must be callable, or None, not int 3"),
    ({"constructed": 1}, TypeError, "constructed must be True or False, not int 1"),
    ({"constructed": None}, TypeError, "constructed must be True or False, not NoneType None"),
    ({"constructed": True, "poison": 1}, ValueError, "poison must be None in a pool of constr"),
    ({"ctor": print, "poison": 1}, ValueError, "poison must be None in a pool of constr"),
    ({"robust": "no"}, TypeError, "robust must be True or False, not str 'no'"),
    ({"guard": 1}, TypeError, "guard must be True or False, not int 1"),
    ({"numa": 0}, TypeError, "numa must be True or False, not int 0"),
    ({"poison": -1}, ValueError, "poison must be from 0 to 18446744073709551615, not -1"),
    ({"poison": 2**64}, ValueError, "poison must be .*, not 18446744073709551616"),
    ({"poison": 1.0}, TypeError, "poison must be an int, not float 1.0"),
    ({"name": 3}, TypeError, "name must be a str or None, not int 3"),
    ({"name": ""}, ValueError, "name must be 1 to 63 printable ASCII .*, not ''"),
    ({"name": "x" * 64}, ValueError, "name must be 1 to 63 printable"),
    ({"name": "a[b"}, ValueError, r"name must be .* none of \[ \] \\ \$ `, not 'a\[b'"),
    ({"name": "a\nb"}, ValueError, "name must be .*printable"),
    ({"name": "a\0b"}, ValueError, "name must be .*printable"),
    ({"name": "caf\u00e9"}, ValueError, "name must be .*printable"),
    ({"name": "\ud800"}, ValueError, "name must be .*printable"),
    ({"cache_bytes": 0}, ValueError, "cache_bytes must be from 1 to .*, not 0"),
    ({"cache_bytes": 2.0}, TypeError, "cache_bytes must be an int, not float 2.0"),
    ({"guard": True, "stride": PAGE}, ValueError, f"stride must be at least .* {2 * PAGE}, not"),
    (
        {"item_size": 2 * PAGE - 7, "stride": 2 * PAGE, "robust": True, "guard": False},
        ValueError,
        f"item_size must be at most {2 * PAGE - 8} .* robust pool, not {2 * PAGE - 7}",
    ),
    (
        {"item_size": PAGE + 1, "stride": 2 * PAGE, "guard": True},
        ValueError,
        f"item_size must be at most {PAGE} with .* guard page, not {PAGE + 1}",
    ),
]


@pytest.mark.parametrize(
    ("wishes", "exception", "message"), BAD, ids=[" ".join(map(str, bad[0].items())) for bad in BAD]
)
def test_bad_values_are_refused(
    wishes: dict[str, object], exception: type[Exception], message: str
) -> None:
    arguments: dict[str, object] = {"item_size": 16} | wishes
    with pytest.raises(exception, match=message):
        PerCpuPool(**arguments)


@pytest.mark.parametrize("size", [1, 3, 8, 24, 40, 100, 4064, 4088, 4096, 8192 - 8])
def test_the_largest_items_that_are_allowed_fit(size: int) -> None:
    """The rules of the arguments and those of the core are the same."""
    for robust in (False, True):
        for guard in (False, True):
            taken = size + 8 * robust + PAGE * guard
            stride = max(PAGE, 1 << (taken - 1).bit_length())
            if stride > PAGE:
                with pytest.raises(ValueError, match=r"must be at (most|least)"):
                    PerCpuPool(size, stride=stride // 2, robust=robust, guard=guard)
            pool = PerCpuPool(size, stride=stride, robust=robust, guard=guard)
            assert pool.capacity >= 1
            item = pool.alloc(b"x" * size)
            assert copies(item) == {b"x" * size}
            item.free()
            pool.check()
            pool.close()


def test_a_guard_that_nobody_asked_for_gives_way() -> None:
    assert PerCpuPool(64, robust=True).guard
    assert not PerCpuPool(64, robust=True, stride=PAGE).guard
    assert not PerCpuPool(64, robust=True, guard=False).guard
    assert PerCpuPool(64, guard=True).guard


def test_the_bytes_that_init_refers_to_are_let_go() -> None:
    init = bytearray(b"abc")
    pool = PerCpuPool(8, init=init)
    init.clear()
    assert copies(pool.alloc()) == {b"abc" + bytes(5)}
    with pytest.raises(ValueError, match="poison"):
        PerCpuPool(8, init=init, poison=-1)
    init.append(1)


# ---- initial values ----------------------------------------------------------------------------


@each_populate
@pytest.mark.parametrize("robust", [False, True])
def test_items_start_with_the_initial_bytes_however_often(populate: str, robust: bool) -> None:
    with PerCpuPool(24, populate=populate, init=b"initial", robust=robust) as pool:
        for _ in range(3):
            items = [pool.alloc() for _ in range(400)]
            assert {bytes(copy) for item in items for copy in item} == {b"initial" + bytes(17)}
            for number, item in enumerate(items):
                item[number % CPUS][:] = b"w" * 24
            other = pool.alloc(b"other")
            assert copies(other) == {b"other" + bytes(19)}
            other.free()
            for item in items:
                item.free()
        pool.check()


def own_pages(pool: PerCpuPool) -> list[int]:
    """How many pages of its own each CPU has."""
    return [sum(copy.count(1) for copy in column) for column in zip(*pool._pages(), strict=True)]


def test_initial_bytes_are_stored_once_if_populated_by_them() -> None:
    pool = PerCpuPool(64, populate="init", init=b"x" * 64)
    kept = [pool.alloc() for _ in range(100)]
    assert copies(kept[-1]) == {b"x" * 64}
    *cpus, initial = own_pages(pool)
    assert (cpus, initial > 0) == ([0] * CPUS, True)
    kept[0][CPUS - 1][0] = 1
    *cpus, initial = own_pages(pool)
    assert cpus == [0] * (CPUS - 1) + [1]
    assert pool.stats()["resident_per_cpu"] == (*[0] * (CPUS - 1), PAGE)


def test_pages_are_those_that_were_written() -> None:
    pool = PerCpuPool(PAGE, stride=16 * PAGE)
    items = [pool.alloc() for _ in range(20)]
    assert [[len(copy) for copy in copies] for copies in pool._pages()] == [[16] * CPUS] * 2
    base = items[0].address() & -pool.stride
    for item in items:
        if item.address() in (base, base + 5 * PAGE):
            item[1][7] = 1
    assert [range_ for range_ in pool._pages() if any(map(any, range_))] == [
        [bytes(16), bytes([1, 0, 0, 0, 0, 1, *[0] * 10]), *[bytes(16)] * (CPUS - 2)]
    ]


# ---- where, and how many -----------------------------------------------------------------------


def test_a_global_pool_has_one_copy() -> None:
    pool = PerCpuPool(24, scope="global", init=b"one")
    item = pool.alloc()
    assert (pool.cpus, len(item), bytes(item[0])) == (1, 1, b"one" + bytes(21))
    assert "1 copies" in repr(pool)
    pool.check()
    for make in (lambda: PerCpuVar("q", pool=pool), lambda: PerCpuCounter(pool=pool)):
        with pytest.raises(ValueError, match="pool must be one of scope 'percpu'"):
            make()
    assert len(pool) == 1


def test_a_global_pool_may_have_any_number_of_copies() -> None:
    calls: list[int | None] = []
    pool = PerCpuPool(24, scope="global", cpus=5, init=lambda cpu, memory: calls.append(cpu))
    assert calls == [0, 1, 2, 3, 4]
    PerCpuPool(24, scope="global", init=lambda cpu, memory: calls.append(cpu))
    assert calls[5:] == [None]
    item = pool.alloc()
    for copy in range(5):
        item[copy][:] = bytes([copy]) * 24
    assert [bytes(copy) for copy in item] == [bytes([copy]) * 24 for copy in range(5)]
    assert item.address(4) == item.address() + 4 * pool.stride


def test_more_copies_than_cpus() -> None:
    pool = PerCpuPool(16, cpus=CPUS + 5, populate="init", init=b"many")
    assert len(pool.alloc()) == CPUS + 5
    counter = PerCpuCounter(7, pool=pool)
    counter.inc()
    assert (counter.sum(), len(counter.per_cpu())) == (8, CPUS + 5)


@each_populate
def test_placement_on_nodes_changes_no_result(populate: str) -> None:
    pool = PerCpuPool(64, numa=True, populate=populate, init=b"placed")
    assert copies(pool.alloc()) == {b"placed" + bytes(58)}
    numa_maps = Path("/proc/self/numa_maps")
    if not numa_maps.exists():
        pytest.skip("this kernel has no NUMA")
    base = pool.alloc().address() & -pool.stride
    policies = dict(line.split()[:2] for line in numa_maps.read_text().splitlines())
    # Mappings of a file share its policy: there the default one is the right one.
    assert policies[f"{base:x}"].startswith("prefer" if populate == "zero" else "default")


def lines_of_maps(name: str) -> list[str]:
    with open("/proc/self/maps") as file:
        return [line for line in file if name in line]


def test_the_name_is_in_the_list_of_mappings() -> None:
    file = PerCpuPool(64, populate="init", name="pool of a file", init=b"x")
    assert len(lines_of_maps("memfd:percpu:pool of a file")) >= CPUS
    pool = PerCpuPool(64, name="plain pool (of 64)")
    named = lines_of_maps("[anon:percpu:plain pool (of 64)]")
    if not named and not lines_of_maps("[anon:"):
        pytest.skip("this kernel has no names for anonymous memory")
    assert named
    assert (pool.name, repr(pool)) == (
        "plain pool (of 64)",
        f"<PerCpuPool 'plain pool (of 64)' of 64 bytes x {CPUS} CPUs, 0 live>",
    )
    pool.close()
    file.close()
    assert not lines_of_maps("plain pool") + lines_of_maps("pool of a file")


@each_populate
@pytest.mark.parametrize("robust", [False, True])
def test_a_stray_write_hits_the_guard_and_not_the_next_cpu(populate: str, robust: bool) -> None:
    """What lies before the guard can be written to its end; one byte more is SIGSEGV."""
    source = (
        "import ctypes, os, signal, sys, percpu\n"
        f"pool = percpu.PerCpuPool(64, guard=True, populate={populate!r}, robust={robust})\n"
        "item = pool.alloc()\n"
        f"end = (item.address() & -pool.stride) + pool.stride - {PAGE}\n"
        "for cpu in range(pool.cpus - 1):\n"
        "    last = end + cpu * pool.stride\n"
        "    ctypes.memset(last - 8, 0, 8)\n"
        "    if (pid := os.fork()) == 0:\n"
        "        signal.signal(signal.SIGSEGV, signal.SIG_DFL)\n"
        "        ctypes.memset(last, 1, 1)\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(pid, 0)[1]\n"
        "    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV, status\n"
        "    if (pid := os.fork()) == 0:\n"
        "        signal.signal(signal.SIGSEGV, signal.SIG_DFL)\n"
        f"        ctypes.string_at(last + {PAGE - 1}, 1)\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(pid, 0)[1]\n"
        "    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV, status\n"
        "print('guarded')\n"
    )
    assert run_python(source) == "guarded\n"


# ---- memory ------------------------------------------------------------------------------------


def test_reserve_maps_what_trim_unmaps() -> None:
    pool = PerCpuPool(1024, stride=16 * 1024)
    per_range = pool.stats()["virtual_bytes"]
    pool.reserve(0)
    pool.reserve(16)
    assert pool.stats()["ranges"] == 1
    pool.reserve(17)
    assert pool.stats()["ranges"] == 2
    pool.reserve(100)
    assert pool.stats()["ranges"] == 7
    before = pool.stats()["virtual_bytes"]
    items = [pool.alloc() for _ in range(100)]
    assert (pool.stats()["virtual_bytes"], pool.stats()["live"]) == (before, 100)
    assert pool.trim() == 0
    for item in items[1:]:
        item.free()
    unmapped = pool.trim()
    stats = pool.stats()
    assert (stats["ranges"], stats["live"], stats["virtual_bytes"]) == (1, 1, before - unmapped)
    assert unmapped > 0
    items[0].free()
    assert pool.trim() > 0
    assert (pool.stats()["ranges"], pool.trim()) == (0, 0)
    assert pool.alloc()[0].nbytes == 1024
    assert per_range >= 16 * 1024 * CPUS


def test_reserve_says_why_not() -> None:
    pool = PerCpuPool(1024, stride=4096, max_ranges=2)
    with pytest.raises(PoolExhausted, match="max_ranges is 2"):
        pool.reserve(9)
    pool.reserve(8)
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match=f"items must be .* not {bad}"):
            pool.reserve(bad)
    with pytest.raises(TypeError, match="items must be an int"):
        pool.reserve("8")
    pool.close()
    for call in (pool.trim, pool.map, pool._pages, lambda: pool.reserve(1)):
        with pytest.raises(percpu.ClosedError):
            call()
    assert pool._repr_html_() is None


def test_cache_bytes_bound_what_a_cpu_keeps() -> None:
    for cache_bytes, most in ((1, 2), (64 * 20, 20), (1 << 40, 65536)):
        pool = PerCpuPool(64, cache_bytes=cache_bytes)
        assert pool.cache_items <= most
        items = [pool.alloc() for _ in range(500)]
        for item in items:
            item.free()
        assert pool.stats()["cached"] <= pool.cache_items * CPUS
        pool.drain()
        assert (pool.stats()["cached"], pool.stats()["live"]) == (0, 0)
        pool.check()


def test_poison_overwrites_every_copy_of_a_freed_item() -> None:
    pool = PerCpuPool(20, poison=0x1122334455667788)
    item = pool.alloc(b"x" * 20)
    addresses = [item.address(cpu) for cpu in range(CPUS)]
    item.free()
    poison = (0x1122334455667788).to_bytes(8, "little")
    assert {ctypes.string_at(address, 20) for address in addresses} == {(poison * 3)[:20]}
    assert copies(pool.alloc()) == {bytes(20)}
    assert PerCpuPool(8, poison=0).alloc() is not None


def test_stats_say_what_padding_would_cost() -> None:
    pool = PerCpuPool(8)
    kept = [pool.alloc() for _ in range(1000)]
    stats = pool.stats()
    assert stats["padded_bytes"] == len(kept) * CPUS * 64
    assert stats["resident_bytes"] < stats["padded_bytes"]
    large = PerCpuPool(65)
    large_item = large.alloc()
    assert large.stats()["padded_bytes"] == CPUS * 128
    assert large_item.pool is large
    assert {"restores", "aborts", "refills", "overflows"} <= set(stats)


def test_recycled_items_are_restored_together() -> None:
    pool = PerCpuPool(64)
    items = [pool.alloc() for _ in range(200)]
    for item in items:
        item[0][0] = 1
        item.free()
    assert pool.stats()["restores"] == 0
    assert {bytes(pool.alloc()[0]) for _ in range(300)} == {bytes(64)}
    assert pool.stats()["restores"] > 0


def test_a_picture_of_a_pool() -> None:
    pool = PerCpuPool(64, name="seen")
    item = pool.alloc(b"x")
    picture = pool.map()
    assert isinstance(picture, percpu.PoolMap)
    assert (picture.live, picture.cpus) == (1, CPUS)
    assert "seen" in str(picture)
    html = pool._repr_html_()
    assert html is not None
    assert "<svg" in html
    assert item.pool is pool


# ---- what the kernel refuses -------------------------------------------------------------------


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_pool_of_a_file_needs_a_descriptor_for_a_moment() -> None:
    with (
        no_descriptors(),
        pytest.raises(OSError, match="populate 'init' needs a file descriptor") as caught,
    ):
        PerCpuPool(64, populate="init")
    assert caught.value.errno == errno.EMFILE
    with no_descriptors():
        assert PerCpuPool(64).alloc() is not None


def test_a_range_of_a_file_needs_a_descriptor_for_a_moment() -> None:
    pool = PerCpuPool(PAGE, stride=PAGE, populate="init", init=b"x")
    kept = pool.alloc()
    calls: list[Callable[[], object]] = [
        pool.alloc,
        lambda: pool.reserve(1),
        lambda: PerCpuVar("q", pool=pool),
        lambda: PerCpuCounter(pool=pool),
    ]
    for call in calls:
        with no_descriptors(), pytest.raises(OSError, match="Too many open files") as caught:
            call()
        assert (caught.value.errno, len(pool)) == (errno.EMFILE, 1)
    assert copies(pool.alloc()) == {b"x" + bytes(PAGE - 1)} == copies(kept)
    pool.check()


# ---- size classes ------------------------------------------------------------------------------


def test_size_classes_are_pools_that_share_ranges() -> None:
    pools = percpu._core._size_classes(1000, populate="init", name="classes")
    sizes = [pool.item_size for pool in pools]
    assert sizes == sorted(sizes)
    assert sizes[-1] >= 1000
    assert all(type(pool) is PerCpuPool and pool.name == "classes" for pool in pools)
    items = [
        pool.alloc(bytes([n + 1]) * size)
        for n, (pool, size) in enumerate(zip(pools, sizes, strict=True))
    ]
    assert len({pool.stats()["ranges"] for pool in pools}) == 1
    for n, (item, size) in enumerate(zip(items, sizes, strict=True)):
        assert copies(item) == {bytes([n + 1]) * size}
    for pool in pools[::2]:
        pool.close()
    for item, pool in list(zip(items, pools, strict=True))[1::2]:
        item.free()
        pool.check()
        assert pool.alloc() is not None


@pytest.mark.parametrize("name", ["init", "constructed", "ctor", "dtor"])
def test_size_classes_refuse_what_is_about_one_size(name: str) -> None:
    value: object = {"init": b"x", "constructed": True}.get(name, print)
    with pytest.raises(ValueError, match=f"{name} is not for size classes"):
        percpu._core._size_classes(64, **{name: value})
    with pytest.raises(TypeError, match="_size_classes"):
        percpu._core._size_classes()
