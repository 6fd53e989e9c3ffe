"""Files as bytes: read at an offset, mapped, or unpacked. Each is opened once per process."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import numpy as np

from vitctl.errors import DataError, NoSpace, is_no_space
from vitctl.io.atomic import flush_file
from vitctl.io.files import check_regular_file
from vitctl.machine import CUT_SHORT, watch_mapped_file
from vitctl.reporting import Reporter

LARGEST = 1 << 30  # bytes of an encoded image: a film or a disk image would fill the memory
LARGE = 1 << 26  # a longer file is a LargeFile: its beginning decides whether the rest is read
PIECE = 1 << 20

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
DAMAGE: tuple[type[Exception], ...] = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, struct.error, ValueError,
    OverflowError, NotImplementedError, IndexError,
)  # fmt: skip


@contextmanager
def name_damaged_file(where: str, *more: type[Exception]) -> Iterator[None]:
    """Turns the standard library's errors on broken input into a DataError that names the file."""
    try:
        yield
    except (*DAMAGE, *more) as error:
        raise DataError(f"{where}: damaged or truncated ({error_text(error)}); copy or download it again") from error
    except OSError as error:
        if is_no_space(error):
            raise NoSpace(f"{where}: the disk is too full to unpack it; free some space, then add --resume") from error
        raise DataError(f"{where}: cannot be read ({error.strerror or error_text(error)})") from error


def error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@dataclass(frozen=True)
class File:
    """A file with the size and time that it had when the scan found it, to recognize a replaced file."""

    path: str
    size: int
    modified: int | str  # nanoseconds; for a remote file, what its server tells versions apart by

    @classmethod
    def at(cls, path: "Place | str") -> "File":
        if isinstance(path, File):
            return path
        check_regular_file(path)
        with name_damaged_file(str(path)):
            status = os.stat(path)
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def parent(self) -> PurePath:
        return PurePath(self.path).parent

    def __str__(self) -> str:
        return self.path

    def find_beside(self, name: str) -> "File | None":
        """The file of that name in the same folder, if there is one."""
        path = os.path.join(os.path.dirname(self.path), name)
        return File.at(path) if os.path.isfile(path) else None

    def open(self) -> BinaryIO:
        return open(self.path, "rb")

    def read(self, offset: int, size: int) -> bytes:
        check_size(size)
        opened = descriptor(self, os.getpid())  # this reference keeps it open during the read
        content = os.pread(opened.number, size, offset)
        if len(content) != size:
            raise DataError(f"{self.path}: ends before byte {offset + size}; it was changed or truncated")
        return content

    def content(self, offset: int, size: int) -> "bytes | LargeFile":
        """The same, but a LargeFile if it is long."""
        check_size(size)
        return self.read(offset, size) if size <= LARGE else LargeFile(self.pieces(offset, size), size)

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        for start in range(0, size, PIECE):
            yield self.read(offset + start, min(PIECE, size - start))

    def map_bytes(self, shape: tuple[int, ...], offset: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.check_length()
        return byte_map(self, shape, offset, os.getpid())

    def check_length(self) -> None:
        """Call it before reading a map: the kernel kills a process that reads past the end of a truncated file."""
        if os.stat(self.path).st_size < self.size:
            raise DataError(f"{self.path}: {CUT_SHORT}")

    def unpack_into(self, spool: Path, reporter: Reporter) -> "File":
        """The file itself, or its uncompressed content in `spool`, which is written once."""
        packed = compression(self)
        if packed is None:
            return self
        with self.open() as raw, packed(raw) as stream:
            return spool_stream(cast(BinaryIO, stream), raw, self, self.name, spool, reporter)


Place = Path | File


@dataclass
class LargeFile:
    """A file that may be an image, in pieces: it may also be too large for one, so its beginning is read first."""

    pieces: Iterator[bytes]
    size: int | None  # None if it is not known before the end

    def read(self, most: int, content: bytearray | None = None) -> bytearray:
        """Appends the next pieces to `content`, until it has at least `most` bytes."""
        content = bytearray() if content is None else content
        while len(content) < most and (piece := next(self.pieces, b"")):
            content += piece
        return content

    def whole(self, most: int = LARGEST, head: bytearray | None = None) -> bytes:
        """All bytes, after the `head` that was read before. Raises DataError if there are more than `most`."""
        if (self.size or 0) <= most:
            content = self.read(most + 1, head)
            if len(content) <= most:
                return bytes(content)
        raise DataError(too_long(max(self.size or 0, most)))


def content_of(path: str) -> bytes | LargeFile:
    """The content of a file on disk."""
    check_regular_file(path)
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LARGE:
            return file.read(size)
    return File.at(path).content(0, size)


def files_in(thing: object, depth: int = 6) -> Iterator[File]:
    """Every File in the attributes of a source, at any depth."""
    if isinstance(thing, File):
        yield thing
    elif depth and isinstance(thing, dict | list | tuple):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from files_in(part, depth - 1)
    elif depth and hasattr(thing, "__dict__") and type(thing).__module__.startswith("vitctl."):
        yield from files_in(vars(thing), depth - 1)


def check_size(size: int) -> None:
    if size > LARGEST:
        raise DataError(too_long(size))


def too_long(size: int) -> str:
    return f"too large for an image: {size >> 20} MB"


def hash_values(*what: object) -> str:
    """A short name for something computed from these values."""
    return hashlib.sha256(repr(what).encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Descriptor:
    """An open file that closes with its last reference, so one thread may drop it while another reads."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone at exit
        close(self.number)


@lru_cache(maxsize=64)  # there may be more shards than a process may open
def descriptor(file: File, process: int) -> Descriptor:
    return Descriptor(os.open(file.path, os.O_RDONLY))


@lru_cache(maxsize=64)
def byte_map(file: File, shape: tuple[int, ...], offset: int, process: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    watch_mapped_file(file.path, file.size)
    return np.memmap(file.path, np.uint8, "r", offset, shape)


class Window(io.RawIOBase):
    """A part of a file as a stream: a tar inside a tar."""

    def __init__(self, file: File, offset: int, size: int) -> None:
        self.file, self.offset, self.size = file, offset, size
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.place))
        buffer[:count] = self.file.read(self.offset + self.place, count)
        self.place += count
        return count


def compression(path: Place | str) -> Any:
    """The function that opens a compressed file, chosen by its first bytes. None if it is not compressed."""
    with name_damaged_file(str(path)), File.at(path).open() as file:
        start = file.read(6)
    return next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)


def first_unpacked(path: Place | str, count: int) -> bytes:
    """The first bytes of the file's uncompressed content."""
    with name_damaged_file(str(path)), open_unpacked(path) as file:
        return file.read(count)


@contextmanager
def open_unpacked(path: Place | str) -> Iterator[BinaryIO]:
    """The file's uncompressed content as a stream."""
    packed = compression(path)
    with File.at(path).open() as raw:
        if packed is None:
            yield raw
        else:
            with packed(raw) as stream:
                yield stream


def spool_stream(stream: BinaryIO, raw: Any, origin: File, name: str, spool: Path, reporter: Reporter) -> File:
    """Copies `stream`, the content of `origin`, to a file in `spool`. The position in `raw` shows the progress.

    It is written under another name and then renamed, so a kill leaves a complete file or none.
    """
    target = spool / hash_values(origin, name)
    aside = target.with_suffix(".part")
    if not target.exists():
        total = origin.size >> 20 or None
        with name_damaged_file(origin.path), reporter.progress(f"unpack {name}", total, "MB") as bar:
            with open(aside, "wb") as out:
                done = 0
                while piece := stream.read(PIECE):
                    out.write(piece)
                    bar.advance((raw.tell() >> 20) - done)
                    done = raw.tell() >> 20
            flush_file(aside)
            os.replace(aside, target)
    return File.at(target)
