"""The header and the fields of a patch file."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import h5py
import numpy as np

from vitctl.config.checks import at_least
from vitctl.config.patchify import TASKS
from vitctl.io.hdf5 import SHARDS, Field, FileFormat, text
from vitctl.patches import check_grid

DIGEST = 16  # bytes of an image's digest
CHUNK = 65536  # rows of labels, names or digests that are processed at once
TEXTS = ("fit", "source", "created_by", "options", "plan")  # text attributes of the header
TEXTS_2 = ("codec", "task")  # since version 2
NUMBERS = ("patch", "height", "width", "channels", "pixels", "duplicates", "leaked")
COLUMNS = ("labels", "names", "digests", "sizes", "label_sets", "targets")  # of a split, in the order of the digest
PIXELS = ("patches", "encoded", "starts")
TRAINED = 224  # the resolution of models and of training where nothing names one, if the images have as much
EMPTY_SET = -2  # in labels: the set of classes is known, and empty
MOST_ROWS = 1 << 48  # of a shard: the sum over shards must not overflow int64

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


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
        """N, patches per image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def values(self) -> int:
        """P*P*C, bytes per patch."""
        return self.patch * self.patch * self.channels

    @property
    def row(self) -> int:
        """Bytes per image."""
        return self.height * self.width * self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels} in patches of {self.patch}"


@dataclass(frozen=True)
class Sampled:
    """Exact sums over sampled images of train, so that those of shards can be added."""

    pixels: int
    sums: tuple[int, ...]  # one per channel
    squares: tuple[int, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """One per channel, of pixels from 0 to 1."""
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
    options: str  # digest of the options of vitctl patchify
    plan: str  # digest of the planned rows: shards of one plan belong together
    sampled: Sampled
    duplicates: int = 0  # images that equal an earlier one of their split
    leaked: int = 0  # images of val and test that are in an earlier split too
    codec: str = "raw"  # of the rows
    task: str = "classes"  # what the labels are: a class, a set of classes, or a number

    @property
    def is_whole(self) -> bool:
        """Whether a row is a whole image, squashed, so that crops are drawn in coordinates of the original."""
        return self.fit == "whole"

    @property
    def model_fit(self) -> str:
        """How a model trained on these rows takes images: of whole ones, it is evaluated on the center."""
        return "crop" if self.is_whole else self.fit

    @property
    def training_res(self) -> tuple[int, int]:
        """Height and width of training where nothing names them: whole images have more, so that crops are sharp."""
        height, width = self.geometry.height, self.geometry.width
        return (min(height, TRAINED), min(width, TRAINED)) if self.is_whole else (height, width)

    @property
    def is_digits(self) -> bool:
        """Whether these are the digits that vitctl ships."""
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


def read_geometry(file: h5py.File) -> Geometry:
    return Geometry(*(int(file.attrs[name]) for name in ("patch", "height", "width", "channels")))


def read_header(file: h5py.File) -> Header:
    attrs = file.attrs
    names = tuple(text(name) for name in file["class_names"][:])
    texts: dict[str, Any] = {name: text(attrs[name]) for name in (*TEXTS, *TEXTS_2) if name in attrs}
    if texts.get("task", "classes") not in TASKS:
        raise ValueError(f"task is {texts['task']!r}")
    rest = {"duplicates": int(attrs["duplicates"]), "leaked": int(attrs["leaked"])}
    return Header(read_geometry(file), names, sampled=read_sampled(attrs), **(texts | rest))


def read_sampled(attrs: Any) -> Sampled:
    """The sums, after checking that some pixels have these sums."""
    sampled = Sampled(int(attrs["pixels"]), *(tuple(map(int, attrs[name])) for name in ("sums", "squares")))
    possible = sampled.pixels >= 0
    for total, square in zip(sampled.sums, sampled.squares, strict=True):
        possible &= 0 <= total <= square <= 255 * total and total * total <= square * sampled.pixels
    if not possible:
        raise ValueError("pixels, sums and squares contradict one another")
    return sampled


def content_digest(
    geometry: Geometry, class_names: Sequence[str], rows: Mapping[str, int], slices: Callable[[str, str], Iterator[Any]]
) -> str:
    """SHA-256 over geometry, class names and the columns of all splits: the same for raw and compressed files.

    `slices(split, column)` yields a column in pieces, or nothing if the file lacks it.
    """
    header = asdict(geometry) | {"classes": list(class_names)}
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for split in sorted(rows, key=split_place):
        total.update(f"{split} {rows[split]}".encode())
        for name in COLUMNS:
            for piece in slices(split, name):
                total.update(np.ascontiguousarray(piece).tobytes())
    return total.hexdigest()


def split_place(name: str) -> tuple[int, str]:
    """A sort key: train, val and test first."""
    return {"train": 0, "val": 1, "test": 2}.get(name, 3), name


def image_digest(row: Bytes) -> bytes:
    return hashlib.sha256(row.data).digest()[:DIGEST]


TEXT, NUMBER = Field("text"), Field("integers")
ATTRIBUTES = {
    **dict.fromkeys(("format", *TEXTS, "digest"), TEXT),
    **dict.fromkeys(("version", *NUMBERS), NUMBER),
    **dict.fromkeys(("sums", "squares"), Field("integers", ("C",))),
}
SPLIT_1 = {
    "patches": Field("bytes", ("M", "N", "P*P*C"), by_row=True),
    "labels": Field("integers", ("M",)),
    "names": Field("text", ("M",), optional=True),
    "digests": Field("bytes", ("M", DIGEST), optional=True),
}
PATCHES_1 = FileFormat(
    "vitctl.patches",
    1,
    "patch file",
    "vitctl patchify",
    attributes=ATTRIBUTES,
    root={
        "class_names": Field("text", ("K",)),
        "rejects": Field("pairs of text", ("R",), optional=True),
        "leaks": Field("fours of text", ("L",), optional=True),
        SHARDS: Field("text", ("shards",), optional=True),
    },
    split=SPLIT_1,
    index={"shard_rows": Field("integers", ("shards",))},
    sizes=lambda file: read_sizes(read_geometry(file)),
)
PATCHES = replace(
    PATCHES_1,
    version=2,
    attributes={**ATTRIBUTES, **dict.fromkeys(TEXTS_2, TEXT)},
    split={
        **SPLIT_1,
        "patches": replace(SPLIT_1["patches"], optional=True),
        "encoded": Field("bytes", ("bytes",), optional=True),
        "starts": Field("integers", ("M+1",), optional=True),
        "sizes": Field("integers", ("M", 2)),
        "label_sets": Field("bytes", ("M", "K/8"), optional=True),
        "targets": Field("floats", ("M",), optional=True),
    },
    older=PATCHES_1,
)


def read_sizes(geometry: Geometry) -> dict[str, int]:
    return {"C": geometry.channels, "N": geometry.count, "P*P*C": geometry.values}
