"""Tables and progress for the command line, with rich: colours on a terminal, plain text elsewhere.

All tables fit 80 columns, and none says anything by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from percpu import _machine, race
from percpu._stats import Spread
from percpu.bench import Report as BenchReport
from percpu.race import EMPTY, LARGE_MACHINE, Options, Report, Scheme

_THREAD_COLUMN = 13
"""Characters that one column of costs takes, with its padding."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line: rich would end the process with a failure."""
        raise BrokenPipeError


def console() -> Console:
    """Return where tables go: standard output."""
    return _Console(highlight=False)


@contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Show progress on standard error if that is a terminal.

    Gives a function to call before each of `steps` steps with what it is.
    """
    with Progress(
        TextColumn("{task.description:28}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=(errors := Console(stderr=True)),
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task("", total=steps)
        begun = 0

        def advance(what: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=what)
            begun += 1

        yield advance


def number(value: float) -> str:
    """Return a figure with about three digits that matter: 0.07, 2.13, 35.0, 1,930, 16.8k."""
    if abs(value) >= 10_000:
        return f"{number(value / 1000)}k"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def cost(spread: Spread) -> str:
    """Return a median, and half of what the middle half of the samples spans."""
    median = number(spread.median)
    figure = median.rstrip("k")
    digits = len(figure.partition(".")[2])
    unit = 1 if figure == median else 1000
    return f"{median} ±{spread.half_width / unit:,.{digits}f}"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def _print(console: Console, title: str, table: Table, caption: str = "") -> None:
    """Print a table under its title, which may be wider than it."""
    console.print(f"\n{title}", style="bold")
    console.print(table)
    if caption:
        console.print(caption, style="dim")


def _thread_columns(table: Table, threads: tuple[int, ...]) -> None:
    for count in threads:
        table.add_column(
            f"{count} thread{'s' if count != 1 else ''}", justify="right", no_wrap=True
        )


def _groups(
    console: Console, threads: tuple[int, ...], used: int, column: int = _THREAD_COLUMN
) -> list[tuple[int, ...]]:
    """Split thread counts so that each group's columns fit beside `used` characters."""
    fit = max(1, (console.width - used) // column)
    return [threads[at : at + fit] for at in range(0, len(threads), fit)]


# ---- race ---------------------------------------------------------------------------------


def print_schemes(console: Console, options: Options) -> None:
    """Say what is about to be raced."""
    cpus = _machine.copies()
    console.print(_machine.summary())
    table = _table()
    table.add_column("scheme", no_wrap=True)
    table.add_column("what it is", no_wrap=True)
    table.add_column("sum", no_wrap=True)
    table.add_column(f"{cpus} CPUs", justify="right", no_wrap=True)
    table.add_column(f"{LARGE_MACHINE} CPUs", justify="right", no_wrap=True)
    for scheme in race.schemes():
        if scheme.name in options.schemes:
            table.add_row(
                scheme.name,
                scheme.title,
                scheme.promise,
                f"{scheme.size(cpus, cpus):,}",
                f"{scheme.size(LARGE_MACHINE, LARGE_MACHINE):,}",
            )
    _print(
        console,
        "What is raced: bytes of one counter here, and with many CPUs and threads",
        table,
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _fastest(report: Report, threads: int, among: list[Scheme]) -> Scheme | None:
    return min(among, key=lambda s: report.cost(s.name, threads).median, default=None)


def _exact(report: Report) -> list[Scheme]:
    return [scheme for scheme in report.schemes() if scheme.promise == "exact"]


def _counts(report: Report, scheme: Scheme) -> Text:
    """Say whether counts were lost, in the worst case of all numbers of threads."""
    shares = []
    for threads in report.options.threads:
        adds, lost = report.counts(scheme.name, threads)
        shares.append(lost / adds)
    if not any(shares):
        return Text("exact" if scheme.promise == "exact" else "none lost")
    return Text(f"{max(shares):.0%} lost" if max(shares) >= 0.01 else "<1% lost", style="red")


def _print_adds(console: Console, report: Report) -> None:
    for threads in _groups(console, report.options.threads, used=26):
        table = _table()
        table.add_column("scheme", no_wrap=True)
        _thread_columns(table, threads)
        table.add_column("counts", no_wrap=True)
        best = {count: _fastest(report, count, _exact(report)) for count in threads}
        table.add_row(
            "(empty loop)", *(cost(report.cost(EMPTY, count)) for count in threads), style="dim"
        )
        for scheme in report.schemes():
            cells = [
                Text(
                    cost(report.cost(scheme.name, count)),
                    style="bold green" if scheme == best[count] else "",
                )
                for count in threads
            ]
            table.add_row(scheme.name, *cells, _counts(report, scheme))
        _print(
            console,
            "ns per add: median ± half the interquartile range",
            table,
            "Wall time x CPUs at work / adds: what scales well costs the same everywhere.",
        )


def _print_lost(console: Console, report: Report) -> None:
    for scheme in report.schemes():
        for threads in report.options.threads:
            adds, lost = report.counts(scheme.name, threads)
            if lost:
                console.print(
                    f"{scheme.name} lost {lost:,} of {adds:,} counts with {_threads(threads)}",
                    style="red",
                )


def _print_winner(console: Console, report: Report) -> None:
    """Name the fastest exact scheme, and the fastest that does not grow with each thread."""
    threads = max(report.options.threads)
    fixed = [s for s in _exact(report) if s.size(1, 1) == s.size(1, 2)]
    best = _fastest(report, threads, _exact(report))
    best_fixed = _fastest(report, threads, fixed)
    if best is None:
        return
    figure = report.cost(best.name, threads).median
    text = f"Fastest exact scheme with {_threads(threads)}: {best.name}, {number(figure)} ns."
    if best_fixed not in (None, best):
        figure = report.cost(best_fixed.name, threads).median
        text += (
            f" Of those that do not grow with each thread: {best_fixed.name}, {number(figure)} ns."
        )
    if "atomic" in report.options.schemes:
        times = report.cost("atomic", threads).median / figure
        text += f" One shared atomic takes {number(times)} times as long."
    console.print(text, style="bold")


def _print_reads(console: Console, report: Report) -> None:
    for threads in _groups(console, report.options.threads, used=26):
        table = _table()
        table.add_column("scheme", no_wrap=True)
        table.add_column("read", no_wrap=True)
        _thread_columns(table, threads)
        for scheme in report.schemes():
            sums = [number(report.sum_cost(scheme.name, count).median) for count in threads]
            table.add_row(scheme.name, "sum", *sums)
            if scheme.has_read:
                rough = [report.read_cost(scheme.name, count) for count in threads]
                table.add_row("", "rough", *(number(spread.median) for spread in rough if spread))
        _print(
            console,
            "ns per read while the threads add: exact, and rough where there is such a read",
            table,
        )


def _print_errors(console: Console, report: Report) -> None:
    rough = [scheme for scheme in report.schemes() if scheme.has_read]
    if not rough:
        return
    for threads in _groups(console, report.options.threads, used=14, column=16):
        table = _table()
        table.add_column("scheme", no_wrap=True)
        _thread_columns(table, threads)
        for scheme in rough:
            errors = [report.read_error(scheme.name, count) for count in threads]
            table.add_row(scheme.name, *(f"{e[0]:,} / {e[1]:,}" for e in errors if e))
        _print(
            console,
            "How far off rough reads were: worst seen / promised at most",
            table,
            "Each read was between two exact sums; the error is how far beyond both it was.",
        )


def _print_calls(console: Console, report: Report) -> None:
    if not report.calls:
        return
    spreads = {name: Spread.of(samples) for name, samples in report.calls.items()}
    noop = next(spread for name, spread in spreads.items() if name.startswith("no-op"))
    table = _table()
    table.add_column("statement", no_wrap=True)
    table.add_column("ns", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    for name, spread in spreads.items():
        table.add_row(name, cost(spread), number(spread.median / noop.median))
    _print(
        console,
        "Calls from Python, 1 thread: ns per call, nothing subtracted",
        table,
        "Ratio: to the no-op C method.",
    )


def _print_others(console: Console, taken: float) -> None:
    if taken > 0.05:
        console.print(
            f"Other programs had {taken:.0%} of the CPUs meanwhile. Without them, most times would "
            "be lower, and contention higher.",
            style="yellow",
        )


def print_race(console: Console, report: Report) -> None:
    """Print everything that came of a race."""
    _print_adds(console, report)
    _print_lost(console, report)
    _print_winner(console, report)
    _print_reads(console, report)
    _print_errors(console, report)
    _print_calls(console, report)
    _print_others(console, report.taken_by_others())
    for sentence in report.broken_promises():
        console.print(f"BROKEN PROMISE: {sentence}", style="bold red")


# ---- bench --------------------------------------------------------------------------------


def _met(met: bool | None) -> Text:
    if met is None:
        return Text("-")
    return Text("yes", style="green") if met else Text("OVER", style="bold red")


def print_bench(console: Console, report: BenchReport) -> None:
    """Print the targets, what was measured, and why a line was not."""
    console.print(_machine.summary())
    table = _table()
    table.add_column("measured", no_wrap=True)
    table.add_column("ns", justify="right", no_wrap=True)
    table.add_column("reference", no_wrap=True)
    table.add_column("ns", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    for result in report.results:
        line = result.line
        sides = [
            number(Spread.of(samples).median) if samples else "-"
            for samples in (result.measured, result.compared)
        ]
        table.add_row(
            line.subject.name,
            sides[0],
            line.reference.name if line.reference else "",
            sides[1] if line.reference else "",
            number(result.figure) if result.figure is not None and line.reference else "",
            "" if line.target is None else f"{line.target:.2f}",
            _met(result.met),
        )
    _print(
        console,
        "Speed targets: medians and their ratio, nothing subtracted",
        table,
        "2 threads: ns per operation of a thread. Extra memory: KiB beyond the pages written.",
    )
    _print_others(console, report.taken_by_others())
    for result in report.results:
        if result.line.why_not:
            console.print(f"Not measured: {result.line.subject.name}: {result.line.why_not}.")
    for sentence in report.errors():
        console.print(f"FAILED: {sentence}", style="bold red")
