"""Memory that runs out, really and simulated: the exception says so, the pool still works, and
nothing is left behind.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import pytest
from together import run_python

import percpu
from percpu import PerCpuCounter, PerCpuPool, PerCpuVar, PoolExhausted

core = ctypes.CDLL(percpu._core.__file__)


def fail_maps(after: int) -> None:
    """The core's test hook: the `after`-th mapping from now and all later ones fail."""
    core.percpu_pool_fail_maps(ctypes.c_int(after))


@pytest.fixture
def failing() -> Iterator[None]:
    """Maps may be made to fail in the test, and are mended afterwards."""
    yield
    fail_maps(-1)


def mapped_pages() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0])


def test_an_exhausted_pool_says_so_and_still_works() -> None:
    pool = PerCpuPool(1024, stride=4096, max_ranges=2)
    items = [pool.alloc() for _ in range(8)]
    for _ in range(3):
        with pytest.raises(PoolExhausted, match=r"1024 bytes.*max_ranges is 2") as caught:
            pool.alloc()
        assert isinstance(caught.value, MemoryError)
        with pytest.raises(PoolExhausted):
            pool.alloc(b"init")
        with pytest.raises(PoolExhausted):
            PerCpuVar("q", pool=pool)
        with pytest.raises(PoolExhausted):
            PerCpuCounter(pool=pool)
    pool.check()
    assert len(pool) == 8
    items[3][0][:4] = b"used"
    items.pop(3).free()
    assert bytes(pool.alloc()[0]) == bytes(1024)
    gc.collect()
    assert PerCpuCounter(5, pool=pool).sum() == 5


def test_where_ranges_are_not_limited_it_is_memory_that_is_short(failing: None) -> None:
    pool = PerCpuPool(1024, stride=4096)
    fail_maps(0)
    with pytest.raises(PoolExhausted, match="1024 bytes, and no memory for a new range"):
        pool.reserve(1000)


def test_garbage_is_found_before_a_pool_is_exhausted() -> None:
    """Where reference counts are deferred, what nobody refers to still has its memory."""
    pool = PerCpuPool(16, stride=4096, max_ranges=1)
    for _ in range(3):
        counters = [PerCpuCounter(pool=pool) for _ in range(pool.capacity)]
        assert len({id(counter) for counter in counters}) == pool.capacity == len(pool)
        del counters
    variables = [PerCpuVar("q", pool=pool) for _ in range(pool.capacity)]
    assert len(variables) == len(pool)


def life_of_a_pool(after: int) -> int:
    """Make and use a pool while maps fail from the `after`-th on. How many calls were refused."""
    refused = 0
    fail_maps(after)
    try:
        pool = PerCpuPool(512, stride=4096)
    except PoolExhausted:
        return 1
    finally:
        fail_maps(-1)
    fail_maps(max(-1, after - 2))
    items: list[percpu.PerCpuItem] = []
    for _ in range(40):
        try:
            items.append(pool.alloc(b"start"))
        except PoolExhausted:
            refused += 1
    pool.check()
    assert len(pool) == len(items) == 40 - refused
    fail_maps(-1)
    while len(items) < 40:
        items.append(pool.alloc(b"start"))
    assert all(bytes(item[0][:6]) == b"start\0" for item in items)
    pool.check()
    return refused


def test_a_map_may_fail_at_any_point(failing: None) -> None:
    life_of_a_pool(-1)
    gc.collect()
    before = mapped_pages()
    after, refused = 0, 1
    while refused:
        refused = life_of_a_pool(after)
        after += 1
        assert after < 100
    assert after > 5  # one for the caches, and one for each of five ranges
    gc.collect()
    assert mapped_pages() - before <= 64  # an arena of malloc's; a leaked pool is much more


def test_no_memory_for_the_process_pool_is_not_for_ever() -> None:
    print_it = run_python(
        "import ctypes, percpu\n"
        "core = ctypes.CDLL(percpu._core.__file__)\n"
        "core.percpu_pool_fail_maps(0)\n"
        "for make in (percpu.PerCpuCounter, lambda: percpu.PerCpuVar('q')):\n"
        "    try:\n"
        "        make()\n"
        "    except percpu.PoolExhausted as error:\n"
        "        print(error)\n"
        "core.percpu_pool_fail_maps(-1)\n"
        "print(percpu.PerCpuCounter(4).sum(), percpu.PerCpuVar('q', 2).sum() > 0)\n"
    )
    lines = print_it.splitlines()
    assert "counter of 16 bytes per CPU" in lines[0]
    assert "variable of 8 bytes per CPU" in lines[1]
    assert lines[2] == "4 True"


def test_the_kernel_refuses_a_mapping() -> None:
    """Not the hook: a real limit on the address space."""
    run_python(
        "import percpu, resource\n"
        "pool = percpu.PerCpuPool(64)\n"
        "item = pool.alloc(b'here')\n"
        "with open('/proc/self/statm') as file:\n"
        "    pages = int(file.read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (32 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    percpu.PerCpuPool(64, cpus=8192)\n"
        "    raise SystemExit('8192 strides in 32 MiB')\n"
        "except percpu.PoolExhausted as error:\n"
        "    assert '64-byte' in str(error) and '8192' in str(error)\n"
        "assert bytes(item[0][:4]) == b'here' and pool.alloc() is not None\n"
        "pool.check()\n"
    )


@pytest.mark.skipif(
    percpu.info().mm_cid or percpu.info().rseq == "none", reason="this machine has mm_cid"
)
def test_cid_without_mm_cid_says_what_it_needs() -> None:
    with pytest.raises(OSError, match="mm_cid"):
        PerCpuPool(8, index="cid")


def test_a_bad_mode_in_the_environment_is_an_import_error() -> None:
    run_python(
        "try:\n"
        "    import percpu\n"
        "    raise SystemExit('imported')\n"
        "except ImportError as error:\n"
        "    assert 'PERCPU_RSEQ must be glibc, own or none' in str(error), error\n"
        "    assert 'turbo' in str(error), error\n",
        PERCPU_RSEQ="turbo",
    )


def test_a_broken_invariant_is_a_corruption_error() -> None:
    """check() is no decoration: it sees a count changed behind the counter's back."""
    pool = PerCpuPool(16, stride=4096, max_ranges=1)
    counter = PerCpuCounter(batch=4, pool=pool)
    counter.add(100)
    counter.check()
    first = min(pool.alloc().address() for _ in range(10)) & -pool.stride  # the counter's item
    per_cpu = (first + cpu * pool.stride for cpu in range(pool.cpus))
    for address in per_cpu:
        ctypes.c_uint64.from_address(address).value += 50
    assert sum(counter.per_cpu()) == 100 + 50 * pool.cpus
    with pytest.raises(percpu.CorruptionError, match="flush"):
        counter.check()
    assert issubclass(percpu.CorruptionError, RuntimeError)
