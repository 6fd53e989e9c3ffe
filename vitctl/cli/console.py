"""The story on stderr, the answer on stdout."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vitctl import __version__, reporting
from vitctl.reporting import PlainReporter, Reporter, SilentReporter, format_duration, format_rate, printable_text


def reporter(quiet: bool) -> Reporter:
    """A bar on a terminal, lines elsewhere, warnings alone when quiet, nothing on other ranks than the first."""
    if os.environ.get("RANK", "0") != "0":
        return SilentReporter()
    if quiet:
        return SilentReporter(sys.stderr)
    return Rich() if sys.stderr.isatty() else PlainReporter()


WIDE = 2000  # columns where nobody looks: a path stays on its line


class Rich:
    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.console.print(Text(printable_text(text), style="dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(Text("warning: ", style="yellow") + Text(printable_text(text)), soft_wrap=True)

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> reporting.Progress:
        return RichProgress(self.console, label, total, unit, done)


class RichProgress(reporting.Progress):
    def __init__(self, console: Console, label: str, total: int | None, unit: str, done: int) -> None:
        self.unit, self.before = unit, done
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID = self.bar.add_task(label, total=total, completed=done, rate="", figures="")

    def __enter__(self) -> "RichProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, count: int = 1, **figures: float | str) -> None:
        self.bar.advance(self.task, count)
        task = self.bar.tasks[0]
        rate = (task.completed - self.before) / max(task.elapsed or 0, 1e-9)
        left = f"  ETA {format_duration((task.total - task.completed) / rate)}" if task.total and rate else ""
        shown = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
        self.bar.update(self.task, rate=f"{format_rate(rate, self.unit)}{left}", figures=shown)


def print_result(command: str, result: Any, as_json: bool, tables: Sequence[Table], run: str | None = None) -> None:
    """The answer: one JSON object, or tables for a person."""
    if as_json:
        print(json.dumps(make_answer(command, result, run), allow_nan=False), flush=True)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as drawn:
        for number, table in enumerate(tables):
            console.print(*([""] if number else []), table, sep="\n")
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()), flush=True)


def make_answer(command: str, result: Any, run: str | None = None) -> dict[str, Any]:
    """What --json prints: the result, and what it takes to trace it."""
    head: dict[str, Any] = {"command": command, "version": __version__}
    if run:
        head["run"] = run
    return head | dataclasses.asdict(result)


def facts_table(rows: Mapping[str, str]) -> Table:
    """A table of two columns: what, and how much."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable_text(value)))
    return table


def columns_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()
) -> Table:
    """A table with a header; the columns named in `numbers` are set flush right."""
    table = Table(
        title=printable_text(title),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable_text(value)) for value in row))
    return table
