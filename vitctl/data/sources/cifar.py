"""CIFAR-10 and CIFAR-100 as their authors' binary files: records of one or two labels and 3072 bytes of pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.data.sources.contract import FoundImage, Sighting, Source
from vitctl.data.sources.files import File, name_damaged_file
from vitctl.data.sources.names import printable
from vitctl.errors import DataError

PIXELS = 3 * 32 * 32
CHUNK = 1 << 14  # records scanned at once


@dataclass(frozen=True)
class Version:
    splits: dict[str, tuple[str, ...]]  # split -> its files
    names: str  # the file of class names
    labels: int  # bytes before the pixels; the last is the class

    @property
    def files(self) -> set[str]:
        return {name for files in self.splits.values() for name in files}


CIFAR10 = Version(
    {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    "batches.meta.txt",
    1,
)
CIFAR100 = Version({"train": ("train.bin",), "test": ("test.bin",)}, "fine_label_names.txt", 2)
PICKLES = ({"data_batch_1", "test_batch"}, {"train", "test", "meta"})  # the files of the Python versions


class Cifar(Source):
    kind = "cifar"
    native = 32, 32, 3

    def __init__(self, folder: Path, version: Version) -> None:
        self.where, self.version = str(folder), version
        missing = sorted(name for name in version.files | {version.names} if not (folder / name).is_file())
        if missing:
            raise DataError(f"{folder}: {', '.join(missing)} missing; copy or download the binary version again")
        with name_damaged_file(self.where):
            text = (folder / version.names).read_text(encoding="utf-8")
        self.class_names = tuple(printable(line.strip()) for line in text.splitlines() if line.strip())
        self.files = [(split, File.at(folder / name)) for split, names in version.splits.items() for name in names]
        for _, file in self.files:
            if file.size % self.record:
                raise DataError(
                    f"{file.path}: its {file.size} bytes are not a multiple of {self.record}; copy or download it again"
                )

    @property
    def record(self) -> int:
        return self.version.labels + PIXELS

    def records(self, number: int) -> np.ndarray[Any, Any]:
        file = self.files[number][1]
        if not file.size:
            raise DataError(f"{file.path}: is empty; copy or download it again")
        return file.map_bytes((file.size // self.record, self.record), 0)

    def sightings(self) -> Iterator[Sighting]:
        for number, (split, file) in enumerate(self.files):
            labels = self.records(number)[:, self.version.labels - 1]
            for start in range(0, len(labels), CHUNK):
                for row, label in enumerate(labels[start : start + CHUNK].tolist(), start):
                    yield FoundImage(f"{file.name}/{row:05d}", label, split, number, row)

    def read(self, name: str, file: int, offset: int, size: int) -> np.ndarray[Any, Any]:
        planes = self.records(file)[offset, self.version.labels :].reshape(3, 32, 32)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))  # [H, W, C]

    def no_images_message(self) -> str:
        return f"{self.where}: its .bin files hold no images"


def cifar_version(names: set[str]) -> Version | None:
    """The version whose files have these names."""
    if "data_batch_1.bin" in names:
        return CIFAR10
    return CIFAR100 if CIFAR100.names in names else None


def refuse_pickles(where: str, names: set[str]) -> None:
    if PICKLES[0] <= names or PICKLES[1] <= names:
        version = "10" if PICKLES[0] <= names else "100"
        raise DataError(
            f"{where}: is CIFAR-{version}'s Python version, whose files are pickles, which can run any program and are "
            f"never opened; get cifar-{version}-binary.tar.gz from the same page, unpack it, and name its folder"
        )
