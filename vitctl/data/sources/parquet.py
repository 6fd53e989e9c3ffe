"""Parquet tables with an image and a label per row, as the Hugging Face hub stores data sets."""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitctl.data.sources.contract import FoundImage, Refused, Sighting, Source
from vitctl.data.sources.files import File, name_damaged_file
from vitctl.data.sources.labels import Hints, value_to_label
from vitctl.data.sources.names import printable
from vitctl.data.sources.webdataset import splits_of
from vitctl.errors import DataError

IMAGES = ("image", "img", "picture", "jpg", "png")  # names of columns, the most likely first
LABELS = ("label", "labels", "class", "target", "category", "fine_label", "classes", "tags")
GROUPS = 1  # row groups cached per process: a worker reads neighboring rows


class Parquet(Source):
    kind = "parquet"

    def __init__(self, paths: list[Path], where: str) -> None:
        self.where = where
        self.files = [File.at(path) for path in paths]
        self.splits, self.remarks = splits_of(paths, "files")
        schema = open_parquet_file(self.files[0], os.getpid()).schema_arrow
        image = self.choose("image", [field.name for field in schema if is_image(field.type)], IMAGES)
        if image is None:
            columns = ", ".join(schema.names)
            raise DataError(f"{where}: no column of images (bytes, or a struct with bytes); its columns: {columns}")
        classes = class_labels(schema)
        by_name = [name for name in schema.names if name.lower() in LABELS and name != image]
        self.image, self.label = image, self.choose("label", list(classes) or by_name, LABELS)
        self.classes, self.columns = classes, [name for name in schema.names if name != image]
        self.class_names = classes.get(self.label or "")

    def apply(self, hints: Hints) -> None:
        super().apply(hints)
        if hints.label is not None:
            if hints.label not in self.columns:
                raise DataError(f"{self.where}: has no column {hints.label!r}; its columns: {', '.join(self.columns)}")
            self.label, self.class_names = hints.label, self.classes.get(hints.label)
            self.remarks = [remark for remark in self.remarks if not remark.startswith("label column")]

    def choose(self, what: str, columns: list[str], likely: tuple[str, ...]) -> str | None:
        """The most likely column, with a note if there are others."""
        order = sorted(columns, key=lambda name: likely.index(name.lower()) if name.lower() in likely else len(likely))
        if len(order) > 1:
            self.remarks.append(f"{what} column: {order[0]}; ignored: {', '.join(order[1:])}")
        return order[0] if order else None

    def sightings(self) -> Iterator[Sighting]:
        for number, file in enumerate(self.files):
            done = 0
            for group in range(open_parquet_file(file, os.getpid()).num_row_groups):
                labels, paths = self.read_labels(file, group)
                for row, (label, path) in enumerate(zip(labels, paths, strict=True)):
                    name = f"{file.name}/{done + row:06d}" + (f"/{path}" if path else "")
                    try:
                        value = value_to_label(label, self.hints)
                    except DataError as error:
                        yield Refused(printable(name), f"in column {self.label}, {error}")
                        continue
                    yield FoundImage(printable(name), value, self.splits[number], number, group, row)
                done += len(labels)

    def read_labels(self, file: File, group: int) -> tuple[list[Any], list[str | None]]:
        """The labels and the paths of one row group, without reading its images."""
        with name_damaged_file(file.path, *arrow_errors()):
            table = open_parquet_file(file, os.getpid())
            columns = [f"{self.image}.path", *([self.label] if self.label else [])]
            rows = table.read_row_group(group, columns=columns)
            count = table.metadata.row_group(group).num_rows
            labels = rows.column(self.label).to_pylist() if self.label else [None] * count
            structs = rows.column(self.image).to_pylist() if self.image in rows.column_names else [{}] * count
            return labels, [struct and struct.get("path") for struct in structs]

    def read(self, name: str, file: int, offset: int, size: int) -> bytes:
        """`offset` is the row group, `size` the row in it."""
        with name_damaged_file(self.files[file].path, *arrow_errors()):
            value = read_images(self.files[file], offset, self.image, os.getpid())[size].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise DataError("its row holds no bytes for it, at most a path to another file")
        return bytes(content)

    def no_images_message(self) -> str:
        return f"{self.where}: its tables have no rows"

    def notes(self) -> list[str]:
        return self.remarks


def pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"Parquet needs pyarrow ({error}); pip install pyarrow") from error
    return pyarrow


def arrow_errors() -> tuple[type[Exception], ...]:
    return pyarrow().ArrowException, KeyError


@lru_cache(maxsize=16)
def open_parquet_file(file: File, process: int) -> Any:
    with name_damaged_file(file.path, *arrow_errors()):
        return pyarrow().parquet.ParquetFile(file.path)


@lru_cache(maxsize=GROUPS)
def read_images(file: File, group: int, column: str, process: int) -> Any:
    with name_damaged_file(file.path, *arrow_errors()):
        return open_parquet_file(file, process).read_row_group(group, columns=[column]).column(column)


def is_image(kind: Any) -> bool:
    """Whether an Arrow type is bytes, or a struct with bytes: {bytes, path}."""
    types = pyarrow().types
    if types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def class_labels(schema: Any) -> dict[str, tuple[str, ...]]:
    """{column: class names} of the columns that the hub's metadata declares as class labels."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(printable, label["names"]))
            for name, feature in features.items()
            if name in schema.names and (label := class_label(feature))
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # no such metadata


def class_label(feature: Any) -> dict[str, Any] | None:
    """The class label that a feature is, or is a list of; None for other features."""
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    elif isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    return feature if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
