"""HDF5 files of ours: opened, and every field's place, kind and shape checked before anything in them is used.

HDF5 may lead out of a file: by external and symbolic links, by data sets whose bytes lie in other files, by virtual
data sets. None of them is followed: an index over shards is read by the names of its shards.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import ConfigError, DataError
from vitctl.io.files import check_regular_file

RATIO = 2000  # bytes that a byte of a compressed data set can stand for, at most: deflate packs 1032 into one
DAMAGE = (
    KeyError,
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    OverflowError,
    MemoryError,
)  # h5py's, over broken files
SHARDS = "shards"  # the data set that makes a file an index


def is_text_type(kind: np.dtype[Any]) -> bool:
    return h5py.check_string_dtype(kind) is not None


KINDS: dict[str, Callable[[np.dtype[Any]], bool]] = {
    "text": is_text_type,
    "whole numbers": lambda kind: kind.kind in "iu",
    "bytes": lambda kind: bool(kind == np.uint8),
    "floats": lambda kind: kind.kind == "f" and kind.itemsize <= 8,
    "pairs of text": lambda kind: is_record(kind, 2),
    "fours of text": lambda kind: is_record(kind, 4),
}


def is_record(kind: np.dtype[Any], columns: int) -> bool:
    return len(kind.names or ()) == columns and all(is_text_type(kind[name]) for name in kind.names or ())


@dataclass(frozen=True)
class Field:
    """What must stand under a name: an attribute or a data set."""

    kind: str
    shape: tuple[int | str, ...] = ()  # a name stands for one length wherever it occurs; "*" for any further axes
    optional: bool = False
    by_row: bool = False  # never read as a whole: in chunks it may stand for any number of bytes


@dataclass(frozen=True)
class FileFormat:
    name: str
    version: int
    noun: str
    maker: str  # the command that makes such a file
    attributes: Mapping[str, Field]
    root: Mapping[str, Field]
    split: Mapping[str, Field]
    index: Mapping[str, Field] | None = None  # fields of a split where there are shards
    sizes: Callable[[h5py.File], dict[str, int]] = lambda file: {}  # lengths that the attributes say


def is_hdf5(path: Path) -> bool:
    return path.is_file() and bool(h5py.is_hdf5(path))


def can_open(path: Path) -> bool:
    """What begins as an HDF5 file may be cut short."""
    try:
        h5py.File(path, "r").close()
    except (OSError, RuntimeError):
        return False
    return True


def format_of(path: Path) -> str | None:
    """What an HDF5 file says that it is; None for one that says nothing."""
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
    """An open file whose fields are what they must be; whatever h5py raises over a damaged one names it in a line."""
    with open_hdf5(path, form) as file:
        try:
            check_contents(file, path, form)
            yield file
        except (*DAMAGE, ConfigError) as error:
            what = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: damaged ({what}); make it anew with {form.maker}") from error


def open_hdf5(path: Path, form: FileFormat) -> h5py.File:
    check_regular_file(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; {form.maker} makes one")
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a {form.noun}; {form.maker} makes one")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        if number:
            raise DataError(f"{path}: cannot be read ({os.strerror(number)})") from error
        if "truncated" in str(error):
            raise DataError(f"{path}: cut short; {form.maker} makes it anew") from error
        raise DataError(f"{path}: not an HDF5 file, so not a {form.noun}; {form.maker} makes one") from error


def check_contents(file: h5py.File, path: Path, form: FileFormat) -> None:
    found = read_format(file)
    if found != form.name:
        what = f"holds {found!r}" if found else "is HDF5 without a format"
        raise DataError(f"{path}: not a {form.noun} ({what}); {form.maker} makes one")
    check_fields(file.attrs, {"version": form.attributes["version"]}, {})
    if file.attrs["version"] != form.version:
        raise DataError(
            f"{path}: {form.noun} version {file.attrs['version']}, this vitctl reads {form.version}; "
            f"update vitctl, or make the file anew with {form.maker}"
        )
    check_links(file)
    check_fields(file.attrs, {name: field for name, field in form.attributes.items() if not field.shape}, {})
    sizes = form.sizes(file)
    check_fields(file.attrs, {name: field for name, field in form.attributes.items() if field.shape}, sizes)
    check_fields(file, form.root, sizes)
    splits = split_names(file)
    if not splits:
        raise ValueError("it has no splits")
    for name in splits:
        check_fields(file[name], form.index if form.index and SHARDS in file else form.split, dict(sizes))


def check_links(file: h5py.File) -> None:
    """All that is in the file is in the file itself: nothing here may lead to another one."""
    for name in file:
        check_link(file, name)
        if file.get(name, getclass=True) is h5py.Group:
            for inner in file[name]:
                check_link(file[name], inner, may_be_virtual=SHARDS in file)


def check_link(group: h5py.Group, name: str, may_be_virtual: bool = False) -> None:
    where = text(f"{group.name}/{name}".lstrip("/"))
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{where} is a link to somewhere else, which is not followed")
    if group.get(name, getclass=True) is not h5py.Dataset:
        return
    plan = h5py.h5d.open(group.id, name.encode()).get_create_plist()
    if plan.get_external_count():
        raise ValueError(f"{where} lies in another file, which is not opened")
    if plan.get_layout() == h5py.h5d.VIRTUAL and not may_be_virtual:
        raise ValueError(f"{where} is a virtual data set, which is not followed")


def split_names(file: h5py.File) -> list[str]:
    return [name for name in file if file.get(name, getclass=True) is h5py.Group]


def check_fields(holder: Any, fields: Mapping[str, Field], sizes: dict[str, int]) -> None:
    """`holder` is a group or its attributes; lengths that are not known yet are added to `sizes`."""
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
    """Whether what is there is as it must be."""
    if isinstance(holder, h5py.Group):
        if holder.get(name, getclass=True) is not h5py.Dataset:
            return False
        item = h5py.h5d.open(holder.id, name.encode())
        if item.get_create_plist().get_layout() == h5py.h5d.VIRTUAL:  # even its shape would be asked of other files
            return False
    else:
        item = holder.get_id(name)
    if item.get_space().get_simple_extent_type() == h5py.h5s.NULL or not KINDS[field.kind](item.dtype):
        return False
    if isinstance(item, h5py.h5d.DatasetID) and not has_bytes(item, field.by_row):
        return False
    return has_shape(item.shape, field.shape, sizes)


def has_shape(shape: tuple[int, ...], wanted: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    if wanted[-1:] == ("*",):
        return len(shape) >= len(wanted) and min(shape[1:]) > 0 and has_shape(shape[:1], wanted[:1], sizes)
    if len(shape) != len(wanted):
        return False
    return all(
        length == (sizes.setdefault(each, length) if isinstance(each, str) else each)
        for length, each in zip(shape, wanted, strict=True)
    )


def has_bytes(data: Any, by_row: bool) -> bool:
    """Whether the file has the bytes for it: asked before room is made for them."""
    layout, stored = data.get_create_plist().get_layout(), data.get_storage_size()
    needed = math.prod(data.shape) * data.dtype.itemsize
    if layout == h5py.h5d.CHUNKED:
        return by_row or bool(needed <= stored * RATIO)
    end = (data.get_offset() or 0) + needed
    return bool(needed <= stored and end <= h5py.h5i.get_file_id(data).get_filesize())


def text(value: Any) -> str:
    """Text of an attribute or a data set; bytes that are not UTF-8 are an error."""
    found = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    found.encode("utf-8")  # h5py hides what is not UTF-8 in surrogates
    return found


def check_label_range(labels: np.ndarray[Any, Any], classes: int | None, where: str, lowest: int = -1) -> None:
    """That each is the number of a class, or -1 for none."""
    if not labels.size:
        return
    for wrong in (labels.min(), labels.max()):
        if wrong < lowest or (classes is not None and wrong >= classes):
            raise DataError(
                f"{where}: has the label {wrong}, which is none of its classes; damaged or overwritten, so make it anew"
            )
