"""Writing so that a reader, or a kill at any instant, sees the old file or the new one, never a half."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitctl.errors import OutputExists, VitctlError, is_no_space


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success that file is flushed to the disk and takes its place.

    Where the disk is full, that is an OSError with `path`, whatever the library that wrote makes of it.
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
    """Makes a folder for as long as it takes to write into it; if that fails, nothing is left of it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(f"{folder}: is there and not an empty folder; name another, or remove it first")
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
    """Deletes the temporary files that killed processes left of a file; `name` may be a pattern."""
    for path in folder.glob(f".{name}.[0-9]*.tmp"):
        if not is_alive(int(path.name.split(".")[-2])):
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
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
    """A rename is on the disk when its folder is; not every system can do that, and none needs it to be correct."""
    try:
        flush_file(path)
    except OSError:
        return
