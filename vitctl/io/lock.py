"""One process at a time: a file that is locked for as long as its owner lives.

The kernel frees the lock of a process that died. Some network file systems have no locks: there the owner that is
written in the file decides, by its host, process number and start time.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Held(Exception):
    """Another process has it."""


@dataclass(frozen=True)
class Owner:
    host: str
    pid: int
    started: str  # in ticks since the machine started; a later process of the same number has another one

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def may_be_alive(self) -> bool:
        """A process of another host cannot be looked at."""
        return self.host != socket.gethostname() or start_time(self.pid) == self.started


def this_process() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), start_time(os.getpid()))


def start_time(pid: int) -> str:
    """Empty for a process that does not exist; where /proc is missing, "alive" has to do."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:  # another user's
        pass
    return "alive"


def take(path: Path, *, wait: bool, warn: Callable[[str], None]) -> IO[str]:
    """The lock; close what is returned, and remove the file before: it goes with the last of them."""
    while True:
        handle = open(path, "a+")  # noqa: SIM115 - the caller's to close
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = read_owner(handle)
            handle.close()
            raise Held(str(owner or "another process")) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            owner = read_owner(handle)
            if owner and owner != this_process() and owner.may_be_alive:
                handle.close()
                raise Held(f"{owner}; if it is gone, remove {path}") from None
            warn(f"{path}: this file system has no locks; make sure that no other process starts at the same moment")
        with suppress(FileNotFoundError):
            if os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
                write_owner(handle)
                return handle
        handle.close()  # whoever had it finished, and removed the file


def read_owner(handle: IO[str]) -> Owner | None:
    try:
        handle.seek(0)
        return Owner(**json.loads(handle.read()))
    except (ValueError, TypeError):
        return None


def write_owner(handle: IO[str]) -> None:
    """For whoever finds it locked. A full disk is no reason not to lock."""
    with suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.write(handle.fileno(), json.dumps(asdict(this_process())).encode())


@contextmanager
def hold_lock(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, nobody else has it; raises Held where somebody has."""
    with take(path, wait=False, warn=warn):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
