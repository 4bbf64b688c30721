"""Builds the C tests together with the C core in every configuration, and runs them.

The modes of the rseq layer come from the environment, as in all other tests: the suite is run once
in each. The generic build and the emulated one are always in mode `none`, so they are run with
the default mode only; and so are the sanitizers' builds, which take most of the time. One of those
is generic, for what mode `none` does.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from conftest import THOROUGH, missing

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "c"
PROGRAMS = sorted(path.stem for path in TESTS.glob("test_*.c"))
LAYERS = ("topology", "rseq", "pool", "counter")
FLAGS = (
    *("-std=gnu11", "-pthread", "-D_GNU_SOURCE=", f"-I{ROOT / 'csrc' / 'include'}"),
    *("-Wall", "-Wextra", "-Wpedantic", "-Werror"),
)
CORE_FLAGS = ("-DPERCPU_BUILDING_CORE", "-fvisibility=hidden")
SKIPPED = 77  # exit status of a program that cannot run here; stdout ends with the reason
DEADLINE = 150  # seconds; the programs have shorter ones of their own
RACE_SECONDS = os.environ.get("PERCPU_INIT_RACE_SECONDS", "5" if THOROUGH else "2")
MODE_ASKED = os.environ.get("PERCPU_RSEQ", "") not in ("", "glibc")
TUNABLES = os.environ.get("GLIBC_TUNABLES", "")
SLOW_STEPS = "single-stepping through instrumented code takes minutes"
HANDED_OVER = (
    "TSan does not see what the assembly of a section orders: an item that goes from one thread "
    "to another through a CPU's cache looks like a race; the generic build has no such section"
)
FORKED = "TSan does not support threads in the child of a process with threads"


@dataclass(frozen=True)
class Configuration:
    """One way to build and run the programs."""

    name: str
    flags: tuple[str, ...]
    compiler: str = "gcc"
    runner: tuple[str, ...] = ()
    only: tuple[str, ...] = tuple(PROGRAMS)
    without: dict[str, str] = field(default_factory=dict, hash=False)  # program -> reason
    environment: tuple[tuple[str, str], ...] = ()
    one_mode: bool = False  # run with the default mode of the environment only

    @property
    def programs(self) -> list[str]:
        return [program for program in self.only if program not in self.without]


THREADED = (
    "test_counter_threads",
    "test_limiter_threads",
    "test_histogram_threads",
    "test_locks",
    "test_pool_init_race",
    "test_pool_robust_threads",
    "test_pool_set",
    "test_pool_threads",
    "test_pool_trim",
    "test_ref_threads",
    "test_registration",
    "test_remote",
    "test_sections",
    "test_stats",
    "test_stop",
)
PLAIN = Configuration("plain", ("-O2",))
ASAN = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GENERIC = Configuration("generic", (*ASAN, "-DPERCPU_ARCH_GENERIC"), one_mode=True)
CONFIGURATIONS = [
    PLAIN,
    Configuration(
        "asan",
        ASAN,
        without={"test_ptrace": SLOW_STEPS},
        one_mode=True,
    ),
    Configuration(
        "tsan",
        ("-O1", "-g", "-fsanitize=thread"),
        only=THREADED,
        without={
            "test_fork": FORKED,
            "test_pool_robust_threads": HANDED_OVER,
            "test_pool_set": HANDED_OVER,
            "test_pool_threads": HANDED_OVER,
            "test_pool_trim": HANDED_OVER,
        },
        one_mode=True,
    ),
    Configuration(
        "tsan-generic",
        ("-O1", "-g", "-fsanitize=thread", "-DPERCPU_ARCH_GENERIC"),
        only=THREADED,
        without={"test_fork": FORKED},
        one_mode=True,
    ),
    GENERIC,
    Configuration(
        "aarch64",
        ("-O2" if THOROUGH else "-O1", "-static"),
        compiler="aarch64-linux-gnu-gcc",
        runner=("qemu-aarch64",),
        environment=(("PERCPU_TEST_EMULATED", "1"),),
        one_mode=True,
    ),
]
CASES = [
    pytest.param(configuration, program, id=f"{configuration.name}-{program}")
    for configuration in CONFIGURATIONS
    for program in configuration.programs
]

Build = Callable[[Configuration, str], Path]


def compile_c(configuration: Configuration, *arguments: str | Path) -> None:
    command = [configuration.compiler, *FLAGS, *configuration.flags, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


@cache
def unavailable(configuration: Configuration, directory: Path) -> str | None:
    """Why the configuration cannot be built or run on this machine, or None."""
    for tool in (configuration.compiler, *configuration.runner):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    source, program = directory / "empty.c", directory / f"empty-{configuration.name}"
    source.write_text("int main(void)\n{\n    return 0;\n}\n")
    try:
        compile_c(configuration, source, "-o", program)
    except AssertionError as error:
        return f"an empty program does not build: {error}"
    done = subprocess.run([*configuration.runner, program], capture_output=True, text=True)
    if done.returncode != 0:
        return f"an empty program does not run: {done.stderr}"
    return None


def wanted(session: pytest.Session) -> set[tuple[str, str]]:
    """The configurations' names and the programs that this session is going to run."""
    found = set()
    for item in session.items:
        values = getattr(getattr(item, "callspec", None), "params", {})
        if isinstance(values.get("configuration"), Configuration):
            found.add((values["configuration"].name, values["program"]))
    return found


@pytest.fixture(scope="session")
def build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Build]:
    """Builds a program in a configuration, and with it all others that the session wants.

    The core's objects are made once for each configuration.
    """
    directory = tmp_path_factory.mktemp("c_core")
    workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    runs = wanted(request.session)

    def core(configuration: Configuration) -> list[Path]:
        objects = directory / configuration.name
        objects.mkdir()
        sources = [path for layer in LAYERS for path in (ROOT / "csrc" / layer).glob("*.c")]
        made = [objects / f"{path.parent.name}-{path.stem}.o" for path in sources]

        def make(source: Path, target: Path) -> None:
            compile_c(configuration, *CORE_FLAGS, "-c", source, "-o", target)

        list(workers.map(make, sources, made))
        return made

    @cache
    def programs(configuration: Configuration) -> dict[str, Future[Path]]:
        if reason := unavailable(configuration, directory):
            missing(reason)
        objects = core(configuration)

        def link(name: str) -> Path:
            target = directory / f"{name}-{configuration.name}"
            compile_c(configuration, f"-I{TESTS}", TESTS / f"{name}.c", *objects, "-o", target)
            return target

        names = {name for config, name in runs if config == configuration.name}
        return {name: workers.submit(link, name) for name in names | {"test_registration"}}

    yield lambda configuration, name: programs(configuration)[name].result()
    workers.shutdown(cancel_futures=True)


def run(
    configuration: Configuration, program: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program, with variables added to the environment, or removed where empty."""
    added = {"PERCPU_TEST_EFFORT": "100" if THOROUGH else "30"}
    added["PERCPU_INIT_RACE_SECONDS"] = RACE_SECONDS
    added |= dict(configuration.environment) | environment
    whole = {name: value for name, value in {**os.environ, **added}.items() if value != ""}
    command = [*configuration.runner, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=whole, timeout=DEADLINE)


@pytest.mark.parametrize(("configuration", "program"), CASES)
def test_c_program(configuration: Configuration, program: str, build: Build) -> None:
    """A C test passes in every build: each program's first lines say what would break it."""
    if configuration.one_mode and (MODE_ASKED or "pthread.rseq" in TUNABLES):
        pytest.skip("tested once, in the run with the default mode")
    done = run(configuration, build(configuration, program))
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def mode(build: Build, configuration: Configuration = PLAIN, **environment: str) -> list[str]:
    """Mode, reason, and the value of PERCPU_RSEQ if it is a bad one, of a fresh process."""
    done = run(configuration, build(configuration, "test_registration"), "mode", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def sections(build: Build) -> Build:
    """`build`, where this machine has restartable sequences; the test is skipped elsewhere."""
    name, reason, _ = mode(build, PERCPU_RSEQ="", GLIBC_TUNABLES="")
    if name == "none":
        pytest.skip(f"no restartable sequences on this machine: {reason}")
    return build


NO_GLIBC = "glibc.pthread.rseq=0"


def test_own_registration_when_glibc_has_none(sections: Build) -> None:
    """Would break if the core relied on glibc, or took its exported size for a registration."""
    name, reason, _ = mode(sections, PERCPU_RSEQ="", GLIBC_TUNABLES=NO_GLIBC)
    assert name == "own"
    assert "glibc has not registered" in reason
    assert mode(sections, PERCPU_RSEQ="own", GLIBC_TUNABLES=NO_GLIBC)[0] == "own"


def test_mode_none_on_demand(build: Build) -> None:
    name, reason, bad = mode(build, PERCPU_RSEQ="none", GLIBC_TUNABLES="")
    assert (name, bad) == ("none", "(good)")
    assert "PERCPU_RSEQ=none" in reason


def test_what_cannot_be_had_becomes_none(sections: Build) -> None:
    """Two registrations of one thread are impossible, and glibc's without glibc is too."""
    name, reason, _ = mode(sections, PERCPU_RSEQ="glibc", GLIBC_TUNABLES=NO_GLIBC)
    assert name == "none"
    assert "glibc" in reason
    if mode(sections, PERCPU_RSEQ="", GLIBC_TUNABLES="")[0] == "glibc":
        name, reason, _ = mode(sections, PERCPU_RSEQ="own", GLIBC_TUNABLES="")
        assert name == "none"
        assert "already" in reason


@pytest.mark.parametrize("value", ["fast", "None", "glibc ", "0"])
def test_bad_mode_is_reported_and_ignored(build: Build, value: str) -> None:
    default = mode(build, PERCPU_RSEQ="", GLIBC_TUNABLES="")
    assert mode(build, PERCPU_RSEQ=value, GLIBC_TUNABLES="") == [*default[:2], value]


def test_generic_build_is_mode_none(build: Build) -> None:
    name, reason, _ = mode(build, GENERIC, PERCPU_RSEQ="", GLIBC_TUNABLES="")
    assert name == "none"
    assert "architecture" in reason


@pytest.mark.skipif(platform.machine() != "x86_64", reason="counts x86-64 instructions")
def test_hot_add_is_a_dozen_instructions(tmp_path: Path) -> None:
    """No lock prefix, no call, nothing spilled: why an add costs a fraction of `lock xadd`."""
    if shutil.which("gcc") is None or shutil.which("objdump") is None:
        missing("there is no gcc or no objdump")
    target = tmp_path / "hot_add.o"
    compile_c(PLAIN, "-c", TESTS / "hot_add.c", "-o", target)
    command = ["objdump", "-d", "--no-show-raw-insn", "--disassemble=hot_add", str(target)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    instructions = re.findall(r"^\s+[0-9a-f]+:\t(.+?)\s*$", listing, re.MULTILINE)
    hot = [text for text in instructions if not text.startswith(("ret", "nop", "endbr"))]
    assert any("%fs:" in text for text in hot), listing  # it is the section that was counted
    assert len(hot) <= 12, listing
    assert not any("lock" in text or "call" in text or "%rsp" in text for text in hot), listing
