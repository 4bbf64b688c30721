"""PerCpuLimiter against a model that has one number, while the thread goes from CPU to CPU: every
answer is exact, wherever the tokens are.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from together import run_forked

import percpu

MOST = 2**63 - 1
BORDERS = [1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 1, MOST]
tokens = st.integers(1, 12) | st.sampled_from(BORDERS) | st.integers(1, MOST)


class LimiterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.affinity = os.sched_getaffinity(0)
        self.forks = 0

    def teardown(self) -> None:
        os.sched_setaffinity(0, self.affinity)

    @initialize(
        capacity=st.integers(0, 40) | st.sampled_from(BORDERS) | st.integers(0, MOST),
        pool=st.sampled_from([None, None, "own", "robust"]),
        extra_cpus=st.sampled_from([0, 5]),
    )
    def make(self, capacity: int, pool: str | None, extra_cpus: int) -> None:
        cpus = len(percpu.PerCpuVar("b")) + extra_cpus
        robust = pool == "robust"
        own = percpu.PerCpuPool(8, stride=4096, cpus=cpus, robust=robust) if pool else None
        self.limiter = percpu.PerCpuLimiter(capacity, pool=own)
        self.capacity, self.held = capacity, 0
        assert self.limiter.capacity == capacity
        assert self.limiter.pool is own

    @rule(choice=st.integers(0))
    def hop(self, choice: int) -> None:
        os.sched_setaffinity(0, {sorted(self.affinity)[choice % len(self.affinity)]})

    def acquired(self, n: int) -> None:
        fits = n <= self.capacity - self.held
        assert self.limiter.acquire(n) is fits
        self.held += n if fits else 0

    def released(self, n: int) -> None:
        if n <= self.held:
            self.limiter.release(n)
            self.held -= n
            return
        with pytest.raises(ValueError, match=f"at most {self.held}, .*, not {n}$"):
            self.limiter.release(n)

    @rule(n=tokens)
    def acquire(self, n: int) -> None:
        self.acquired(n)

    @rule(n=tokens)
    def release(self, n: int) -> None:
        self.released(n)

    @rule(times=st.integers(1, 40))
    def acquire_one_by_one(self, times: int) -> None:
        for _ in range(times):
            fits = self.held < self.capacity
            assert self.limiter.acquire() is fits
            self.held += fits

    @rule(times=st.integers(1, 40))
    def release_one_by_one(self, times: int) -> None:
        for _ in range(min(times, self.held)):
            self.limiter.release()
            self.held -= 1

    @rule(more=st.integers(-1, 1))
    def acquire_all(self, more: int) -> None:
        self.acquired(min(MOST, max(1, self.capacity - self.held + more)))

    @rule(more=st.integers(-1, 1))
    def release_all(self, more: int) -> None:
        self.released(min(MOST, max(1, self.held + more)))

    @precondition(lambda self: self.forks < 2)
    @rule()
    def fork(self) -> None:
        self.forks += 1

        def child() -> None:
            self.every_token_is_somewhere()
            self.acquire_all(0)
            self.release_all(0)
            self.every_token_is_somewhere()

        run_forked(child)

    @invariant()
    def every_token_is_somewhere(self) -> None:
        if not hasattr(self, "limiter"):
            return
        self.limiter.check()
        assert self.limiter.outstanding() == self.held
        assert self.limiter.available() == self.capacity - self.held
        assert f" {self.held} of {self.capacity} outstanding " in repr(self.limiter)


TestLimiter = LimiterMachine.TestCase
