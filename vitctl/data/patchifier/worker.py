"""Decodes blocks of rows and writes them to their place: the same code in this process and in worker processes."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.data.patchifier.image_file import plain_jpeg_format, read_size, read_whole
from vitctl.data.patchifier.plan import RowPlan
from vitctl.data.patchifier.workspace import BlockResult, Build
from vitctl.errors import DataError, RunError
from vitctl.io.atomic import write_bytes
from vitctl.io.patch_format import DIGEST, Extent, image_digest
from vitctl.io.patch_writer import RowEncoder

# Errors of a single file. Any other error, such as EIO, may hit every file and must not reject them one by one.
OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG)
SAMPLES = 1024  # images of train from which mean and std are computed


@dataclass(frozen=True)
class RowLayout:
    """Where the rows of a plan lie in the file, and how they are grouped into blocks."""

    plan: RowPlan
    extents: dict[str, Extent]
    block: int  # rows

    @property
    def blocks(self) -> int:
        return -(-self.plan.total // self.block)

    @property
    def end(self) -> int:
        return max(extent.offset + extent.size for extent in self.extents.values())

    def rows(self, number: int) -> range:
        return range(number * self.block, min((number + 1) * self.block, self.plan.total))

    def offset(self, row: int) -> int:
        """The byte in the file where planned row `row` begins; rows are counted over all splits."""
        for split, count in self.plan.splits.items():
            if row < count:
                return self.extents[split].offset + row * self.plan.geometry.row
            row -= count
        raise IndexError(row)

    def split_starts(self) -> dict[str, int]:
        """The first planned row of each split."""
        counts = list(self.plan.splits.values())
        return dict(zip(self.plan.splits, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))

    def is_sampled(self, row: int) -> bool:
        """Whether mean and std use this row: at most SAMPLES of the first split, evenly spaced."""
        first = next(iter(self.plan.splits.values()))
        return row < first and row % -(-first // SAMPLES) == 0


class Worker:
    def __init__(self, build: Build, layout: RowLayout) -> None:
        from vitctl.data.patchifier.decode import Target  # imports torch, which only processes that decode need

        plan, config, shape = layout.plan, build.config, layout.plan.geometry
        self.source, self.layout, self.space, self.config = build.source, layout, build.space, config
        self.target = Target(shape.height, shape.width, shape.channels, plan.fit, config.draft, config.max_pixels)
        self.rows = self.digests = self.sizes = -1
        self.names = np.asarray(plan.column("name"))  # indexing one row of a plain array is faster than of a memmap
        self.where = [np.asarray(plan.column(name)) for name in ("file", "offset", "size")]
        encoded = plan.codec != "raw"
        self.encoder = RowEncoder(shape, plan.codec, config.level, config.quality) if encoded else None
        if not self.encoder:
            self.rows = os.open(self.space.rows, os.O_RDWR)
        self.digests, self.sizes = (os.open(path, os.O_RDWR) for path in (self.space.digests, self.space.sizes))

    def block(self, number: int) -> BlockResult:
        result = BlockResult(number)
        rows = self.layout.rows(number)
        digests = np.zeros((len(rows), DIGEST), np.uint8)
        sizes = np.zeros((len(rows), 2), np.int32)
        chunks: list[bytes] = []
        for row in rows:
            try:
                original = self.read(row)
                patches = self.decode(original, row)
                sizes[row - rows.start] = read_size(original)
            except DataError as error:
                result.rejects.append((row, str(error)))
                chunks.append(b"")
                continue
            if self.layout.is_sampled(row):
                self.measure(patches, result)
            stored: Any = patches
            if self.encoder:
                chunks.append(self.encode(original, patches))
                stored = np.frombuffer(chunks[-1], np.uint8) if self.encoder.jpeg else patches
            else:
                write_rows_at(self.rows, patches, self.layout.offset(row))
            digests[row - rows.start] = np.frombuffer(image_digest(stored), np.uint8)
        if self.encoder:
            lengths = np.array([len(chunks), *map(len, chunks)], np.int64)
            write_bytes(self.space.blocks / f"{number:08d}", lengths.tobytes() + b"".join(chunks))
        write_rows_at(self.digests, digests, rows.start * DIGEST)
        write_rows_at(self.sizes, sizes, rows.start * sizes[:1].nbytes)
        return result

    def read(self, row: int) -> Any:
        """The encoded bytes of an image, or its pixels."""
        name = self.names[row].decode()
        file, offset, length = (int(column[row]) for column in self.where)
        try:
            return read_whole(self.source.read(name, file, offset, length), self.target.max_pixels)
        except OSError as error:
            if error.errno in OF_ONE_FILE and self.source_exists():
                raise DataError(error.strerror) from error
            raise RunError(f"{name}: cannot be read ({error.strerror}); once it can, add --resume") from error

    def decode(self, content: Any, row: int) -> np.ndarray[Any, Any]:
        """uint8 [N, P*P*C]"""
        from vitctl.data.patchifier.decode import decode
        from vitctl.patches import patchify_images

        try:
            return patchify_images(decode(content, self.target), self.layout.plan.geometry.patch)
        except MemoryError as error:
            raise RunError(
                f"{self.names[row].decode()}: too large for the memory; add --resume with fewer --workers, or start "
                "over with a lower --set max_pixels"
            ) from error

    def encode(self, original: Any, patches: np.ndarray[Any, Any]) -> bytes:
        """The row as it is stored. An original JPEG that already has the stored size is kept as it is."""
        assert self.encoder
        is_jpeg = self.encoder.jpeg and isinstance(original, bytes)
        if is_jpeg and plain_jpeg_format(original) == (self.target.width, self.target.height, self.target.channels):
            return bytes(original)
        return self.encoder.encode(patches)

    def source_exists(self) -> bool:
        """False if the whole source is gone, as when a disk is unmounted: then no image is to blame."""
        path = Path(self.config.source)
        return next(path.iterdir(), None) is not None if path.is_dir() else path.exists()

    def measure(self, patches: np.ndarray[Any, Any], result: BlockResult) -> None:
        """Adds one image [N, P*P*C] to the sums. Float32 is exact here: 256 squared bytes stay under 2^24."""
        channels = self.layout.plan.geometry.channels
        totals = np.zeros((2, channels), np.int64)
        for start in range(0, len(patches), 256):
            values = patches[start : start + 256].astype(np.float32)
            ones = np.ones(len(values), np.float32)
            for number, powers in enumerate((values, values * values)):
                totals[number] += (ones @ powers).astype(np.int64).reshape(-1, channels).sum(0)
        result.pixels += patches.size // channels
        result.sums, result.squares = (totals + [result.sums or [0], result.squares or [0]]).tolist()

    def __del__(self) -> None:
        for handle in (self.rows, self.digests, self.sizes):
            if handle >= 0:
                os.close(handle)


def write_rows_at(handle: int, values: np.ndarray[Any, Any], offset: int) -> None:
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def read_lengths(path: Path) -> np.ndarray[Any, Any]:
    """int64 [rows]: the lengths of the encoded rows in a block's file, 0 for a rejected image."""
    with open(path, "rb") as file:
        count = int.from_bytes(file.read(8), "little")
        return np.frombuffer(file.read(8 * count), np.int64)


def read_chunks(path: Path) -> list[bytes]:
    """The encoded rows of a block's file: their number, their lengths (int64 each), then the rows."""
    content, lengths = path.read_bytes(), read_lengths(path)
    ends = 8 * (len(lengths) + 1) + np.cumsum(lengths)
    return [content[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
