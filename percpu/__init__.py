"""Per-CPU data for user space: every CPU has its own copy, and updating it takes no lock.

Example:
    >>> import percpu
    >>> hits = percpu.PerCpuCounter()
    >>> hits.inc()
    >>> hits += 41
    >>> hits.sum()
    42

"""

from __future__ import annotations

import os

from percpu._core import (
    ClosedError,
    CorruptionError,
    PerCpuCounter,
    PerCpuItem,
    PerCpuPool,
    PerCpuVar,
    PoolExhausted,
    current_cid,
    current_cpu,
    current_node,
)

TYPE_CHECKING = False  # typing's own would make `import percpu` several times as slow
if TYPE_CHECKING:
    from percpu._info import Info

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "CorruptionError",
    "Info",
    "PerCpuCounter",
    "PerCpuItem",
    "PerCpuPool",
    "PerCpuVar",
    "PoolExhausted",
    "__version__",
    "current_cid",
    "current_cpu",
    "current_node",
    "get_include",
    "info",
]


def info() -> Info:
    """Return what percpu found on this machine and decided for this process.

    The answer is taken afresh at each call: CPUs come and go, affinity masks change.
    """
    from percpu import _info

    return _info.collect()


def get_include() -> str:
    """Return the directory for a C compiler's include path: `#include <percpu/percpu.h>`."""
    package = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(package, "include")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(package), "csrc", "include")  # an editable install


def __getattr__(name: str) -> object:
    """Import what is seldom needed when it is asked for: `import percpu` stays light."""
    if name == "Info":
        from percpu._info import Info

        return Info
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
