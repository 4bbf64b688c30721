"""PerCpuRef against a model: how many references there are, whether it lives, and how often it was
released, whatever CPU each get and put was on.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import percpu

numbers = st.integers(1, 4) | st.sampled_from([1, 2**16, 2**32 - 1])


class CallbackError(Exception):
    """What a callback raises."""


class RefMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(choice=st.integers(0))
    def make(self, choice: int) -> None:
        self.hop(choice)
        self.released = 0
        self.raises = False
        self.ref = percpu.PerCpuRef(self.release)
        self.count, self.live, self.expected_releases = 1, True, 0
        assert self.ref.release == self.release

    def release(self, ref: percpu.PerCpuRef) -> None:
        assert ref is self.ref
        assert ref.zero
        assert ref.dying
        assert not ref.tryget()
        self.released += 1
        if self.raises:
            raise CallbackError

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        self.cpu = sorted(self.affinity)[choice % len(self.affinity)]
        os.sched_setaffinity(0, {self.cpu})
        assert percpu.current_cpu() == self.cpu

    @property
    def there(self) -> bool:
        return self.live or self.count > 0

    @rule(n=numbers)
    def get(self, n: int) -> None:
        if self.there:
            self.ref.get(n) if n != 1 else self.ref.get()
            self.count += n
        else:
            with pytest.raises(ValueError, match="after the last"):
                self.ref.get(n)

    @rule(n=numbers, raises=st.booleans())
    def put(self, n: int, raises: bool) -> None:
        """As many as there are, but the initial one; or all, once that was dropped."""
        n = min(n, self.count - self.live)
        if n < 1:
            return
        self.raises = raises
        last = not self.live and n == self.count
        self.count -= n
        self.expected_releases += last
        if last and raises:
            with pytest.raises(CallbackError):
                self.ref.put(n)
        else:
            self.ref.put(n)

    @precondition(lambda self: not self.live and self.count < 2**31)
    @rule(n=st.integers(1, 5))
    def put_too_many(self, n: int) -> None:
        with pytest.raises(ValueError, match=f"{self.count} references left"):
            self.ref.put(self.count + n)

    @rule()
    def tryget(self) -> None:
        assert self.ref.tryget() is self.there
        self.count += self.there

    @rule()
    def tryget_live(self) -> None:
        assert self.ref.tryget_live() is self.live
        self.count += self.live

    @rule(confirms=st.booleans(), confirm_raises=st.booleans(), raises=st.booleans())
    def kill(self, confirms: bool, confirm_raises: bool, raises: bool) -> None:
        if not self.live:
            with pytest.raises(ValueError, match="killed before"):
                self.ref.kill()
            return
        self.raises = raises
        confirmed: list[int] = []
        first = CallbackError()

        def confirm(ref: percpu.PerCpuRef) -> None:
            assert ref is self.ref
            assert ref.dying
            assert not ref.tryget_live()
            confirmed.append(ref.count())
            if confirm_raises:
                raise first

        before, self.live = self.count, False
        self.count -= 1
        self.expected_releases += self.count == 0
        raised = [first] if confirms and confirm_raises else []
        if self.count == 0 and raises:
            raised = [*raised, None]
        if raised:
            with pytest.raises(CallbackError) as caught:
                self.ref.kill(confirm if confirms else None)
            assert (caught.value is first) == (raised == [first])
            assert (caught.value.__context__ is first) == (len(raised) == 2)
        else:
            self.ref.kill(confirm if confirms else None)
        assert confirmed == ([before] if confirms else [])

    @precondition(lambda self: self.live and self.count < 2**31)
    @rule(n=st.integers(1, 3))
    def kill_when_too_many_were_put(self, n: int) -> None:
        self.ref.put(self.count - 1 + n)
        with pytest.raises(ValueError, match=f" {n} more references were put than gotten"):
            self.ref.kill()
        assert self.ref.count() == 1 - n
        self.ref.get(self.count - 1 + n)

    @rule()
    def resurrect(self) -> None:
        if not self.live and self.count > 0:
            self.ref.resurrect()
            self.live, self.count = True, self.count + 1
        else:
            with pytest.raises(ValueError, match="that lives" if self.live else "use reinit"):
                self.ref.resurrect()

    @rule()
    def reinit(self) -> None:
        if not self.live and self.count == 0:
            self.ref.reinit()
            self.live, self.count = True, 1
        else:
            with pytest.raises(ValueError, match="that lives" if self.live else "use resurrect"):
                self.ref.reinit()

    @invariant()
    def the_ref_is_as_modelled(self) -> None:
        if not hasattr(self, "ref"):
            return
        self.ref.check()
        assert self.ref.count() == self.count
        assert self.ref.dying is not self.live
        assert self.ref.zero is (not self.there)
        assert self.released == self.expected_releases
        state = "live" if self.live else "dying" if self.count else "zero"
        assert f" {state} references={self.count} " in repr(self.ref)


TestRef = RefMachine.TestCase
