"""Items and variables as buffers: what memoryview and NumPy see, and that a live view keeps the
memory.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import struct
from collections.abc import Callable

import pytest

import percpu
from percpu import ClosedError, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
CODES = "bBhHiIqQd"


def test_an_item_is_a_matrix_of_bytes() -> None:
    pool = PerCpuPool(24)
    item = pool.alloc(b"abc")
    with memoryview(item) as view:
        assert (view.format, view.itemsize, view.ndim) == ("B", 1, 2)
        assert (view.shape, view.strides) == ((CPUS, 24), (pool.stride, 1))
        assert not view.readonly
        assert view.nbytes == CPUS * 24
        assert view.tobytes() == (b"abc" + bytes(21)) * CPUS
        view[CPUS - 1, 23] = 7
    assert item[CPUS - 1][23] == 7
    assert item[0][23] == (7 if CPUS == 1 else 0)


def test_a_copy_of_an_item_is_a_row_of_bytes() -> None:
    item = PerCpuPool(24).alloc()
    for cpu, row in enumerate(item):
        assert isinstance(row, memoryview)
        assert (row.format, row.shape, row.strides, row.readonly) == ("B", (24,), (1,), False)
        assert row.contiguous
        row[:] = bytes([cpu + 1]) * 24
    assert len(item) == CPUS
    assert [bytes(row) for row in item] == [bytes([cpu + 1]) * 24 for cpu in range(CPUS)]


def test_addresses_are_a_stride_apart() -> None:
    pool = PerCpuPool(8, stride=8192)
    item = pool.alloc(b"12345678")
    for cpu in range(CPUS):
        assert item.address(cpu) == item.address(cpu=cpu) == item.address() + cpu * 8192
        assert ctypes.string_at(item.address(cpu), 8) == b"12345678"


@pytest.mark.parametrize("code", CODES)
def test_a_variable_is_a_row_of_its_type(code: str) -> None:
    var = PerCpuVar(code, 3)
    with memoryview(var) as view:
        assert (view.format, view.itemsize) == (code, struct.calcsize(code))
        assert (view.shape, view.readonly) == ((CPUS,), False)
        assert view.strides is not None
        assert view.strides[0] >= 4096
        assert view.tolist() == [3] * CPUS
        view[CPUS - 1] = 5
    assert var[CPUS - 1] == 5


def test_who_needs_contiguous_memory_is_told() -> None:
    """bytes() and files get copies in order, never a neighbour's bytes."""
    item, var = PerCpuPool(16).alloc(b"x" * 16), PerCpuVar("i", 258)
    assert bytes(item) == b"x" * 16 * CPUS
    assert bytes(var) == struct.pack("i", 258) * CPUS
    for exporter in (item, var):
        with memoryview(exporter) as view:
            assert view.contiguous == (CPUS == 1)
        if CPUS > 1:
            with pytest.raises(BufferError, match=r"stride|contiguous"):
                hashlib.sha256(exporter)


def test_numpy_sees_all_copies_and_copies_none() -> None:
    np = pytest.importorskip("numpy")
    pool = PerCpuPool(64)
    item, var = pool.alloc(), PerCpuVar("d", 0.5)
    matrix, row = np.asarray(item), np.asarray(var)
    assert (matrix.shape, matrix.dtype, row.shape, row.dtype) == (
        (CPUS, 64),
        np.uint8,
        (CPUS,),
        np.float64,
    )
    matrix[:, 1] = 9
    row += 1
    assert all(copy[1] == 9 for copy in item)
    assert list(var) == [1.5] * CPUS
    longs = matrix.view(np.int64)
    assert longs.shape == (CPUS, 8)
    assert matrix.__array_interface__["data"][0] == item.address()
    item[0][2] = 3
    assert matrix[0, 2] == 3
    with pytest.raises(BufferError):
        item.free()
    del matrix, longs
    gc.collect()
    item.free()


def test_a_live_view_blocks_free_and_close() -> None:
    """Freeing under a view would let it write another owner's memory."""
    pool = PerCpuPool(16)
    item, var = pool.alloc(), PerCpuVar("q", pool=pool)
    exports: dict[Callable[[], memoryview], list[Callable[[], object]]] = {
        lambda: memoryview(item): [item.free, item.close, lambda: pool.free(item)],
        lambda: item[0]: [item.free],
        lambda: item[CPUS - 1][3:5]: [item.free],
        lambda: memoryview(var): [var.close],
    }
    for export, blocked in exports.items():
        view = export()
        for call in (*blocked, pool.close):
            with pytest.raises(BufferError, match="1 memoryview"):
                call()
        assert not any(thing.closed for thing in (pool, item, var))
        view.release()
        del view
        gc.collect()
    views = [memoryview(item), item[0]]
    with pytest.raises(BufferError, match="2 memoryviews"):
        item.free()
    for view in views:
        view.release()
    del view, views
    item.free()
    var.close()
    pool.close()


def test_leaving_a_with_block_with_a_live_view_is_an_error() -> None:
    pool = PerCpuPool(16)
    view = pool.alloc()[0]
    with pytest.raises(BufferError), pool:
        view[0] = 1
    assert not pool.closed
    view.release()
    pool.close()


def test_views_keep_item_and_pool_alive() -> None:
    """Nothing but the view refers to the pool, which must not unmap."""
    view = PerCpuPool(4096, stride=4096).alloc(b"still here")[0]
    gc.collect()
    others = [PerCpuPool(4096, stride=4096).alloc(b"other") for _ in range(20)]
    assert bytes(view[:10]) == b"still here"
    view[4095] = 1
    assert len(others) == 20
    whole = memoryview(PerCpuVar("q", 77, pool=PerCpuPool(8)))
    gc.collect()
    assert whole.tolist() == [77] * CPUS


def test_a_view_of_something_closed_cannot_be_had() -> None:
    item, var = PerCpuPool(16).alloc(), PerCpuVar("q")
    item.free()
    var.close()
    for call in (lambda: memoryview(item), lambda: item[0], lambda: memoryview(var)):
        with pytest.raises(ClosedError):
            call()


def test_init_takes_any_contiguous_buffer() -> None:
    pool = PerCpuPool(8)
    for init in (b"12", bytearray(b"12"), memoryview(b"0123")[1:3], (ctypes.c_char * 2)(*b"12")):
        assert bytes(pool.alloc(init)[0][:3]) == b"12\0"
    with pytest.raises(BufferError):
        pool.alloc(memoryview(b"12345678")[::2])
    exporter = bytearray(b"12")
    pool.alloc(exporter)
    exporter.append(3)  # not exported any more


def test_operations_and_views_agree_on_each_cpu(allowed_cpus: list[int]) -> None:
    """What this_cpu operations write is where the view of that CPU looks."""
    var = PerCpuVar("q")
    view = memoryview(var)
    for cpu in allowed_cpus:
        os.sched_setaffinity(0, {cpu})
        var.add(cpu + 10)
        assert view[cpu] == cpu + 10
        assert percpu.current_cpu() == cpu
    view.release()
