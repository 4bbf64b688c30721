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

try:
    from percpu._core import (
        ClosedError,
        CorruptionError,
        PerCpuCounter,
        PerCpuFreeList,
        PerCpuHistogram,
        PerCpuItem,
        PerCpuLimiter,
        PerCpuPool,
        PerCpuRef,
        PerCpuStat,
        PerCpuStats,
        PerCpuVar,
        PoolExhausted,
        current_cid,
        current_cpu,
        current_node,
    )
except ModuleNotFoundError as error:
    if error.name != "percpu._core":
        raise
    raise ImportError(
        f"the extension module of percpu is not built in {os.path.dirname(__file__)!r}: run "
        "`pip install -e .` in the folder above, or start Python in another folder if percpu is "
        "installed elsewhere",
        name=error.name,
    ) from error

TYPE_CHECKING = False  # typing's own would make `import percpu` several times as slow
if TYPE_CHECKING:
    from percpu._histogram import HistogramSnapshot
    from percpu._info import Info
    from percpu._map import PoolMap
    from percpu._pool_set import PerCpuPoolSet
    from percpu._stats_snapshot import StatsDifference, StatsSnapshot
    from percpu._struct import PerCpuStruct

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "CorruptionError",
    "HistogramSnapshot",
    "Info",
    "PerCpuCounter",
    "PerCpuFreeList",
    "PerCpuHistogram",
    "PerCpuItem",
    "PerCpuLimiter",
    "PerCpuPool",
    "PerCpuPoolSet",
    "PerCpuRef",
    "PerCpuStat",
    "PerCpuStats",
    "PerCpuStruct",
    "PerCpuVar",
    "PoolExhausted",
    "PoolMap",
    "StatsDifference",
    "StatsSnapshot",
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


_SELDOM = {
    "HistogramSnapshot": "percpu._histogram",
    "Info": "percpu._info",
    "PerCpuPoolSet": "percpu._pool_set",
    "PoolMap": "percpu._map",
    "StatsDifference": "percpu._stats_snapshot",
    "StatsSnapshot": "percpu._stats_snapshot",
    "PerCpuStruct": "percpu._struct",
}
"""In which module what is seldom needed is: it is imported when it is asked for."""


def __dir__() -> list[str]:
    """Name what is public, also what is imported when it is asked for."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> object:
    """Import what is seldom needed when it is asked for: `import percpu` stays light."""
    if name not in _SELDOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_SELDOM[name]), name)
