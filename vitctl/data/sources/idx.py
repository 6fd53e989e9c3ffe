"""MNIST's own files, and those of data sets like it: train-images-idx3-ubyte and the three others, gzipped or not.

An IDX file is two zero bytes, a type (8: bytes), the number of dimensions, each dimension as a big-endian 32-bit
number, then the values.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.data.sources.contract import FoundImage, Sighting, Source
from vitctl.data.sources.files import File, first_unpacked
from vitctl.data.sources.names import printable, split_name
from vitctl.errors import DataError
from vitctl.reporting import Reporter

NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(\.gz)?", re.IGNORECASE)
BYTES = 8  # the type
CHUNK = 1 << 16  # labels scanned at once


@dataclass
class IdxSplit:
    split: str
    name: str  # of its images' file
    originals: tuple[File, File]  # images and labels, gzipped or not
    shape: tuple[int, ...]  # M, H, W
    images: File  # both unpacked, after `prepare`
    labels: File


class Idx(Source):
    kind = "idx"

    def __init__(self, paths: Iterable[Path], where: str) -> None:
        """The files of one data set."""
        self.where = where
        files = {}
        for path in sorted(paths, reverse=True):  # an unpacked file comes after its .gz, and replaces it
            if match := NAME.fullmatch(path.name):
                files[match[2].lower(), match[3].lower()] = path
        self.parts = []
        for word in sorted({word for word, _ in files}, key=["train", "t10k", "test"].index):
            pair = files.get((word, "images")), files.get((word, "labels"))
            if pair[0] is None or pair[1] is None:
                raise DataError(f"{where}: {word}-images and {word}-labels belong together, but one is missing")
            self.parts.append(read_idx_split(word, pair[0], pair[1]))
        sizes = {part.shape[1:] for part in self.parts}
        if len(sizes) == 1:
            height, width = sizes.pop()
            self.native = height, width, 1

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        for part in self.parts:
            part.images, part.labels = (file.unpack_into(spool, reporter) for file in part.originals)
            check_length(part.images, part.shape, part.name)
            check_length(part.labels, part.shape[:1], part.name.replace("images", "labels"))

    def sightings(self) -> Iterator[Sighting]:
        for number, part in enumerate(self.parts):
            labels = part.labels.map_bytes(part.shape[:1], header_size(1))
            for start in range(0, len(labels), CHUNK):
                for row, label in enumerate(labels[start : start + CHUNK].tolist(), start):
                    yield FoundImage(f"{part.name}/{row:06d}", label, part.split, number, row)

    def read(self, name: str, file: int, offset: int, size: int) -> np.ndarray[Any, Any]:
        part = self.parts[file]
        return np.array(part.images.map_bytes(part.shape, header_size(3))[offset])  # [H, W]

    def no_images_message(self) -> str:
        return f"{self.where}: its IDX files hold no images"

    def notes(self) -> list[str]:
        if any("emnist" in part.name.lower() for part in self.parts):
            return ["EMNIST's own files hold every image transposed; the images stay as they are"]
        return []


def read_idx_split(word: str, images: Path, labels: Path) -> IdxSplit:
    split = "test" if word == "t10k" else split_name(word) or ""
    shape, count = dimensions(images, 3), dimensions(labels, 1)
    if shape[0] != count[0]:
        raise DataError(
            f"{images}: {shape[0]} images, but {count[0]} labels in {labels.name}; copy or download both again"
        )
    files = File.at(images), File.at(labels)
    return IdxSplit(split, printable(images.name.removesuffix(".gz")), files, shape, *files)


def header_size(dimensions: int) -> int:
    return 4 + 4 * dimensions


def dimensions(path: Path, expected: int) -> tuple[int, ...]:
    """The sizes in the header of an IDX file of `expected` dimensions."""
    start = first_unpacked(path, header_size(expected))
    if start[:3] != bytes((0, 0, BYTES)) or start[3:4] != bytes((expected,)) or len(start) < header_size(expected):
        raise DataError(f"{path}: not an IDX file of bytes in {expected} dimensions; copy or download it again")
    sizes = struct.unpack(f">{expected}I", start[4:])
    if 0 in sizes:
        raise DataError(f"{path}: is empty ({' x '.join(map(str, sizes))})")
    return sizes


def check_length(file: File, shape: tuple[int, ...], name: str) -> None:
    expected = header_size(len(shape)) + int(np.prod(shape, dtype=object))
    if file.size != expected:
        raise DataError(f"{name}: has {file.size} bytes, but its header promises {expected}; copy or download it again")


def idx_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """The IDX files of each data set in a folder: {'emnist-letters-': its files}."""
    sets: dict[str, list[str]] = {}
    for name in sorted(names):
        if match := NAME.fullmatch(name):
            sets.setdefault(match[1].lower(), []).append(name)
    return sets
