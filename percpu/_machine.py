"""What machine and interpreter a measurement was taken on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import fields

import percpu


def copies() -> int:
    """Return how many copies a per-CPU object has here: the CPUs that are possible."""
    with percpu.PerCpuVar("b") as var:
        return len(var)


def cpu_model() -> str:
    """Return what the kernel calls the CPU, or the architecture where it has no name for it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass  # no /proc here
    return platform.machine()


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _plain(value: object) -> object:
    """Turn what `Info` holds into what JSON has."""
    return dict(value) if isinstance(value, Mapping) else value


def describe() -> dict[str, object]:
    """Return everything that a reader of the numbers may want to know, fit for JSON."""
    facts = percpu.info()
    return {
        "cpu": cpu_model(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": gil_enabled(),
        "percpu": percpu.__version__,
        "info": {field.name: _plain(getattr(facts, field.name)) for field in fields(facts)},
    }


def summary() -> str:
    """Return one line about the machine, for the head of a report."""
    allowed = len(os.sched_getaffinity(0))
    gil = "" if gil_enabled() else ", free-threaded"
    return (
        f"{cpu_model()}, {allowed} CPU{'s' if allowed != 1 else ''}; "
        f"{platform.system()} {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}{gil}; "
        f"rseq: {percpu.info().rseq}"
    )
