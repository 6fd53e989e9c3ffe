"""NumPy's .npz with arrays of images and labels, with the names used by Keras, MedMNIST or scikit-learn."""

import math
import os
import tokenize
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from vitctl.data.sources.contract import FoundImage, Sighting, Source
from vitctl.data.sources.files import File, name_damaged_file, spool_stream
from vitctl.data.sources.names import SPLITS, as_label, printable
from vitctl.errors import DataError
from vitctl.machine import watch_mapped_file
from vitctl.reporting import Reporter

ROLES = {
    **dict.fromkeys(("images", "image", "x", "data"), "images"),
    **dict.fromkeys(("labels", "label", "y", "target", "targets"), "labels"),
}
CHUNK = 1 << 25  # bytes read at once
ODD = (RuntimeError, SyntaxError, TypeError, tokenize.TokenError)  # more errors of NumPy and zipfile on broken input
Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Array:
    """A member of the archive."""

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: File | None = None  # in the spool, after `prepare`

    @property
    def name(self) -> str:
        return printable(self.member.removesuffix(".npy"))

    def values(self) -> Values:
        assert self.file is not None
        self.file.check_length()
        return npy_map(self.file, os.getpid())


@dataclass
class ArraySplit:
    split: str | None
    images: Array
    labels: Array | None


class Arrays(Source):
    kind = "arrays"

    def __init__(self, path: Path) -> None:
        self.file = File.at(path)
        self.scale = 1.0
        self.remarks: list[str] = []
        with name_damaged_file(str(path), *ODD), zipfile.ZipFile(path) as archive:
            arrays = [read_array_header(archive, member) for member in archive.namelist() if member.endswith(".npy")]
        self.parts = pair_arrays(arrays, str(path))
        used = {array.name for part in self.parts for array in (part.images, part.labels) if array}
        self.unused = [array.name for array in arrays if array.name not in used]
        sizes = {image_shape(part.images, str(path)) for part in self.parts}
        self.native = sizes.pop() if len(sizes) == 1 else None

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        """Unpacks the arrays that are used, because compressed members cannot be mapped."""
        for part in self.parts:
            part.images = self.spool(part.images, spool, reporter)
            part.labels = part.labels and self.spool(part.labels, spool, reporter)
        self.scale, self.remarks = scale_of([part.images for part in self.parts], self.file.path)

    def spool(self, array: Array, spool: Path, reporter: Reporter) -> Array:
        where = f"{self.file.path}, {array.name}"
        with name_damaged_file(where, *ODD), open(self.file.path, "rb") as raw, zipfile.ZipFile(raw) as archive:
            with archive.open(array.member) as stream:
                file = spool_stream(cast(Any, stream), raw, self.file, array.member, spool, reporter)
            npy_map(file, os.getpid())  # raises if the shape does not fit the bytes
        return Array(array.member, array.shape, array.dtype, file)

    def sightings(self) -> Iterator[Sighting]:
        for number, part in enumerate(self.parts):
            for row, label in enumerate(self.labels(part)):
                yield FoundImage(f"{part.images.name}/{row:06d}", label, part.split, number, row)

    def labels(self, part: ArraySplit) -> Iterator[str | int | float | None]:
        if part.labels is None:
            yield from (None for _ in range(part.images.shape[0]))
            return
        values = part.labels.values().reshape(-1)  # [M]
        step = max(CHUNK // values.itemsize, 1)
        for start in range(0, len(values), step):
            piece = values[start : start + step]
            if self.hints.labels == "numbers" and piece.dtype.kind in "iuf":
                yield from map(float, piece)
                continue
            yield from map(as_label, integer_labels(piece, f"{self.file.path}: {part.labels.name}"))

    def read(self, name: str, file: int, offset: int, size: int) -> Values:
        images = self.parts[file].images
        image: Values = images.values()[offset]
        if channels_first(images.shape):
            image = np.moveaxis(image, 0, -1)
        if image.dtype == np.uint8:
            return np.array(image, order="C")
        scaled: Values = np.round(image.astype(np.float64) * self.scale)
        return scaled.astype(np.uint8)

    def no_images_message(self) -> str:
        return f"{self.file.path}: its arrays hold no images"

    def notes(self) -> list[str]:
        return self.remarks + ([f"ignored arrays: {', '.join(self.unused)}"] if self.unused else [])


def read_array_header(archive: zipfile.ZipFile, member: str) -> Array:
    """Reads the shape and type of an array, without its values."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = archive.getinfo(member).file_size - stream.tell()
    if not dtype.hasobject and (min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size):
        raise ValueError(f"{member}: {size} bytes do not make {shape} of {dtype}")
    return Array(member, shape, dtype)


def role_of(name: str) -> tuple[str, str | None] | None:
    """('images', 'train') for x_train, X_train and train_images; ('labels', None) for y."""
    words = name.lower().split("_")
    splits = [SPLITS[word] for word in words if word in SPLITS]
    roles = [ROLES[word] for word in words if word in ROLES]
    if len(roles) != 1 or len(splits) > 1 or len(words) != len(roles) + len(splits):
        return None
    return roles[0], splits[0] if splits else None


def pair_arrays(arrays: list[Array], where: str) -> list[ArraySplit]:
    """The images of each split, with their labels."""
    by_role: dict[tuple[str, str | None], Array] = {}
    for array in arrays:
        role = role_of(array.name)
        if role and role in by_role:
            raise DataError(f"{where}: {by_role[role].name} and {array.name} could both be the {role[0]}; keep one")
        if role:
            if array.dtype.hasobject:
                raise DataError(
                    f"{where}: {array.name} holds Python objects (a pickle), which can run any program and are never "
                    "opened; save it as plain numbers"
                )
            by_role[role] = array
    parts = [
        ArraySplit(split, images, by_role.get(("labels", split)))
        for (what, split), images in by_role.items()
        if what == "images"
    ]
    if not parts:
        names = ", ".join(array.name for array in arrays) or "nothing"
        raise DataError(
            f"{where}: no array of images; looked for x_train/y_train, train_images/train_labels, "
            f"images/labels, x/y and data/target, found {names}"
        )
    if len(parts) > 1 and any(part.split is None for part in parts):
        raise DataError(f"{where}: only some arrays of images are named after a split; name all of them after one")
    for part in parts:
        check_pair(part, where)
    return parts


def check_pair(part: ArraySplit, where: str) -> None:
    image_shape(part.images, where)
    labels, count = part.labels, part.images.shape[0]
    if labels is None:
        return
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{where}: {labels.name} has shape {labels.shape}; {count} images need one label each, [{count}] or "
            f"[{count}, 1]"
        )
    if labels.dtype.kind not in "biufUS":
        raise DataError(f"{where}: {labels.name} has dtype {labels.dtype}; labels must be numbers or class names")


def image_shape(array: Array, where: str) -> tuple[int, int, int]:
    """height, width, channels"""
    shape = array.shape
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: {array.name} has dtype {array.dtype}; images must be numbers")
    if len(shape) == 3:
        return shape[1], shape[2], 1
    if channels_first(shape):
        return shape[2], shape[3], shape[1]
    if len(shape) == 4 and shape[3] in (1, 3, 4):
        return shape[1], shape[2], shape[3]
    raise DataError(
        f"{where}: {array.name} has shape {shape}; images must be [M, H, W], [M, H, W, C] or [M, C, H, W] with C of 1, "
        "3 or 4"
    )


def channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4)


@lru_cache(maxsize=16)
def npy_map(file: File, process: int) -> Values:
    watch_mapped_file(file.path, file.size)
    return np.lib.format.open_memmap(file.path, mode="r")


def scale_of(images: list[Array], where: str) -> tuple[float, list[str]]:
    """The factor that maps values to 0..255, the same for all splits, and a note about it."""
    others = [array for array in images if array.dtype != np.uint8]
    if not others:
        return 1.0, []
    ranges = [value_range(array, where) for array in others]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    names = ", ".join(array.name for array in others)
    if any(array.dtype == np.uint8 for array in images) or low < 0 or high > 255:
        raise DataError(
            f"{where}: {names} hold values from {low:g} to {high:g}; images must be bytes 0..255, or floats 0..1, "
            "in all splits alike"
        )
    unit = high <= 1 and all(array.dtype.kind in "bf" for array in others)
    scaled = "multiplied by 255 and " if unit else ""
    return (255.0 if unit else 1.0), [f"{names}: values from {low:g} to {high:g} were {scaled}rounded to bytes"]


def value_range(array: Array, where: str) -> tuple[float, float]:
    """The smallest and the largest value, with one piece of the array in memory at a time."""
    values = array.values()
    low, high = np.inf, -np.inf
    step = max(CHUNK // max(values[:1].nbytes, 1), 1)
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{where}: {array.name} holds values that are not finite")
    return low, high


def integer_labels(values: Values, where: str) -> list[Any]:
    """Labels as Python values. Floats must be whole numbers."""
    if values.dtype.kind == "f" and not np.array_equal(values, np.trunc(values)):
        raise DataError(f"{where} holds {values.dtype} that are not whole; labels must be whole numbers or class names")
    if values.dtype.kind in "fb":
        values = values.astype(np.int64)
    elif values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "surrogateescape")
    return cast(list[Any], values.tolist())
