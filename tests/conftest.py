"""What the tests share: hypothesis profiles, CPUs to run on, threads with deadlines, requirements.

Environment:
    PERCPU_HYPOTHESIS=ci     more examples, and the C tests at full length
    PERCPU_REQUIRE_ALL=1     a missing tool fails the tests that need it, instead of skipping them
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

THOROUGH = os.environ.get("PERCPU_HYPOTHESIS") == "ci"

# A state machine's step runs system calls on a machine that others use too: no deadline a step.
settings.register_profile(
    "quick",
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "ci",
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if THOROUGH else "quick")


def missing(reason: str) -> NoReturn:
    """Skip the running test because a tool is missing, or fail if all tools were asked for."""
    if os.environ.get("PERCPU_REQUIRE_ALL") == "1":
        pytest.fail(f"PERCPU_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture
def allowed_cpus() -> Iterator[list[int]]:
    """The CPUs that this thread may use, lowest first; its affinity is restored afterwards."""
    before = os.sched_getaffinity(0)
    yield sorted(before)
    os.sched_setaffinity(0, before)


Alone = Callable[[], AbstractContextManager[bool]]


@pytest.fixture(scope="session", autouse=True)
def alone() -> Iterator[Alone]:
    """For a test that changes the machine: a context in which no other session of tests runs.

    It yields False where there is one: it may pin threads to the CPU that is to go offline. Every
    session holds a shared lock of one file; who wants to be alone asks for the exclusive one.
    """
    path = Path(tempfile.gettempdir(), f"percpu-tests-{os.getuid()}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)

    @contextmanager
    def be_alone() -> Iterator[bool]:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            granted = False
        else:
            granted = True
        try:
            yield granted
        finally:
            fcntl.flock(lock, fcntl.LOCK_SH)

    yield be_alone
    os.close(lock)
