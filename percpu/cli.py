"""The command line, `python -m percpu`: what it takes, and how it ends.

Exit status: 0; 1 if a scheme broke its promise (or, in `bench`, a line could not be measured
because of an error); 2 for what the caller has to put right; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import percpu
from percpu import race

_MAX_SECONDS = 3600.0


class CannotRunError(Exception):
    """What the caller has to put right before a command can run; the message says how."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to the process's. Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no such sign shows another
    try:
        status = command(options)
        sys.stdout.flush()
        return status
    except CannotRunError as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# ---- arguments ----------------------------------------------------------------------------


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number above 0 and at most {_MAX_SECONDS:g}"
        )
    return seconds


def _count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return value

    return parse


def _threads(text: str) -> tuple[int, ...]:
    parse = _count(1, race.MAX_THREADS)
    return tuple(sorted({parse(part) for part in text.split(",")}))


def _schemes(text: str) -> tuple[str, ...]:
    known = [scheme.name for scheme in race.schemes()]
    wanted = text.split(",")
    for name in wanted:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"there is no scheme {name!r}; choose from {', '.join(known)}"
            )
    return tuple(name for name in known if name in wanted)


def _out_file(text: str) -> Path:
    """A file that can be written, as far as one can tell before the run."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a directory")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is in a directory that does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: permission denied")
    return path


def _plot_file(text: str) -> Path:
    path = _out_file(text)
    if path.suffix.lower() not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png or .svg")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m percpu",
        description="Per-CPU data for user space: race it, measure it, ask what this machine has.",
    )
    parser.add_argument("--version", action="version", version=f"percpu {percpu.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_race(commands)
    _add_bench(commands)

    info = commands.add_parser("info", help="what percpu found on this machine")
    info.set_defaults(command=_info, prog=info.prog)

    _add_config(commands)
    return parser


def _add_race(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    defaults = race.Options()
    command = commands.add_parser(
        "race",
        help="race every way for threads to count together",
        description="Race every way for threads to count together: what an add costs, whether "
        "counts are lost, what reading costs. Then the same for calls from Python.",
        epilog="Ends with status 1 if a scheme that promises exact sums lost a count.",
    )
    command.add_argument(
        "--schemes", type=_schemes, metavar="A,B", help="only these (default: all; see --list)"
    )
    command.add_argument(
        "--threads",
        type=_threads,
        default=defaults.threads,
        metavar="N,M",
        help=f"numbers of threads (default: {','.join(map(str, defaults.threads))})",
    )
    command.add_argument(
        "--seconds",
        type=_seconds,
        default=defaults.seconds,
        metavar="S",
        help="length of each sample (default: %(default)s)",
    )
    command.add_argument(
        "--repeats",
        type=_count(1, 1000),
        default=defaults.repeats,
        metavar="N",
        help="samples of each measurement (default: %(default)s)",
    )
    command.add_argument(
        "--no-pin",
        action="store_true",
        help="let the kernel place the threads, even when there is a CPU for each",
    )
    command.add_argument(
        "--no-python", action="store_true", help="leave out the table of calls from Python"
    )
    command.add_argument("--json", type=_out_file, metavar="FILE", help="write all samples here")
    command.add_argument(
        "--plot", type=_plot_file, metavar="FILE", help="draw ns per add here (.png or .svg)"
    )
    command.add_argument("--list", action="store_true", help="list the schemes and stop")
    command.set_defaults(command=_race, prog=command.prog)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "bench",
        help="the project's speed targets, measured here",
        description="Measure the project's speed targets on this machine. Each is a ratio of "
        "medians that were taken in turn within this run.",
    )
    command.add_argument(
        "--only", metavar="TEXT", help="only lines with this text in them, in any case"
    )
    command.add_argument(
        "--seconds",
        type=_seconds,
        default=0.03,
        metavar="S",
        help="length of each sample (default: %(default)s)",
    )
    command.add_argument(
        "--repeats",
        type=_count(1, 1000),
        default=9,
        metavar="N",
        help="samples of each measurement (default: %(default)s)",
    )
    command.add_argument("--json", type=_out_file, metavar="FILE", help="write all samples here")
    command.set_defaults(command=_bench, prog=command.prog)


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "config",
        help="how to compile and link C code",
        description="Print the flags that a C compiler needs, on one line. Programs need the "
        "library; what is loaded into Python uses the core that is there.",
    )
    command.add_argument("--cflags", action="store_true", help="for code that includes percpu/*.h")
    command.add_argument("--include", action="store_true", help="the directory of the headers")
    command.add_argument("--libs", action="store_true", help="to link a program with libpercpu.a")
    command.add_argument(
        "--compat-cflags", action="store_true", help="for code that includes librseq's mempool.h"
    )
    command.set_defaults(command=_config, prog=command.prog)


# ---- commands -----------------------------------------------------------------------------


def _needs_lab(what: str, error: ImportError) -> CannotRunError:
    package = (error.name or "more").partition(".")[0]
    return CannotRunError(f"{what} needs {package}: pip install 'percpu[lab]'")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotRunError(f"{str(path)!r} cannot be written: {error.strerror}") from None


def _race(options: argparse.Namespace) -> int:
    if options.list:
        for scheme in race.schemes():
            print(f"{scheme.name:14}{scheme.promise:7}{scheme.title}")
        return 0
    try:
        from percpu import _tables
    except ImportError as error:
        raise _needs_lab("race", error) from None
    if options.plot:
        try:
            from percpu import _plot
        except ImportError as error:
            raise _needs_lab("race --plot", error) from None

    wanted = race.Options(
        schemes=options.schemes or tuple(scheme.name for scheme in race.schemes()),
        threads=options.threads,
        seconds=options.seconds,
        repeats=options.repeats,
        pin=not options.no_pin,
        python=not options.no_python,
    )
    console = _tables.console()
    _tables.print_schemes(console, wanted)
    with _tables.progress(len(race.steps(wanted))) as advance:
        try:
            report = race.run(wanted, advance)
        except OSError as error:
            raise CannotRunError(f"the race stopped: {error.strerror}") from None
    _tables.print_race(console, report)
    if options.json:
        _write(options.json, report.to_json())
    if options.plot:
        try:
            _plot.draw(report, options.plot)
        except OSError as error:
            raise CannotRunError(
                f"{str(options.plot)!r} cannot be written: {error.strerror}"
            ) from None
    return 1 if report.broken_promises() else 0


def _bench(options: argparse.Namespace) -> int:
    from percpu import bench

    try:
        from percpu import _tables
    except ImportError as error:
        raise _needs_lab("bench", error) from None
    lines = bench.lines(options.only or "")
    if not lines:
        raise CannotRunError(f"no line has {options.only!r} in it")
    with _tables.progress(bench.steps(lines, options.repeats)) as advance:
        report = bench.run(lines, options.seconds, options.repeats, advance)
    _tables.print_bench(_tables.console(), report)
    if options.json:
        _write(options.json, report.to_json())
    return 1 if report.errors() else 0


def _info(options: argparse.Namespace) -> int:
    print(percpu.info())
    return 0


def _config(options: argparse.Namespace) -> int:
    include = percpu.get_include()
    flags = [*_compiler_flags(options, include), *(_library_flags() if options.libs else ())]
    if not flags and not options.include:
        raise CannotRunError("choose from --cflags --include --libs --compat-cflags")
    if flags and options.include:
        raise CannotRunError("--include prints a directory, and goes with no other option")
    print(shlex.join(flags) if flags else include)
    return 0


def _compiler_flags(options: argparse.Namespace, include: str) -> Iterator[str]:
    if options.cflags:
        # -fPIC also for programs: percpu_runtime may be in a library, and must not be copied out.
        yield from (f"-I{include}", "-fPIC")
    if options.compat_cflags:
        yield f"-I{include}/percpu/compat"


def _library_flags() -> Iterator[str]:
    directory = Path(percpu.__file__).resolve().parent / "lib"
    if not (directory / "libpercpu.a").is_file():
        raise CannotRunError(f"there is no libpercpu.a in {str(directory)!r}: install percpu again")
    # Threads are registered, and handlers of fork() installed: no unloading of what contains them.
    yield from (f"-L{directory}", "-lpercpu", "-pthread", "-Wl,-z,nodelete")
