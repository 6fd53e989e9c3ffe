"""Tables of images: CSV, TSV or JSON lines with a path and, optionally, a label and a split."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TextIO

from vitctl.data.sources.contract import Declared, Entry, FoundImage, Refused, Sighting, Tree
from vitctl.data.sources.labels import TRUTHS, Hints, Label, as_number, divide, make_set
from vitctl.data.sources.names import (
    CLASSES,
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
    "image", "img", "picture", "photo", "fname", "imageindex",
)  # fmt: skip
LOOSE = ("imageid", "imgid", "fileid", "id", "idcode", "name")  # may hold paths or something else
LABELS = (
    "label", "class", "target", "category", "labelname", "classname", "categoryname", "labels", "labelid", "classid",
    "categoryid", "breed", "species", "diagnosis", "findinglabels", "classes", "tags",
)  # fmt: skip
SEVERAL = ("labels", "classes", "tags")  # names of columns that suggest several labels in a cell
SPLIT_COLUMNS = ("split", "set", "subset")
COMMON = ("jpg", "jpeg", "png")
EXTENSIONS = (*COMMON, *sorted(IMAGE_EXTENSIONS.difference(COMMON)))  # in the order in which they are tried
DELIMITERS = ",\t;|"
HEADER = 1 << 16  # characters of a first line, at most
SHOWN = 12  # columns in an error
NUMERIC = 0.9  # the share of cells that are numbers in a column of numbers


@dataclass(frozen=True)
class ManifestRow:
    line: int
    path: str
    label: str | float | tuple[str, ...] | None  # a cell, or the classes of a list or of several columns
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
    classes: tuple[str, ...] = ()  # the columns of 0 and 1, one per class, in place of a column of labels
    task: Literal["classes", "sets", "numbers"] = "classes"
    divided: bool = False  # cells hold several classes
    numbered: bool = False  # every label is a class number
    has_splits: bool = False
    notes: tuple[str, ...] = ()

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
    table = ManifestTable(at, base_of(tree, at, hints), hints, tuple(columns), path, label, split, delimiter)
    return table if label else replace(table, classes=find_class_columns(tree, table))


def find_class_columns(tree: Tree, table: ManifestTable) -> tuple[str, ...]:
    """The columns that the user names, or all others if these hold nothing but 0 and 1; at least two."""
    hints = table.hints
    named = [find_column(table.columns, name) or name for name in hints.columns if hints.columns != ("all",)]
    if missing := [name for name in named if name not in table.columns]:
        raise DataError(f"{table.name}: has no column {missing[0]!r}; its columns: {list_columns(table.columns)}")
    others = [name for name in table.columns if name not in ("", table.path, table.split)]
    if named or len(others) < 2 or hints.label is not None or hints.labels not in ("auto", "sets"):
        return tuple(named)
    ones: set[str] = set()
    for row in raw_rows(tree, table):
        if isinstance(row, Refused):
            continue
        truths = {name: truth_of(row[1].get(name)) for name in others}
        ones |= {name for name, truth in truths.items() if truth != "blank"}
        others = [name for name in others if truths[name]]
        if len(others) < len(truths) and (hints.columns != ("all",) or not others):
            return ()
    return tuple(name for name in others if name in ones)


def truth_of(cell: object) -> str | None:
    """yes, no, uncertain or blank; None for anything else."""
    return TRUTHS.get("" if cell is None else str(cell).strip().lower())


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


@dataclass
class LabelTally:
    """What the labels of a table look like."""

    labels: int = 0
    class_numbers: int = 0
    floats: int = 0
    fractions: int = 0  # floats that are not whole
    lists: int = 0
    spaces: int = 0
    example: str = ""  # a label with the separator
    whole: set[str] = field(default_factory=set)  # labels without it, at most CLASSES
    parts: set[str] = field(default_factory=set)

    def add(self, label: str | float | tuple[str, ...], mark: str) -> None:
        self.labels += 1
        if isinstance(label, float):
            self.floats += 1
            self.fractions += math.isfinite(label) and not label.is_integer()
            return
        if isinstance(label, tuple):
            self.lists += 1
            self.class_numbers += all(map(is_number, label))
            return
        parts = divide(label, mark)
        self.class_numbers += all(map(is_number, parts)) if mark in label else is_number(label)
        self.spaces += " " in label
        if mark in label:
            self.example = self.example or label
            self.parts.update(parts[: CLASSES - len(self.parts)])
        elif is_float(label):
            self.floats += 1
            self.fractions += not float(label).is_integer()
        if mark not in label and len(self.whole) < CLASSES:
            self.whole.add(label)

    def task(self, hints: Hints) -> Literal["classes", "sets", "numbers"]:
        if hints.labels != "auto":
            return hints.labels
        if self.fractions and self.floats > NUMERIC * self.labels:
            return "numbers"
        return "sets" if self.lists or self.parts & self.whole else "classes"

    def describe(self, table: ManifestTable) -> Iterator[str]:
        """Notes about what was decided where the user has not."""
        where, mark = f"{table.name}: column {table.label}", table.hints.mark
        if table.classes:
            columns = list_columns(table.classes)
            yield f"{table.name}: the columns of 0 and 1 are classes, of which an image has any number: {columns}"
        if not table.label or table.hints.labels != "auto":
            return
        if table.task == "numbers":
            yield f"{where} is read as numbers to predict (--set labels=classes reads them as class names)"
        elif self.example and table.task == "sets":
            yield f"{where} is read as sets of classes: {self.example!r} (--set labels=classes keeps such names whole)"
        elif self.example:
            yield f"{where}: {self.example!r} is read as one class (--set labels=sets divides it at {mark})"
        elif table.task == "classes" and self.spaces and normalize_name(table.label) in SEVERAL:
            yield f"{where}: labels with spaces are read as one class (--set separator=space divides them)"


def is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def check_table(tree: Tree, table: ManifestTable) -> ManifestTable:
    """Checks all splits before the first image, and finds out what the labels are."""
    tally, has_splits = LabelTally(), False
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
            tally.add(row.label, table.hints.mark)
    task = "sets" if table.classes else tally.task(table.hints)
    numbered = 0 < tally.labels == tally.class_numbers and not table.classes
    divided = task == "sets" and (table.hints.labels == "sets" or bool(tally.parts & tally.whole))
    table = replace(table, task=task, divided=divided, numbered=numbered, has_splits=has_splits)
    return replace(table, notes=tuple(tally.describe(table)))


def list_images(tree: Tree, table: ManifestTable) -> Iterator[Sighting]:
    """The images that the table lists, in its order; before them, the classes that have a column."""
    yield from (Declared(printable(name)) for name in table.classes)
    with tree.lookup() as find:
        for row in read_rows(tree, table):
            yield row if isinstance(row, Refused) else find_image(row, tree, table, find)


def find_image(row: ManifestRow, tree: Tree, table: ManifestTable, find: Find) -> FoundImage | Refused:
    parts = tree.place(row.path, table.base)
    if parts is None:
        entry: Entry | str = "leads out of the archive"
    elif table.has_splits and row.split is None:
        entry = "has no split"
    else:
        entry = find_file(parts, find) if parts else "has no path"
    if isinstance(entry, str):
        return refusal(table, row.line, f"{printable(row.path)} {entry}".strip())
    try:
        label = read_cell(row.label, table)
    except DataError as error:
        return refusal(table, row.line, f"in column {table.label}, {error}" if table.label else str(error))
    split = row.split and split_name(row.split)
    return FoundImage(join_parts(entry.parts), label, split, entry.file, entry.offset, entry.size)


def read_cell(label: str | float | tuple[str, ...] | None, table: ManifestTable) -> Label:
    if label is None:
        return None
    if table.task == "numbers":
        return as_number(label)
    if isinstance(label, float):
        raise DataError(f"the label {label} is neither a name nor a class number; --set labels=numbers predicts it")
    parse = parse_label if table.numbered else printable
    if table.task == "sets":
        members = label if isinstance(label, tuple) else divide(label, table.hints.mark) if table.divided else [label]
        return make_set(map(parse, members))
    if isinstance(label, tuple):
        raise DataError("the label is a list; --set labels=sets reads several classes per image")
    return parse(label)


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
    for row in raw_rows(tree, table):
        yield row if isinstance(row, Refused) else parse_row(row[1], table, row[0])


def raw_rows(tree: Tree, table: ManifestTable) -> Iterator[tuple[int, Mapping[str, object]] | Refused]:
    """The number of each line, and its cells by column."""
    with tree.text(table.at) as text:
        yield from csv_rows(text, table) if table.delimiter else json_rows(text, table)


def csv_rows(text: TextIO, table: ManifestTable) -> Iterator[tuple[int, Mapping[str, object]] | Refused]:
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
        yield reader.line_num, dict(zip(columns, values, strict=True))


def json_rows(text: TextIO, table: ManifestTable) -> Iterator[tuple[int, Mapping[str, object]] | Refused]:
    for line, content in enumerate(text, 1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            values = None
        yield (line, values) if isinstance(values, dict) else refusal(table, line, "not a JSON object")


def parse_row(cells: Mapping[str, object], table: ManifestTable, line: int) -> ManifestRow | Refused:
    names = (table.path, table.label, table.split) if table.delimiter else meanings(tuple(cells), table.hints)
    path, label, split = (None if name is None else cells[name] for name in names)
    if isinstance(path, int) and not isinstance(path, bool):  # an identifier
        path = str(path)
    if not isinstance(path, str) or not is_encodable(path):
        return refusal(table, line, "has no path")
    try:
        text = join_truths(cells, table) if table.classes else label_text(label)
    except DataError as error:
        return refusal(table, line, str(error))
    if not isinstance(split, str | None) or not is_encodable(split or ""):
        return refusal(table, line, "its split is not a name")
    return ManifestRow(line, path.strip(), text, (split or "").strip() or None)


def label_text(label: object) -> str | float | tuple[str, ...] | None:
    """A cell's text, or that of each value in a JSON list; JSON's floats as they are."""
    if isinstance(label, list):
        texts = [label_text(each) for each in label]
        if any(isinstance(each, tuple | float) for each in texts):
            raise DataError("its list of labels holds something that is neither a name nor a class number")
        return tuple(each for each in texts if isinstance(each, str))
    if isinstance(label, float):
        return label
    if isinstance(label, bool) or not isinstance(label, str | int | None) or not is_encodable(str(label)):
        raise DataError("its label is neither a name nor a number")
    return None if label is None else str(label).strip() or None


def join_truths(cells: Mapping[str, object], table: ManifestTable) -> tuple[str, ...] | None:
    """The classes whose columns hold 1; None if all of them are blank."""
    truths = {name: truth_of(cells.get(name)) for name in table.classes}
    uncertain = table.hints.uncertain
    for name, truth in truths.items():
        if truth is None:
            raise DataError(f"column {name} holds {printable(str(cells[name]))[:40]!r}, which is neither 0 nor 1")
        if truth == "uncertain" and uncertain == "refuse":
            raise DataError(f"column {name} holds -1; --set uncertain=no or =yes decides what that means")
    if all(truth == "blank" for truth in truths.values()):
        return None
    return tuple(name for name, truth in truths.items() if (uncertain if truth == "uncertain" else truth) == "yes")


def is_encodable(value: str) -> bool:
    """False for text with half a surrogate pair, which JSON can write but no file can store."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
