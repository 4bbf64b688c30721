"""The command line: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import percpu
from percpu import _harness, cli, race
from percpu._stats import Spread

NAMES = [scheme.name for scheme in race.schemes()]
TINY = ["--seconds", "0.002", "--repeats", "2"]
TINY_RACE = ["race", "--threads", "1,2", *TINY]


def run(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m percpu` as a user would; `code` runs first, in the same interpreter."""
    if code:
        code += "\nimport sys; from percpu.cli import main; sys.exit(main(sys.argv[1:]))"
    how = ["-c", code] if code else ["-m", "percpu"]
    return subprocess.run(
        [sys.executable, *how, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# ---- race ---------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
def test_race_prints_tables_that_fit(columns: int) -> None:
    done = run(*TINY_RACE, "--threads", "1,2,4,8", COLUMNS=str(columns))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress where there is no terminal
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in done.stdout  # nothing was cut off
    for name in NAMES:
        assert any(line.startswith(name) for line in lines)
    for heading in ("ns per add", "ns per read", "How far off", "Calls from Python", "c.inc()"):
        assert heading in done.stdout
    (racy,) = [line for line in lines if re.match(r"racy +\d", line) and "±" in line]
    assert racy.rstrip().endswith("lost")
    exact = [line for line in lines if "±" in line and line.split()[0] in NAMES[1:]]
    assert len(exact) == 9
    assert all(line.rstrip().endswith("exact") for line in exact)


def test_more_thread_counts_than_fit_go_into_more_tables() -> None:
    done = run(
        "race", "--schemes", "var", "--threads", "1,2,3,4,5,6,7", *TINY, "--no-python", COLUMNS="80"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ns per add") == 2
    assert all(f"{n} threads" in done.stdout for n in range(2, 8))
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_race_takes_only_the_schemes_it_is_told() -> None:
    done = run("race", "--schemes", "var,mutex", "--threads", "2", *TINY, "--no-python")
    assert done.returncode == 0, done.stderr
    assert "mutex" in done.stdout
    assert "padded" not in done.stdout
    assert "How far off" not in done.stdout
    assert "Calls from Python" not in done.stdout


def test_one_thread_is_no_plural() -> None:
    done = run("race", "--schemes", "var,racy", "--threads", "1", *TINY, "--no-python")
    assert done.returncode == 0, done.stderr
    assert "Fastest exact scheme with 1 thread: var" in done.stdout
    assert "1 threads" not in done.stdout


def test_list_needs_no_run() -> None:
    done = run("race", "--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == NAMES


def test_no_colour_where_it_is_not_wanted() -> None:
    assert "\x1b" not in run("race", "--schemes", "var", *TINY).stdout
    colour = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7])m")
    on_terminal = _on_a_terminal({"TERM": "xterm-256color", "COLUMNS": "100"})
    assert colour.search(on_terminal)
    assert not colour.search(_on_a_terminal({"TERM": "xterm-256color", "NO_COLOR": "1"}))


def _on_a_terminal(environment: dict[str, str]) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "percpu", "race", "--schemes", "var,atomic", *TINY, "--no-python"],
        env={**clean, **environment},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        seen = b"".join(_chunks(controller))
    os.close(controller)
    assert process.returncode == 0, seen
    return seen.decode()


def _chunks(controller: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # how Linux says that the other side is closed
            return
        if not chunk:
            return
        yield chunk


def test_progress_is_shown_on_a_terminal() -> None:
    assert "%" in _on_a_terminal({"TERM": "xterm-256color", "COLUMNS": "100"})


def test_a_terminal_with_another_encoding() -> None:
    done = run("race", "--schemes", "var", *TINY, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "exact" in done.stdout


def test_json_and_plots_are_written(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        done = run(
            *TINY_RACE, "--json", f"{tmp_path}/race.json", "--plot", f"{tmp_path}/race.{suffix}"
        )
        assert done.returncode == 0, done.stderr

    content = json.loads((tmp_path / "race.json").read_text())
    assert {run["scheme"] for run in content["add_runs"]} == {"empty", *NAMES}
    assert len(content["add_runs"]) == 2 * 2 * (len(NAMES) + 1)

    from matplotlib.image import imread

    pixels = imread(tmp_path / "race.png")
    height, width, _ = pixels.shape
    assert width >= 1000
    assert height >= 600
    assert len({tuple(pixel) for row in pixels[::4, ::4, :3].tolist() for pixel in row}) > 20

    root = ET.parse(tmp_path / "race.svg").getroot()
    assert root.tag.endswith("svg")
    text = " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("text"))
    for name in NAMES:
        assert name in text
    assert "ns per add" in text


def test_a_plot_of_one_number_of_threads(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    done = run("race", "--threads", "3", "--schemes", "var", *TINY, "--plot", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 5000


def test_a_lost_count_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lossy(name: str, threads: int, seconds: float, *, pin: bool, read: bool) -> _harness.Run:
        run = _harness.race_once(name, threads, seconds, pin=pin, read=read)
        return replace(run, sum=run.sum - 1) if name == "mutex" else run

    monkeypatch.setattr(race, "race_once", lossy)
    arguments = ["race", "--threads", "2", *TINY, "--no-python", "--schemes"]
    assert cli.main([*arguments, "var,racy"]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "var,mutex"]) == 1
    printed = capsys.readouterr().out
    assert "BROKEN PROMISE: mutex with 2 threads lost 1 of" in printed
    assert "mutex lost 3 of" in printed


def test_ctrl_c_ends_with_status_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "percpu", "race", "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Whatever runs the tests in the background may have had it ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # the table that comes before the race
            if line.startswith(NAMES[-1]):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"


@pytest.mark.parametrize("arguments", [["race", "--list"], TINY_RACE, ["info"]])
def test_a_reader_that_leaves_early_is_no_failure(arguments: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "percpu", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0449, "0.04"), (2.126, "2.13"), (35.04, "35.0"), (1930.4, "1,930"), (16_800, "16.8k")],
)
def test_figures_have_the_digits_that_matter(value: float, text: str) -> None:
    from percpu._tables import cost, number

    assert number(value) == text
    half = value / 10
    digits = {"k": f"{half / 1000:.1f}"}.get(text[-1], f"{half:.{len(text.partition('.')[2])}f}")
    assert cost(Spread(value, value - half, value + half, 0, 2 * value)) == f"{text} ±{digits}"


# ---- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["race", "--threads", "0"], "--threads: '0' is not a whole number from 1 to 4096"),
        (["race", "--threads", "1,x"], "--threads: 'x' is not"),
        (["race", "--threads", ""], "--threads: '' is not"),
        (["race", "--threads", "4097"], "--threads: '4097'"),
        (["race", "--seconds", "0"], "--seconds: '0' is not a number above 0"),
        (["race", "--seconds", "nan"], "--seconds: 'nan'"),
        (["race", "--seconds", "long"], "--seconds: 'long'"),
        (["race", "--repeats", "0"], "--repeats: '0' is not a whole number from 1 to 1000"),
        (["race", "--repeats", "1.5"], "--repeats: '1.5'"),
        (["race", "--schemes", "var,fast"], "there is no scheme 'fast'; choose from racy, mutex"),
        (["race", "--schemes", ""], "there is no scheme ''"),
        (["race", "--json", "no/such/directory/x.json"], "a directory that does not exist"),
        (["race", "--json", "/"], "'/' is a directory"),
        (["race", "--plot", "picture.pdf"], "'picture.pdf' must end in .png or .svg"),
        (["bench", "--only", "no such line"], "no line has 'no such line' in it"),
        (["bench", "--seconds", "-1"], "--seconds"),
        (["config"], "--cflags --include"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["race", "bench"])
def test_a_file_that_cannot_be_written(command: str) -> None:
    only = ["--schemes", "var", "--no-python"] if command == "race" else ["--only", "batch"]
    done = run(command, *only, *TINY, "--json", "/dev/full")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"python -m percpu {command}: '/dev/full' cannot be written: No space left on device"
    )


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "full.png"
    path.symlink_to("/dev/full")
    done = run("race", "--schemes", "var", "--no-python", *TINY, "--plot", str(path))
    assert done.returncode == 2
    assert "cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "what"),
    [
        ("rich", ["race"], "race"),
        ("rich", ["bench"], "bench"),
        ("matplotlib", ["race", "--plot", "p.png"], "race --plot"),
    ],
)
def test_what_is_not_installed_is_named(missing: str, arguments: list[str], what: str) -> None:
    done = run(*arguments, code=f"import sys; sys.modules[{missing!r}] = None")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"{what} needs {missing}: pip install 'percpu[lab]'")


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["config", "--cflags"], ["config", "--include"], ["race", "--list"], ["--version"]],
)
def test_what_needs_no_third_party(arguments: list[str]) -> None:
    code = "import sys; sys.modules.update(rich=None, matplotlib=None, numpy=None)"
    done = run(*arguments, code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_race_without_a_plot_needs_no_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None"
    assert run("race", "--schemes", "var", *TINY, code=code).returncode == 0


# ---- bench, info, config ------------------------------------------------------------------


def test_bench_prints_every_line(tmp_path: Path) -> None:
    done = run("bench", *TINY, "--json", f"{tmp_path}/bench.json", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    content = json.loads((tmp_path / "bench.json").read_text())
    for line in content["lines"]:
        assert line["what"] in done.stdout
        if line["why_not"]:
            assert f"Not measured: {line['what']}: {line['why_not']}." in done.stdout


def test_bench_ends_with_status_1_if_something_could_not_run() -> None:
    code = (
        "import percpu._core as core\n"
        "def fail(*arguments): raise OSError(12, 'no memory here')\n"
        "core._bench_map = fail"
    )
    done = run("bench", "--only", "512", *TINY, code=code)
    assert done.returncode == 1
    assert "FAILED: make + close, 512-CPU pool: OSError: [Errno 12] no memory here" in done.stdout
    assert "Traceback" not in done.stderr


def test_bench_takes_only_the_lines_it_is_told() -> None:
    done = run("bench", "--only", "Batch 32", *TINY)
    assert done.returncode == 0, done.stderr
    assert "counter add, batch 32" in done.stdout
    assert "batch 1024" not in done.stdout


@pytest.mark.parametrize("mode", ["glibc", "own", "none"])
def test_every_mode_races_without_loss(mode: str) -> None:
    tunables = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"} if mode == "own" else {}
    done = run(*TINY_RACE, PERCPU_RSEQ=mode, **tunables)
    assert done.returncode == 0, done.stdout
    assert "rseq: " in done.stdout


def test_info_prints_what_the_library_says() -> None:
    done = run("info")
    assert done.returncode == 0
    assert done.stdout == f"{percpu.info()}\n"


def test_version() -> None:
    assert run("--version").stdout == f"percpu {percpu.__version__}\n"


def test_config_says_where_the_headers_are() -> None:
    include = run("config", "--include").stdout.strip()
    assert include == percpu.get_include()
    assert Path(include, "percpu", "percpu.h").is_file()


def test_config_gives_flags_that_compile(tmp_path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "user.c"
    source.write_text(
        "#include <percpu/percpu.h>\n"
        "void count(percpu_ptr p, struct percpu_counter *c)\n"
        "{\n"
        "    percpu_this_add_i64(p, 1);\n"
        "    percpu_counter_inc(c);\n"
        "}\n"
    )
    flags = shlex.split(run("config", "--cflags").stdout)
    done = subprocess.run(
        [*shlex.split(compiler), *flags, "-O2", "-c", str(source), "-o", str(tmp_path / "user.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "user.o").stat().st_size > 0
