"""Lock files: one process at a time holds the lock, as long as it lives.

The kernel frees the lock of a process that died. Some network file systems have no locks; there, the owner written in
the file decides: its host, process id and start time.
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
    """Another process holds the lock."""


@dataclass(frozen=True)
class Owner:
    host: str
    pid: int
    started: str  # ticks from the machine's start to the process's: tells a later process with the same id apart

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def may_be_alive(self) -> bool:
        """True for every process of another host, which cannot be checked."""
        return self.host != socket.gethostname() or start_time(self.pid) == self.started


def this_process() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), start_time(os.getpid()))


def start_time(pid: int) -> str:
    """Empty for a process that does not exist; "alive" for one that does, on systems without /proc."""
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
    """Takes the lock and returns its open file. To release it, remove the file, then close it."""
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
                raise Held(f"{owner} (if it no longer runs, remove {path})") from None
            warn(f"{path}: this file system does not support locks; do not start two commands on it at the same time")
        with suppress(FileNotFoundError):
            if os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
                write_owner(handle)
                return handle
        handle.close()  # the last owner finished and removed this file: try again with a new one


def read_owner(handle: IO[str]) -> Owner | None:
    try:
        handle.seek(0)
        return Owner(**json.loads(handle.read()))
    except (ValueError, TypeError):
        return None


def write_owner(handle: IO[str]) -> None:
    """Tells other processes who holds the lock. A full disk does not prevent locking."""
    with suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.write(handle.fileno(), json.dumps(asdict(this_process())).encode())


@contextmanager
def hold_lock(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock inside the block; raises Held if another process holds it."""
    with take(path, wait=False, warn=warn):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
