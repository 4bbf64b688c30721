"""Threads for tests: started together, joined by a deadline, their exceptions raised again; and
child processes with deadlines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


def run_together(*bodies: Callable[[], object], deadline: float = 60.0) -> None:
    """Run each body in a thread of its own, all started at one barrier.

    Threads that share the GIL take turns every 10 microseconds meanwhile, not every 5 ms. Raises
    the first exception of a body, or TimeoutError if one is not done by the deadline.
    """
    barrier = threading.Barrier(len(bodies))
    errors: list[BaseException] = []

    def start(body: Callable[[], object]) -> None:
        try:
            barrier.wait(deadline)
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(body,), daemon=True) for body in bodies]
    end = time.monotonic() + deadline
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"a thread is still running after {deadline} s")


@contextmanager
def storm(handler: Callable[[], object], period: float = 0.0002) -> Iterator[list[int]]:
    """Interrupt the main thread every `period` seconds; the handler's calls are counted in [0]."""
    calls = [0]

    def handle(_signal: int, _frame: object) -> None:
        handler()
        calls[0] += 1

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, period, period)
    try:
        yield calls
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Not the former one: a last signal may still be on its way.
        signal.signal(signal.SIGALRM, lambda _signal, _frame: None)


def run_python(source: str, deadline: float = 60.0, **environment: str) -> str:
    """Run a program in a fresh interpreter; return its output, and fail unless it exits with 0."""
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", source]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=deadline,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.stderr == ""
    return done.stdout


_IN_ANOTHER = {
    (3, 12): "import _xxsubinterpreters as i; run = lambda s: i.run_string(i.create(), s)",
    (3, 13): "import _interpreters as i; run = lambda s: i.exec(i.create(), s)",
    (3, 14): "from concurrent import interpreters as i; run = lambda s: i.create().exec(s)",
}
needs_interpreters = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="interpreters with a GIL of their own are new in 3.12"
)


def run_in_interpreters(source: str, count: int = 4) -> None:
    """Run a program in a main interpreter and in `count` others, each with a GIL of its own."""
    run_python(
        f"{_IN_ANOTHER[sys.version_info[:2]]}\n"
        f"import threading, percpu\nsource = {source!r}\n"
        "errors = []\n"
        "def one():\n"
        "    try:\n"
        "        error = run(source)\n"
        "        if error is not None: errors.append(error)\n"
        "    except BaseException as error: errors.append(error)\n"
        f"threads = [threading.Thread(target=one) for _ in range({count})]\n"
        "for thread in threads: thread.start()\n"
        "exec(source)\n"
        "for thread in threads: thread.join()\n"
        "assert not errors, errors\n",
        deadline=120,
        PYTHONWARNINGS="ignore" if sys.version_info < (3, 13) else "error",
    )


def run_forked(body: Callable[[], object], deadline: float = 30.0) -> None:
    """Run a body in a forked child, which must end well before the deadline."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            body()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with wait status {status:#x}"
            return
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"the child is still running after {deadline} s")
