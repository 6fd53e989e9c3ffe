"""stdin, stdout and stderr as the commands need them, whatever they are connected to."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from vitctl.errors import RunError


def prepare_streams() -> None:
    """Before anything else is opened: a file of the user must not get the number of a closed stdout or stderr."""
    occupy(0, os.O_RDONLY)
    occupy(1, os.O_RDONLY)  # so that writing to it still fails
    occupy(2, os.O_WRONLY)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files may be any bytes
    sys.stdout = wrap_stream(sys.stdout or os.fdopen(1, "w", closefd=False), AnswerStream)
    sys.stderr = wrap_stream(sys.stderr or os.fdopen(2, "w", closefd=False), StoryStream)


def occupy(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest number that is free is this one


class AnswerStream(io.TextIOWrapper):
    """stdout: an answer that cannot be written fails the command."""

    def write(self, text: str, /) -> int:
        with require_stdout():
            return super().write(text)

    def flush(self) -> None:
        with require_stdout():
            super().flush()


class StoryStream(io.TextIOWrapper):
    """stderr: nothing depends on somebody listening."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def wrap_stream(stream: TextIO, kind: type[io.TextIOWrapper]) -> TextIO:
    """The same stream, of that kind; one that somebody has put in its place (a notebook, a test) stays as it is."""
    if type(stream) is not io.TextIOWrapper:
        return stream
    kept = {name: getattr(stream, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
    return kind(stream.detach(), **kept)


@contextmanager
def require_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise RunError(f"the answer cannot be written to stdout ({reason}); send it somewhere else") from error


def discard_unwritten() -> None:
    """What could not be written goes nowhere: at its end the interpreter would try again, and change the exit code."""
    try:
        sys.stdout.flush()
    except (OSError, RunError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
