"""The interface between the sources and the patchifier; and `Tree`, which a folder on disk, a tar and a zip share.

One process scans a source once, from front to back; then many processes read its images in any order. So a source can
be pickled, opens its files late and once per process, and never holds the whole listing in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from vitctl.data.sources.files import LargeFile
from vitctl.data.sources.labels import Hints, Label
from vitctl.data.sources.names import Parts, relative_parts
from vitctl.errors import DataError
from vitctl.reporting import Reporter


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image and where its bytes are. `file`, `offset` and `size` are arguments of the source's own `read`."""

    name: str  # path inside the source, with "/", and encodable as UTF-8; the same path may occur twice
    label: Label = None  # class name, class number, a tuple of these for a set, or a float to predict
    split: str | None = None  # "train", "val", "test", or None if the source has no splits
    file: int = 0
    offset: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that looks like an image but can never be read. It is listed in the file's rejects."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Declared:
    """A class, before its first image. So a class with an empty folder is known too."""

    label: str
    split: str | None = None


Sighting = FoundImage | Refused | Declared


class Source(ABC):
    """One process calls `prepare`, then `scan`. Workers get a pickle made after `prepare`, and call only `read`."""

    kind: str
    native: tuple[int, int, int] | None = None  # height, width, channels, if the images are arrays of one size
    class_names: tuple[str, ...] | None = None  # if labels are numbers and the source names them
    hints = Hints()

    def apply(self, hints: Hints) -> None:
        """Takes the user's settings for labels, before the scan."""
        self.hints = hints

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        """Unpacks into the folder `spool` what cannot be read in place.

        It is called again after a kill, with the files of the first call still there, and for each shard, with a folder
        of its own.
        """
        return None

    def scan(self) -> Iterator[Sighting]:
        """Everything in the source, always in the same order, in constant memory.

        Raises DataError if there is no image, or if the source itself is damaged.
        """
        has_images = False
        refused: Refused | None = None
        for sighting in self.sightings():
            if isinstance(sighting, FoundImage):
                has_images = True
            elif isinstance(sighting, Refused):
                refused = refused or sighting
            yield sighting
        if not has_images:
            raise DataError(self.only_rejects_message(refused) if refused else self.no_images_message())

    @abstractmethod
    def sightings(self) -> Iterator[Sighting]:
        """What `scan` yields."""

    @abstractmethod
    def no_images_message(self) -> str:
        """The error if there is no image: the place, and what the scan looked for."""

    def only_rejects_message(self, refused: Refused) -> str:
        """The error if there are rejects but no image; `refused` is the first reject."""
        return f"{self.no_images_message()}; {refused.name}: {refused.reason}"

    @abstractmethod
    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile | np.ndarray:
        """The encoded bytes of one image, or its pixels uint8 [H, W] or [H, W, C]. Raises DataError or OSError."""

    def notes(self) -> list[str]:
        """Lines to show after the scan, such as what it skipped and why."""
        return []


def several_readings(where: str, readings: Mapping[str, str]) -> DataError:
    """The error for an ambiguous source; `readings` is {kind: description}."""
    choices = " or ".join(f"{reading} (--set kind={kind})" for kind, reading in readings.items())
    return DataError(f"{where}: can be read as {choices}; choose one")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder in a tree. `file`, `offset` and `size` are for the tree's own `read`."""

    parts: Parts
    is_folder: bool = False
    file: int = 0
    offset: int = 0
    size: int = 0


def everywhere(folder: Parts) -> bool:
    return True


class Tree(ABC):
    """Can be pickled, and never yields junk files."""

    where: str

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        return None

    @abstractmethod
    def survey(self) -> Iterator[Entry]:
        """Every table, at least one image and one .json of every folder that has some, and empty folders if they can
        be listed."""

    @abstractmethod
    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        """Everything, except in folders that `enters` declines. A tree that cannot skip folders may ignore `enters`."""

    @abstractmethod
    def lookup(self) -> AbstractContextManager[Callable[[Parts], Entry | str]]:
        """A function from a file's path to its entry, or to the reason why there is none."""

    def place(self, path: str, base: Parts) -> Parts | None:
        """The entry that a manifest's path means, relative to the folder `base`. None if it is outside of the tree."""
        parts = relative_parts(path)
        return None if parts is None else (*base, *parts) if parts else ()

    def folder(self, path: str) -> Parts | None:
        """The folder that a manifest's paths are relative to, from --set root. None if there is no such folder."""
        return relative_parts(path)

    @abstractmethod
    def text(self, entry: Entry) -> TextIO:
        """Opens a table."""

    @abstractmethod
    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        """The bytes of an entry; `name` is its printable path."""
