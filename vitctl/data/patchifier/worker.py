"""Decodes rows into their place; the same in this process and in others."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.plan import RowPlan
from vitctl.data.patchifier.workspace import BlockResult, Workspace
from vitctl.data.sources.contract import Source
from vitctl.errors import DataError, RunError
from vitctl.io.atomic import write_bytes
from vitctl.io.patch_format import DIGEST, Extent, Geometry, image_digest
from vitctl.io.patch_writer import RowCodec

OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG)
SAMPLES = 1024  # images of train that mean and std are taken from


@dataclass(frozen=True)
class RowLayout:
    """Where the rows of a plan lie in the file, and how they are dealt out in blocks."""

    geometry: Geometry
    splits: dict[str, int]
    extents: dict[str, Extent]
    block: int  # rows

    @property
    def total(self) -> int:
        return sum(self.splits.values())

    @property
    def blocks(self) -> int:
        return -(-self.total // self.block)

    @property
    def end(self) -> int:
        return max(extent.offset + extent.size for extent in self.extents.values())

    def rows(self, number: int) -> range:
        return range(number * self.block, min((number + 1) * self.block, self.total))

    def offset(self, row: int) -> int:
        """Where planned row `row`, counted over all splits, lies in the file."""
        for split, count in self.splits.items():
            if row < count:
                return self.extents[split].offset + row * self.geometry.row
            row -= count
        raise IndexError(row)

    def begins(self) -> dict[str, int]:
        """The first planned row of each split."""
        counts = list(self.splits.values())
        return dict(zip(self.splits, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))

    def is_sampled(self, row: int) -> bool:
        """Whether mean and std look at this row: up to SAMPLES of the first split, evenly."""
        first = next(iter(self.splits.values()))
        return row < first and row % -(-first // SAMPLES) == 0


class Worker:
    """Decodes blocks of rows into their place; the same in this process and in others."""

    def __init__(
        self, source: Source, plan: RowPlan, layout: RowLayout, space: Workspace, config: PatchifyConfig
    ) -> None:
        from vitctl.data.patchifier.decode import Target  # torch comes with it: only who decodes pays for it

        shape = plan.geometry
        self.source, self.layout, self.space, self.config = source, layout, space, config
        self.target = Target(shape.height, shape.width, shape.channels, config.fit, config.draft, config.max_pixels)
        self.rows = self.digests = -1
        self.names = np.asarray(plan.column("name"))  # plain arrays over the maps: quicker to index by one row
        self.where = [np.asarray(plan.column(name)) for name in ("file", "offset", "size")]
        self.codec = RowCodec(shape, config.codec, config.level) if config.compress else None
        if not self.codec:
            self.rows = os.open(space.rows, os.O_RDWR)
        self.digests = os.open(space.digests, os.O_RDWR)

    def block(self, number: int) -> BlockResult:
        result = BlockResult(number)
        rows = self.layout.rows(number)
        digests = np.zeros((len(rows), DIGEST), np.uint8)
        chunks: list[bytes] = []
        for row in rows:
            try:
                patches = self.read(row)
            except DataError as error:
                result.rejects.append((row, str(error)))
                chunks.append(b"")
                continue
            digests[row - rows.start] = np.frombuffer(image_digest(patches), np.uint8)
            if self.layout.is_sampled(row):
                self.measure(patches, result)
            if self.codec:
                chunks.append(self.codec.encode(patches))
            else:
                write_rows_at(self.rows, patches, self.layout.offset(row))
        if self.codec:
            write_chunks(self.space.blocks / f"{number:08d}", chunks)
        write_rows_at(self.digests, digests, rows.start * DIGEST)
        return result

    def read(self, row: int) -> np.ndarray[Any, Any]:
        """uint8 [N, P*P*C]"""
        from vitctl.data.patchifier.decode import decode
        from vitctl.data.patchifier.image_file import read_whole
        from vitctl.patches import patchify_images

        name = self.names[row].decode()
        file, offset, length = (int(column[row]) for column in self.where)
        try:
            content = read_whole(self.source.read(name, file, offset, length), self.target.max_pixels)
        except OSError as error:
            if error.errno in OF_ONE_FILE and self.source_is_there():
                raise DataError(error.strerror) from error
            raise RunError(f"{name}: cannot be read now ({error.strerror}); go on with --resume when it can") from error
        try:
            return patchify_images(decode(content, self.target), self.layout.geometry.patch)
        except MemoryError as error:
            raise RunError(
                f"{name}: too large for the memory; go on with fewer --workers, or start over with a "
                "lower --set max_pixels"
            ) from error

    def source_is_there(self) -> bool:
        """Or else a disk was unmounted: then nothing can be said of a single image."""
        place = Path(self.config.source)
        return next(place.iterdir(), None) is not None if place.is_dir() else place.exists()

    def measure(self, patches: np.ndarray[Any, Any], result: BlockResult) -> None:
        """Adds one image [N, P*P*C] to the sums. Float32 is exact here: 256 squares of a byte stay under 2^24."""
        channels = self.layout.geometry.channels
        totals = np.zeros((2, channels), np.int64)
        for start in range(0, len(patches), 256):
            values = patches[start : start + 256].astype(np.float32)
            ones = np.ones(len(values), np.float32)
            for number, powers in enumerate((values, values * values)):
                totals[number] += (ones @ powers).astype(np.int64).reshape(-1, channels).sum(0)
        result.pixels += patches.size // channels
        result.sums, result.squares = (totals + [result.sums or [0], result.squares or [0]]).tolist()

    def __del__(self) -> None:
        for handle in (self.rows, self.digests):
            if handle >= 0:
                os.close(handle)


Recipe = tuple[Source, RowPlan, RowLayout, Workspace, PatchifyConfig]  # what a Worker is made of, in whatever process


def write_rows_at(handle: int, values: np.ndarray[Any, Any], offset: int) -> None:
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def write_chunks(path: Path, chunks: list[bytes]) -> None:
    sizes = np.array([len(chunks), *map(len, chunks)], np.int64)
    write_bytes(path, sizes.tobytes() + b"".join(chunks))


def read_chunks(path: Path) -> list[bytes]:
    content = path.read_bytes()
    count = int(np.frombuffer(content, np.int64, 1)[0])
    ends = np.cumsum(np.frombuffer(content, np.int64, count, 8)) + 8 * (count + 1)
    return [
        content[begin:end] for begin, end in zip([8 * (count + 1), *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]
