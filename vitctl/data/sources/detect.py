"""Detects which kind of source a path is, from its content."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from vitctl.config.checks import one_of
from vitctl.config.patchify import KINDS
from vitctl.data.sources.arrays import Arrays
from vitctl.data.sources.cifar import Cifar, cifar_version, refuse_pickles
from vitctl.data.sources.class_tars import ClassTars
from vitctl.data.sources.contract import Entry, Source, several_readings
from vitctl.data.sources.digits import Digits
from vitctl.data.sources.files import compression, first_unpacked, name_damaged_file
from vitctl.data.sources.folder import Folder, list_folder
from vitctl.data.sources.idx import Idx, idx_sets
from vitctl.data.sources.image_tree import ImageTree
from vitctl.data.sources.labels import LARGEST_LABEL, Hints, json_to_label
from vitctl.data.sources.names import IMAGE_EXTENSIONS, TABLES, Parts, extension, is_junk, split_name
from vitctl.data.sources.parquet import Parquet
from vitctl.data.sources.patterns import describe_missing, is_pattern, match_files
from vitctl.data.sources.tars import BLOCK, Tar, headers, starts_as_tar, tar_entry
from vitctl.data.sources.webdataset import WebDataset
from vitctl.data.sources.zips import Zip
from vitctl.errors import DataError
from vitctl.io.files import check_regular_file

TREES = ("folder", "classes", "splits", "flat", "manifest")  # kinds of image files in a folder, a tar or a zip
KNOWN = (
    "class folders, a flat folder, a manifest (.csv, .tsv, .jsonl), tars and zips of these, WebDataset shards, "
    "class tars, MNIST's IDX files, CIFAR's .bin files, .npz arrays, Parquet files, and the word digits"
)

MAGIC = {  # the first bytes of files
    **dict.fromkeys((b"PK\3\4", b"PK\5\6"), "zip"),
    b"PAR1": "parquet",
    **dict.fromkeys((b"\0\0\x08\1", b"\0\0\x08\3"), "idx"),
    b"\x89HDF": "hdf5",
    b"\x93NUMPY": "npy",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    **dict.fromkeys((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF"), "image"),
    **dict.fromkeys((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"), "pickle"),
}
UNREAD = {
    "hdf5": "is an HDF5 file; a patch file needs no patchify, and `vitctl info` describes it",
    "npy": "is one array without labels; save images and labels as a .npz: np.savez('data.npz', x=..., y=...)",
    "zstd": "is compressed with zstd, which is not supported; unpack it first",
    "7z": "is a 7z archive, which is not supported; unpack it first",
    "rar": "is a rar archive, which is not supported; unpack it first",
    "image": "is one image; name its folder",
    "pickle": "is a pickle, which can run any program and is never opened; get the data in another format",
    "packed": "is compressed, but holds neither a tar nor IDX; unpack it first",
}
SHARD = re.compile(r"\.(?:tar|tar\.(?:gz|bz2|xz)|tgz|(?P<parquet>parquet))$", re.IGNORECASE)
DEPTH, FEW = 3, 16  # levels to search for shards; folders per level, because more than that are classes
MEMBERS, BYTES = 1000, 1 << 26  # of a tar, to find out what it holds; in a compressed tar, even this takes time


def open_source(text: str, kind: str = "auto", hints: Hints | None = None) -> Source:
    """The source at a path or a pattern of paths, or 'digits'. `kind` decides if it can be read in several ways."""
    one_of("kind", kind, KINDS)
    hints = hints or Hints()
    of_table = hints.names_paths or (hints.label is not None and not holds_parquet(text))
    source = source_at(text, "manifest" if kind == "auto" and of_table else kind)
    source.apply(hints)
    if isinstance(source, ImageTree) and source.manifest:
        check_manifest(source, source.manifest)
    return source


def holds_parquet(text: str) -> bool:
    """Whether a column that the user names may be one of Parquet files."""
    path = Path(text).expanduser()
    return extension(text) == "parquet" or (path.is_dir() and bool(shards_below(path)["parquet"]))


def check_manifest(source: ImageTree, at: Entry) -> None:
    """A text file that is not a manifest is not a source: the error lists the supported ones."""
    try:
        source.plan()
    except DataError as error:
        if extension(at.parts[-1]) in TABLES or source.hints != Hints():
            raise
        raise DataError(f"{error}. Supported sources: {KNOWN}") from error


def source_at(text: str, kind: str) -> Source:
    if text == "digits" and kind == "auto" and os.path.exists(text):
        raise several_readings(text, {"digits": "scikit-learn's digits", "folder": "the folder or file ./digits"})
    if kind == "digits" or (text == "digits" and kind == "auto"):
        return Digits()
    if "://" in text:
        raise DataError(f"{text}: is a URL; download it first, and name the file")
    path = Path(text).expanduser()
    if is_pattern(str(path)):
        return open_files(match_files(str(path)), kind, text)
    if not os.path.exists(path):
        raise DataError(describe_missing(path))
    if path.is_dir():
        return open_folder_source(path, kind)
    check_regular_file(path)
    return open_files([path], kind, text)


def open_files(paths: list[Path], kind: str, where: str) -> Source:
    """One file, or several of the same format. `where` is how error messages name them."""
    form = form_of(paths[0])
    if form in UNREAD:
        raise DataError(f"{paths[0]}: {UNREAD[form]}")
    if len(paths) > 1 and form not in ("tar", "parquet"):
        raise DataError(f"{where}: several files are one source only if they are tars or Parquet; name their folder")
    kinds, opener = FORMS[form]
    if kind != "auto" and kind not in kinds:
        raise DataError(f"{where}: cannot be read as {kind}; its format, {form}, can be read as {', '.join(kinds)}")
    return opener(paths, kind, where)


def form_of(path: Path) -> str:
    """The format of a file, from its first bytes."""
    start = first_unpacked(path, BLOCK)
    form = next((form for magic, form in MAGIC.items() if start.startswith(magic)), None)
    if starts_as_tar(start):
        return "tar"
    if compression(path) and form != "idx":
        return "packed"
    if form == "zip" and holds_arrays(path):
        return "npz"
    return form or "text"


def holds_arrays(path: Path) -> bool:
    """A .npz is a zip of .npy files."""
    first = list(islice(Zip(path).members(), 20))
    return bool(first) and all(isinstance(entry, Entry) and extension(entry.parts[-1]) == "npy" for entry in first)


def open_tars(paths: list[Path], kind: str, where: str) -> Source:
    if kind == "auto":
        kind = kind_of_tars(paths, where)
    if kind == "webdataset":
        return WebDataset(paths, where)
    if kind == "class-tars":
        return ClassTars(paths, where, nested=len(paths) == 1 and is_nested(paths[0]))
    if len(paths) > 1:
        raise DataError(f"{where}: several tars cannot be read as {kind}; name one of them")
    return ImageTree(Tar(paths[0]), kind)


@dataclass
class TarPreview:
    """What the first members of a tar are."""

    tars: int = 0
    images: int = 0
    labeled: bool = False  # by .cls files, which only WebDataset uses
    images_by_key: set[str] = field(default_factory=set)
    labels_by_key: set[str] = field(default_factory=set)  # of .json files with a label
    folders: set[Parts] = field(default_factory=set)  # that hold images
    names: set[str] = field(default_factory=set)

    def add(self, entry: Entry, stream: BinaryIO) -> None:
        kind, key = extension(entry.parts[-1]), "/".join(entry.parts).rpartition(".")[0]
        self.names.add(entry.parts[-1])
        self.tars += kind == "tar"
        self.labeled |= kind == "cls"
        if kind in IMAGE_EXTENSIONS:
            self.images += 1
            self.folders.add(entry.parts[:-1])
            self.images_by_key.add(key)
        if kind == "json" and not self.json_labeled:
            stream.seek(entry.offset)
            with suppress(DataError):  # a label that cannot be used is none
                if json_to_label(stream.read(min(entry.size, LARGEST_LABEL)), Hints()) is not None:
                    self.labels_by_key.add(key)

    @property
    def json_labeled(self) -> bool:
        """Whether a .json beside an image has a label; one of its own describes the whole set."""
        return not self.images_by_key.isdisjoint(self.labels_by_key)


def preview_tar(path: Path) -> TarPreview:
    preview = TarPreview()
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
    preview = preview_tar(paths[0])
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
    preview = preview_tar(path)
    return preview.tars > preview.images


def open_zip_source(paths: list[Path], kind: str, where: str) -> Source:
    first = islice(Zip(paths[0]).walk(), MEMBERS)
    refuse_packed(where, {entry.parts[-1] for entry in first if isinstance(entry, Entry) and not entry.is_folder})
    return ImageTree(Zip(paths[0]), "folder" if kind == "auto" else kind)


def open_parquet(paths: list[Path], kind: str, where: str) -> Source:
    homes = {path.parent.parent if split_name(path.parent.name) else path.parent for path in paths}
    if len(homes) > 1:
        raise DataError(f"{where}: holds several data sets ({', '.join(sorted(map(str, homes)))}); name one of them")
    return Parquet(paths, where)


def open_idx(paths: list[Path], kind: str, where: str) -> Source:
    """The data set that the named file belongs to."""
    folder, name = paths[0].parent, paths[0].name
    own = [names for names in idx_sets(os.listdir(folder)).values() if name in names]
    if not own:
        raise DataError(f"{where}: an IDX file, but not named like one of MNIST's, such as train-images-idx3-ubyte")
    return Idx([folder / each for each in own[0]], where)


def open_manifest(path: Path) -> Source:
    return ImageTree(Folder(path.parent), "manifest", Entry((path.name,)))


FORMS: dict[str, tuple[tuple[str, ...], Callable[[list[Path], str, str], Source]]] = {
    "tar": ((*TREES, "webdataset", "class-tars"), open_tars),
    "zip": (TREES, open_zip_source),
    "npz": (("arrays",), lambda paths, kind, where: Arrays(paths[0])),
    "parquet": (("parquet",), open_parquet),
    "idx": (("idx",), open_idx),
    "text": (("manifest",), lambda paths, kind, where: open_manifest(paths[0])),
}


@dataclass(frozen=True)
class Reading:
    words: str
    open: Callable[[], Source]


def open_folder_source(path: Path, kind: str) -> Source:
    """The only way to read the folder, or the one that `kind` names."""
    if kind in TREES:
        return ImageTree(Folder(path), kind)
    readings = readings_of(path, kind)
    if kind != "auto" and kind not in readings:
        raise DataError(f"{path}: cannot be read as {kind}; supported sources: {KNOWN}")
    if kind != "auto":
        return readings[kind].open()
    if not readings or has_images(path):
        readings["folder"] = Reading("image files in folders", lambda: ImageTree(Folder(path)))
    if len(readings) > 1:
        raise several_readings(str(path), {name: reading.words for name, reading in readings.items()})
    return next(iter(readings.values())).open()


def readings_of(path: Path, kind: str) -> dict[str, Reading]:
    """The ways to read a folder other than as image files. A folder with nothing but one folder is skipped over."""
    with name_damaged_file(str(path)):
        listing = list_folder(str(path))
    if not listing.files and len(listing.folders) == 1 and (inner := readings_of(path / listing.folders[0], kind)):
        return inner
    files = set(listing.files)
    refuse_pickles(str(path), files)
    readings = {}
    sets = idx_sets(files)
    if sets:
        readings["idx"] = Reading("IDX files", lambda: open_idx_folder(path, sets))
    version = cifar_version(files)
    if version:
        readings["cifar"] = Reading("CIFAR's .bin files", lambda: Cifar(path, version))
    shards = shards_below(path)
    if shards["parquet"]:
        readings["parquet"] = Reading("Parquet files", lambda: open_parquet(shards["parquet"], kind, str(path)))
    if shards["tar"] and kind in ("auto", "webdataset", "class-tars"):
        chosen = kind if kind != "auto" else kind_of_tars(shards["tar"], str(path))
        # a tar of class folders next to folders of images is the archive that they were unpacked from
        if chosen != "folder" or not has_images(path):
            readings[chosen] = Reading(f"tars ({chosen})", lambda: open_files(shards["tar"], chosen, str(path)))
    return readings


def open_idx_folder(path: Path, sets: dict[str, list[str]]) -> Source:
    if len(sets) > 1:
        examples = ", ".join(names[0] for names in sets.values())
        raise DataError(f"{path}: holds several IDX data sets; name one file of the one to read: {examples}")
    return Idx([path / name for names in sets.values() for name in names], str(path))


def has_images(path: Path) -> bool:
    """Counts only image extensions: a file without an extension is too weak a reason to call the folder ambiguous."""
    entries = Folder(path).survey()
    return any(not entry.is_folder and extension(entry.parts[-1]) in IMAGE_EXTENSIONS for entry in entries)


def shards_below(root: Path) -> dict[str, list[Path]]:
    """The tars and Parquet files in a folder and a few levels below it, in sorted order."""
    shards: dict[str, list[Path]] = {"tar": [], "parquet": []}
    level = [root]
    for _ in range(DEPTH):
        below: list[Path] = []
        for folder in level:
            with suppress(OSError):  # the scan reports folders that cannot be read
                listing = list_folder(str(folder))
                for name in sorted(listing.files):
                    if match := SHARD.search(name):
                        shards["parquet" if match["parquet"] else "tar"].append(folder / name)
                below += [folder / name for name in sorted(listing.folders)] if len(listing.folders) <= FEW else []
        level = below
    return shards
