"""The patch file: uint8 patches [M, N, P*P*C] of each split in one HDF5 file that is read by mapping it.

    /                 format, version, patch, height, width, channels, fit, mean, std, source, created_by, digest, ...
    /class_names      [K] text
    /rejects          [R] (name, reason)
    /leaks            [L] (split, name, other_split, other_name): the same picture in two splits
    /<split>/patches  uint8 [M, N, P*P*C]      contiguous, or chunked by picture when compressed
    /<split>/labels   int64 [M]                -1 = none
    /<split>/names    text  [M]                where each picture came from
    /<split>/digests  uint8 [M, 16]            of each picture's patches: SHA-256, first half

An index over shards has the same groups as virtual data sets, and beside them `/shards` and `/<split>/shard_rows`.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.config.checks import at_least
from vitctl.errors import ConfigError, DataError, did_you_mean
from vitctl.patches import check_grid, unpatchify

FORMAT = "vitctl.patches"
VERSION = 1
DIGEST = 16  # bytes of a picture's digest
CHUNK = 65536  # rows of labels, names or digests handled at once
TEXTS = ("fit", "source", "created_by", "options", "plan")  # of the header, as they stand
FIELDS = ("patches", "labels", "names", "digests")

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Geometry:
    patch: int
    height: int
    width: int
    channels: int

    def __post_init__(self) -> None:
        check_grid(self.height, self.width, self.patch)
        at_least("channels", self.channels, 1)

    @property
    def count(self) -> int:
        """N, patches in a picture."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def values(self) -> int:
        """P*P*C, bytes in a patch."""
        return self.patch * self.patch * self.channels

    @property
    def row(self) -> int:
        """Bytes in a picture."""
        return self.height * self.width * self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels} in patches of {self.patch}"


@dataclass(frozen=True)
class Sampled:
    """Exact sums over sampled pictures of train, so that shards can be added up."""

    pixels: int
    sums: tuple[int, ...]  # of each channel
    squares: tuple[int, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in units of 255."""
        return tuple(total / self.pixels / 255 if self.pixels else 0.5 for total in self.sums)

    @property
    def std(self) -> tuple[float, ...]:
        if not self.pixels:
            return (0.5,) * len(self.sums)
        pairs = zip(self.sums, self.squares, strict=True)
        return tuple((square * self.pixels - total * total) ** 0.5 / self.pixels / 255 for total, square in pairs)

    def __add__(self, other: "Sampled") -> "Sampled":
        sums = tuple(one + two for one, two in zip(self.sums, other.sums, strict=True))
        squares = tuple(one + two for one, two in zip(self.squares, other.squares, strict=True))
        return Sampled(self.pixels + other.pixels, sums, squares)


@dataclass(frozen=True)
class Header:
    geometry: Geometry
    class_names: tuple[str, ...]
    fit: str
    source: str
    created_by: str
    options: str  # digest of the options that made it
    plan: str  # digest of what was to be in it: shards of one plan belong together
    sampled: Sampled
    duplicates: int = 0  # pictures that equal an earlier one of their split
    leaked: int = 0  # pictures of val and test that stand in an earlier split too

    @property
    def is_digits(self) -> bool:
        """The embedded ones."""
        return self.source == "digits"

    @property
    def mean(self) -> tuple[float, ...]:
        return self.sampled.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.sampled.std


@dataclass(frozen=True)
class Extent:
    offset: int
    size: int


@dataclass(frozen=True)
class Notes:
    rejects: Sequence[tuple[str, str]] = ()
    leaks: Sequence[tuple[str, str, str, str]] = ()


@dataclass(frozen=True)
class Place:
    """Where a contiguous data set lies in its file."""

    dtype: Any
    shape: tuple[int, ...]
    offset: int


@dataclass
class Segment:
    """One split in one real file. Looked at on first use; maps and handles belong to a process, and are never sent."""

    path: Path
    split: str
    rows: int
    geometry: Geometry
    _places: dict[str, Place | None] = field(default_factory=dict, repr=False)  # None: an HDF5 data set in chunks
    _stamp: tuple[int, ...] = field(default=(), repr=False)

    def column(self, name: str) -> Any:
        """patches, labels, names or digests: a read-only map of the file, or an HDF5 data set when in chunks."""
        if not self._places:
            self._places, self._stamp = self.look()
        place = self._places[name]
        if place is None:
            return chunked(self.path, f"{self.split}/{name}", os.getpid())
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        whole = mapped(self.path, self._stamp)
        return np.frombuffer(whole, place.dtype, int(np.prod(place.shape)), place.offset).reshape(place.shape)

    def look(self) -> tuple[dict[str, Place | None], tuple[int, ...]]:
        """Where its columns lie, and which file this was: another one under the same name has another stamp."""
        with reading(self.path) as file:
            if self.split not in file or file[self.split]["labels"].shape[0] != self.rows:
                raise DataError(f"{self.path}: split {self.split} is not as its index says; write the index anew")
            if read_geometry(file) != self.geometry:
                raise DataError(f"{self.path}: holds {read_geometry(file)}, its index says {self.geometry}")
            group, shape = file[self.split], (self.rows, self.geometry.count, self.geometry.values)
            patches = group["patches"]
            if patches.shape != shape or patches.dtype != np.uint8:
                raise ValueError(f"{self.split}/patches is {patches.dtype} {patches.shape}, not {shape}")
            status = os.stat(self.path)
            places = {name: place_of(group[name], status.st_size) for name in FIELDS if name in group}
        return places, (status.st_ino, status.st_size, status.st_mtime_ns)


def place_of(data: h5py.Dataset, length: int) -> Place | None:
    if data.chunks is not None:
        return None
    offset = data.id.get_offset() or 0
    if offset + data.id.get_storage_size() > length or (data.size and not offset):
        raise ValueError(f"{data.name} is cut short")
    return Place(data.dtype, data.shape, offset)


@lru_cache(maxsize=256)  # each holds a descriptor, and an index may have thousands of shards
def mapped(path: Path, stamp: tuple[int, ...]) -> mmap.mmap:
    """The whole file, once for all of its columns; a fork shares it."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(maxsize=256)
def chunked(path: Path, name: str, process: int) -> h5py.Dataset:
    """A data set that holds its file open, for this process alone: HDF5 must not be carried through a fork."""
    data = open_hdf5(path)[name]
    if not data.id.get_create_plist().all_filters_avail() and not load_filters():
        raise DataError(f"{path}: compressed by a filter that is not here: pip install hdf5plugin")
    return data


def load_filters() -> bool:
    """Whether HDF5 has got more filters now."""
    try:
        import hdf5plugin  # noqa: F401 - importing it is what loads them
    except ImportError:
        return False
    return True


class Split:
    """The rows of one split, across shards where there are several."""

    def __init__(self, name: str, segments: Sequence[Segment], geometry: Geometry) -> None:
        self.name, self.geometry = name, geometry
        self.segments = [segment for segment in segments if segment.rows]
        self.starts = np.cumsum([0] + [segment.rows for segment in self.segments])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def __len__(self) -> int:
        return self.rows

    def patches(self, rows: Ints, out: Bytes | None = None) -> Bytes:
        """uint8 [B, N, P*P*C] of the rows asked for, in their order, copied once."""
        rows = self.checked(rows)
        if out is None:
            out = np.empty((len(rows), self.geometry.count, self.geometry.values), np.uint8)
        for segment, where, local in self.parts(rows):
            try:
                gather(segment.column("patches"), local, out, where)
            except OSError as error:
                raise DataError(f"{segment.path}: damaged pictures; vitctl info --verify names them") from error
        return out

    def images(self, rows: Ints) -> Bytes:
        """uint8 [B, H, W, C]."""
        shape = self.geometry
        return unpatchify(self.patches(rows), shape.height, shape.width, shape.patch)

    def labels(self, rows: Ints | None = None) -> Ints:
        """int64 [B], or of the whole split."""
        return np.asarray(self.take("labels", rows), np.int64)

    def names(self, rows: Ints) -> list[str]:
        return [name.decode("utf-8", "replace") for name in self.take("names", rows)]

    def digests(self, rows: Ints | None = None) -> Bytes:
        """uint8 [B, 16]."""
        return np.asarray(self.take("digests", rows))

    def take(self, name: str, rows: Ints | None) -> Any:
        if rows is None:
            columns = [np.asarray(segment.column(name)[:]) for segment in self.segments]
            if not columns:
                return np.empty((0, DIGEST) if name == "digests" else 0, np.uint8 if name == "digests" else np.int64)
            return columns[0] if len(columns) == 1 else np.concatenate(columns)
        rows = self.checked(rows)
        out: Any = None
        for segment, where, local in self.parts(rows):
            found = np.asarray(segment.column(name))[local]
            if out is None:
                out = np.empty((len(rows), *found.shape[1:]), found.dtype)
            out[where] = found
        return np.empty(0, np.int64) if out is None else out

    def slices(self, name: str) -> Iterator[Any]:
        """A whole column in pieces, in order."""
        for segment in self.segments:
            for start in range(0, segment.rows, CHUNK):
                yield np.asarray(segment.column(name)[start : start + CHUNK])

    def checked(self, rows: Ints) -> Ints:
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"rows are numbers, not {rows.dtype}; for a mask write np.flatnonzero(mask)")
        rows = rows.astype(np.int64, copy=False)
        if rows.size and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"split {self.name} has {self.rows} rows")
        return rows

    def parts(self, rows: Ints) -> Iterator[tuple[Segment, Any, Ints]]:
        """For each shard that is touched: where its rows go in the batch, and which of its rows they are."""
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
    else:  # compressed: a fancy index on a chunked data set is two orders slower than one row at a time
        for target, row in zip(range(len(rows)) if isinstance(where, slice) else where, rows, strict=True):
            out[target] = source[row]


class PatchFile:
    """A patch file, or an index over shards, open for reading; may be pickled, forked and shared between threads."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with reading(self.path) as file:
            self.header = read_header(file)
            self.digest = str(file.attrs["digest"])
            self.splits = {name: self.read_split(file, name) for name in split_names(file)}

    def read_split(self, file: h5py.File, name: str) -> Split:
        geometry = self.header.geometry
        if "shards" not in file:
            return Split(name, [Segment(self.path, name, file[name]["labels"].shape[0], geometry)], geometry)
        shards = [self.path.parent / shard.decode() for shard in file["shards"][:]]
        counts = file[name]["shard_rows"][:].tolist()
        return Split(
            name,
            [Segment(*each, geometry) for each in zip(shards, [name] * len(shards), counts, strict=True)],
            geometry,
        )

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
            raise DataError(f"{self.path}: there is no split {name!r}; {did_you_mean(name, self.splits)}")
        return self.splits[name]

    def rejects(self) -> list[tuple[str, str]]:
        return [(name, reason) for name, reason in self.table("rejects")]

    def leaks(self) -> list[tuple[str, str, str, str]]:
        return [(one, name, other, copy) for one, name, other, copy in self.table("leaks")]

    def table(self, name: str) -> list[tuple[str, ...]]:
        with reading(self.path) as file:
            return [tuple(value.decode() for value in row) for row in file[name][:]]

    def computed_digest(self) -> str:
        """What `digest` must be."""
        rows = {name: split.rows for name, split in self.splits.items()}
        return content_digest(
            self.geometry, self.class_names, rows, lambda name, column: self.splits[name].slices(column)
        )

    @property
    def compressed(self) -> bool:
        segment = next(segment for split in self.splits.values() for segment in split.segments)
        return not isinstance(segment.column("patches"), np.ndarray)

    def stored_bytes(self) -> int:
        return self.path.stat().st_size + sum(path.stat().st_size for path in self.files if path != self.path)


def is_hdf5(path: Path) -> bool:
    return bool(h5py.is_hdf5(path))


def open_hdf5(path: Path) -> h5py.File:
    if not path.exists():
        raise DataError(f"{path}: no such file; vitctl patchify SOURCE makes one")
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a patch file; make one with vitctl patchify {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno:
            raise DataError(f"{path}: cannot be read ({os.strerror(error.errno)})") from error
        if "truncated" in str(error):
            raise DataError(f"{path}: cut short; make it anew with vitctl patchify") from error
        raise DataError(f"{path}: not an HDF5 file; make a patch file with vitctl patchify") from error


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """An open patch file; whatever h5py raises over a damaged one becomes a line that names it."""
    with open_hdf5(path) as file:
        try:
            check_header(file, path)
            yield file
        except (
            ConfigError,
            KeyError,
            OSError,
            ValueError,
            TypeError,
            RuntimeError,
            OverflowError,
            MemoryError,
        ) as error:
            raise DataError(
                f"{path}: damaged ({' '.join(str(error).split())}); make it anew with vitctl patchify"
            ) from error


def check_header(file: h5py.File, path: Path) -> None:
    found = file.attrs.get("format")
    if found != FORMAT:
        what = f"holds {found!r}" if found else "is HDF5 without a format"
        raise DataError(f"{path}: not a patch file ({what}); make one with vitctl patchify")
    if file.attrs.get("version") != VERSION:
        raise DataError(
            f"{path}: patch file version {file.attrs.get('version')}, this vitctl reads {VERSION}; "
            "update vitctl, or make the file anew with vitctl patchify"
        )


def read_geometry(file: h5py.File) -> Geometry:
    return Geometry(*(int(file.attrs[name]) for name in ("patch", "height", "width", "channels")))


def read_header(file: h5py.File) -> Header:
    attrs = file.attrs
    return Header(
        geometry=read_geometry(file),
        class_names=tuple(name.decode() for name in file["class_names"][:]),
        **{name: str(attrs[name]) for name in TEXTS},
        sampled=Sampled(int(attrs["pixels"]), *(tuple(map(int, attrs[name])) for name in ("sums", "squares"))),
        duplicates=int(attrs["duplicates"]),
        leaked=int(attrs["leaked"]),
    )


def content_digest(
    geometry: Geometry, class_names: Sequence[str], rows: Mapping[str, int], slices: Callable[[str, str], Iterator[Any]]
) -> str:
    """SHA-256 over what the file says and the digests of its pictures: the same however they are stored.

    `slices(split, column)` gives a column in pieces.
    """
    what = asdict(geometry) | {"classes": list(class_names)}
    whole = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for split in sorted(rows, key=split_place):
        whole.update(f"{split} {rows[split]}".encode())
        for name in FIELDS[1:]:
            for piece in slices(split, name):
                whole.update(np.ascontiguousarray(piece).tobytes())
    return whole.hexdigest()


def split_names(file: h5py.File) -> list[str]:
    return sorted((name for name, item in file.items() if isinstance(item, h5py.Group)), key=split_place)


def split_place(name: str) -> tuple[int, str]:
    """train, val, test first, whatever the order in the file."""
    return {"train": 0, "val": 1, "test": 2}.get(name, 3), name


def picture_digest(row: Bytes) -> bytes:
    return hashlib.sha256(row.data).digest()[:DIGEST]
