"""PerCpuStruct: a C struct of which each CPU has its own copy."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import html
import keyword
import operator
import unicodedata
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Self, SupportsIndex, overload

from percpu import _core
from percpu._core import ClosedError, PerCpuItem, PerCpuPool, PerCpuVar
from percpu._pool_set import PerCpuPoolSet

_WIDTHS = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8, "d": 8}
"""Bytes of each of PerCpuVar's codes, which is also what they are aligned to."""

_LARGEST = 1 << 16
"""Bytes of the largest struct that has no pool of its own."""

_MOST_ROWS = 32

_Field = tuple[str, str, int]
"""A field's name, code and offset."""


def _code_of(kind: Any) -> str | None:
    """Return the code of a simple ctypes type, or None if it is none of PerCpuVar's."""
    if not (isinstance(kind, type) and issubclass(kind, ctypes._SimpleCData)):
        return None
    letter: str = kind._type_  # type: ignore[attr-defined]
    size = ctypes.sizeof(kind)
    if kind is not getattr(kind, "__ctype_le__", kind):
        return None  # big-endian
    if letter == "d":
        return "d"
    if letter in "bhilq":
        return {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    if letter in "BHILQ":
        return {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    return None


def _fields_of_structure(structure: type[ctypes.Structure]) -> Iterator[_Field]:
    for base in reversed(structure.__mro__):
        for name, kind, *bits in base.__dict__.get("_fields_", ()):
            if bits:
                raise TypeError(f"field {name!r} must be a whole number, not a bit field")
            code = _code_of(kind)
            if code is None:
                raise TypeError(
                    f"field {name!r} must be an integer of 1, 2, 4 or 8 bytes or a c_double, "
                    f"not {kind.__name__}"
                )
            yield name, code, getattr(structure, name).offset


def _fields_of_pairs(pairs: Iterable[Any]) -> Iterator[_Field]:
    """Lay fields out as C does: each aligned to its own size."""
    end = 0
    for position, pair in enumerate(pairs):
        try:
            name, code = pair
        except (TypeError, ValueError):
            raise TypeError(
                f"description[{position}] must be a name and a code, not {pair!r}"
            ) from None
        if not isinstance(code, str):
            raise _wrong_type(f"the code of field {name!r}", "a str", code)
        if code not in _WIDTHS:
            raise ValueError(
                f"the code of field {name!r} must be one of {' '.join(_WIDTHS)}, not {code!r}"
            )
        offset = -(-end // _WIDTHS[code]) * _WIDTHS[code]
        end = offset + _WIDTHS[code]
        yield name, code, offset


def _wrong_type(name: str, right: str, value: object) -> TypeError:
    return TypeError(f"{name} must be {right}, not {type(value).__name__} {value!r}")


def _check_names(names: Iterable[Any]) -> Iterator[str]:
    """Return the names as they are, if they are good, without what subclasses of str add."""
    seen = set()
    for given in names:
        if not isinstance(given, str):
            raise _wrong_type("the name of a field", "a str", given)
        name = str.__str__(given)
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ValueError(
                "the name of a field must be an identifier, no keyword, and not begin with '_', "
                f"not {name!r}"
            )
        if not name.isascii() and name != unicodedata.normalize("NFKC", name):
            raise ValueError(
                "the name of a field must be as Python reads it, "
                f"{unicodedata.normalize('NFKC', name)!r}, not {name!r}"
            )
        if name in seen:
            raise ValueError(f"the names of fields must be different, but {name!r} is there twice")
        seen.add(name)
        yield name


def _layout(description: Any) -> tuple[str, tuple[_Field, ...], int]:
    """Return a name for the struct, its fields, and its size in bytes."""
    name = "PerCpuStruct"
    if isinstance(description, type) and issubclass(description, ctypes.Structure):
        if issubclass(description, ctypes.BigEndianStructure):
            raise TypeError(
                f"description must be a struct of this machine's byte order, not "
                f"{description.__name__}, which is big-endian"
            )
        if description.__name__.isidentifier() and not keyword.iskeyword(description.__name__):
            name = description.__name__
        fields = tuple(_fields_of_structure(description))
        size = ctypes.sizeof(description)
    elif isinstance(description, (str, bytes, type)) or not isinstance(description, Iterable):
        raise _wrong_type(
            "description",
            "a ctypes.Structure class, a mapping of names to codes, or pairs of those",
            description,
        )
    else:
        pairs = description.items() if isinstance(description, Mapping) else description
        fields = tuple(_fields_of_pairs(pairs))
        size = 0
    names = _check_names(field[0] for field in fields)
    fields = tuple((name, *field[1:]) for name, field in zip(names, fields, strict=True))
    if not fields:
        raise ValueError("description must have one field or more")
    for field, code, offset in fields:
        if offset % _WIDTHS[code]:
            raise ValueError(
                f"field {field!r} must be aligned to its {_WIDTHS[code]} bytes, not be at offset "
                f"{offset}: no _pack_"
            )
    width = max(_WIDTHS[code] for _, code, _ in fields)
    end = max(offset + _WIDTHS[code] for _, code, offset in fields)
    return name, fields, size or -(-end // width) * width


def _format(fields: Iterable[_Field], size: int) -> bytes:
    """Write the layout as a buffer's format, with all padding in it: NumPy's dtype."""
    text, end = "T{", 0
    for name, code, offset in sorted(fields, key=operator.itemgetter(2)):
        text += "x" * (offset - end) + f"={code}:{name}:"
        end = offset + _WIDTHS[code]
    return (text + "x" * (size - end) + "}").encode()


_shared: list[PerCpuPoolSet] = []
"""The pools of the process: one set, made when it is needed first."""


def _alloc_shared(size: int) -> PerCpuItem:
    if size > _LARGEST:
        raise ValueError(
            f"a struct of more than {_LARGEST} bytes needs a pool of its own, and this one "
            f"has {size}"
        )
    for pools in _shared[:1]:
        with contextlib.suppress(ClosedError):  # somebody closed `s.field.pool`
            return pools.alloc(size)
        _shared.clear()
    # Two threads may both make a set: the first in the list is the one that others find.
    pools = PerCpuPoolSet.classes(_LARGEST, stride=4 * _LARGEST)
    _shared.append(pools)
    return pools.alloc(size)


@functools.lru_cache(maxsize=128)
def _tuple_class(name: str, fields: tuple[str, ...]) -> Any:
    """Return a class of named tuples: making one takes longer than all the rest of a struct."""
    return namedtuple(name, fields)


class PerCpuStruct(_core._Records):
    """A C struct of which each CPU has its own copy: the kernel's ``DEFINE_PER_CPU(struct, name)``.

    `description` is a :class:`ctypes.Structure` class, or names and codes: a mapping, or pairs.
    Codes are those of :class:`PerCpuVar`, laid out as C does, each aligned to its size. A
    ctypes class may have fields of integers and of c_double; nested structs, arrays and bit
    fields are not for one critical section, and refused.

    Each field is a :class:`PerCpuVar`: ``s.hits.inc()``, or ``s["hits"]`` where the name is also
    that of a method. ``s[cpu]`` is that CPU's copy, a named tuple; :func:`len` is the number of
    copies, iteration goes over them. The whole is a writable buffer of one record for each CPU,
    so ``numpy.asarray(s)`` is an array of records, and copies nothing.

    An operation changes one field. Nothing keeps two fields of one copy together: whoever reads a
    copy may see one update of a thread and not yet its next.

    `pool` is a :class:`PerCpuPool` to take the memory from, with its initial bytes; None: one of
    the process, and zeros. Closing the struct closes its fields. Raises :exc:`TypeError` and
    :exc:`ValueError` for a bad description or a pool that does not fit, :exc:`PoolExhausted`, and
    :exc:`ClosedError` once it was closed.
    """

    _fields: MappingProxyType[str, PerCpuVar[Any]]
    _layout: tuple[_Field, ...]
    _given_pool: PerCpuPool | None
    _size: int
    _tuple: Any

    def __new__(cls, description: Any, *, pool: PerCpuPool | None = None) -> Self:
        """Make one: see the class."""
        name, fields, size = _layout(description)
        item = _alloc_shared(size) if pool is None else _alloc(pool, size)
        self = super().__new__(cls, item, _format(fields, size), size)
        variables = {field: self._var(code, offset) for field, code, offset in fields}
        state = self.__dict__
        state["_fields"] = MappingProxyType(variables)
        state["_layout"] = fields
        state["_given_pool"] = pool
        state["_size"] = size
        state["_tuple"] = _tuple_class(name, tuple(variables))
        for field, variable in variables.items():
            if not hasattr(cls, field):  # methods go first
                state[field] = variable
        return self

    @property
    def size(self) -> int:
        """Bytes of a copy."""
        return self._size

    @property
    def pool(self) -> PerCpuPool | None:
        """The :class:`PerCpuPool` that was given, or None."""
        return self._given_pool

    @property
    def fields(self) -> Mapping[str, PerCpuVar[Any]]:
        """The fields: a mapping of their names to their variables, in order."""
        return self._fields

    @property
    def layout(self) -> tuple[tuple[str, str, int], ...]:
        """For each field its name, code, and offset in bytes."""
        return self._layout

    def sum(self) -> Any:
        """Return a named tuple of the sum of each field: see :meth:`PerCpuVar.sum`."""
        return self._tuple._make(field.sum() for field in self._fields.values())

    def close(self) -> None:
        """Close the struct and its fields: they raise :exc:`ClosedError` from now on.

        The memory is given back when all of them are garbage. Raises :exc:`BufferError`, and does
        nothing, while a memoryview or array of the struct or of a field lives. Closing a closed
        struct does nothing.
        """
        with contextlib.suppress(ClosedError):  # its pool was, and all with it
            self._shut()
        for field in self._fields.values():
            while not field.closed:
                with contextlib.suppress(BufferError):  # a thread is just being refused one
                    field.close()

    def __len__(self) -> int:
        return len(next(iter(self._fields.values())))

    @overload
    def __getitem__(self, which: str, /) -> PerCpuVar[Any]: ...
    @overload
    def __getitem__(self, which: SupportsIndex, /) -> Any: ...
    def __getitem__(self, which: str | SupportsIndex, /) -> Any:
        if isinstance(which, str):
            return self._field(which)
        return self._tuple._make([field[which] for field in self._fields.values()])

    def __iter__(self) -> Iterator[Any]:
        return (self[cpu] for cpu in range(len(self)))

    def __getattr__(self, name: str) -> PerCpuVar[Any]:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute or field {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._fields:
            _not_assigned(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._fields:
            raise AttributeError(f"field {name!r} cannot be deleted")
        super().__delattr__(name)

    def __setitem__(self, which: Any, value: Any) -> NoReturn:
        if isinstance(which, str):
            self._field(which)
            raise TypeError(f"a field is not assigned to: use s[{which!r}][cpu] = value")
        raise TypeError("a copy is not assigned to: use s[name][cpu] = value")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {code!r}" for name, code, _ in self.layout)
        name = type(self).__name__
        struct = self._tuple.__name__
        title = f"{name} {struct}" if struct != "PerCpuStruct" else name
        if self.closed:
            return f"<{title} closed>"
        return f"<{title} of {self.size} bytes x {len(self)} CPUs: {fields}>"

    def _repr_html_(self) -> str | None:
        """For notebooks: a table of the copies that are not all 0, and the sums."""
        if self.closed:
            return None
        rows = [(f"CPU {cpu}", copy) for cpu, copy in enumerate(self) if any(copy)]
        left_out = len(rows) - _MOST_ROWS
        rows = [*rows[:_MOST_ROWS], ("sum", self.sum())]
        heads = "".join(
            f"<th style='text-align:right'>{html.escape(name)}<br>{code}</th>"
            for name, code, _ in self.layout
        )
        lines = [
            f"<table><caption style='text-align:left'>{html.escape(repr(self))}</caption>"
            f"<thead><tr><th></th>{heads}</tr></thead><tbody>"
        ]
        for label, copy in rows:
            cells = "".join(f"<td style='text-align:right'>{value:,}</td>" for value in copy)
            lines.append(f"<tr><th style='text-align:left'>{label}</th>{cells}</tr>")
        if left_out > 0:
            lines.append(f"<tr><td colspan='{len(self.layout) + 1}'>{left_out} more CPUs</td></tr>")
        return "\n".join([*lines, "</tbody></table>"])

    def _field(self, name: str) -> PerCpuVar[Any]:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(
                f"no field is {name!r}: the fields are {', '.join(self._fields)}"
            ) from None


def _alloc(pool: PerCpuPool, size: int) -> PerCpuItem:
    if not isinstance(pool, PerCpuPool):
        raise _wrong_type("pool", "a PerCpuPool or None", pool)
    if pool.item_size < size:
        raise ValueError(
            f"pool must have items of at least {size} bytes, for this struct, not of "
            f"{pool.item_size} bytes"
        )
    if pool.scope == "global":
        raise ValueError("pool must be one of scope 'percpu', with a copy for each CPU")
    return pool.alloc()


def _not_assigned(name: str) -> NoReturn:
    raise AttributeError(
        f"field {name!r} is not assigned to: use s.{name}.add(n), s.{name}.write(x), or "
        f"s.{name}[cpu] = x"
    )
