"""WebDataset shards: tars in which neighbors with one key make a sample, 0001.jpg with 0001.cls or 0001.json."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.data.sources.contract import FoundImage, Refused, Sighting, Source
from vitctl.data.sources.files import File, LargeFile, name_damaged_file
from vitctl.data.sources.names import PICTURES, as_label, join_parts, parse_label, printable, split_in
from vitctl.data.sources.tars import Tar
from vitctl.data.sources.tree import Entry
from vitctl.reporting import Reporter

LABEL_KEYS = ("label", "class", "cls")
NAME_FILES = ("classes.txt", "classnames.txt")
LARGEST_LABEL = 1 << 24  # bytes of a .json


@dataclass
class Sample:
    """What shares a key."""

    key: str = ""
    picture: Entry | None = None
    labels: dict[str, Entry] = field(default_factory=dict)  # cls or json


class WebDataset(Source):
    kind = "webdataset"

    def __init__(self, paths: list[Path], where: str) -> None:
        self.where = where
        self.shards = [Tar(path) for path in paths]
        splits = [split_in(path.name) or split_in(path.parent.name) for path in paths]
        self.silent = [path.name for path, split in zip(paths, splits, strict=True) if split is None]
        self.splits = [None] * len(paths) if self.silent else splits
        self.class_names = class_names_in(paths[0].parent)
        self.unlabeled = self.empty = 0

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        for shard in self.shards:
            shard.prepare(spool, reporter)

    def sightings(self) -> Iterator[Sighting]:
        self.unlabeled = self.empty = 0
        for number in range(len(self.shards)):
            for sample in self.samples(number):
                yield from [sample] if isinstance(sample, Refused) else self.sight_sample(sample, number)

    def samples(self, number: int) -> Iterator[Sample | Refused]:
        """Runs of neighbors with one key."""
        sample = Sample()
        for entry in self.shards[number].walk():
            if isinstance(entry, Refused):
                yield Refused(f"{self.name(number)}/{entry.name}", entry.reason)
            elif not entry.is_folder:
                key, kind = key_and_kind(entry)
                if key != sample.key:
                    yield sample
                    sample = Sample(key)
                add(sample, kind, entry)
        yield sample

    def sight_sample(self, sample: Sample, number: int) -> Iterator[FoundImage]:
        if sample.picture is None:
            self.empty += sample.key != ""
            return
        label = self.label(sample, self.shards[number].file)
        self.unlabeled += label is None
        name = f"{self.name(number)}/{join_parts(sample.picture.parts)}"
        yield FoundImage(name, label, self.splits[number], number, sample.picture.offset, sample.picture.size)

    def label(self, sample: Sample, file: File) -> str | int | None:
        if "cls" in sample.labels:
            return parse_label(content(sample.labels["cls"], file).decode("utf-8", "surrogateescape"))
        if "json" in sample.labels:
            return label_in(content(sample.labels["json"], file))
        return None

    def name(self, number: int) -> str:
        return printable(self.shards[number].path.name)

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return self.shards[file].file.content(offset, size)

    def no_images_message(self) -> str:
        return (
            f"{self.where}: no sample with an image in {len(self.shards)} shards; "
            "looked for key.jpg with key.cls or key.json"
        )

    def notes(self) -> list[str]:
        notes = []
        if self.silent and len(self.silent) < len(self.shards):
            notes.append(f"{self.silent[0]} names no split, so all shards are read as one set")
        if self.unlabeled:
            notes.append(f"{self.unlabeled} samples have no label (.cls, or .json with {', '.join(LABEL_KEYS)})")
        if self.empty:
            notes.append(f"{self.empty} samples without an image were left out")
        return notes


def key_and_kind(entry: Entry) -> tuple[str, str]:
    """('train/0001', 'seg.png') of train/0001.seg.png: the first dot of the name divides."""
    *folders, name = entry.parts
    stem, _, kind = name.partition(".")
    return "/".join((*folders, stem)), kind.lower()


def add(sample: Sample, kind: str, entry: Entry) -> None:
    if kind in ("cls", "json"):
        sample.labels[kind] = entry
    elif kind in PICTURES and sample.picture is None:
        sample.picture = entry


def content(entry: Entry, file: File) -> bytes:
    return file.read(entry.offset, min(entry.size, LARGEST_LABEL))


def label_in(text: bytes) -> str | int | None:
    """The label that a sample's JSON holds, if it holds one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    return next((as_label(values[key]) for key in LABEL_KEYS if key in values), None)


def class_names_in(folder: Path) -> tuple[str, ...] | None:
    """The list of class names beside the shards, one a line."""
    for name in NAME_FILES:
        if (folder / name).is_file():
            with name_damaged_file(str(folder / name)):
                lines = (folder / name).read_text(encoding="utf-8-sig", errors="surrogateescape").rstrip().splitlines()
            return tuple(printable(line.strip()) for line in lines)
    return None
