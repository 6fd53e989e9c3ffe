"""The rows of one split in one real file: memory-mapped if they are contiguous, read by HDF5 if they are in chunks."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import DataError
from vitctl.io.hdf5 import SHARDS, open_checked, open_hdf5
from vitctl.io.patch_format import COLUMNS, PATCHES, PIXELS, Geometry, read_geometry
from vitctl.machine import CUT_SHORT, watch_mapped_file


@dataclass(frozen=True)
class SegmentPlace:
    """Where a contiguous dataset is in its file."""

    dtype: Any
    shape: tuple[int, ...]
    offset: int


@dataclass
class Segment:
    """One split in one real file, opened on first use. Maps and handles belong to a process and are never pickled."""

    path: Path
    split: str
    rows: int
    geometry: Geometry
    pixels: str = "patches"  # the column of the rows: patches, or encoded
    _places: dict[str, SegmentPlace | None] = field(default_factory=dict, repr=False)  # None: in chunks
    _stamp: tuple[int, ...] = field(default=(), repr=False)

    def column(self, name: str) -> Any:
        """The rows, or one of the COLUMNS: a read-only map of the file, or an HDF5 dataset if in chunks."""
        place = self.place(name)
        if place is None:
            data = open_chunked(self.path, self._stamp, f"{self.split}/{name}", os.getpid())
            self.check_length(os.fstat(data.file.id.get_vfd_handle()).st_size)  # HDF5 reads zeros past the end
            return data
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        whole = map_whole_file(self.path, self._stamp)
        self.check_length(whole.size())
        return np.frombuffer(whole, place.dtype, int(np.prod(place.shape)), place.offset).reshape(place.shape)

    def read(self, name: str, start: int, stop: int) -> Any:
        """A copy of these rows, not through the map, whose pages would stay in memory."""
        place = self.place(name)
        if place is None:
            return np.asarray(self.column(name)[start:stop])
        out = np.empty((stop - start, *place.shape[1:]), place.dtype)
        rest = out.reshape(-1).view(np.uint8).data
        with open(self.path, "rb", buffering=0) as file:
            self.check_length(os.fstat(file.fileno()).st_size)
            file.seek(place.offset + start * (out.nbytes // max(len(out), 1)))
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
        if rest:
            raise DataError(f"{self.path}: {CUT_SHORT}")
        return out

    def has(self, name: str) -> bool:
        if not self._places:
            self._places, self._stamp = self.read_places()
        return name in self._places

    def read_jpegs(self, rows: Any) -> list[Any]:
        """The bytes of these rows [B] of a file of JPEGs."""
        starts, content = np.asarray(self.column("starts")), self.column("encoded")
        ends = starts[rows + 1].tolist()
        places = list(zip(starts[rows].tolist(), ends, strict=True))
        if not all(0 <= start < end <= len(content) for start, end in places):
            raise OSError("a row lies outside of the file")
        return [content[start:end].data for start, end in places]

    def place(self, name: str) -> SegmentPlace | None:
        if not self.has(name):
            raise DataError(f"{self.path}: damaged ({self.split}/{name} is missing); recreate it with vitctl patchify")
        return self._places[name]

    def check_length(self, size: int) -> None:
        """Called before a map is read: reading past the end of a truncated file kills the process."""
        if size < self._stamp[1]:
            raise DataError(f"{self.path}: {CUT_SHORT}")

    def read_places(self) -> tuple[dict[str, SegmentPlace | None], tuple[int, ...]]:
        """The places of the columns, and the stamp of the file: a new file under the same name has another stamp."""
        stamp = stamp_of(self.path)  # first, so that a file truncated later is shorter than its stamp
        with open_checked(self.path, PATCHES) as file:
            if SHARDS in file:
                raise DataError(f"{self.path}: is an index, not a shard; list its shards instead")
            if self.split not in file or file[self.split]["labels"].shape[0] != self.rows:
                raise DataError(f"{self.path}: split {self.split} does not match its index; recreate the index")
            if self.pixels not in file[self.split]:
                raise DataError(
                    f"{self.path}: damaged ({self.split}/{self.pixels} is missing); recreate it with vitctl patchify"
                )
            if (geometry := read_geometry(file)) != self.geometry:
                raise DataError(f"{self.path}: has {geometry}, but its index has {self.geometry}; recreate the index")
            group = file[self.split]
            if "starts" in group and len(group["starts"]) != self.rows + 1:
                raise ValueError(f"{self.split}/starts has {len(group['starts'])} numbers for {self.rows} rows")
            return {name: find_segment(group[name]) for name in (*PIXELS, *COLUMNS) if name in group}, stamp


def stamp_of(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0  # opening it will raise a better error
    return status.st_ino, status.st_size, status.st_mtime_ns


def find_segment(data: h5py.Dataset) -> SegmentPlace | None:
    is_plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.dtype.hasobject
    return SegmentPlace(data.dtype, data.shape, data.id.get_offset() or 0) if is_plain else None


@lru_cache(maxsize=256)  # each map holds a file descriptor, and an index may have thousands of shards
def map_whole_file(path: Path, stamp: tuple[int, ...]) -> mmap.mmap:
    """One map for all columns of a file; forks share it."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_ino != stamp[0]:
            raise DataError(f"{path}: was replaced while it was being read; run the same command again")
        watch_mapped_file(path, stamp[1])
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(maxsize=256)
def open_chunked(path: Path, stamp: tuple[int, ...], name: str, process: int) -> h5py.Dataset:
    """A dataset with its open file, for one process: HDF5 handles must not be used after a fork."""
    data = open_hdf5(path, PATCHES)[name]
    if not data.id.get_create_plist().all_filters_avail() and not load_filters():
        raise DataError(f"{path}: compressed with a filter that is not installed: pip install hdf5plugin")
    return data


def load_filters() -> bool:
    """Whether more filters could be loaded."""
    try:
        import hdf5plugin  # noqa: F401 - the import loads them
    except ImportError:
        return False
    return True


@contextmanager
def explain_damage(segment: Segment) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, LookupError) as error:  # HDF5's, for a chunk that cannot be unpacked
        segment.check_length(stamp_of(segment.path)[1])  # it may have been cut while it was read
        raise DataError(f"{segment.path}: has damaged images; vitctl info --verify lists them") from error
