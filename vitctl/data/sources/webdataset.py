"""WebDataset shards: tars in which neighbors with the same key form a sample, 0001.jpg with 0001.cls or 0001.json."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.data.sources.contract import Entry, FoundImage, Refused, Sighting
from vitctl.data.sources.files import File, name_damaged_file
from vitctl.data.sources.labels import LABEL_KEYS, LARGEST_LABEL, Label, json_to_label, text_to_label
from vitctl.data.sources.names import IMAGE_EXTENSIONS, join_parts, printable, split_in
from vitctl.data.sources.tars import TarSource
from vitctl.errors import DataError
from vitctl.reporting import format_count

NAME_FILES = ("classes.txt", "classnames.txt")


@dataclass
class Sample:
    """The members that share a key."""

    key: str = ""
    image: Entry | None = None
    labels: dict[str, Entry] = field(default_factory=dict)  # cls, json or txt

    def add(self, kind: str, entry: Entry) -> None:
        if kind in ("cls", "json", "txt"):
            self.labels[kind] = entry
        elif kind in IMAGE_EXTENSIONS and self.image is None:
            self.image = entry


class WebDataset(TarSource):
    kind = "webdataset"

    def __init__(self, paths: list[Path], where: str) -> None:
        super().__init__(paths, where)
        self.splits, self.remarks = splits_of(paths, "shards")
        self.class_names = class_names_in(paths[0].parent)
        self.unlabeled = self.empty = 0

    def sightings(self) -> Iterator[Sighting]:
        self.unlabeled = self.empty = 0
        for number in range(len(self.tars)):
            for sample in self.samples(number):
                yield from [sample] if isinstance(sample, Refused) else self.sight_sample(sample, number)

    def samples(self, number: int) -> Iterator[Sample | Refused]:
        sample = Sample()
        for entry in self.tars[number].walk():
            if isinstance(entry, Refused):
                yield Refused(f"{self.name(number)}/{entry.name}", entry.reason)
            elif not entry.is_folder:
                *folders, name = entry.parts
                stem, _, kind = name.partition(".")  # train/0001.seg.png: the key is train/0001, the kind seg.png
                key = "/".join((*folders, stem))
                if key != sample.key:
                    yield sample
                    sample = Sample(key)
                sample.add(kind.lower(), entry)
        yield sample

    def sight_sample(self, sample: Sample, number: int) -> Iterator[FoundImage | Refused]:
        if sample.image is None:
            self.empty += sample.key != ""
            return
        name = f"{self.name(number)}/{join_parts(sample.image.parts)}"
        try:
            label = self.label(sample, self.tars[number].file)
        except DataError as error:
            yield Refused(name, str(error))
            return
        self.unlabeled += label is None
        yield FoundImage(name, label, self.splits[number], number, sample.image.offset, sample.image.size)

    def label(self, sample: Sample, file: File) -> Label:
        """A .txt is mostly a caption, so it is a label only if the user says what labels are."""
        for kind in ("cls", "json") if self.hints.labels == "auto" else ("cls", "json", "txt"):
            if entry := sample.labels.get(kind):
                content = file.read(entry.offset, min(entry.size, LARGEST_LABEL))
                if kind == "json":
                    return json_to_label(content, self.hints)
                return text_to_label(content.decode("utf-8", "surrogateescape"), self.hints)
        return None

    def name(self, number: int) -> str:
        return printable(self.tars[number].path.name)

    def no_images_message(self) -> str:
        shards = format_count(len(self.tars), "shard")
        return f"{self.where}: no sample with an image in {shards}; looked for key.jpg with key.cls or key.json"

    def notes(self) -> list[str]:
        notes = list(self.remarks)
        if self.unlabeled:
            keys = ", ".join(LABEL_KEYS)
            notes.append(f"{format_count(self.unlabeled, 'sample')} without a label (.cls, or .json with {keys})")
        if self.empty:
            notes.append(f"skipped {format_count(self.empty, 'sample')} without an image")
        return notes


def splits_of(paths: list[Path], noun: str) -> tuple[list[str | None], list[str]]:
    """The split in the name of each file or its folder, if all have one; and a note if only some do."""
    splits = [split_in(path.name) or split_in(path.parent.name) for path in paths]
    unnamed = [path.name for path, split in zip(paths, splits, strict=True) if split is None]
    if not unnamed:
        return splits, []
    note = f"{unnamed[0]}: no split in its name, so all {noun} are read as one set"
    return [None] * len(paths), [note] if len(unnamed) < len(paths) else []


def class_names_in(folder: Path) -> tuple[str, ...] | None:
    """The class names, one per line, from a file next to the shards."""
    for name in NAME_FILES:
        if (folder / name).is_file():
            with name_damaged_file(str(folder / name)):
                lines = (folder / name).read_text(encoding="utf-8-sig", errors="surrogateescape").rstrip().splitlines()
            return tuple(printable(line.strip()) for line in lines)
    return None
