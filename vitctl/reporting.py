"""How work tells its story. Workflows and rooms speak to a Reporter and never print; the command line draws it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Protocol, TextIO


class Progress(AbstractContextManager["Progress"]):
    """One bar: `with reporter.progress("patchify", total=100) as bar: bar.advance(5, rejects=1)`."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """`count` more are done; figures are shown beside the bar."""


class Reporter(Protocol):
    def note(self, text: str) -> None:
        """A choice that was made, a thing worth knowing."""

    def warn(self, text: str) -> None:
        """Something is wrong, and the work goes on."""

    def progress(self, label: str, total: int | None, unit: str = "img", done: int = 0) -> Progress:
        """`done` were done before this process began: they count for the bar, not for the rate."""


def format_rate(rate: float, unit: str) -> str:
    """Of many a second, or of one in many seconds."""
    if rate >= 1 or not rate:
        return f"{rate:,.0f} {unit}/s"
    return f"{format_duration(1 / rate)} a {unit.removesuffix('s')}"


class SilentReporter:
    """For library use and `--quiet`: warnings alone go to stderr when it is given."""

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
    """Of a command inside a larger one: passes on its warnings, and its progress bars if wanted; drops its notes."""

    def __init__(self, reporter: Reporter, bars: bool) -> None:
        self.warn = reporter.warn
        self.progress = reporter.progress if bars else SilentReporter().progress

    def note(self, text: str) -> None:
        return None


class PlainReporter:
    """One line per note, and one per `interval` seconds of progress: for logs and pipes."""

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
        self.started = self.said = time.monotonic()
        self.figures: dict[str, float | str] = {}

    def advance(self, count: int = 1, **figures: float | str) -> None:
        self.done += count
        self.figures |= figures
        if time.monotonic() - self.said >= self.interval:
            self.line()

    def line(self) -> None:
        self.said = time.monotonic()
        rate = (self.done - self.before) / max(self.said - self.started, 1e-9)
        parts = [f"{self.label}: {self.done}" + (f"/{self.total}" if self.total else ""), format_rate(rate, self.unit)]
        if self.done == self.total:
            parts.append(f"in {format_duration(self.said - self.started)}")
        elif self.total and rate > 0:
            parts.append(f"ETA {format_duration((self.total - self.done) / rate)}")
        print_figures = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.figures.items()
        ]
        self.say("  ".join(parts + print_figures))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.done > self.before and kind is None:
            self.line()


def print_safely(stream: TextIO, text: str) -> None:
    """The work does not depend on somebody listening: a reader that is gone, or a full disk, stops no build."""
    with suppress(OSError):
        print(printable_text(text), file=stream, flush=True)


@contextmanager
def mute_loggers(*names: str) -> Iterator[None]:
    """Silences these loggers of other libraries, and those below them (root: "")."""
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
    """Text that may hold names from anywhere, on one line, with nothing in it that would steer a terminal."""
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
    """Bytes for people: 1.4 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""
