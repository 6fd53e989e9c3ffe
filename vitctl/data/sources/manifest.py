"""Tables of images: CSV, TSV or JSON lines with a path and, optionally, a label and a split."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TextIO

from vitctl.data.sources.addresses import hide_secrets, holds_secrets
from vitctl.data.sources.contract import Entry, FoundImage, Refused, Sighting, Tree
from vitctl.data.sources.names import (
    IMAGE_EXTENSIONS,
    Parts,
    extension,
    is_number,
    join_parts,
    parse_label,
    printable,
    split_name,
)
from vitctl.errors import DataError, did_you_mean
from vitctl.reporting import printable_text

Find = Callable[[Parts], Entry | str]
EXPLICIT = (  # names of columns of paths, as used by pandas, Kaggle and fastai, in letters and digits only
    "path", "filepath", "imagepath", "imgpath", "file", "filename", "imagefile", "imgfile", "imagename", "imgname",
    "image", "img", "picture", "photo", "fname",
)  # fmt: skip
LOOSE = ("imageid", "imgid", "fileid", "id", "idcode", "name")  # may hold paths or something else
LABELS = (
    "label", "class", "target", "category", "labelname", "classname", "categoryname", "labels", "labelid", "classid",
    "categoryid", "breed", "species", "diagnosis",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset")
COMMON = ("jpg", "jpeg", "png")
EXTENSIONS = (*COMMON, *sorted(IMAGE_EXTENSIONS.difference(COMMON)))  # in the order in which they are tried
DELIMITERS = ",\t;|"
HEADER = 1 << 16  # characters of a first line, at most
SHOWN = 12  # columns in an error


@dataclass(frozen=True)
class Hints:
    """The user's settings for a manifest."""

    root: str | None = None  # the folder that its paths are relative to
    path: str | None = None  # the column of paths
    label: str | None = None  # the column of labels


@dataclass(frozen=True)
class ManifestRow:
    line: int
    path: str
    label: str | None
    split: str | None


@dataclass(frozen=True)
class ManifestTable:
    """A manifest: its place, and the meaning of its columns."""

    at: Entry
    base: Parts  # the folder that relative paths start from
    hints: Hints
    columns: tuple[str, ...]
    path: str
    label: str | None
    split: str | None
    delimiter: str | None  # None for JSON lines
    numbered: bool = False  # every label is a number
    has_splits: bool = False

    @property
    def name(self) -> str:
        return printable(self.at.parts[-1])

    @property
    def explicit(self) -> bool:
        """Whether the name of its path column can only mean paths."""
        return self.hints.path is not None or normalize_name(self.path) in EXPLICIT


def table_at(tree: Tree, at: Entry, hints: Hints) -> ManifestTable | None:
    """The table in a file. None if its first line names no column of paths."""
    columns, delimiter = read_table_header(tree, at, hints)
    path, label, split = meanings(tuple(columns), hints)
    if path is None:
        return None
    if hints.label is not None and label is None and delimiter:
        raise DataError(
            f"{printable(at.parts[-1])}: has no column {hints.label!r}; its columns: {list_columns(columns)}"
        )
    return ManifestTable(at, base_of(tree, at, hints), hints, tuple(columns), path, label, split, delimiter)


def read_table_header(tree: Tree, at: Entry, hints: Hints) -> tuple[list[str], str | None]:
    """The names of a table's columns, and the delimiter between them. The delimiter is None for JSON lines."""
    with tree.text(at) as text:
        first = text.readline(HEADER).strip()
    if first.startswith("{"):
        try:
            return list(json.loads(first)), None
        except (ValueError, RecursionError):
            return [], None
    rows = {mark: [name.strip() for name in next(csv.reader([first], delimiter=mark), [])] for mark in DELIMITERS}
    widest = max(DELIMITERS, key=lambda mark: len(rows[mark]))
    delimiter = next((mark for mark, row in rows.items() if meanings(tuple(row), hints)[0] is not None), widest)
    return rows[delimiter], delimiter


@lru_cache(maxsize=1024)  # every JSON line may have other keys
def meanings(columns: tuple[str, ...], hints: Hints) -> tuple[str | None, str | None, str | None]:
    """The names of the columns of paths, labels and splits, as written in the table."""
    path = find_column(columns, hints.path) if hints.path is not None else column(columns, EXPLICIT + LOOSE)
    others = [name for name in columns if name != path]
    label = find_column(others, hints.label) if hints.label is not None else column(others, LABELS)
    return path, label, column(others, SPLIT_COLUMNS)


def find_column(columns: Sequence[str], name: str) -> str | None:
    return next((each for same in (str, normalize_name) for each in columns if same(each) == same(name)), None)


def column(columns: Sequence[str], names: tuple[str, ...]) -> str | None:
    """The column with the first of these names that exists, as written in the table."""
    written = {normalize_name(name): name for name in reversed(columns)}
    return next((written[name] for name in names if name in written), None)


def normalize_name(name: str) -> str:
    """Image_ID, imageId and "image id" are one name."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def base_of(tree: Tree, at: Entry, hints: Hints) -> Parts:
    if hints.root is None:
        return at.parts[:-1]
    base = tree.folder(hints.root)
    if base is None:
        raise DataError(f"--set root={hints.root}: no such folder")
    return base


def no_paths(tree: Tree, tables: Sequence[Entry], hints: Hints) -> str:
    """The error if none of the tables is a manifest."""
    if not tables:
        return f"{tree.where}: no manifest; it holds no .csv, .tsv or .jsonl file"
    where = os.path.join(tree.where, join_parts(tables[0].parts))
    cause = "no column has a usual name for paths" if hints.path is None else f"it has no column {hints.path!r}"
    columns = list_columns(read_table_header(tree, tables[0], hints)[0])
    rest = f"; not manifests either: {', '.join(join_parts(each.parts) for each in tables[1:])}" if tables[1:] else ""
    return f"{where}: not a manifest, because {cause}; its columns: {columns}; --set path_column=NAME chooses one{rest}"


def list_columns(columns: Sequence[str]) -> str:
    names = [printable_text(printable(name))[:40] or "(no name)" for name in columns[:SHOWN]]
    return ", ".join(names) + (", ..." if len(columns) > SHOWN else "") or "no columns"


def check_table(tree: Tree, table: ManifestTable) -> ManifestTable:
    """Checks all splits before the first image, and whether all labels are numbers."""
    numbered = labeled = has_splits = False
    for row in read_rows(tree, table):
        if not isinstance(row, ManifestRow):
            continue
        has_splits |= row.split is not None
        if row.split is not None and split_name(row.split) is None:
            raise DataError(
                f"{tree.where}, {table.name} line {row.line}: unknown split {printable(row.split)!r}; "
                + did_you_mean(row.split.lower(), ("train", "val", "test"))
            )
        if row.label is not None:
            numbered = (numbered or not labeled) and is_number(row.label)
            labeled = True
    return replace(table, numbered=numbered, has_splits=has_splits)


def list_images(tree: Tree, table: ManifestTable) -> Iterator[Sighting]:
    """The images that the table lists, in its order."""
    with tree.lookup() as find:
        for row in read_rows(tree, table):
            yield row if isinstance(row, Refused) else find_image(row, tree, table, find)


def find_image(row: ManifestRow, tree: Tree, table: ManifestTable, find: Find) -> FoundImage | Refused:
    parts = tree.place(row.path, table.base)
    if parts is None:
        entry: Entry | str = "leads out of the archive"
    elif holds_secrets(row.path):
        entry = "holds a password or a signature, which the patch file would store"
    elif table.has_splits and row.split is None:
        entry = "has no split"
    else:
        entry = find_file(parts, find) if parts else "has no path"
    if isinstance(entry, str):
        return refusal(table, row.line, f"{printable(hide_secrets(row.path))} {entry}".strip())
    label = row.label and (parse_label(row.label) if table.numbered else printable(row.label))
    split = row.split and split_name(row.split)
    return FoundImage(join_parts(entry.parts), label, split, entry.file, entry.offset, entry.size)


def find_file(parts: Parts, find: Find) -> Entry | str:
    """The file of that name, or of that name with an image extension, because identifiers have none."""
    entry = find(parts)
    if isinstance(entry, Entry) or extension(parts[-1]) in IMAGE_EXTENSIONS:
        return entry
    names = (f"{parts[-1]}.{each}" for kind in EXTENSIONS for each in (kind, kind.upper()))
    candidates = (find((*parts[:-1], name)) for name in names)
    with_extension = next((each for each in candidates if isinstance(each, Entry)), None)
    return with_extension or f"{entry}, and there is no {printable(parts[-1])}.jpg or similar"


def refusal(table: ManifestTable, line: int, reason: str) -> Refused:
    return Refused(f"{table.name} line {line}", reason)


def read_rows(tree: Tree, table: ManifestTable) -> Iterator[ManifestRow | Refused]:
    with tree.text(table.at) as text:
        yield from csv_rows(text, table) if table.delimiter else json_rows(text, table)


def csv_rows(text: TextIO, table: ManifestTable) -> Iterator[ManifestRow | Refused]:
    reader = csv.reader(text, delimiter=table.delimiter or ",")
    columns = [name.strip() for name in next(reader)]
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield refusal(table, reader.line_num, f"cannot be parsed ({error})")
            continue
        if not values:
            continue
        if len(values) != len(columns):
            yield refusal(table, reader.line_num, f"has {len(values)} values, but the header has {len(columns)}")
            continue
        cells = dict(zip(columns, values, strict=True))
        row = [None if name is None else cells[name] for name in (table.path, table.label, table.split)]
        yield parse_row(row, table, reader.line_num)


def json_rows(text: TextIO, table: ManifestTable) -> Iterator[ManifestRow | Refused]:
    for line, content in enumerate(text, 1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            yield refusal(table, line, "not a JSON object")
            continue
        keys = meanings(tuple(values), table.hints)
        yield parse_row([None if key is None else values[key] for key in keys], table, line)


def parse_row(row: Sequence[object], table: ManifestTable, line: int) -> ManifestRow | Refused:
    path, label, split = row
    if isinstance(path, int) and not isinstance(path, bool):  # an identifier
        path = str(path)
    if not isinstance(path, str) or not is_encodable(path):
        return refusal(table, line, "has no path")
    if isinstance(label, bool) or not isinstance(label, str | int | None) or not is_encodable(str(label)):
        return refusal(table, line, "its label is neither a name nor a number")
    if not isinstance(split, str | None) or not is_encodable(split or ""):
        return refusal(table, line, "its split is not a name")
    return ManifestRow(
        line, path.strip(), None if label is None else str(label).strip() or None, (split or "").strip() or None
    )


def is_encodable(value: str) -> bool:
    """False for text with half a surrogate pair, which JSON can write but no file can store."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
