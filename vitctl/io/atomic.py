"""Writing so that a reader, or a kill at any instant, sees the old file or the new one, never a half."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success that file is flushed to the disk and takes its place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        flush_file(aside)
        os.replace(aside, path)
        flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


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
    with replacing(path) as aside:
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
