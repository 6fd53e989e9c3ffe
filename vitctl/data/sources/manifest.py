"""Tables of pictures: CSV, TSV or JSON lines with a path, and where they have them a label and a split."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from vitctl.data.sources.contract import Found, Refused, Sighting
from vitctl.data.sources.names import Parts, inside, is_number, joined, label_of, printable, split_of
from vitctl.data.sources.tree import Entry, Tree
from vitctl.errors import DataError, did_you_mean

PATHS = ("path", "file", "filename", "file_name", "image")
LABELS = ("label", "class", "target", "category")
SPLIT_COLUMNS = ("split", "set")
DELIMITERS = ",\t;|"
HEADER = 1 << 16  # characters of a first line, at most


@dataclass(frozen=True)
class Row:
    line: int
    path: str
    label: str | None
    split: str | None


@dataclass(frozen=True)
class Table:
    """A manifest: where it is, and which of its columns mean what."""

    at: Entry
    path: str
    label: str | None
    split: str | None
    delimiter: str | None  # None for JSON lines
    numbered: bool = False  # every label is a number
    has_splits: bool = False

    @property
    def name(self) -> str:
        return printable(self.at.parts[-1])


def table_at(tree: Tree, at: Entry) -> Table | None:
    """The table there, or None if its first line names no column of paths."""
    with tree.text(at) as text:
        first = text.readline(HEADER).strip()
    if first.startswith("{"):
        columns, delimiter = json_keys(first), None
    else:
        rows = {mark: [name.strip() for name in next(csv.reader([first], delimiter=mark), [])] for mark in DELIMITERS}
        delimiter = next((mark for mark, row in rows.items() if column(row, PATHS) is not None), ",")
        columns = rows[delimiter]
    path = column(columns, PATHS)
    if path is None:
        return None
    return Table(at, path, column(columns, LABELS), column(columns, SPLIT_COLUMNS), delimiter)


def json_keys(line: str) -> list[str]:
    try:
        return list(json.loads(line))
    except (ValueError, RecursionError):
        return []


def column(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted names that is there, as it is written there."""
    written = {name.strip().lower(): name for name in reversed(columns)}
    return next((written[name] for name in wanted if name in written), None)


def checked(tree: Tree, table: Table) -> Table:
    """One pass before the first picture: every split must be known, and labels are numbers only if all of them are."""
    numbered = labelled = has_splits = False
    for row in rows(tree, table):
        if not isinstance(row, Row):
            continue
        has_splits |= row.split is not None
        if row.split is not None and split_of(row.split) is None:
            raise DataError(
                f"{tree.where}, {table.name} line {row.line}: split {printable(row.split)!r} is unknown; "
                + did_you_mean(row.split.lower(), ("train", "val", "test"))
            )
        if row.label is not None:
            numbered = (numbered or not labelled) and is_number(row.label)
            labelled = True
    return replace(table, numbered=numbered, has_splits=has_splits)


def listed(tree: Tree, table: Table) -> Iterator[Sighting]:
    """The pictures that the table names, in its order."""
    with tree.lookup() as find:
        for row in rows(tree, table):
            yield row if isinstance(row, Refused) else picture(row, table, find)


def picture(row: Row, table: Table, find: Callable[[Parts], Entry | str]) -> Found | Refused:
    parts = inside(row.path)
    if parts is None:
        entry: Entry | str = "leads out of the manifest's folder"
    elif table.has_splits and row.split is None:
        entry = "has no split"
    else:
        entry = find((*table.at.parts[:-1], *parts)) if parts else "has no path"
    if isinstance(entry, str):
        return refusal(table, row.line, f"{printable(row.path)!r} {entry}")
    label = row.label and (label_of(row.label) if table.numbered else printable(row.label))
    split = row.split and split_of(row.split)
    return Found(joined(entry.parts), label, split, entry.file, entry.offset, entry.size)


def refusal(table: Table, line: int, reason: str) -> Refused:
    return Refused(f"{table.name} line {line}", reason)


def rows(tree: Tree, table: Table) -> Iterator[Row | Refused]:
    with tree.text(table.at) as text:
        yield from csv_rows(text, table) if table.delimiter else json_rows(text, table)


def csv_rows(text: TextIO, table: Table) -> Iterator[Row | Refused]:
    reader = csv.reader(text, delimiter=table.delimiter or ",")
    header = [name.strip() for name in next(reader)]
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield refusal(table, reader.line_num, f"not understood ({error})")
            continue
        if not values:
            continue
        if len(values) != len(header):
            yield refusal(table, reader.line_num, f"{len(values)} values where the header has {len(header)}")
            continue
        named = dict(zip(header, values, strict=True))
        told = [named[name] if name else None for name in (table.path, table.label, table.split)]
        yield as_row(told, table, reader.line_num)


def json_rows(text: TextIO, table: Table) -> Iterator[Row | Refused]:
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
        keys = [column(list(values), wanted) for wanted in (PATHS, LABELS, SPLIT_COLUMNS)]  # they may differ by line
        yield as_row([values[key] if key else None for key in keys], table, line)


def as_row(told: Sequence[object], table: Table, line: int) -> Row | Refused:
    path, label, split = told
    if not isinstance(path, str) or not is_text(path):
        return refusal(table, line, "has no path")
    if isinstance(label, bool) or not isinstance(label, str | int | None) or not is_text(str(label)):
        return refusal(table, line, "its label is neither a name nor a number")
    if not isinstance(split, str | None) or not is_text(split or ""):
        return refusal(table, line, "its split is not a name")
    return Row(line, path.strip(), None if label is None else str(label).strip() or None, (split or "").strip() or None)


def is_text(value: str) -> bool:
    """JSON can write halves of characters, which no file can store."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
