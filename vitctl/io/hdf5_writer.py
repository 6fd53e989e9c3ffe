"""Writes HDF5 through a Python file object, so that disk errors become Python errors.

HDF5 cannot close a file that it cannot write: it prints errors from C, tries again when the process ends, and crashes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py

RAW = 1 << 16  # bytes; larger writes are data of datasets, which HDF5 does not read again


class Disk:
    """A file object that never fails. After the first disk error, it keeps in memory what HDF5 may read again."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.pieces: list[tuple[int, bytes]] = []  # (position, content), the newest last
        self.seek, self.tell = file.seek, file.tell

    def write(self, content: Any) -> int:
        place, rest = self.file.tell(), memoryview(content)
        try:
            while len(rest) and not self.error:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.error = error
        if self.error and len(content) < RAW:
            self.pieces.append((place, bytes(content)))
        self.file.seek(place + len(content))
        return len(content)

    def readinto(self, buffer: Any) -> int:
        place, view = self.file.tell(), memoryview(buffer).cast("B")
        self.file.readinto(view)
        for begin, content in self.pieces:
            low, high = max(begin, place), min(begin + len(content), place + len(view))
            if low < high:
                view[low - place : high - place] = content[low - begin : high - begin]
        self.file.seek(place + len(view))
        return len(view)

    def read(self, size: int) -> bytes:
        content = bytearray(size)
        self.readinto(content)
        return bytes(content)

    def truncate(self, size: int) -> int:
        try:
            return self.file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def flush(self) -> None:
        """Writes are not buffered."""


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new file. A disk error is raised as an OSError on exit."""
    with FileIO(path, "w+") as raw:
        disk = Disk(raw)
        try:
            with h5py.File(disk, "w") as file:
                yield file
        finally:
            if disk.error:
                raise disk.error
