"""One process at a time: a file that is locked for as long as its holder lives."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


class Held(Exception):
    """Another process has it."""


def take(path: Path, *, wait: bool, warn: Callable[[str], None]) -> IO[str]:
    """The lock; close what is returned, and remove the file before: it goes with the last of them."""
    while True:
        handle = open(path, "w")  # noqa: SIM115 - the caller's to close
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.close()
            raise Held from None
        except OSError as error:  # some network file systems have no locks
            warn(f"{path}: cannot be locked ({error.strerror}); see that no other process does the same")
        with suppress(FileNotFoundError):
            if os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
                return handle
        handle.close()  # who had it is done, and took the file away
        if not wait:
            raise Held
