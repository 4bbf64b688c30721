"""C programs against the installed library: those written for librseq's mempool, and our own.

Each is compiled with what `python -m percpu config` prints, and with nothing else of the project.
The programs in tests/compat say in their first lines what would break them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import THOROUGH, missing

import percpu

TESTS = Path(__file__).parent
SOURCES = TESTS / "compat"
PROGRAMS = ["callback", "fill", "fork", "numa", "pools", "race", "robust", "sets"]
STRICT = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
COMPILERS = {"gcc": ["gcc"], "clang": ["clang", "clang-16", "clang-15", "clang-14"]}
DEADLINE = 150

# librseq's <rseq/mempool.h>: what a program may call, as a function or a macro.
INTERFACE = """
    rseq_mempool_create rseq_mempool_destroy rseq_mempool_get_max_nr_cpus
    rseq_mempool_percpu_malloc rseq_mempool_percpu_zmalloc rseq_mempool_percpu_malloc_init
    rseq_mempool_percpu_free rseq_percpu_ptr librseq_mempool_percpu_free
    rseq_mempool_malloc rseq_mempool_zmalloc rseq_mempool_malloc_init rseq_mempool_free
    rseq_mempool_set_create rseq_mempool_set_destroy rseq_mempool_set_add_pool
    rseq_mempool_set_percpu_malloc rseq_mempool_set_percpu_zmalloc
    rseq_mempool_set_percpu_malloc_init
    rseq_mempool_set_malloc rseq_mempool_set_zmalloc rseq_mempool_set_malloc_init
    rseq_mempool_attr_create rseq_mempool_attr_destroy rseq_mempool_attr_set_init
    rseq_mempool_attr_set_robust rseq_mempool_attr_set_percpu rseq_mempool_attr_set_global
    rseq_mempool_attr_set_max_nr_ranges rseq_mempool_attr_set_poison
    rseq_mempool_attr_set_populate_policy rseq_mempool_range_init_numa
"""


@cache
def config(*options: str) -> list[str]:
    command = [sys.executable, "-m", "percpu", "config", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout)


def compiler(name: str = "gcc") -> str:
    """One that is there. Nobody needs clang, so that it is absent is never a failure."""
    found = next(filter(shutil.which, COMPILERS[name]), None)
    if found is None and name == "clang":
        pytest.skip("there is no clang")
    return found or missing(f"there is no {name}")


def compile_c(target: Path, *arguments: str | Path, cc: str | None = None) -> Path:
    """Build what the arguments say; a library that was built for sanitizers wants them again."""
    sanitizers = os.environ.get("PERCPU_SANITIZE")
    added = [f"-fsanitize={sanitizers}"] if sanitizers else []
    command = [
        cc or compiler(),
        *STRICT,
        *map(str, arguments),
        *added,
        "-o",
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return target


def build(target: Path, program: str, *flags: str, cc: str | None = None) -> Path:
    """A program of tests/compat, linked with the library."""
    flags = (f"-I{TESTS / 'c'}", *config("--cflags", "--compat-cflags"), *flags)
    source = SOURCES / f"{program}.c"
    return compile_c(target, *flags, source, *config("--libs"), "-ldl", cc=cc)


def run(program: Path, *arguments: str, **environment: str) -> None:
    added = {"PERCPU_TEST_EFFORT": "100" if THOROUGH else "20"} | environment
    done = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | added,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def eight_cpus(tmp_path: Path) -> str:
    """A /sys in which eight CPUs are possible."""
    directory = tmp_path / "sys" / "devices" / "system" / "cpu"
    directory.mkdir(parents=True)
    (directory / "possible").write_text("0-7\n")
    return str(tmp_path / "sys")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_for_librseq(program: str, tmp_path: Path) -> None:
    run(build(tmp_path / program, program))


@pytest.mark.parametrize("program", ["callback", "fill", "fork", "pools"])
def test_a_program_for_librseq_on_more_cpus(program: str, tmp_path: Path, eight_cpus: str) -> None:
    """Then there are pools with fewer copies than the machine has CPUs."""
    run(build(tmp_path / program, program), PERCPU_TEST_SYS=eight_cpus)


def test_the_programs_are_all_there() -> None:
    others = {"both", "load"}
    assert {path.stem for path in SOURCES.glob("*.c")} == {*PROGRAMS} | others


# ---- the header ---------------------------------------------------------------------------


def header() -> str:
    return Path(percpu.get_include(), "percpu", "compat", "rseq", "mempool.h").read_text()


def test_every_name_of_librseq_is_there() -> None:
    functions = set(re.findall(r"\b(\w+)\([^()]*(?:\([^()]*\)[^()]*)*\)(?:;|\n\{)", header()))
    macros = set(re.findall(r"^#define (\w+)\(", header(), re.MULTILINE))
    assert set(INTERFACE.split()) <= functions | macros
    for name in ("RSEQ_MEMPOOL_STRIDE", "__rseq_percpu"):
        assert f"#define {name}" in header()
    for name in (
        "RSEQ_MEMPOOL_POPULATE_COW_INIT = 0",
        "RSEQ_MEMPOOL_POPULATE_COW_ZERO = 1",
    ):
        assert name in header()


def test_everything_declared_is_in_the_library(tmp_path: Path) -> None:
    declared: list[str] = re.findall(r"PERCPU_API [^;{]*?\b((?:lib)?rseq_mempool_\w+)\(", header())
    assert len(declared) == len(set(declared)) > 20
    source = tmp_path / "all.c"
    lines = "".join(f"    used += (uintptr_t)&{name} != 0;\n" for name in declared)
    source.write_text(
        "#include <rseq/mempool.h>\n"
        f"int main(void)\n{{\n    int used = 0;\n{lines}    return used != {len(declared)};\n}}\n"
    )
    flags = [*config("--compat-cflags"), "-Wno-address"]
    run(compile_c(tmp_path / "all", *flags, source, *config("--libs")))


@pytest.mark.parametrize("standard", ["c11", "c17", "gnu99", "gnu2x"])
@pytest.mark.parametrize("name", COMPILERS)
def test_it_compiles_without_a_warning(standard: str, name: str, tmp_path: Path) -> None:
    source = tmp_path / "all.c"
    source.write_text(
        "#include <rseq/mempool.h>\n"
        "struct item { int a, b; };\n"
        "int sum(struct item __rseq_percpu *item, int cpu, size_t stride);\n"
        "int sum(struct item __rseq_percpu *item, int cpu, size_t stride)\n"
        "{\n"
        "    int sum = rseq_percpu_ptr(item, cpu)->a + rseq_percpu_ptr(item, cpu, stride)->b;\n"
        "    rseq_mempool_percpu_free(item, stride);\n"
        "    rseq_mempool_free(item);\n"
        "    return sum;\n"
        "}\n"
    )
    pedantic = [] if standard == "gnu99" else ["-pedantic-errors"]
    flags = [
        *config("--compat-cflags"),
        f"-std={standard}",
        "-Wconversion",
        "-Wshadow",
        *pedantic,
    ]
    if standard == "gnu99":
        flags.append("-Wno-pedantic")  # platform.h makes claims with C11's _Static_assert
    compile_c(tmp_path / "all.o", *flags, "-c", source, cc=compiler(name))


def test_librseqs_own_macros_come_first(tmp_path: Path) -> None:
    """Its other headers may be installed too, and be included before or after."""
    (tmp_path / "rseq").mkdir()
    (tmp_path / "rseq" / "compiler.h").write_text(
        "#ifndef COMPILER_H\n#define COMPILER_H\n#define RSEQ_READ_ONCE(x) ((x) + 1)\n#endif\n"
    )
    source = tmp_path / "once.c"
    source.write_text(
        "#include <rseq/mempool.h>\n"
        "#include <rseq/compiler.h>\n"
        "int main(void)\n{\n    return RSEQ_READ_ONCE(-1);\n}\n"
    )
    flags = [*config("--compat-cflags"), f"-I{tmp_path}"]
    run(compile_c(tmp_path / "once", *flags, source))


def test_cpp_is_refused_with_a_reason(tmp_path: Path) -> None:
    """The preprocessor alone says so: no C++ compiler is needed to see it."""
    source = tmp_path / "user.c"
    source.write_text("#include <rseq/mempool.h>\n")
    command = [compiler(), "-E", "-D__cplusplus=201703L", *config("--compat-cflags"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "percpu's headers are C" in done.stderr


# ---- linking ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["-pie", "-no-pie", "-static", "-O0"])
@pytest.mark.parametrize("name", COMPILERS)
def test_a_program_links_with_the_library(name: str, how: str, tmp_path: Path) -> None:
    run(build(tmp_path / "both", "both", how, cc=compiler(name)))


def test_a_program_without_position_independent_code(tmp_path: Path) -> None:
    """The flags ask for it; whoever links the library may do without."""
    run(build(tmp_path / "both", "both", "-no-pie", "-fno-pic"))


@pytest.mark.parametrize("name", COMPILERS)
def test_a_library_with_the_core_inside_stays_loaded(name: str, tmp_path: Path) -> None:
    library = build(tmp_path / "both.so", "both", "-shared", cc=compiler(name))
    run(build(tmp_path / "load", "load"), str(library))


def test_code_for_librseq_in_python_uses_the_extensions_core(tmp_path: Path) -> None:
    """Compiled without the library, as for any C code that is loaded into Python."""
    flags = config("--cflags", "--compat-cflags")
    compile_c(tmp_path / "both.so", "-shared", *flags, SOURCES / "both.c")
    code = (
        "import ctypes, percpu._core\n"
        "ctypes.CDLL(percpu._core.__file__, mode=ctypes.RTLD_GLOBAL)\n"
        f"assert ctypes.CDLL({str(tmp_path / 'both.so')!r}).use() == 42\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- config -------------------------------------------------------------------------------


def test_config_prints_what_is_asked_for() -> None:
    include = percpu.get_include()
    libs = config("--libs")
    assert config("--compat-cflags") == [f"-I{include}/percpu/compat"]
    assert config("--cflags", "--libs") == [*config("--cflags"), *libs]
    assert config("--libs", "--compat-cflags", "--cflags") == [
        *config("--cflags"),
        *config("--compat-cflags"),
        *libs,
    ]
    (directory,) = (flag[2:] for flag in libs if flag.startswith("-L"))
    assert {"-lpercpu", "-pthread", "-Wl,-z,nodelete"} <= set(libs)
    assert Path(directory, "libpercpu.a").is_file()


def refusal(code: str, *options: str) -> str:
    """What `config` says when it does not like something, after `code` was run."""
    code += "; import runpy; runpy.run_module('percpu', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "config", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_config_refuses_what_makes_no_sense() -> None:
    assert "choose from" in refusal("pass")
    assert "goes with no other" in refusal("pass", "--include", "--libs")


def test_config_says_when_there_is_no_library(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "percpu" / "__init__.py")
    said = refusal(f"import percpu; percpu.__file__ = {elsewhere!r}", "--libs")
    assert f"no libpercpu.a in {str(tmp_path / 'percpu' / 'lib')!r}" in said
    assert "Traceback" not in said
