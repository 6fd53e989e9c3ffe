"""A look at the beginning of a tar: which of the several things that people keep in tars it is."""

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
from vitctl.data.sources.names import PICTURES, Parts, extension, is_junk
from vitctl.data.sources.tars import headers, tar_entry
from vitctl.data.sources.tree import Entry
from vitctl.data.sources.webdataset import LARGEST_LABEL, label_in
from vitctl.errors import DataError

MEMBERS, BYTES = 1000, 1 << 26  # of a compressed tar even the beginning takes time


@dataclass
class FolderPreview:
    tars: int = 0
    pictures: int = 0
    labeled: bool = False  # by .cls, which nobody else uses
    json_labeled: bool = False
    folders: set[Parts] = field(default_factory=set)  # that hold images
    names: set[str] = field(default_factory=set)


def preview_folder(path: Path) -> FolderPreview:
    seen = FolderPreview()
    with name_damaged_file(str(path)), (compression(path) or open)(path, "rb") as stream:
        for header in islice(headers(stream, str(path)), MEMBERS):
            entry = tar_entry(header)
            if isinstance(entry, Entry) and not entry.is_folder and not any(map(is_junk, entry.parts)):
                look(entry, stream, seen)
            if header.offset_data + header.size > BYTES:
                break
    return seen


def look(entry: Entry, stream: BinaryIO, seen: FolderPreview) -> None:
    kind = extension(entry.parts[-1])
    seen.names.add(entry.parts[-1])
    seen.tars += kind == "tar"
    seen.labeled |= kind == "cls"
    if kind in PICTURES:
        seen.pictures += 1
        seen.folders.add(entry.parts[:-1])
    if kind == "json" and not seen.json_labeled:
        stream.seek(entry.offset)
        seen.json_labeled = label_in(stream.read(min(entry.size, LARGEST_LABEL))) is not None


def kind_of_tars(paths: Sequence[Path], where: str) -> str:
    """webdataset, class-tars, or folder: what one tar, or many alike, hold."""
    seen = preview_folder(paths[0])
    refuse_packed(where, seen.names)
    if seen.labeled or (seen.json_labeled and len(seen.folders) < 2):
        return "webdataset"
    if seen.json_labeled:
        raise several_readings(where, {"webdataset": "WebDataset shards labeled by .json", "classes": "class folders"})
    if seen.tars > seen.pictures:
        if len(paths) > 1:
            raise DataError(f"{where}: several tars, and the first is one of tars; name one of them")
        return "class-tars"
    if len(paths) == 1:
        return "folder"
    if are_numbered([path.name for path in paths]):
        raise several_readings(where, {"webdataset": "shards without labels", "class-tars": "one tar per class"})
    return "class-tars"


def refuse_packed(where: str, names: set[str]) -> None:
    """Sets of a few files that are read by themselves, packed."""
    refuse_pickles(where, names)
    if cifar_version(names) or idx_sets(names):
        whose = "CIFAR" if cifar_version(names) else "MNIST"
        raise DataError(f"{where}: holds {whose}'s own files; unpack it, and name the folder that they lie in")


def are_numbered(names: Sequence[str]) -> bool:
    """Names that differ only in a number, as shards' do; WordNet's own, n01440764, are of classes."""
    if all(re.fullmatch(r"n\d{8}\..*", name) for name in names):
        return False
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1


def is_nested(path: Path) -> bool:
    seen = preview_folder(path)
    return seen.tars > seen.pictures
