"""The patch file: uint8 patches [M, N, P*P*C] of each split in one memory-mapped HDF5 file.

    /                 format, version, patch, height, width, channels, fit, mean, std, source, created_by, digest, ...
    /class_names      [K] text
    /rejects          [R] (name, reason)
    /leaks            [L] (split, name, other_split, other_name): the same image in two splits
    /<split>/patches  uint8 [M, N, P*P*C]      contiguous, or chunked by image when compressed
    /<split>/labels   int64 [M]                -1 = none
    /<split>/names    text  [M]                where each image came from
    /<split>/digests  uint8 [M, 16]            the first half of the SHA-256 of each image's patches

An index over shards has the same groups as virtual datasets, and also `/shards` and `/<split>/shard_rows`.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import DataError, did_you_mean
from vitctl.io.hdf5 import SHARDS, check_label_range, open_checked, split_names, text
from vitctl.io.patch_format import (
    CHUNK,
    DIGEST,
    MOST_ROWS,
    PATCHES,
    Bytes,
    Geometry,
    content_digest,
    read_header,
    split_place,
)
from vitctl.io.segment import Segment, explain_damage
from vitctl.patches import unpatchify_images

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Split:
    """The rows of one split, across its shards if there are several."""

    def __init__(self, name: str, segments: Sequence[Segment], geometry: Geometry, classes: int | None = None) -> None:
        self.name, self.geometry, self.classes = name, geometry, classes
        self.lowest_label = -1  # 0 once every image is known to have a label
        self.segments = [segment for segment in segments if segment.rows]
        self.starts = np.cumsum([0] + [segment.rows for segment in self.segments])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.rows

    def patches(self, rows: Ints, out: Bytes | None = None) -> Bytes:
        """uint8 [B, N, P*P*C]: a copy of these rows, in this order."""
        rows = self.check_rows(rows)
        if out is None:
            out = np.empty((len(rows), self.geometry.count, self.geometry.values), np.uint8)
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                gather(segment.column("patches"), local, out, where)
        return out

    def images(self, rows: Ints) -> Bytes:
        """uint8 [B, H, W, C]."""
        shape = self.geometry
        return unpatchify_images(self.patches(rows), shape.height, shape.width, shape.patch)

    def labels(self, rows: Ints | None = None) -> Ints:
        """int64 [B] of these rows, or of the whole split: class numbers, or -1."""
        return self.check_labels(self.take("labels", rows))

    def label_slices(self) -> Iterator[Ints]:
        """The labels of the whole split in pieces, which take less memory."""
        return map(self.check_labels, self.slices("labels"))

    def check_labels(self, values: Any) -> Ints:
        labels = np.asarray(values, np.int64)
        where = f"{self.segments[0].path}, {self.name}" if self.segments else self.name
        check_label_range(labels, self.classes, where, self.lowest_label)
        return labels

    def names(self, rows: Ints) -> list[str]:
        return [name.decode("utf-8", "replace") for name in self.take("names", rows)]

    def digests(self, rows: Ints | None = None) -> Bytes:
        """uint8 [B, 16]."""
        return np.asarray(self.take("digests", rows))

    def take(self, name: str, rows: Ints | None) -> Any:
        """The values [B, ...] of a column in these rows, or in the whole split."""
        if rows is None:
            columns = []
            for segment in self.segments:
                with explain_damage(segment):
                    columns.append(segment.read(name, 0, segment.rows))
            if not columns:
                return np.empty((0, DIGEST), np.uint8) if name == "digests" else np.empty(0, np.int64)
            return columns[0] if len(columns) == 1 else np.concatenate(columns)
        rows = self.check_rows(rows)
        out: Any = None
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                values = np.asarray(segment.column(name))[local]
            if out is None:
                out = np.empty((len(rows), *values.shape[1:]), values.dtype)
            out[where] = values
        return np.empty(0, np.int64) if out is None else out

    def slices(self, name: str) -> Iterator[Any]:
        """A whole column in pieces, in order."""
        for segment in self.segments:
            for start in range(0, segment.rows, CHUNK):
                with explain_damage(segment):
                    piece = segment.read(name, start, min(start + CHUNK, segment.rows))
                yield piece

    def check_rows(self, rows: Ints) -> Ints:
        rows, count = np.asarray(rows), int(self.starts[-1])  # a subset passes rows of the whole split, too
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"rows must be integers, not {rows.dtype}; for a mask, pass np.flatnonzero(mask)")
        rows = rows.astype(np.int64, copy=False)
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise IndexError(f"row out of range: split {self.name} has {count} rows")
        return rows

    def parts(self, rows: Ints) -> Iterator[tuple[Segment, Any, Ints]]:
        """For each shard with some of the rows: the shard, their indices in the batch, and their rows in the shard."""
        if len(self.segments) == 1:
            yield self.segments[0], slice(None), rows
            return
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            where = np.flatnonzero(owner == number)
            yield self.segments[number], where, rows[where] - self.starts[number]


def gather(source: Any, rows: Ints, out: Bytes, where: Any) -> None:
    if isinstance(source, np.ndarray) and isinstance(where, slice):
        np.take(source, rows, axis=0, out=out, mode="clip")  # rows are checked; "raise" would copy through a buffer
    elif isinstance(source, np.ndarray):
        out[where] = source[rows]
    else:  # compressed: a fancy index on a chunked dataset is 100 times slower than one row at a time
        for target, row in zip(range(len(rows)) if isinstance(where, slice) else where, rows, strict=True):
            out[target] = source[row]


class PatchFile:
    """A patch file, or an index over shards, open for reading; may be pickled, forked and shared between threads."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_checked(self.path, PATCHES) as file:
            self.header = read_header(file)
            self.digest = text(file.attrs["digest"])
            shards = self.read_shards(file) if SHARDS in file else None
            names = sorted(split_names(file), key=split_place)
            self.splits = {name: self.read_split(file[name], name, shards) for name in names}

    def read_shards(self, file: h5py.File) -> list[Path]:
        """The shards must be in the folder of the index."""
        names = [text(name) for name in file[SHARDS][:]]
        for name in names:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"shard {name!r} is not the name of a file in this folder")
        return [self.path.parent / name for name in names]

    def read_split(self, group: h5py.Group, name: str, shards: list[Path] | None) -> Split:
        counts = [group["labels"].shape[0]] if shards is None else group["shard_rows"][:].tolist()
        if not all(0 <= count < MOST_ROWS for count in counts):
            raise ValueError(f"{name}/shard_rows has an impossible number of rows")
        geometry, files = self.header.geometry, [self.path] if shards is None else shards
        segments = [Segment(path, name, rows, geometry) for path, rows in zip(files, counts, strict=True)]
        return Split(name, segments, geometry, len(self.header.class_names))

    @property
    def geometry(self) -> Geometry:
        return self.header.geometry

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.header.class_names

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold its rows: itself, or its shards."""
        return list(dict.fromkeys(segment.path for split in self.splits.values() for segment in split.segments))

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise DataError(f"{self.path}: has no split {name!r}; {did_you_mean(name, self.splits)}")
        return self.splits[name]

    def rejects(self, most: int | None = None) -> list[tuple[str, str]]:
        """(name, reason) of the first `most` rejected images, or of all."""
        return [(name, reason) for name, reason in self.table("rejects", most)]

    def leaks(self) -> list[tuple[str, str, str, str]]:
        """(split, name, other split, name there) of every image that is in two splits."""
        return [(one, name, other, copy) for one, name, other, copy in self.table("leaks")]

    def table(self, name: str, most: int | None = None) -> list[tuple[str, ...]]:
        with open_checked(self.path, PATCHES) as file:
            return [tuple(text(value) for value in row) for row in file[name][:most]]

    @property
    def reject_count(self) -> int:
        with open_checked(self.path, PATCHES) as file:
            return int(file["rejects"].shape[0])

    def compute_digest(self) -> str:
        """The digest of the content, which `digest` must equal."""
        splits = self.splits
        rows = {name: split.rows for name, split in splits.items()}
        return content_digest(self.geometry, self.class_names, rows, lambda name, column: splits[name].slices(column))

    @property
    def compressed(self) -> bool:
        first = next((segment for split in self.splits.values() for segment in split.segments), None)
        return first is not None and first.place("patches") is None

    def count_stored_bytes(self) -> int:
        return self.path.stat().st_size + sum(path.stat().st_size for path in self.files if path != self.path)
