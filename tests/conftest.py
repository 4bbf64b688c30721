"""What the tests share: hypothesis profiles, CPUs to run on, threads with deadlines, requirements.

Environment:
    PERCPU_HYPOTHESIS=ci     more examples, and the C tests at full length
    PERCPU_REQUIRE_ALL=1     a missing tool fails the tests that need it, instead of skipping them
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    max_examples=200,
    stateful_step_count=80,
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
