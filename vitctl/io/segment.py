"""The rows of one split in one real file: mapped where they lie plainly, read by HDF5 where they are in chunks."""

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
from vitctl.io.patch_format import FIELDS, PATCHES, Geometry, read_geometry
from vitctl.machine import CUT_SHORT, watch_mapped_file


@dataclass(frozen=True)
class SegmentPlace:
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
    _places: dict[str, SegmentPlace | None] = field(
        default_factory=dict, repr=False
    )  # None: an HDF5 data set in chunks
    _stamp: tuple[int, ...] = field(default=(), repr=False)

    def column(self, name: str) -> Any:
        """patches, labels, names or digests: a read-only map of the file, or an HDF5 data set when in chunks."""
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
        """Rows in their order, copied; not through the map, whose pages would stay in memory."""
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

    def place(self, name: str) -> SegmentPlace | None:
        if not self._places:
            self._places, self._stamp = self.look()
        if name not in self._places:
            raise DataError(f"{self.path}: damaged ({self.split}/{name} is missing); make it anew with vitctl patchify")
        return self._places[name]

    def check_length(self, size: int) -> None:
        """Before the bytes of a map are touched: a process that reads past the end of its file is killed."""
        if size < self._stamp[1]:
            raise DataError(f"{self.path}: {CUT_SHORT}")

    def look(self) -> tuple[dict[str, SegmentPlace | None], tuple[int, ...]]:
        """Where its columns lie, and which file this was: another one under the same name has another stamp."""
        stamp = stamp_of(self.path)  # before it is looked at: a file that is cut in between is shorter than this says
        with open_checked(self.path, PATCHES) as file:
            if SHARDS in file:
                raise DataError(f"{self.path}: is an index itself; name its shards")
            if self.split not in file or file[self.split]["labels"].shape[0] != self.rows:
                raise DataError(f"{self.path}: split {self.split} is not as its index says; write the index anew")
            if read_geometry(file) != self.geometry:
                raise DataError(f"{self.path}: holds {read_geometry(file)}, its index says {self.geometry}")
            group = file[self.split]
            return {name: find_segment(group[name]) for name in FIELDS if name in group}, stamp


def stamp_of(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0  # whoever opens it says why it cannot be
    return status.st_ino, status.st_size, status.st_mtime_ns


def find_segment(data: h5py.Dataset) -> SegmentPlace | None:
    is_plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.dtype.hasobject
    return SegmentPlace(data.dtype, data.shape, data.id.get_offset() or 0) if is_plain else None


@lru_cache(maxsize=256)  # each holds a descriptor, and an index may have thousands of shards
def map_whole_file(path: Path, stamp: tuple[int, ...]) -> mmap.mmap:
    """The whole file, once for all of its columns; a fork shares it."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_ino != stamp[0]:
            raise DataError(f"{path}: was replaced while it was being read; run the same command again")
        watch_mapped_file(path, stamp[1])
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(maxsize=256)
def open_chunked(path: Path, stamp: tuple[int, ...], name: str, process: int) -> h5py.Dataset:
    """A data set that holds its file open, for this process alone: HDF5 must not be carried through a fork."""
    data = open_hdf5(path, PATCHES)[name]
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


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:  # HDF5's, over a chunk that cannot be unpacked
        raise DataError(f"{path}: damaged images; vitctl info --verify names them") from error
