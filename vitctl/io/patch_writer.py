"""Writes patch files: raw ones around their rows, those of encoded rows, and indexes over shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vitctl.errors import DataError
from vitctl.io.hdf5 import create_hdf5
from vitctl.io.jpeg import encode_jpeg
from vitctl.io.patch_file import PatchFile, Split
from vitctl.io.patch_format import (
    CHUNK,
    COLUMNS,
    PATCHES,
    TEXTS,
    TEXTS_2,
    Bytes,
    Extent,
    Geometry,
    Header,
    Notes,
    content_digest,
    split_place,
)
from vitctl.patches import unpatchify_images

PAGE = 4096  # rows begin on a page, so that maps and writes are aligned
FRONT = 65536  # bytes at the front for HDF5's own structures

Slices = Callable[[str, str], Iterator[Any]]  # (split, column) to the pieces of the column


@dataclass(frozen=True)
class SplitContent:
    """The columns of one split, in the final order of its rows."""

    capacity: int  # planned rows, for which space is reserved
    rows: int  # rows that were not rejected
    labels: Any  # int64 [rows]; this and the others are arrays or maps, read by slices
    names: Any
    digests: Any
    sizes: Any  # int32 [rows, 2]
    label_sets: Any = None  # uint8 [rows, ceil(K / 8)]
    targets: Any = None  # float64 [rows]


def align(size: int) -> int:
    return -(-size // PAGE) * PAGE


def create(path: Path) -> h5py.File:
    """A new file; equal calls make equal bytes: no times are stored, and offsets depend on sizes only.

    HDF5 allocates its own structures from one block at the front, never from the gaps between the rows.
    """
    return h5py.File(path, "w", alignment_threshold=1, alignment_interval=PAGE, meta_block_size=FRONT)


def row_extents(folder: Path, geometry: Geometry, capacities: Mapping[str, int]) -> dict[str, Extent]:
    """Where the rows of each split will be: HDF5 decides this in a sparse file that is then deleted."""
    probe = folder / "probe.h5"
    try:
        with create(probe) as file:
            reserved = {name: reserve(file, name, geometry, count, count) for name, count in capacities.items()}
            return {name: extent for name, (extent, _) in reserved.items()}
    finally:
        probe.unlink(missing_ok=True)


def reserve(file: h5py.File, split: str, geometry: Geometry, rows: int, capacity: int) -> tuple[Extent, Any]:
    """Creates /split/patches with `rows` rows, and reserves the space of `capacity` rows.

    So the offset of the next split does not depend on rejected images. The space is an anonymous dataset, which must
    stay open until the next split exists; closing the file deletes it.
    """
    shape = (rows, geometry.count, geometry.values)
    data = file.create_group(split).create_dataset("patches", shape, np.uint8, dcpl=early_allocation())
    spare = align(capacity * geometry.row) + PAGE - align(rows * geometry.row)
    space = h5py.h5d.create(file.id, None, h5py.h5t.STD_U8LE, h5py.h5s.create_simple((spare,)), early_allocation())
    return Extent(data.id.get_offset() or 0, rows * geometry.row), space


def early_allocation() -> Any:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return plist


def write_skeleton(path: Path, header: Header, splits: Mapping[str, SplitContent], notes: Notes) -> dict[str, Extent]:
    """Writes everything except the rows, for which it leaves holes, and returns their places."""
    with create(path) as file:
        geometry = header.geometry
        reserved = {name: reserve(file, name, geometry, each.rows, each.capacity) for name, each in splits.items()}
        write_contents(file, header, splits, notes)
        return {name: extent for name, (extent, _) in reserved.items()}


def write_contents(file: h5py.File, header: Header, splits: Mapping[str, SplitContent], notes: Notes) -> None:
    for name, split in splits.items():
        for field_name in COLUMNS:
            if (values := getattr(split, field_name)) is not None:
                write_column(file[name], field_name, values, split.rows)

    def slices(split: str, name: str) -> Iterator[Any]:
        column = file[split].get(name, ())
        return (column[start : start + CHUNK] for start in range(0, len(column), CHUNK))

    write_root(file, header, notes, {name: split.rows for name, split in splits.items()}, slices)


def write_root(file: h5py.File, header: Header, notes: Notes, rows: Mapping[str, int], slices: Slices) -> None:
    text, sampled = h5py.string_dtype(), header.sampled
    file.attrs.update({"format": PATCHES.name, "version": PATCHES.version, **asdict(header.geometry)})
    file.attrs.update({"mean": np.array(header.mean), "std": np.array(header.std), "pixels": sampled.pixels})
    file.attrs.update({"sums": np.array(sampled.sums, np.int64), "squares": np.array(sampled.squares, np.int64)})
    file.attrs.update({name: getattr(header, name) for name in (*TEXTS, *TEXTS_2, "duplicates", "leaked")})
    file.attrs["digest"] = content_digest(header.geometry, header.class_names, rows, slices)
    file.create_dataset("class_names", data=np.array(header.class_names, dtype=object), dtype=text)
    write_text_table(file, "rejects", ("name", "reason"), notes.rejects)
    write_text_table(file, "leaks", ("split", "name", "other_split", "other_name"), notes.leaks)


def write_text_table(file: h5py.File, name: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    kind = np.dtype([(column, h5py.string_dtype()) for column in columns])
    file.create_dataset(name, data=np.array([tuple(row) for row in rows], dtype=kind))


def write_column(group: h5py.Group, name: str, values: Any, rows: int) -> None:
    kind = h5py.string_dtype("utf-8", values.dtype.itemsize) if name == "names" else values.dtype
    column = group.create_dataset(name, (rows, *values.shape[1:]), kind)
    for start in range(0, rows, CHUNK):  # the view only changes the dtype, to h5py's for UTF-8
        column[start : start + CHUNK] = np.asarray(values[start : start + CHUNK]).view(kind)


def write_index(path: Path, shards: Sequence[Path], header: Header, notes: Notes) -> None:
    """Writes an HDF5 file of virtual datasets over the shards, which must be in its folder."""
    parts = [PatchFile(shard) for shard in shards]
    names = [shard.name for shard in shards]
    splits = sorted({name for part in parts for name in part.splits}, key=split_place)
    with create(path) as file:
        file.create_dataset("shards", data=np.array(names, dtype=object), dtype=h5py.string_dtype())
        counts = {split: [part.splits[split].rows if split in part.splits else 0 for part in parts] for split in splits}
        for split, rows in counts.items():
            group = file.create_group(split)
            group.create_dataset("shard_rows", data=np.array(rows, np.int64))
            like = next(part.splits[split] for part in parts if split in part.splits)
            if like.encoded:
                add_encoded(group, names, [part.splits.get(split) for part in parts])
            for name in COLUMNS if like.encoded else ("patches", *COLUMNS):
                if like.has(name):
                    add_virtual(group, name, names, rows, like)

        def slices(split: str, name: str) -> Iterator[Any]:
            for part in parts:
                if split in part.splits:
                    yield from part.splits[split].slices(name)

        write_root(file, header, notes, {split: sum(rows) for split, rows in counts.items()}, slices)


def add_encoded(group: h5py.Group, shards: Sequence[str], splits: Sequence[Split | None]) -> None:
    """The JPEGs of all shards as one dataset, and where each row begins in it."""
    starts, lengths = [np.zeros(1, np.int64)], []
    for split in splits:
        own = np.concatenate([segment.column("starts") for segment in split.segments]) if split else np.zeros(1, int)
        starts.append(own[1:] + starts[-1][-1])
        lengths.append(int(own[-1]))
    group.create_dataset("starts", data=np.concatenate(starts))
    like = next(split for split in splits if split)
    add_virtual(group, "encoded", shards, lengths, like)


def add_virtual(group: h5py.Group, name: str, shards: Sequence[str], rows: Sequence[int], like: Split) -> None:
    with h5py.File(like.segments[0].path) as first:
        model = first[like.name][name]
        kind, inner = model.dtype, model.shape[1:]
    shape, start = (sum(rows), *inner), 0
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)  # h5py's create_virtual_dataset stores the time, so equal calls make other bytes
    for shard, count in zip(shards, rows, strict=True):
        if count:
            part = h5py.h5s.create_simple(shape)
            part.select_hyperslab((start, *(0 for _ in inner)), (count, *inner))
            source = h5py.h5s.create_simple((count, *inner))
            plist.set_virtual(part, shard.encode(), f"{like.name}/{name}".encode(), source)
            start += count
    kind = h5py.h5t.py_create(kind, logical=True)
    h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), plist)


class RowEncoder:
    """Encodes single rows, in any process: a JPEG, or a chunk that HDF5's filters compress in memory."""

    def __init__(self, geometry: Geometry, codec: str, level: int, quality: int) -> None:
        self.geometry, self.quality, self.jpeg = geometry, quality, codec == "jpeg"
        if not self.jpeg:
            self.file = h5py.File("row", "w", driver="core", backing_store=False)
            shape = (1, geometry.count, geometry.values)
            self.scratch = self.file.create_dataset(
                "row", shape, np.uint8, chunks=shape, **filter_options(codec, level)
            )

    def encode(self, row: Bytes) -> bytes:
        """A JPEG of patches [N, P*P*C]; or four bytes of HDF5's filter mask, then the chunk, perhaps uncompressed."""
        if self.jpeg:
            shape = self.geometry
            return encode_jpeg(unpatchify_images(row, shape.height, shape.width, shape.patch), self.quality)
        self.scratch[0] = row
        self.scratch.flush()
        mask, chunk = self.scratch.id.read_direct_chunk((0, 0, 0))
        return bytes(mask.to_bytes(4, "little") + chunk)


def filter_options(codec: str, level: int) -> dict[str, Any]:
    if codec == "gzip":
        return {"compression": "gzip", "compression_opts": level}
    if codec == "lzf":
        return {"compression": "lzf"}
    try:
        import hdf5plugin
    except ImportError:
        raise DataError(f"codec {codec} needs hdf5plugin: pip install hdf5plugin") from None
    return dict(hdf5plugin.Zstd(clevel=level) if codec == "zstd" else hdf5plugin.LZ4())


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one split, in their final order."""

    lengths: Any  # int64 [rows], bytes
    content: Iterator[bytes]


def write_encoded(
    path: Path,
    header: Header,
    splits: Mapping[str, SplitContent],
    notes: Notes,
    rows: Mapping[str, EncodedRows],
    level: int,
) -> None:
    """Writes a whole file from encoded rows."""
    with create_hdf5(path) as file:
        for name in splits:
            group = file.create_group(name)
            if header.codec == "jpeg":
                write_jpeg_rows(group, rows[name])
            else:
                write_chunks(group, rows[name], header, level)
        write_contents(file, header, splits, notes)


def write_chunks(group: h5py.Group, rows: EncodedRows, header: Header, level: int) -> None:
    shape = (len(rows.lengths), header.geometry.count, header.geometry.values)
    options = filter_options(header.codec, level)
    data = group.create_dataset("patches", shape, np.uint8, chunks=(1, *shape[1:]), **options)
    for row, chunk in enumerate(rows.content):
        data.id.write_direct_chunk((row, 0, 0), chunk[4:], int.from_bytes(chunk[:4], "little"))


def write_jpeg_rows(group: h5py.Group, rows: EncodedRows) -> None:
    starts = np.concatenate([[0], np.cumsum(rows.lengths)])  # [M + 1]
    data = group.create_dataset("encoded", (int(starts[-1]),), np.uint8)
    for start, content in zip(starts.tolist(), rows.content, strict=False):
        data[start : start + len(content)] = np.frombuffer(content, np.uint8)
    group.create_dataset("starts", data=starts)
