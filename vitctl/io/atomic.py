"""Atomic writes: after a kill at any instant, and for every reader, a file is the old one or the new one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitctl.errors import OutputExists, VitctlError, is_no_space


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success, flushes that file to disk and renames it to `path`.

    A full disk raises an OSError that names `path`, whatever error the writing library raised.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        flush_file(aside)
        os.replace(aside, path)
        flush_folder(path.parent)
    except Exception as error:
        if isinstance(error, VitctlError) or not is_no_space(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[None]:
    """Creates a folder to write into; if that fails, removes it with all files in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(f"{folder}: exists and is not an empty folder; choose another path, or remove it first")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            path.unlink()
        if is_new:
            folder.rmdir()
        raise


def remove_leftovers(folder: Path, name: str) -> None:
    """Deletes the temporary files of `name` that killed processes left; `name` may be a glob pattern."""
    for path in folder.glob(f".{name}.[0-9]*.tmp"):
        if not is_alive(int(path.name.split(".")[-2])):
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return process != os.getpid()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n").encode())


def flush_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """Makes a rename durable, if the system can flush folders. Correctness does not depend on it."""
    with suppress(OSError):
        flush_file(path)
