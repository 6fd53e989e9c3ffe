"""Notes, warnings and progress. Workflows report to a Reporter and never print; the command line shows it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Protocol, TextIO


class Progress(AbstractContextManager["Progress"]):
    """A progress bar: `with reporter.progress("patchify", total=100) as bar: bar.advance(5, rejects=1)`."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """`count` more are done; figures are shown next to the bar."""


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
    """For logs and pipes: one line per note, and one line per `interval` seconds of progress."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.interval = interval

    def note(self, text: str) -> None:
        print_safely(self.stream, text)

    def warn(self, text: str) -> None:
        print_safely(self.stream, f"warning: {text}")

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> Progress:
        return PlainProgress(self.note, label, total, unit, done, self.interval)


class PlainProgress(Progress):
    def __init__(
        self, say: Callable[[str], None], label: str, total: int | None, unit: str, done: int, interval: float
    ) -> None:
        self.say, self.label, self.total, self.unit, self.interval = say, label, total, unit, interval
        self.before = self.done = done
        self.started = self.printed = time.monotonic()
        self.figures: dict[str, float | str] = {}

    def advance(self, count: int = 1, **figures: float | str) -> None:
        self.done += count
        self.figures |= figures
        if time.monotonic() - self.printed >= self.interval:
            self.line()

    def line(self) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.started
        rate = (self.done - self.before) / max(seconds, 1e-9)
        parts = [f"{self.label}: {self.done}" + (f"/{self.total}" if self.total else ""), format_rate(rate, self.unit)]
        if self.done == self.total:
            parts.append(f"in {format_duration(seconds)}")
        elif self.total and rate > 0:
            parts.append(f"ETA {format_duration((self.total - self.done) / rate)}")
        for name, value in self.figures.items():
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        self.say("  ".join(parts))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.done > self.before and kind is None:
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
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


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
