"""Prepares stdin, stdout and stderr, whatever they are connected to."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from vitctl.errors import RunError


def prepare_streams() -> None:
    """Called before any file is opened: no file may get the number of a closed stdout or stderr."""
    occupy(0, os.O_RDONLY)
    occupy(1, os.O_RDONLY)  # so that writing to it still fails
    occupy(2, os.O_WRONLY)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names may be any bytes
    sys.stdout = wrap_stream(sys.stdout or os.fdopen(1, "w", closefd=False), ResultStream)
    sys.stderr = wrap_stream(sys.stderr or os.fdopen(2, "w", closefd=False), MessageStream)


def occupy(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, mode), True)  # takes the lowest free number, which is this one


class ResultStream(io.TextIOWrapper):
    """stdout: a result that cannot be written is an error."""

    def write(self, text: str, /) -> int:
        with require_stdout():
            return super().write(text)

    def flush(self) -> None:
        with require_stdout():
            super().flush()


class MessageStream(io.TextIOWrapper):
    """stderr: errors in writing are ignored."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def wrap_stream(stream: TextIO, kind: type[io.TextIOWrapper]) -> TextIO:
    """Converts a stream to this class; a replaced one (by a notebook or a test) stays as it is."""
    if type(stream) is not io.TextIOWrapper:
        return stream
    settings = {name: getattr(stream, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
    return kind(stream.detach(), **settings)


@contextmanager
def require_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise RunError(f"the result cannot be written to stdout ({reason}); redirect it elsewhere") from error


def discard_unwritten() -> None:
    """Drops output that could not be written: at exit the interpreter would try again and change the exit code."""
    try:
        sys.stdout.flush()
    except (OSError, RunError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
