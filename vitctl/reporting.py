"""Notes, warnings and progress. Workflows report to a Reporter and never print; the command line shows it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, TextIO


class Progress(AbstractContextManager["Progress"]):
    """A progress bar: `with reporter.progress("patchify", total=100) as bar: bar.advance(5, rejects=1)`."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, count: int = 1, total: int | None = None, **figures: float | str) -> None:
        """`count` more are done, of a new total if there is one; figures are printed next to the bar."""


class Reporter(Protocol):
    def note(self, text: str) -> None:
        """A choice that vitctl made, or another fact for the user."""

    def warn(self, text: str) -> None:
        """A problem that does not stop the work."""

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> Progress:
        """`done` were done before this process started: the bar counts them, the rate does not."""


def format_rate(rate: float, unit: str) -> str:
    """1,234 cells/s, or 50s per cell."""
    if rate >= 1 or not rate:
        return f"{rate:,.0f} {unit}/s"
    return f"{format_duration(1 / rate)} per {unit.removesuffix('s')}"


class SilentReporter:
    """For library use and `--quiet`: prints warnings to the stream, if there is one, and nothing else."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def note(self, text: str) -> None:
        return None

    def warn(self, text: str) -> None:
        if self.stream:
            print_safely(self.stream, f"warning: {text}")

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> Progress:
        return Progress()


class QuietReporter:
    """For a command inside another one: passes on warnings and, if `bars`, progress; drops notes."""

    def __init__(self, reporter: Reporter, bars: bool) -> None:
        self.warn = reporter.warn
        self.progress = reporter.progress if bars else SilentReporter().progress

    def note(self, text: str) -> None:
        return None


class PlainReporter:
    """For logs and pipes: one line per note, and lines of progress at least `interval` seconds apart."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.interval = interval

    def note(self, text: str) -> None:
        print_safely(self.stream, text)

    def warn(self, text: str) -> None:
        print_safely(self.stream, f"warning: {text}")

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> Progress:
        return PlainProgress(self.note, label, total, unit, done, self.interval)


class LiveProgress(Progress):
    """Counts progress and describes it in one line."""

    def __init__(self, label: str, total: int | None, unit: str, done: int) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done_before = self.done = done
        self.started = time.monotonic()
        self.first = (self.started, done)  # after the first advance, so that start-up does not count in the rate
        self.figures: dict[str, float | str] = {}

    def advance(self, count: int = 1, total: int | None = None, **figures: float | str) -> None:
        self.total = total or self.total
        if self.done == self.done_before:
            self.first = (time.monotonic(), self.done + count)
        self.done += count
        self.figures |= figures
        self.update()

    def update(self) -> None:
        """Prints or redraws the line if necessary."""

    def describe(self, width: int | None = None) -> str:
        """`patchify: 7/10  rejects 1  225 img/s  ETA 2m03s`; the last figures are omitted if `width` is too small.

        A figure `step` replaces the count.
        """
        now, (since, skipped) = time.monotonic(), self.first
        if self.done == skipped:
            since, skipped = self.started, self.done_before
        rate = (self.done - skipped) / max(now - since, 1e-9)
        figures = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                   for name, value in self.figures.items()]  # fmt: skip
        if "step" not in self.figures:
            figures.insert(0, f"{self.done}" + (f"/{self.total}" if self.total else ""))
        end = [format_rate(rate, self.unit)]
        if self.done == self.total:
            end.append(f"in {format_duration(now - self.started)}")
        elif self.total and rate > 0:
            end.append(f"ETA {format_duration((self.total - self.done) / rate)}")
        while True:
            line = f"{self.label}: {'  '.join(figures + end)}"
            if not figures or width is None or len(line) <= width:
                return line
            figures.pop()


class PlainProgress(LiveProgress):
    """Prints a line every `interval` seconds, and less often later on."""

    def __init__(
        self, write: Callable[[str], None], label: str, total: int | None, unit: str, done: int, interval: float
    ) -> None:
        super().__init__(label, total, unit, done)
        self.write, self.interval = write, interval
        self.printed_at, self.printed_done = self.started, done

    def update(self) -> None:
        now = time.monotonic()
        if now - self.printed_at >= max(self.interval, (now - self.started) / 20):
            self.line()

    def line(self) -> None:
        self.printed_at, self.printed_done = time.monotonic(), self.done
        self.write(self.describe())

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self.done > self.printed_done and kind is None:
            self.line()


def print_safely(stream: TextIO, text: str) -> None:
    """Prints a line. A closed pipe or a full disk behind the stream must not stop the work."""
    with suppress(OSError):
        print(printable_text(text), file=stream, flush=True)


@contextmanager
def mute_loggers(*names: str) -> Iterator[None]:
    """Silences these loggers of other libraries and their children (the root logger is "")."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def printable_text(text: str) -> str:
    """Text on one line, with control characters escaped: file names may contain terminal commands."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def format_duration(seconds: float) -> str:
    total = int(seconds + 0.5)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"


def format_count(count: int, noun: str) -> str:
    """1 image, 1,200 images, 3 classes."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def format_size(count: float) -> str:
    """1.4 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""
