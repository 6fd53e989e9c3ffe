"""What every kind of source promises to the patchifier.

A source is scanned once, front to back, by one process; its images are then read in any order by many. So it is
picklable, opens its files late, once per process, and never holds the whole listing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitctl.data.sources.files import LargeFile
from vitctl.errors import DataError
from vitctl.reporting import Reporter


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, and where its bytes are: `file`, `offset` and `size` mean what the source that made them wants."""

    name: str  # its path inside the source, always with "/", always encodable; the same path may come twice
    label: str | int | None = None  # the name of its class, or the class's number where the source has numbers
    split: str | None = None  # "train", "val", "test", or None where the source has no splits
    file: int = 0
    offset: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that was meant to be an image and can never be read: it goes to the file's rejects."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Declared:
    """A class that exists, told before its images: so an empty class folder is known too."""

    label: str
    split: str | None = None


Sighting = FoundImage | Refused | Declared


class Source(ABC):
    """`prepare`, then `scan`, in one process; workers get a pickle made after `prepare` and only `read`."""

    kind: str
    native: tuple[int, int, int] | None = None  # height, width, channels, where the images are arrays of one size
    class_names: tuple[str, ...] | None = None  # for labels that are numbers, where the source names them

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        """Unpack into the folder `spool` what can only be read front to back.

        Called again after a kill, with what was made by then still there; and for each shard, with a folder of its own.
        """
        return None

    def scan(self) -> Iterator[Sighting]:
        """Everything there is, always in the same order, with memory that does not grow with the source.

        Raises DataError when there is no image, and when the source itself is damaged.
        """
        found = False
        refused: Refused | None = None
        for sighting in self.sightings():
            if isinstance(sighting, FoundImage):
                found = True
            elif isinstance(sighting, Refused):
                refused = refused or sighting
            yield sighting
        if not found:
            raise DataError(self.only_rejects_message(refused) if refused else self.no_images_message())

    @abstractmethod
    def sightings(self) -> Iterator[Sighting]:
        """What `scan` gives out."""

    @abstractmethod
    def no_images_message(self) -> str:
        """The error when no image was found: where, and what was looked for."""

    def only_rejects_message(self, refused: Refused) -> str:
        """The same where something was refused, and this was the first."""
        return f"{self.no_images_message()}; {refused.name}: {refused.reason}"

    @abstractmethod
    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile | np.ndarray:
        """The encoded bytes of one image, or its pixels uint8 [H, W] or [H, W, C]. Raises DataError or OSError."""

    def notes(self) -> list[str]:
        """Said once after the scan: what was left out, and why."""
        return []


def several_readings(where: str, readings: Mapping[str, str]) -> DataError:
    """The error for what can be read in more than one way: {kind: what it would be read as}."""
    ways = " or ".join(f"{reading} (--set kind={kind})" for kind, reading in readings.items())
    return DataError(f"{where}: can be read as {ways}; say which")
