"""Bad input raises the right exception, and its message names the argument, the value, and what
would be right. Afterwards the object is as it was.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from operator import iadd, isub

import pytest
from together import run_python

from percpu import ClosedError, PerCpuCounter, PerCpuPool, PerCpuVar

CPUS = len(PerCpuVar("b"))
Call = Callable[[], object]
Case = tuple[str, Call, type[Exception], str]


def pool_cases() -> list[Case]:
    return [
        ("no size", lambda: PerCpuPool(), TypeError, "item_size"),
        ("size 0", lambda: PerCpuPool(0), ValueError, "item_size must be from 1 .* bytes, not 0"),
        ("size -1", lambda: PerCpuPool(-1), ValueError, "item_size .* not -1"),
        ("size 2**30 + 1", lambda: PerCpuPool(2**30 + 1), ValueError, "item_size .*1073741825"),
        ("size 2**64", lambda: PerCpuPool(2**64), ValueError, "item_size .*18446744073709551616"),
        ("size 1.5", lambda: PerCpuPool(1.5), TypeError, "item_size must be an int, not float 1.5"),
        (
            "size '64'",
            lambda: PerCpuPool("64"),
            TypeError,
            "item_size must be an int, not str '64'",
        ),
        (
            "size above stride",
            lambda: PerCpuPool(5000, stride=4096),
            ValueError,
            "item_size must be at most stride, which is 4096, not 5000",
        ),
        (
            "stride no power of two",
            lambda: PerCpuPool(8, stride=12345),
            ValueError,
            r"stride must be a power of two from \d+ to 2\*\*30 bytes, not 12345",
        ),
        ("stride 1024", lambda: PerCpuPool(8, stride=1024), ValueError, "stride .* not 1024"),
        ("stride 1000", lambda: PerCpuPool(8, stride=1000), ValueError, "power of two .* not 1000"),
        ("stride 0", lambda: PerCpuPool(8, stride=0), ValueError, "stride .* not 0"),
        ("stride -4096", lambda: PerCpuPool(8, stride=-4096), ValueError, "stride .* not -4096"),
        ("stride 2**40", lambda: PerCpuPool(8, stride=2**40), ValueError, "stride .* not 10995"),
        (
            "stride 4096.0",
            lambda: PerCpuPool(8, stride=4096.0),
            TypeError,
            "stride .* float 4096.0",
        ),
        ("cpus 0", lambda: PerCpuPool(8, cpus=0), ValueError, "cpus must be from .* not 0"),
        (
            "cpus too few",
            lambda: PerCpuPool(8, cpus=CPUS - 1),
            ValueError,
            f"cpus .*not {CPUS - 1}",
        ),
        ("cpus 8193", lambda: PerCpuPool(8, cpus=8193), ValueError, "cpus .* to 8192 .* not 8193"),
        (
            "cpus '2'",
            lambda: PerCpuPool(8, cpus="2"),
            TypeError,
            "cpus must be an int, not str '2'",
        ),
        ("max_ranges -1", lambda: PerCpuPool(8, max_ranges=-1), ValueError, "max_ranges .*not -1"),
        ("max_ranges 1.0", lambda: PerCpuPool(8, max_ranges=1.0), TypeError, "max_ranges .*1.0"),
        (
            "index unknown",
            lambda: PerCpuPool(8, index="node"),
            ValueError,
            "index must be 'cpu' or 'cid', not 'node'",
        ),
        ("index 3", lambda: PerCpuPool(8, index=3), TypeError, "index must be 'cpu' or 'cid'.*3"),
        (
            "stride by position",
            lambda: PerCpuPool(8, 4096),
            TypeError,
            r"positional .*; populate, stride, cpus, .*, name and cache_bytes are keyword-only$",
        ),
        ("unknown keyword", lambda: PerCpuPool(8, size=3), TypeError, "'size'"),
    ]


def var_cases() -> list[Case]:
    var, byte, unsigned, real = (PerCpuVar(code) for code in "qbBd")
    return [
        ("no code", lambda: PerCpuVar(), TypeError, "code"),
        ("code x", lambda: PerCpuVar("x"), ValueError, "code must be one of .* not 'x'"),
        ("code qq", lambda: PerCpuVar("qq"), ValueError, "code must be one of .* not 'qq'"),
        ("code empty", lambda: PerCpuVar(""), ValueError, "code must be one of .* not ''"),
        ("code non-ascii", lambda: PerCpuVar("\u0171"), ValueError, "code must be one of"),
        ("code 3", lambda: PerCpuVar(3), TypeError, "code must be a str, not int 3"),
        ("value 1.5", lambda: PerCpuVar("q", 1.5), TypeError, "value must be an int .*float 1.5"),
        ("value 128", lambda: PerCpuVar("b", 128), OverflowError, "value .*-128 to 127.* not 128"),
        ("value -1", lambda: PerCpuVar("B", -1), OverflowError, "value must be from 0 to 255.*-1"),
        ("value of d", lambda: PerCpuVar("d", "1"), TypeError, "value must be an int or a float"),
        ("value huge", lambda: PerCpuVar("d", 10**400), OverflowError, "value .*range of a float"),
        (
            "pool too small",
            lambda: PerCpuVar("q", pool=PerCpuPool(4)),
            ValueError,
            r"pool must have items of at least 8 bytes.*\b4\b",
        ),
        (
            "pool no pool",
            lambda: PerCpuVar("q", pool=3),
            TypeError,
            "pool must be a PerCpuPool.* 3",
        ),
        (
            "add 2**63",
            lambda: var.add(2**63),
            OverflowError,
            "n must be from .*9223372036854775808",
        ),
        ("add 1.0", lambda: var.add(1.0), TypeError, "n must be an int .*float 1.0"),
        ("add Decimal", lambda: var.add(Decimal(1)), TypeError, "n must be an int .*Decimal"),
        ("add nothing", lambda: var.add(None), TypeError, "n must be an int .*None"),
        ("add 128", lambda: byte.add(128), OverflowError, "n must be from -128 to 127 .*not 128"),
        ("sub -129", lambda: byte.sub(-129), OverflowError, "n must be from -128 .* not -129"),
        ("sub -1", lambda: unsigned.sub(-1), OverflowError, "n must be from 0 to 255 .*not -1"),
        ("add_return 1.0", lambda: byte.add_return(1.0), TypeError, "n must be an int .*1.0"),
        ("write 200", lambda: byte.write(200), OverflowError, "x must be .*127 .*not 200"),
        ("xchg '1'", lambda: byte.xchg("1"), TypeError, "x must be an int .*str '1'"),
        ("cmpxchg expect", lambda: byte.cmpxchg(300, 1), OverflowError, "expect must be .*300"),
        ("cmpxchg new", lambda: byte.cmpxchg(1, 300), OverflowError, "new must be .*300"),
        ("cmpxchg one", lambda: byte.cmpxchg(1), TypeError, "'new'"),
        ("and_ 256", lambda: byte.and_(256), OverflowError, "mask must be .*256"),
        ("or_ 1.0", lambda: byte.or_(1.0), TypeError, "mask must be an int .*1.0"),
        ("and_ of d", lambda: real.and_(1), TypeError, "and_.*integers.*'d'"),
        ("or_ of d", lambda: real.or_(1), TypeError, "or_.*integers.*'d'"),
        ("d add '1'", lambda: real.add("1"), TypeError, "n must be an int or a float, not str '1'"),
        ("d add Fraction", lambda: real.add(Fraction(1)), TypeError, "n must be an int or a float"),
        ("cpu too high", lambda: var[CPUS], IndexError, f"cpu must be from 0 to .*not {CPUS}"),
        ("cpu -1", lambda: var[-1], IndexError, "cpu must be from 0 to .*not -1"),
        ("cpu 2**70", lambda: var[2**70], IndexError, "cpu .*1180591620717411303424"),
        ("cpu 0.0", lambda: var[0.0], TypeError, "cpu must be an int, not float 0.0"),
        ("set cpu", lambda: var.__setitem__(CPUS, 1), IndexError, f"cpu must be .*not {CPUS}"),
        ("set 2**63", lambda: var.__setitem__(0, 2**63), OverflowError, "x must be .*5808"),
        ("set 1.5", lambda: byte.__setitem__(0, 1.5), TypeError, "x must be an int .*1.5"),
        ("delete", lambda: var.__delitem__(0), TypeError, "cannot be deleted"),
        ("+=", lambda: iadd(var, 1), TypeError, r"use v\.add\(n\): PerCpuVar has no operator \+="),
        ("-=", lambda: isub(var, 1), TypeError, r"use v\.sub\(n\): PerCpuVar has no operator -="),
        (
            "pool by position",
            lambda: PerCpuVar("q", 0, None),
            TypeError,
            r"at most 2 .*; pool is keyword-only$",
        ),
        ("inc of 2", lambda: var.inc(2), TypeError, "no arguments"),
    ]


def counter_cases() -> list[Case]:
    c = PerCpuCounter()
    small = PerCpuPool(8, stride=4096)
    square = memoryview(bytes(4)).cast("B", (2, 2))
    too_large, too_small = 2**63, -(2**63) - 1
    return [
        ("value 1.5", lambda: PerCpuCounter(1.5), TypeError, "value must be an int, not float 1.5"),
        ("value 2**63", lambda: PerCpuCounter(too_large), OverflowError, f"value .*{too_large}"),
        ("batch 0", lambda: PerCpuCounter(batch=0), ValueError, "batch must be from 1 .*not 0"),
        ("batch -5", lambda: PerCpuCounter(batch=-5), ValueError, "batch must be .*not -5"),
        (
            "batch large",
            lambda: PerCpuCounter(batch=2**48 + 1),
            ValueError,
            "batch .*281474976710657",
        ),
        ("batch 2**80", lambda: PerCpuCounter(batch=2**80), ValueError, "batch .*12089258196146"),
        ("batch 1.5", lambda: PerCpuCounter(batch=1.5), TypeError, "batch must be an int.*1.5"),
        (
            "pool small",
            lambda: PerCpuCounter(pool=small),
            ValueError,
            r"pool .*16 bytes.*\b8 bytes",
        ),
        (
            "pool 1",
            lambda: PerCpuCounter(pool=1),
            TypeError,
            "pool must be a PerCpuPool or None.*1",
        ),
        ("batch by position", lambda: PerCpuCounter(1, 2), TypeError, "positional"),
        ("error 1.0", lambda: PerCpuCounter(error=1.0), ValueError, "error .*between 0 and 1.*1.0"),
        ("error 0.0", lambda: PerCpuCounter(error=0.0), ValueError, "error .*between 0 and 1.*0.0"),
        ("error nan", lambda: PerCpuCounter(error=float("nan")), ValueError, "error .*not nan"),
        ("error -1", lambda: PerCpuCounter(error=-1), ValueError, "error must be from 0 .*not -1"),
        ("error '1'", lambda: PerCpuCounter(error="1"), TypeError, "error must be an int or a flo"),
        (
            "both",
            lambda: PerCpuCounter(batch=1, error=1),
            ValueError,
            "batch and error cannot both",
        ),
        (
            "lazy in a pool",
            lambda: PerCpuCounter(lazy=True, pool=PerCpuPool(16)),
            ValueError,
            "lazy must be False or None with a pool",
        ),
        ("many -1", lambda: PerCpuCounter.many(-1), ValueError, "n must be from 0 .*not -1"),
        ("many 1.5", lambda: PerCpuCounter.many(1.5), TypeError, "n must be an int, not float 1.5"),
        ("many of 'x'", lambda: PerCpuCounter.many(2, "x"), TypeError, "value must be an int"),
        (
            "many batch 0",
            lambda: PerCpuCounter.many(2, batch=0),
            ValueError,
            "batch must be from 1",
        ),
        ("try_add(1)", lambda: c.try_add(1), TypeError, "missing the argument 'limit'"),
        ("try_add 0.5", lambda: c.try_add(0.5, 1), TypeError, "n must be an int, not float 0.5"),
        ("try_add", lambda: c.try_add(1, too_large), OverflowError, f"limit .*not {too_large}"),
        ("try_sub", lambda: c.try_sub(1, too_small), OverflowError, f"floor .*not {too_small}"),
        ("many ones", lambda: c.add_many([1]), TypeError, r"values must be a buffer .*\[1\]"),
        ("floats", lambda: c.add_many(array("d")), TypeError, "values .*ints.*not of format 'd'"),
        ("2-D", lambda: c.add_many(square), ValueError, "values must have 1 dimension, not 2"),
        ("add 2**63", lambda: c.add(too_large), OverflowError, f"n must be from .*not {too_large}"),
        ("add low", lambda: c.add(too_small), OverflowError, f"n must be from .*not {too_small}"),
        ("add 1.5", lambda: c.add(1.5), TypeError, "n must be an int, not float 1.5"),
        ("add '1'", lambda: c.add("1"), TypeError, "n must be an int, not str '1'"),
        ("sub 2**63", lambda: c.sub(too_large), OverflowError, f"n must be .*not {too_large}"),
        ("sub None", lambda: c.sub(None), TypeError, "n must be an int, not NoneType None"),
        ("+= 1.5", lambda: c.__iadd__(1.5), TypeError, "n must be an int, not float 1.5"),
        ("-= 2**63", lambda: c.__isub__(too_large), OverflowError, f"n must be .*not {too_large}"),
        ("set 2**63", lambda: c.set(too_large), OverflowError, f"value must be .*not {too_large}"),
        ("set 0.5", lambda: c.set(0.5), TypeError, "value must be an int, not float 0.5"),
        ("exchange", lambda: c.exchange(too_small), OverflowError, f"value .*not {too_small}"),
        ("compare 1.5", lambda: c.compare(1.5), TypeError, "rhs must be an int or a PerCpuCounter"),
        ("< '1'", lambda: c < "1", TypeError, "'<' not supported"),
        ("format", lambda: format(c, "zzz"), ValueError, "[Ff]ormat"),
        ("format 3", lambda: c.__format__(3), TypeError, "spec must be a str, not int 3"),
        ("+ 1", lambda: c + 1, TypeError, "unsupported operand"),
        ("hash", lambda: hash(c), TypeError, "unhashable"),
        ("10**5000", lambda: c.add(10**5000), OverflowError, "n must be from"),
    ]


def item_cases() -> list[Case]:
    pool, other = PerCpuPool(64), PerCpuPool(64)
    item, stranger = pool.alloc(), other.alloc()
    return [
        ("init too long", lambda: pool.alloc(b"x" * 65), ValueError, "init .*64, not 65"),
        ("init str", lambda: pool.alloc("text"), TypeError, "bytes-like"),
        ("init 3", lambda: pool.alloc(3), TypeError, "bytes-like"),
        ("free stranger", lambda: pool.free(stranger), ValueError, "item must be .*this pool"),
        ("free None", lambda: pool.free(None), TypeError, "item must be a PerCpuItem.*None"),
        ("free address", lambda: pool.free(item.address()), TypeError, "item must be a PerCpuItem"),
        ("cpu too high", lambda: item[CPUS], IndexError, f"cpu must be from 0 to .*not {CPUS}"),
        ("cpu -1", lambda: item[-1], IndexError, "cpu must be from 0 to .*not -1"),
        ("cpu '0'", lambda: item["0"], TypeError, "cpu must be an int, not str '0'"),
        ("slice", lambda: item[0:1], TypeError, "cpu must be an int, not slice"),
        ("address cpu", lambda: item.address(CPUS), IndexError, f"cpu must be .*not {CPUS}"),
        ("address cpu -1", lambda: item.address(cpu=-1), IndexError, "cpu must be .*not -1"),
        ("address 1.0", lambda: item.address(1.0), TypeError, "cpu must be an int, not float 1.0"),
        (
            "assign",
            lambda: item.__setitem__(0, b"x"),
            TypeError,
            r"write into the copy: item\[cpu\]\[:n\]",
        ),
        ("delete", lambda: item.__delitem__(0), TypeError, "cannot be deleted"),
        (
            "init twice",
            lambda: pool.alloc(b"", b""),
            TypeError,
            r"at most 1 positional argument \(2 given\)$",
        ),
        ("make one", lambda: type(item)(), TypeError, "cannot create"),
    ]


ALL = [
    *[("pool", *case) for case in pool_cases()],
    *[("var", *case) for case in var_cases()],
    *[("counter", *case) for case in counter_cases()],
    *[("item", *case) for case in item_cases()],
]


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [pytest.param(*case[2:], id=f"{case[0]}-{case[1]}") for case in ALL],
)
def test_bad_input(call: Call, exception: type[Exception], message: str) -> None:
    with pytest.raises(exception, match=message):
        call()


def test_refused_operations_change_nothing() -> None:
    """An argument is looked at before the first CPU's copy is touched."""
    counter, var = PerCpuCounter(7), PerCpuVar("b", 3)
    for bad in (2**63, -(2**63) - 1, 1.5, "1", None):
        for call in (counter.add, counter.sub, counter.set, counter.exchange):
            with pytest.raises((OverflowError, TypeError)):
                call(bad)
    for bad in (128, -129, 2**64, 1.5):
        for method in (var.add, var.sub, var.write, var.xchg, var.add_return, var.and_, var.or_):
            with pytest.raises((OverflowError, TypeError)):
                method(bad)
        with pytest.raises((OverflowError, TypeError)):
            var.cmpxchg(3, bad)
    counter.check()
    assert (counter.sum(), counter.per_cpu()) == (7, (0,) * CPUS)
    assert list(var) == [3] * CPUS


class Index:
    """An int by __index__ only."""

    def __init__(self, value: int, then: Callable[[], object] = lambda: None) -> None:
        self.value, self.then = value, then

    def __index__(self) -> int:
        self.then()
        return self.value


class Broken:
    def __index__(self) -> int:
        raise ZeroDivisionError("no number")

    def __repr__(self) -> str:
        raise ZeroDivisionError("no picture")


def test_what_has_index_is_an_int_everywhere() -> None:
    counter = PerCpuCounter(Index(5), batch=Index(4))
    counter.add(Index(2))
    counter -= Index(3)
    assert counter.exchange(Index(1)) == 4
    var = PerCpuVar("h", Index(9))
    var[Index(0)] = Index(8)
    assert var[Index(0)] == 8
    pool = PerCpuPool(Index(8), stride=Index(4096), max_ranges=Index(1))
    assert pool.alloc()[Index(0)].nbytes == 8
    assert PerCpuCounter(True).sum() == 1


def test_an_exception_in_index_passes_through() -> None:
    for call in (PerCpuCounter().add, PerCpuVar("q").add, PerCpuPool):
        with pytest.raises(ZeroDivisionError, match="no number"):
            call(Broken())


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    """The message needs a repr; one that raises must not replace the exception."""

    class Unshowable:
        def __repr__(self) -> str:
            raise ZeroDivisionError("no picture")

    with pytest.raises(TypeError, match=r"n must be an int.*Unshowable"):
        PerCpuCounter().add(Unshowable())


def test_closing_inside_index_is_noticed() -> None:
    """Arguments run Python code, which may close the object between the check and the use."""
    counter = PerCpuCounter()
    with pytest.raises(ClosedError):
        counter.add(Index(1, counter.close))
    var = PerCpuVar("q")
    var.close()
    for call in (var.read, var.sum, var.min, var.inc):
        with pytest.raises(ClosedError):
            call()


def test_a_pool_that_cannot_be_mapped_says_how_large_it_is() -> None:
    said = run_python(
        "import percpu, resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 36, resource.RLIM_INFINITY))\n"
        "for stride in (1 << 30, None):\n"
        "    try:\n"
        "        percpu.PerCpuPool(1 << 24, stride=stride, cpus=8192)\n"
        "    except percpu.PoolExhausted as error:\n"
        "        print(error)\n"
    )
    first, second = said.splitlines()
    assert first.startswith(f"cannot map {2**43} bytes of address space for a pool of 16777216-")
    assert second.startswith(f"cannot map {2**37} bytes of address space")
    assert "8192 CPUs: Cannot allocate memory" in first
    assert "2**46" not in said
