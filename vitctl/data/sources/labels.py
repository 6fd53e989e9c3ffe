"""What a label is: a class, a set of classes, or a number to predict; and the user's settings for reading it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.sources.names import as_label, parse_label
from vitctl.errors import DataError

Label = str | int | float | tuple[str | int, ...] | None
LABEL_KEYS = ("label", "class", "cls", "labels", "classes", "tags")  # of a .json that belongs to an image
LARGEST_LABEL = 1 << 24  # bytes of a .json
TRUTHS: Mapping[str, Literal["yes", "no", "blank", "uncertain"]] = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), "yes"),
    **dict.fromkeys(("0", "0.0", "false", "no"), "no"),
    **dict.fromkeys(("-1", "-1.0"), "uncertain"),  # as CheXpert writes it
    "": "blank",
}


@dataclass(frozen=True)
class Hints:
    """The user's settings for labels, and for the columns of a table."""

    root: str | None = None  # the folder that a manifest's paths are relative to
    path: str | None = None  # the column of paths
    label: str | None = None  # the column of labels, or the key of a .json
    labels: Literal["auto", "classes", "sets", "numbers"] = "auto"
    separator: str | None = None  # of the classes in a cell
    columns: tuple[str, ...] = ()  # a column of 0 and 1 for each class
    uncertain: Literal["refuse", "yes", "no"] = "refuse"  # what -1 means in such a column

    @classmethod
    def of(cls, config: PatchifyConfig) -> "Hints":
        labels = "numbers" if config.target_column else "sets" if config.separator is not None else config.labels
        separator = " " if config.separator in ("", "space") else config.separator
        label = config.target_column or config.label_column
        columns, uncertain = config.class_columns, config.uncertain
        return cls(config.root, config.path_column, label, labels, separator, columns, uncertain)

    @property
    def names_paths(self) -> bool:
        """Whether they can only be about a manifest."""
        return self.root is not None or self.path is not None or self.columns != ()

    @property
    def mark(self) -> str:
        return self.separator or "|"


def make_set(values: Iterable[object]) -> tuple[str | int, ...]:
    """A set of class names or class numbers, each once and in order."""
    members = [as_label(value) for value in values if value is not None and value != ""]
    if any(member is None for member in members):
        raise DataError("its list of labels holds something that is neither a name nor a class number")
    if any(isinstance(member, str) for member in members):
        return tuple(sorted({str(member) for member in members}))
    return tuple(sorted({member for member in members if isinstance(member, int)}))


def divide(text: str, mark: str) -> list[str]:
    """The classes in a cell: 'a|b' is two, and '|' is the empty set."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def as_number(value: object) -> float | None:
    """A number to predict; None for nothing. Raises DataError for everything else."""
    text = str(value).strip()
    if value is None or text == "":
        return None
    try:
        number = math.nan if isinstance(value, bool | list) or "_" in text else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{text[:40]!r} is not a finite number")
    return number


def value_to_label(value: object, hints: Hints) -> Label:
    """The label in a value of JSON or Parquet. Its type decides what it is, unless the user has."""
    if hints.labels == "numbers":
        return as_number(value)
    if isinstance(value, list):
        if hints.labels == "classes":
            raise DataError("its label is a list; --set labels=sets reads several classes per image")
        return make_set(value)
    if isinstance(value, float) and hints.labels == "auto":
        return as_number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if hints.labels != "sets" or value is None:
        return as_label(value)
    return make_set(map(parse_label, divide(value, hints.mark)) if isinstance(value, str) else [value])


def text_to_label(text: str, hints: Hints) -> Label:
    """The label in a text file: one class, a number, or a class per line."""
    text = text.strip()
    if text.startswith("[") and hints.labels != "classes":
        try:
            return value_to_label(json.loads(text), hints)
        except (ValueError, RecursionError):
            pass  # a class name that begins with a bracket
    if hints.labels == "numbers":
        return as_number(text)
    lines = text.splitlines()
    if hints.labels == "sets" and lines:
        return make_set(parse_label(part) for line in lines for part in divide(line, hints.mark))
    if len(lines) > 1 and hints.labels == "auto":
        return make_set(parse_label(line) for line in lines if line.strip())
    return parse_label(text)


def json_to_label(text: str | bytes, hints: Hints) -> Label:
    """The label in the .json of an image. Raises DataError if it has one that cannot be used."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    keys = LABEL_KEYS if hints.label is None else (hints.label,)
    return next((value_to_label(values[key], hints) for key in keys if key in values), None)
