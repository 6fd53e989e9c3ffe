"""Notes and progress on stderr, results on stdout."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from vitctl import __version__, reporting
from vitctl.reporting import LiveProgress, PlainReporter, Reporter, SilentReporter, printable_text


def reporter(quiet: bool) -> Reporter:
    """A bar on a terminal, lines elsewhere, only warnings if `quiet`; nothing on ranks other than the first."""
    if os.environ.get("RANK", "0") != "0":
        return SilentReporter()
    if quiet:
        return SilentReporter(sys.stderr)
    return Rich() if sys.stderr.isatty() else PlainReporter()


WIDE = 2000  # columns of output that is not a terminal, so that paths are not wrapped
SHORTEST, LONGEST = 1, 40  # columns of a progress bar


class Rich:
    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.console.print(Text(printable_text(text), style="dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(Text("warning: ", style="yellow") + Text(printable_text(text)), soft_wrap=True)

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> reporting.Progress:
        return RichProgress(self.console, label, total, unit, done)


class RichProgress(LiveProgress):
    """A bar, if there is room for one, and a line of text."""

    def __init__(self, console: Console, label: str, total: int | None, unit: str, done: int) -> None:
        super().__init__(printable_text(label), total, unit, done)
        self.column, text = BarColumn(), TextColumn("{task.description}", markup=False)
        self.bar = Progress(SpinnerColumn(), self.column, text, console=console, transient=True)
        self.task: TaskID = self.bar.add_task(label, total=total, completed=done)
        self.update()

    def __enter__(self) -> "RichProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self) -> None:
        room = self.bar.console.width - 4  # without the spinner and the spaces between columns
        line = self.describe(room - SHORTEST)
        self.column.bar_width = max(SHORTEST, min(LONGEST, room - len(line)))
        self.bar.update(self.task, total=self.total, completed=self.done, description=line)


def print_result(command: str, result: Any, as_json: bool, tables: Sequence[Table], run: str | None = None) -> None:
    """Print a result: as one JSON object, or as tables."""
    if as_json:
        print(json.dumps(make_answer(command, result, run), allow_nan=False), flush=True)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as capture:
        for number, table in enumerate(tables):
            console.print(*([""] if number else []), table, sep="\n")
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)


def make_answer(command: str, result: Any, run: str | None = None) -> dict[str, Any]:
    """The object for --json: the result, the command and the version."""
    head: dict[str, Any] = {"command": command, "version": __version__}
    if run:
        head["run"] = run
    return head | dataclasses.asdict(result)


def facts_table(rows: Mapping[str, str]) -> Table:
    """A table of two columns: name and value."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable_text(value)))
    return table


def columns_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()
) -> Table:
    """A table with a header; the columns named in `numbers` are right-aligned."""
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
