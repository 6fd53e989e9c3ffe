"""Opens vitctl's HDF5 files, and checks the place, type and shape of every field before anything is used.

An HDF5 file may refer to other files: by external and symbolic links, by datasets stored in other files, and by virtual
datasets. None of these is followed: an index over shards is read by the names of its shards.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import ConfigError, DataError
from vitctl.io.files import check_regular_file

RATIO = 2000  # upper bound of the compression ratio: deflate reaches 1032
DAMAGE = (KeyError, OSError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError)  # h5py's, on broken files
RAW = 1 << 16  # bytes; larger writes are data of datasets, which HDF5 does not read again
SHARDS = "shards"  # the dataset that makes a file an index


def is_text_type(kind: np.dtype[Any]) -> bool:
    return h5py.check_string_dtype(kind) is not None


def is_record(kind: np.dtype[Any], columns: int) -> bool:
    return len(kind.names or ()) == columns and all(is_text_type(kind[name]) for name in kind.names or ())


KINDS: dict[str, Callable[[np.dtype[Any]], bool]] = {
    "text": is_text_type,
    "integers": lambda kind: kind.kind in "iu",
    "bytes": lambda kind: bool(kind == np.uint8),
    "floats": lambda kind: kind.kind == "f" and kind.itemsize <= 8,
    "pairs of text": lambda kind: is_record(kind, 2),
    "fours of text": lambda kind: is_record(kind, 4),
}


@dataclass(frozen=True)
class Field:
    """The expected type and shape of an attribute or a dataset."""

    kind: str
    shape: tuple[int | str, ...] = ()  # a name means the same length everywhere in a split; "*": any further axes
    optional: bool = False
    by_row: bool = False  # never read as a whole, so compressed data of any size is accepted


@dataclass(frozen=True)
class FileFormat:
    name: str
    version: int
    noun: str
    maker: str  # the command that creates such a file
    attributes: Mapping[str, Field]
    root: Mapping[str, Field]
    split: Mapping[str, Field]
    index: Mapping[str, Field] | None = None  # the fields of a split in an index over shards
    sizes: Callable[[h5py.File], dict[str, int]] = lambda file: {}  # lengths that follow from the attributes
    older: "FileFormat | None" = None  # the version before, which is read too

    def versions(self) -> "Iterator[FileFormat]":
        """All versions that can be read, the newest first."""
        yield self
        if self.older:
            yield from self.older.versions()


def is_hdf5(path: Path) -> bool:
    return path.is_file() and bool(h5py.is_hdf5(path))


def can_open(path: Path) -> bool:
    """False for a truncated file, which still begins as HDF5."""
    try:
        h5py.File(path, "r").close()
    except (OSError, RuntimeError):
        return False
    return True


def format_of(path: Path) -> str | None:
    """The format attribute of an HDF5 file, or None."""
    try:
        check_regular_file(path)
        with h5py.File(path, "r") as file:
            return read_format(file)
    except DAMAGE:
        return None


def read_format(file: h5py.File) -> str | None:
    has_format = "format" in file.attrs and fits(file.attrs, "format", Field("text"), {})
    return text(file.attrs["format"]) if has_format else None


@contextmanager
def open_checked(path: Path, form: FileFormat) -> Iterator[h5py.File]:
    """An open file whose fields have been checked. Errors of h5py inside the block become one line with the path."""
    with open_hdf5(path, form) as file:
        try:
            check_contents(file, path, form)
            yield file
        except (*DAMAGE, ConfigError) as error:
            what = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: damaged ({what}); recreate it with {form.maker}") from error


def open_hdf5(path: Path, form: FileFormat) -> h5py.File:
    check_regular_file(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; create it with {form.maker}")
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a {form.noun}; create one with {form.maker}")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        if number := getattr(error, "errno", None):
            raise DataError(f"{path}: cannot be read ({os.strerror(number)})") from error
        if "truncated" in str(error):
            raise DataError(f"{path}: truncated; recreate it with {form.maker}") from error
        raise DataError(f"{path}: not an HDF5 file, so not a {form.noun}; create one with {form.maker}") from error


def check_contents(file: h5py.File, path: Path, form: FileFormat) -> None:
    format = read_format(file)
    if format != form.name:
        what = f"its format is {format!r}" if format else "HDF5 without a format attribute"
        raise DataError(f"{path}: not a {form.noun} ({what}); create one with {form.maker}")
    check_fields(file.attrs, {"version": form.attributes["version"]}, {})
    form = form_of_version(int(file.attrs["version"]), path, form)
    check_links(file)
    check_fields(file.attrs, {name: field for name, field in form.attributes.items() if not field.shape}, {})
    sizes = form.sizes(file)
    check_fields(file.attrs, {name: field for name, field in form.attributes.items() if field.shape}, sizes)
    check_fields(file, form.root, sizes)
    splits = split_names(file)
    if not splits:
        raise ValueError("no splits")
    fields = form.index if form.index and SHARDS in file else form.split
    for name in splits:
        check_fields(file[name], fields, dict(sizes))


def form_of_version(version: int, path: Path, form: FileFormat) -> FileFormat:
    for each in form.versions():
        if each.version == version:
            return each
    known = " and ".join(f"version {each.version}" for each in form.versions())
    raise DataError(
        f"{path}: {form.noun} version {version}, but this vitctl reads {known}; "
        f"update vitctl, or recreate the file with {form.maker}"
    )


def check_links(file: h5py.File) -> None:
    """Everything must be stored in the file itself; only the splits of an index may have virtual datasets."""
    for name in file:
        check_link(file, name)
        if file.get(name, getclass=True) is h5py.Group:
            for inner in file[name]:
                check_link(file[name], inner, may_be_virtual=SHARDS in file)


def check_link(group: h5py.Group, name: str, may_be_virtual: bool = False) -> None:
    where = text(f"{group.name}/{name}".lstrip("/"))
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{where} is a link, and links are not followed")
    if group.get(name, getclass=True) is not h5py.Dataset:
        return
    plan = h5py.h5d.open(group.id, name.encode()).get_create_plist()
    if plan.get_external_count():
        raise ValueError(f"{where} is stored in another file, which is not opened")
    if plan.get_layout() == h5py.h5d.VIRTUAL and not may_be_virtual:
        raise ValueError(f"{where} is a virtual dataset, which only an index may have")


def split_names(file: h5py.File) -> list[str]:
    return [name for name in file if file.get(name, getclass=True) is h5py.Group]


def check_fields(holder: Any, fields: Mapping[str, Field], sizes: dict[str, int]) -> None:
    """Checks the fields of a group, or of attributes. Lengths that are new are added to `sizes`."""
    where = f"{holder.name}/".lstrip("/") if isinstance(holder, h5py.Group) else "attribute "
    for name, field in fields.items():
        if name not in holder:
            if field.optional:
                continue
            raise ValueError(f"{where}{name} is missing")
        if not fits(holder, name, field, sizes):
            shape = f" [{', '.join(map(str, field.shape))}]" if field.shape else ""
            raise ValueError(f"{where}{name} is not {field.kind}{shape}")


def fits(holder: Any, name: str, field: Field, sizes: dict[str, int]) -> bool:
    """Whether this dataset or attribute has the type, the shape and the bytes of the field."""
    if isinstance(holder, h5py.Group):
        if holder.get(name, getclass=True) is not h5py.Dataset:
            return False
        item = h5py.h5d.open(holder.id, name.encode())
        if item.get_create_plist().get_layout() == h5py.h5d.VIRTUAL:  # even asking its shape would open other files
            return False
    else:
        item = holder.get_id(name)
    if item.get_space().get_simple_extent_type() == h5py.h5s.NULL or not KINDS[field.kind](item.dtype):
        return False
    if isinstance(item, h5py.h5d.DatasetID) and not has_bytes(item, field.by_row):
        return False
    return has_shape(item.shape, field.shape, sizes)


def has_shape(shape: tuple[int, ...], expected: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    if expected[-1:] == ("*",):
        return len(shape) >= len(expected) and min(shape[1:]) > 0 and has_shape(shape[:1], expected[:1], sizes)
    return len(shape) == len(expected) and all(
        length == (sizes.setdefault(axis, length) if isinstance(axis, str) else axis)
        for length, axis in zip(shape, expected, strict=True)
    )


def has_bytes(data: Any, by_row: bool) -> bool:
    """Whether the file holds the bytes of a dataset. Checked first, so that no huge array is allocated for nothing."""
    layout, stored = data.get_create_plist().get_layout(), data.get_storage_size()
    needed = math.prod(data.shape) * data.dtype.itemsize
    if layout == h5py.h5d.CHUNKED:
        return by_row or bool(needed <= stored * RATIO)
    end = (data.get_offset() or 0) + needed
    return bool(needed <= stored and end <= h5py.h5i.get_file_id(data).get_filesize())


def text(value: Any) -> str:
    """The text of an attribute or a dataset; bytes that are not UTF-8 raise a UnicodeError."""
    content = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    content.encode("utf-8")  # h5py decodes invalid bytes as surrogates, which this rejects
    return content


def check_label_range(labels: np.ndarray[Any, Any], classes: int | None, where: str, lowest: int = -1) -> None:
    """Every label must be the number of a class, or -1 for none."""
    for label in (labels.min(), labels.max()) if labels.size else ():
        if label < lowest or (classes is not None and label >= classes):
            raise DataError(f"{where}: has the label {label}, which is not one of its classes; recreate the file")


class Disk:
    """A file object for HDF5 that never fails; after the first disk error, it keeps in memory what HDF5 may read again.

    HDF5 cannot close a file that it cannot write: it prints errors from C, tries again when the process ends, and
    crashes. Through this object, a disk error becomes a Python error.
    """

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.pieces: list[tuple[int, bytes]] = []  # (position, content), the newest last
        self.seek, self.tell = file.seek, file.tell

    def write(self, content: Any) -> int:
        start, rest = self.file.tell(), memoryview(content)
        try:
            while len(rest) and not self.error:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.error = error
        if self.error and len(content) < RAW:
            self.pieces.append((start, bytes(content)))
        self.file.seek(start + len(content))
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
