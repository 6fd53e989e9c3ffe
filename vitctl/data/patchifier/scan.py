"""The source's images, in its order, as columns on disk."""

import hashlib
import json
import math
import shutil
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitctl.data.sources.contract import FoundImage, Refused, Source
from vitctl.data.sources.labels import Label, as_number
from vitctl.errors import DataError
from vitctl.io.atomic import write_json
from vitctl.io.patch_format import EMPTY_SET
from vitctl.reporting import Reporter

Ints = np.ndarray[Any, np.dtype[np.int64]]
# int64 columns of a scan; `end` and `members` are where an image's name and the classes of its label end
NUMBERS = ("split", "label", "file", "offset", "size", "key", "end", "members")
NO_CLASS = -1  # and EMPTY_SET is the label of every set in a scan
BATCH = 65536


class Scan:
    """The source's images, in its order: columns on disk, and in memory only what stays small.

    All attributes but `folder` are stored in scan.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.widest = self.member_count = 0
        self.refused: list[tuple[str, str]] = []
        self.labels: dict[str, int] = {}  # class name -> its number in the column "label"
        self.splits: dict[str | None, int] = {}
        self.declared: dict[str | None, list[str]] = {}  # split -> its class folders
        self.numbered = False  # the source's labels are class numbers
        self.has_classes = self.has_sets = self.has_numbers = False  # what labels are
        self.notes: list[str] = []

    def load(self) -> bool:
        """Reads the scan that the folder holds; False if it holds none that is complete."""
        path = self.folder / "scan.json"
        if not path.exists():
            return False
        vars(self).update(json.loads(path.read_text()))
        self.refused = [(name, reason) for name, reason in self.refused]
        self.splits, self.declared = dict(self.splits), dict(self.declared)
        return True

    def save(self) -> None:
        values = {name: value for name, value in vars(self).items() if name != "folder"}
        values |= {name: list(values[name].items()) for name in ("splits", "declared")}  # a key may be None
        write_json(self.folder / "scan.json", values)

    def digest(self, labels: Ints, splits: Mapping[str, Ints]) -> str:
        """The digest of names, labels and splits."""
        digest = hashlib.sha256()
        with open(self.folder / "scan.names", "rb") as names:
            while piece := names.read(1 << 20):
                digest.update(piece)
        more = {"classes": (), "sets": ("members", "member"), "numbers": ("target",)}[self.task]
        for column in (self.column("end"), labels, *map(self.column, more), *splits.values()):
            for start in range(0, len(column), BATCH):
                digest.update(np.ascontiguousarray(column[start : start + BATCH]).data)
        return digest.hexdigest()

    @property
    def task(self) -> str:
        return "sets" if self.has_sets else "numbers" if self.has_numbers else "classes"

    def run(self, source: Source, reporter: Reporter) -> None:
        """Lists the source. The scan is complete, and survives a kill, once it is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with reporter.progress("scan", None, "files") as bar:
            self.list_images(source, bar.advance)
        self.notes = source.notes()
        self.has_sets |= source.hints.labels == "sets"
        self.has_numbers |= source.hints.labels == "numbers"
        if not self.count:
            name, reason = self.refused[0]
            raise DataError(f"no image can be used; the first is {name}: {reason}")
        if self.has_numbers and (self.has_classes or self.has_sets):
            raise DataError("some labels are decimals and some are classes; --set labels=numbers reads all as numbers")

    def list_images(self, source: Source, advance: Any) -> None:
        with ExitStack() as stack:
            paths = {name: self.folder / f"scan.{name}" for name in (*NUMBERS, "member", "target", "names")}
            files = {name: stack.enter_context(open(path, "wb")) for name, path in paths.items()}
            columns = {name: array("q") for name in (*NUMBERS, "member")} | {"target": array("d")}

            def write_columns() -> None:
                advance(len(columns["key"]))
                for name, values in columns.items():
                    values.tofile(files[name])
                    del values[:]

            for sighting in source.scan():
                if isinstance(sighting, FoundImage) and source.hints.labels == "numbers":
                    sighting = with_number(sighting)
                if isinstance(sighting, FoundImage):
                    self.add(sighting, columns, files["names"])
                elif isinstance(sighting, Refused):
                    self.refused.append((sighting.name, sighting.reason))
                else:
                    self.declared.setdefault(sighting.split, []).append(sighting.label)
                if len(columns["key"]) >= BATCH:
                    write_columns()
            write_columns()

    def add(self, image: FoundImage, columns: Mapping[str, "array[Any]"], names: BinaryIO) -> None:
        name = image.name.encode("utf-8", "backslashreplace")
        names.write(name)
        self.count += 1
        self.widest = max(self.widest, len(name))
        number, members, target = self.read_label(image.label)
        columns["member"].extend(members)
        columns["target"].append(target)
        self.member_count += len(members)
        split = self.splits.setdefault(image.split, len(self.splits))
        place = (image.file, image.offset, image.size, zlib.crc32(name), names.tell())
        for column, value in zip(NUMBERS, (split, number, *place, self.member_count), strict=True):
            columns[column].append(value)

    def read_label(self, label: Label) -> tuple[int, list[int], float]:
        """The class number, or EMPTY_SET for any set; the classes of the set; the number to predict."""
        if isinstance(label, tuple):
            self.has_sets = True
            return EMPTY_SET, [self.number(each) for each in label], math.nan
        if isinstance(label, float):
            self.has_numbers = True
            return NO_CLASS, [], label
        if label is None:
            return NO_CLASS, [], math.nan
        self.has_classes = True
        number = self.number(label)
        return number, [number], math.nan

    def number(self, label: str | int) -> int:
        if isinstance(label, int):
            self.numbered = True
            return label
        return self.labels.setdefault(label, len(self.labels))

    def column(self, name: str) -> Any:
        path, kind = self.folder / f"scan.{name}", np.float64 if name == "target" else np.int64
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def batches(self) -> Iterator[Ints]:
        """All rows, some at a time."""
        return (np.arange(start, min(start + BATCH, self.count)) for start in range(0, self.count, BATCH))

    def members_of(self, rows: Ints) -> tuple[Ints, Ints]:
        """The classes in the labels of these rows, and for each of them its place in `rows`."""
        ends = self.column("members")
        starts = np.where(rows > 0, ends[rows - 1], 0)
        counts = ends[rows] - starts
        owner = np.repeat(np.arange(len(rows)), counts)
        firsts = np.cumsum(counts) - counts
        return self.column("member")[np.arange(len(owner)) - (firsts - starts)[owner]], owner

    def names(self, rows: Ints) -> list[bytes]:
        ends, blob = self.column("end"), np.memmap(self.folder / "scan.names", np.uint8, "r")
        starts = np.where(rows > 0, ends[rows - 1], 0)
        return [blob[start:end].tobytes() for start, end in zip(starts, ends[rows], strict=True)]


def with_number(image: FoundImage) -> FoundImage | Refused:
    """An image whose class folder or class number is a number to predict, because the user says so."""
    if isinstance(image.label, tuple):
        return Refused(image.name, "its label is a set of classes, not a number")
    try:
        return replace(image, label=as_number(image.label))
    except DataError as error:
        return Refused(image.name, f"its label {error}")
