"""The patch file: the patches of images, uint8 [M, N, P*P*C], in one memory-mapped HDF5 file; or a JPEG per image.

    /                   format, version, patch, height, width, channels, fit, codec, task, mean, std, digest, ...
    /class_names        [K] text
    /rejects            [R] (name, reason)
    /leaks              [L] (split, name, other_split, other_name): the same image in two splits
    /<split>/patches    uint8 [M, N, P*P*C]    contiguous, or chunked by image when compressed
    /<split>/encoded    uint8 [bytes]          with the codec jpeg, in place of patches: one JPEG after another
    /<split>/starts     int64 [M + 1]          where each begins, and the end of the last
    /<split>/sizes      int32 [M, 2]           height and width of the original
    /<split>/labels     int64 [M]              -1 = unknown; of a set: its first class, or -2 if it is empty
    /<split>/label_sets uint8 [M, ceil(K / 8)] if a label is a set of classes: a bit per class, the first one lowest
    /<split>/targets    float64 [M]            if a label is a number; NaN = unknown
    /<split>/names      text  [M]              where each image came from
    /<split>/digests    uint8 [M, 16]          the first half of the SHA-256 of each image's patches, or of its JPEG

An index over shards has the same groups as virtual datasets, and also `/shards` and `/<split>/shard_rows`.
Version 1 has no codec, task, encoded, starts, sizes, label_sets and targets.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import DataError, did_you_mean
from vitctl.io.hdf5 import SHARDS, check_label_range, open_checked, split_names, text
from vitctl.io.jpeg import check_decoded, decode_jpeg, decode_scaled, decode_window, divisor_for
from vitctl.io.jpeg_tiles import Window
from vitctl.io.patch_format import (
    CHUNK,
    DIGEST,
    EMPTY_SET,
    MOST_ROWS,
    PATCHES,
    Bytes,
    Geometry,
    Header,
    content_digest,
    read_header,
    split_place,
)
from vitctl.io.segment import Segment, explain_damage
from vitctl.patches import patchify_images, unpatchify_images

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Split:
    """The rows of one split, across its shards if there are several."""

    def __init__(self, name: str, segments: Sequence[Segment], header: Header) -> None:
        self.name, self.header, self.geometry = name, header, header.geometry
        self.classes = len(header.class_names)
        self.lowest_label = EMPTY_SET if header.task == "sets" else -1  # 0 once every image is known to have a label
        self.segments = [segment for segment in segments if segment.rows]
        self.starts = np.cumsum([0] + [segment.rows for segment in self.segments])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.rows

    @property
    def encoded(self) -> bool:
        """Whether rows are JPEGs: then images are decoded, and patches are made of them."""
        return self.header.codec == "jpeg"

    def patches(self, rows: Ints, out: Bytes | None = None) -> Bytes:
        """uint8 [B, N, P*P*C]: a copy of these rows, in this order."""
        rows = self.file_rows(rows)
        if out is None:
            out = np.empty((len(rows), self.geometry.count, self.geometry.values), np.uint8)
        if self.encoded:
            out[:] = patchify_images(self.decode(rows), self.geometry.patch)
            return out
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                gather(segment.column("patches"), local, out, where)
        return out

    def images(self, rows: Ints, least: tuple[int, int] | None = None) -> Bytes:
        """uint8 [B, H, W, C]; of JPEGs perhaps half of H and W or less, if these are `least` or more."""
        shape = self.geometry
        if self.encoded:
            return self.decode(self.file_rows(rows), divisor_for((shape.height, shape.width), least) if least else 1)
        return unpatchify_images(self.patches(rows), shape.height, shape.width, shape.patch)

    def windows(self, rows: Ints, windows: Ints, divisors: Ints) -> Iterator[Bytes]:
        """uint8 [h, w, C] of each: the window (top, left, height, width) of one image, of a JPEG at a fraction of its
        size. It may be a view of something larger."""
        places = self.file_rows(rows)
        owners = np.searchsorted(self.starts, places, side="right") - 1
        local = (places - self.starts[owners]).tolist()
        contents = self.read_jpegs(rows) if self.encoded else []
        for index, (window, divisor) in enumerate(zip(windows.tolist(), divisors.tolist(), strict=True)):
            segment = self.segments[owners[index]]
            with explain_damage(segment):
                if self.encoded:
                    yield decode_window(contents[index], self.shape_at(divisor), window, divisor)
                else:
                    yield cut_patches(np.asarray(segment.column("patches")[local[index]]), self.geometry, window)

    def decode(self, rows: Ints, divisor: int = 1) -> Bytes:
        """uint8 [B, H / divisor, W / divisor, C] of rows of the file."""
        size = self.shape_at(divisor)
        out = np.empty((len(rows), *size), np.uint8)
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                places = range(len(rows)) if isinstance(where, slice) else where
                for place, content in zip(places, segment.read_jpegs(local), strict=True):
                    scaled = decode_scaled(content, size[2], divisor) if divisor > 1 else decode_jpeg(content, size[2])
                    out[place] = check_decoded(scaled, size)
        return out

    def shape_at(self, divisor: int) -> tuple[int, int, int]:
        return self.geometry.height // divisor, self.geometry.width // divisor, self.geometry.channels

    def read_jpegs(self, rows: Ints) -> list[Any]:
        """The JPEGs of these rows [B], as bytes-like objects."""
        rows = self.file_rows(rows)
        out: list[Any] = [None] * len(rows)
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                for place, content in zip(np.arange(len(rows))[where], segment.read_jpegs(local), strict=True):
                    out[place] = content
        return out

    def sizes(self, rows: Ints | None = None) -> Ints:
        """int64 [B, 2]: height and width of the originals of these rows, or of the whole split.

        Where rows are not whole images, nothing but the stored image is left: its size.
        """
        if self.header.is_whole:
            return np.asarray(self.take("sizes", rows), np.int64)
        count = self.rows if rows is None else len(rows)
        return np.tile(np.array([self.geometry.height, self.geometry.width]), (count, 1))

    def label_sets(self, rows: Ints | None = None) -> Bytes:
        """uint8 [B, K]: 1 for the classes of each image."""
        packed = self.take("label_sets", rows)
        return np.unpackbits(packed, axis=1, count=self.classes, bitorder="little")

    def targets(self, rows: Ints | None = None) -> Any:
        """float64 [B]: the numbers of the images."""
        return np.asarray(self.take("targets", rows), np.float64)

    def has(self, name: str) -> bool:
        """Whether the file has this column."""
        return all(segment.has(name) for segment in self.segments)

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
                return self.empty_column(name)
            return columns[0] if len(columns) == 1 else np.concatenate(columns)
        rows = self.file_rows(rows)
        out: Any = None
        for segment, where, local in self.parts(rows):
            with explain_damage(segment):
                values = np.asarray(segment.column(name))[local]
            if out is None:
                out = np.empty((len(rows), *values.shape[1:]), values.dtype)
            out[where] = values
        return self.empty_column(name) if out is None else out

    def empty_column(self, name: str) -> Any:
        widths = {"digests": DIGEST, "sizes": 2, "label_sets": -(-self.classes // 8)}
        kind = np.uint8 if name in ("digests", "label_sets") else np.float64 if name == "targets" else np.int64
        return np.empty((0, widths[name]) if name in widths else 0, kind)

    def slices(self, name: str) -> Iterator[Any]:
        """A whole column in pieces, in order; nothing if the file lacks it."""
        for segment in self.segments:
            for start in range(0, segment.rows, CHUNK):
                with explain_damage(segment):
                    if not segment.has(name):
                        break
                    piece = segment.read(name, start, min(start + CHUNK, segment.rows))
                yield piece

    def file_rows(self, rows: Ints) -> Ints:
        """Rows of this split as rows of the file's split, which a subset numbers otherwise."""
        return self.check_rows(rows)

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


def cut_patches(patches: Bytes, shape: Geometry, window: Window) -> Bytes:
    """uint8 [h, w, C] of an image's patches [N, P*P*C], of which only those in the window are copied."""
    top, left, height, width = window
    side = shape.patch
    first, last = (top // side, left // side), (-(-(top + height) // side), -(-(left + width) // side))
    grid = patches.reshape(shape.height // side, shape.width // side, side, side, shape.channels)
    tiles = grid[first[0] : last[0], first[1] : last[1]].swapaxes(1, 2)
    pixels = tiles.copy().reshape((last[0] - first[0]) * side, (last[1] - first[1]) * side, shape.channels)
    top, left = top - first[0] * side, left - first[1] * side
    return pixels[top : top + height, left : left + width]


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
        files, pixels = (
            [self.path] if shards is None else shards,
            "encoded" if self.header.codec == "jpeg" else "patches",
        )
        segments = [Segment(path, name, rows, self.geometry, pixels) for path, rows in zip(files, counts, strict=True)]
        return Split(name, segments, self.header)

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
    def codec(self) -> str:
        """raw, jpeg, or the compression of the rows; files of version 1 do not name it."""
        first = next((segment for split in self.splits.values() for segment in split.segments), None)
        in_chunks = self.header.codec == "raw" and first is not None and first.place("patches") is None
        return "compressed" if in_chunks else self.header.codec

    def count_stored_bytes(self) -> int:
        return self.path.stat().st_size + sum(path.stat().st_size for path in self.files if path != self.path)
