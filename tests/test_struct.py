"""PerCpuStruct: descriptions, layout, what is refused, pictures, and the whole as a buffer. What
its fields hold is in test_model_struct.py.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from percpu import ClosedError, PerCpuPool, PerCpuStruct, PerCpuVar

np = pytest.importorskip("numpy")

CPUS = len(PerCpuVar("b"))


class Stats(ctypes.Structure):
    _fields_ = (
        ("hits", ctypes.c_long),
        ("flags", ctypes.c_ubyte),
        ("ratio", ctypes.c_double),
        ("port", ctypes.c_ushort),
    )


# ---- descriptions ---------------------------------------------------------------------------


def test_a_ctypes_class_says_the_layout() -> None:
    s = PerCpuStruct(Stats)
    assert s.layout == (("hits", "q", 0), ("flags", "B", 8), ("ratio", "d", 16), ("port", "H", 24))
    assert s.size == ctypes.sizeof(Stats) == 32
    assert [field.code for field in s.fields.values()] == ["q", "B", "d", "H"]
    assert type(s[0]).__name__ == type(s.sum()).__name__ == "Stats"
    assert s[0]._fields == s.sum()._fields == ("hits", "flags", "ratio", "port")


def test_every_number_of_ctypes() -> None:
    kinds = [*(f"{sign}{kind}" for sign in ("", "u") for kind in ("byte", "short", "int"))]
    kinds += ["long", "ulong", "longlong", "ulonglong", "double"]
    kinds += [*(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "size_t"]
    fields = [(kind, getattr(ctypes, f"c_{kind}")) for kind in kinds]
    structure = type("All", (ctypes.Structure,), {"_fields_": fields})
    s = PerCpuStruct(structure)
    for (name, code, offset), (kind, ctype) in zip(s.layout, fields, strict=True):
        assert name == kind
        assert offset == getattr(structure, name).offset
        assert {"d": 8, **dict.fromkeys("qQ", 8)}.get(code, ctypes.sizeof(ctype)) == ctypes.sizeof(
            ctype
        )
        signed = code.islower()
        assert signed == (not kind.startswith(("u", "size")))


def test_inherited_fields_come_first() -> None:
    class More(Stats):
        _fields_ = (("last", ctypes.c_int8),)

    s = PerCpuStruct(More)
    assert [name for name, _, _ in s.layout] == ["hits", "flags", "ratio", "port", "last"]
    assert s.layout[-1][2] == More.last.offset
    assert s.size == ctypes.sizeof(More)


def test_padding_of_ctypes_is_kept() -> None:
    class Wide(ctypes.Structure):
        _fields_ = (("a", ctypes.c_int8),)

    class Padded(ctypes.Structure):
        _pack_ = 8
        _layout_ = "ms"
        _fields_ = (("a", ctypes.c_int8), ("b", ctypes.c_int64))

    assert (PerCpuStruct(Wide).size, PerCpuStruct(Padded).size) == (1, 16)


def bad_structures() -> dict[str, Any]:
    class Point(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int),)

    def one(kind: Any, *bits: int, **attributes: Any) -> type:
        members = {**attributes, "_fields_": [("a", ctypes.c_int8), ("b", kind, *bits)]}
        return type("Bad", (ctypes.Structure,), members)

    return {
        "nested": one(Point),
        "array": one(ctypes.c_int * 3),
        "float": one(ctypes.c_float),
        "bool": one(ctypes.c_bool),
        "char": one(ctypes.c_char),
        "pointer": one(ctypes.c_void_p),
        "bits": one(ctypes.c_int, 3),
    }


@pytest.mark.parametrize("kind", bad_structures())
def test_fields_that_no_section_can_write_are_refused(kind: str) -> None:
    said = "bit field" if kind == "bits" else "integer of 1, 2, 4 or 8 bytes or a c_double, not"
    with pytest.raises(TypeError, match=f"field 'b' must be .*{said}"):
        PerCpuStruct(bad_structures()[kind])


def test_packed_and_swapped_structs_are_refused() -> None:
    attributes: dict[str, object] = {"_pack_": 1, "_layout_": "ms"}
    attributes["_fields_"] = [("a", ctypes.c_int8), ("b", ctypes.c_int64)]
    with pytest.raises(ValueError, match=r"field 'b' must be aligned to its 8 bytes, not .* 1"):
        PerCpuStruct(type("Packed", (ctypes.Structure,), attributes))

    class Big(ctypes.BigEndianStructure):
        _fields_ = (("a", ctypes.c_int),)

    with pytest.raises(TypeError, match="Big, which is big-endian"):
        PerCpuStruct(Big)


@pytest.mark.parametrize(
    ("description", "error", "said"),
    [
        ({}, ValueError, "one field or more"),
        ([], ValueError, "one field or more"),
        ({"a": "z"}, ValueError, "the code of field 'a' must be one of b B h H i I q Q d, not 'z'"),
        ({"a": "qq"}, ValueError, "not 'qq'"),
        ({"a": 1}, TypeError, "the code of field 'a' must be a str, not int 1"),
        ({1: "q"}, TypeError, "the name of a field must be a str, not int 1"),
        ([("a", "q"), ("a", "b")], ValueError, "'a' is there twice"),
        (["ab", "c"], TypeError, r"description\[0\]|description\[1\]|code"),
        ([("a", "q", 3)], TypeError, r"description\[0\] must be a name and a code"),
        ([7], TypeError, r"description\[0\] must be a name and a code, not 7"),
        ({"def": "q"}, ValueError, "identifier, no keyword, .* not 'def'"),
        ({"_a": "q"}, ValueError, "not begin with '_', not '_a'"),
        ({"a b": "q"}, ValueError, "not 'a b'"),
        ({"": "q"}, ValueError, "not ''"),
        ({"\ufb01": "q"}, ValueError, "as Python reads it, 'fi', not '\ufb01'"),
        ("ab", TypeError, "description must be a ctypes.Structure class, .* not str 'ab'"),
        (b"ab", TypeError, "not bytes"),
        (7, TypeError, "not int 7"),
        (None, TypeError, "not NoneType None"),
        (int, TypeError, "not type"),
        (ctypes.Union, TypeError, "not .* <class"),
        (Stats(), TypeError, "not Stats"),
        ({f"f{i}": "q" for i in range(8193)}, ValueError, "more than 65536 bytes needs a pool"),
    ],
)
def test_bad_descriptions(description: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        PerCpuStruct(description)


def test_bad_pools() -> None:
    with pytest.raises(ValueError, match=r"items of at least 32 bytes, .* not of 24 bytes"):
        PerCpuStruct(Stats, pool=PerCpuPool(24))
    with pytest.raises(ValueError, match="scope 'percpu'"):
        PerCpuStruct(Stats, pool=PerCpuPool(64, scope="global"))
    with pytest.raises(TypeError, match="pool must be a PerCpuPool or None, not int 3"):
        PerCpuStruct(Stats, pool=3)  # type: ignore[arg-type]
    closed = PerCpuPool(64)
    closed.close()
    with pytest.raises(ClosedError):
        PerCpuStruct(Stats, pool=closed)
    with pytest.raises(TypeError):
        PerCpuStruct()  # type: ignore[call-arg]


# ---- fields ---------------------------------------------------------------------------------


def test_names_of_methods_stay_methods() -> None:
    s = PerCpuStruct({"sum": "q", "close": "q", "size": "q", "closed": "b", "x": "q"})
    s["sum"].add(3)
    s["close"].add(4)
    assert (s.sum().sum, s.sum().close, s.size, s.closed) == (3, 4, 40, False)
    assert isinstance(s.x, PerCpuVar)
    assert s["x"] is s.x is s.fields["x"]


def test_what_a_struct_lacks() -> None:
    s = PerCpuStruct({"hits": "q", "miss": "q"})
    with pytest.raises(AttributeError, match="no attribute or field 'hit'"):
        _ = s.hit
    with pytest.raises(KeyError, match="no field is 'hit': the fields are hits, miss"):
        s["hit"]
    for cpu in (-1, CPUS, 2**70):
        with pytest.raises(IndexError, match=f"cpu must be from 0 to {CPUS - 1}, not"):
            s[cpu]
    for cpu in (1.0, None, slice(0, 1)):
        with pytest.raises(TypeError, match="cpu must be an int"):
            s[cpu]  # type: ignore[call-overload]


def test_fields_are_not_assigned() -> None:
    s = PerCpuStruct({"hits": "q", "sum": "q"})
    with pytest.raises(AttributeError, match=r"use s\.hits\.add\(n\)"):
        s.hits = 3  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"use v\.add\(n\)"):
        s.hits += 1  # type: ignore[operator]
    with pytest.raises(AttributeError, match="'hits' cannot be deleted"):
        del s.hits
    with pytest.raises(TypeError, match=r"use s\['hits'\]\[cpu\] = value"):
        s["hits"] = 3
    with pytest.raises(TypeError, match=r"use s\[name\]\[cpu\] = value"):
        s[0] = (1, 2)
    with pytest.raises(TypeError):
        s.fields["hits"] = s["sum"]  # type: ignore[index]
    s.note = "others are"  # type: ignore[assignment]
    assert s.note == "others are"


def test_repr_and_html() -> None:
    s = PerCpuStruct(Stats)
    fields = "hits 'q', flags 'B', ratio 'd', port 'H'"
    assert repr(s) == f"<PerCpuStruct Stats of 32 bytes x {CPUS} CPUs: {fields}>"
    s.hits[0] = 1_234_567
    markup = s._repr_html_() or ""
    assert markup.count("1,234,567") == 2  # CPU 0's, and the sum
    assert "CPU 0" in markup
    assert "CPU 1<" not in markup
    s.close()
    assert repr(s) == "<PerCpuStruct Stats closed>"
    assert s._repr_html_() is None
    many = PerCpuStruct({"a": "b"}, pool=PerCpuPool(1, stride=4096, cpus=max(CPUS, 64)))
    for cpu in range(len(many)):
        many.a[cpu] = 1
    assert f"{len(many) - 32} more CPUs" in (many._repr_html_() or "")


# ---- the whole as a buffer ------------------------------------------------------------------


def test_numpy_sees_records_without_copying() -> None:
    s = PerCpuStruct(Stats)
    records = np.asarray(s)
    assert records.shape == (CPUS,)
    assert records.dtype.names == ("hits", "flags", "ratio", "port")
    assert records.dtype.itemsize == 32
    assert [records.dtype.fields[name][1] for name in records.dtype.names] == [0, 8, 16, 24]
    assert records.dtype["ratio"] == np.float64
    records["ratio"][CPUS - 1] = 0.5
    assert s[CPUS - 1].ratio == 0.5
    s.hits[0] = -7
    assert records[0]["hits"] == -7
    assert not records.flags.owndata
    # The stride is the pool's.
    address = s.hits.item.address(1) - s.hits.item.address(0) if CPUS > 1 else records.strides[0]
    assert records.strides == (address,)


@pytest.mark.parametrize("text", ["bq", "bhiqd", "qb", "b", "hbib", "d"])
def test_formats_are_what_numpy_lays_out_itself(text: str) -> None:
    fields = {f"f{i}": code for i, code in enumerate(text)}
    records = np.asarray(PerCpuStruct(fields))
    wanted = np.dtype(list(fields.items()), align=True)
    assert records.dtype == np.dtype(
        {
            "names": list(wanted.names),
            "formats": [wanted[name] for name in wanted.names],
            "offsets": [wanted.fields[name][1] for name in wanted.names],
            "itemsize": wanted.itemsize,
        }
    )


def test_names_in_any_script() -> None:
    s = PerCpuStruct({"größe": "q", "名": "i"})
    s.größe.inc()
    assert np.asarray(s).dtype.names == ("größe", "名")
    assert s.sum().größe == 1


def test_names_are_what_their_characters_are() -> None:
    class Any(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("b")

    s = PerCpuStruct([(Any("a"), "q"), (Any("b"), "q")])
    assert [type(name) for name in s.fields] == [str, str]
    assert s.sum()._fields == ("a", "b")
    PerCpuStruct([(Any("z"), "q")])
    assert PerCpuStruct({"b": "q"}).sum()._fields == ("b",)


def test_initial_bytes_are_the_pools() -> None:
    init = np.array([(5, 2.5)], [("a", "i8"), ("b", "f8")]).tobytes()
    pool = PerCpuPool(16, init=init, populate="init")
    s = PerCpuStruct({"a": "q", "b": "d"}, pool=pool)
    assert list(s) == [(5, 2.5)] * CPUS
