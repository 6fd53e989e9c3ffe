"""Reads the beginning of a tar to find out which kind of source it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from vitctl.data.sources.cifar import cifar_version, refuse_pickles
from vitctl.data.sources.contract import several_readings
from vitctl.data.sources.files import compression, name_damaged_file
from vitctl.data.sources.idx import idx_sets
from vitctl.data.sources.names import IMAGE_EXTENSIONS, Parts, extension, is_junk
from vitctl.data.sources.tars import headers, tar_entry
from vitctl.data.sources.tree import Entry
from vitctl.data.sources.webdataset import LARGEST_LABEL, label_in
from vitctl.errors import DataError

MEMBERS, BYTES = 1000, 1 << 26  # read at most; in a compressed tar, even this takes time


@dataclass
class FolderPreview:
    """What the first members of a tar are."""

    tars: int = 0
    images: int = 0
    labeled: bool = False  # by .cls files, which only WebDataset uses
    json_labeled: bool = False
    folders: set[Parts] = field(default_factory=set)  # that hold images
    names: set[str] = field(default_factory=set)

    def add(self, entry: Entry, stream: BinaryIO) -> None:
        kind = extension(entry.parts[-1])
        self.names.add(entry.parts[-1])
        self.tars += kind == "tar"
        self.labeled |= kind == "cls"
        if kind in IMAGE_EXTENSIONS:
            self.images += 1
            self.folders.add(entry.parts[:-1])
        if kind == "json" and not self.json_labeled:
            stream.seek(entry.offset)
            self.json_labeled = label_in(stream.read(min(entry.size, LARGEST_LABEL))) is not None


def preview_folder(path: Path) -> FolderPreview:
    preview = FolderPreview()
    with name_damaged_file(str(path)), (compression(path) or open)(path, "rb") as stream:
        for header in islice(headers(stream, str(path)), MEMBERS):
            entry = tar_entry(header)
            if isinstance(entry, Entry) and not entry.is_folder and not any(map(is_junk, entry.parts)):
                preview.add(entry, stream)
            if header.offset_data + header.size > BYTES:
                break
    return preview


def kind_of_tars(paths: Sequence[Path], where: str) -> str:
    """webdataset, class-tars, or folder. The first tar decides for all."""
    preview = preview_folder(paths[0])
    refuse_packed(where, preview.names)
    if preview.labeled or (preview.json_labeled and len(preview.folders) < 2):
        return "webdataset"
    if preview.json_labeled:
        raise several_readings(where, {"webdataset": "WebDataset shards labeled by .json", "classes": "class folders"})
    if preview.tars > preview.images:
        if len(paths) > 1:
            raise DataError(f"{where}: several tars, and the first one holds tars; name one of them")
        return "class-tars"
    if len(paths) == 1:
        return "folder"
    if are_numbered([path.name for path in paths]):
        raise several_readings(where, {"webdataset": "shards without labels", "class-tars": "one tar per class"})
    return "class-tars"


def refuse_packed(where: str, names: set[str]) -> None:
    """MNIST's and CIFAR's own files are read from a folder, not from an archive."""
    refuse_pickles(where, names)
    if cifar_version(names) or idx_sets(names):
        owner = "CIFAR" if cifar_version(names) else "MNIST"
        raise DataError(f"{where}: holds {owner}'s own files; unpack it, and name the folder with the files")


def are_numbered(names: Sequence[str]) -> bool:
    """Whether the names differ only in a number, as those of shards do. WordNet's n01440764 is a class."""
    if all(re.fullmatch(r"n\d{8}\..*", name) for name in names):
        return False
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1


def is_nested(path: Path) -> bool:
    preview = preview_folder(path)
    return preview.tars > preview.images
