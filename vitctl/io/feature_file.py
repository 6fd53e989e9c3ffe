"""Frozen features, HDF5 (`vitctl.features`, version 1).

    /<split>/features   [M, D], or [M, N, D] with one vector per patch; float32 or float16
    /<split>/labels     int64 [M], -1 = none; of a set: its first class, or -2 if it is empty
    /<split>/names      [M]
    /<split>/label_sets uint8 [M, ceil(K / 8)] if a label is a set of classes, as in the patch file
    /<split>/targets    float64 [M]            if a label is a number; NaN = unknown
    /origin             JSON: the fields of Origin
    attributes          format, version, created_by

Features are written in parts to the folder OUT.partial and merged at the end, so a kill loses at most one part.
"""

import dataclasses
import io
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import h5py
import numpy as np

from vitctl.errors import DataError, NoSpace, RunError, is_no_space
from vitctl.io.atomic import atomic_write, remove_leftovers, write_bytes, write_json
from vitctl.io.csv_cells import text_cell
from vitctl.io.hdf5 import Field, FileFormat, check_label_range, create_hdf5, open_checked, split_names, text
from vitctl.io.patch_format import EMPTY_SET

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Origin:
    """The model, the images and the options of features: the same origin means the same features."""

    weights_digest: str
    data_digest: str
    model: str
    layers: int
    pool: str
    height: int
    width: int
    dtype: str
    precision: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = ()  # the normalization of the images
    std: tuple[float, ...] = ()
    eval_crop: str = ""  # what was taken of the images, unless all of their short sides

    def as_dict(self) -> dict[str, Any]:
        """As JSON; files of whole images stay as those of 0.2."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields if self.eval_crop else {name: fields[name] for name in fields if name != "eval_crop"}


FEATURES = FileFormat(
    "vitctl.features",
    1,
    "feature file",
    "vitctl features",
    attributes={"format": Field("text"), "version": Field("integers"), "created_by": Field("text")},
    root={"origin": Field("text")},
    split={
        "features": Field("floats", ("M", "*")),
        "labels": Field("integers", ("M",)),
        "names": Field("text", ("M",)),
        "label_sets": Field("bytes", ("M", "K/8"), optional=True),
        "targets": Field("floats", ("M",), optional=True),
    },
)
TASK_COLUMNS = {"sets": "label_sets", "numbers": "targets"}


class FeatureFile:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_checked(self.path, FEATURES) as file:
            self.origin = read_origin(text(file["origin"][()]))
            self.created_by = text(file.attrs["created_by"])
            self.splits = {name: tuple(file[name]["features"].shape) for name in split_names(file)}
            self.task = find_task([file[name] for name in self.splits], len(self.origin.class_names))

    def features(self, split: str) -> Floats:
        return np.asarray(self.column(split, "features"))

    def labels(self, split: str) -> Ints:
        labels = np.asarray(self.column(split, "labels"), np.int64)
        lowest = EMPTY_SET if self.task == "sets" else -1
        check_label_range(labels, len(self.origin.class_names), f"{self.path}, {split}", lowest)
        return labels

    def label_sets(self, split: str) -> Any:
        """uint8 [M, K]: 1 for the classes of each image."""
        count = len(self.origin.class_names)
        return np.unpackbits(self.column(split, "label_sets"), axis=1, count=count, bitorder="little")

    def targets(self, split: str) -> Any:
        """float64 [M]: the numbers of the images."""
        return np.asarray(self.column(split, "targets"), np.float64)

    def truth(self, split: str) -> Any:
        """Whatever a label is: int64 [M], uint8 [M, K] or float64 [M]."""
        return {"sets": self.label_sets, "numbers": self.targets}.get(self.task, self.labels)(split)

    def has_label(self, split: str) -> Any:
        """bool [M]: whether the label of each image is known. An empty set is."""
        return ~np.isnan(self.targets(split)) if self.task == "numbers" else self.labels(split) != -1

    def names(self, split: str) -> list[str]:
        return [name.decode("utf-8", "replace") for name in self.column(split, "names")]

    def column(self, split: str, name: str) -> Any:
        if split not in self.splits:
            raise DataError(f"{self.path}: has no split {split!r}; it has {', '.join(self.splits)}")
        with open_checked(self.path, FEATURES) as file:
            return file[split][name][:]


def find_task(splits: Sequence[h5py.Group], classes: int) -> str:
    """What a label is, which must be the same in every split."""
    tasks = {next((task for task, name in TASK_COLUMNS.items() if name in split), "classes") for split in splits}
    if len(tasks) > 1:
        raise ValueError(f"labels are {' in one split and '.join(sorted(tasks))} in another")
    if tasks == {"sets"} and any(split["label_sets"].shape[1] != -(-classes // 8) for split in splits):
        raise ValueError(f"label_sets are not of {classes} classes")
    return tasks.pop()


def read_origin(content: str) -> Origin:
    """Checks every field against its annotation."""
    values: dict[str, Any] = {"mean": [], "std": [], "eval_crop": ""} | json.loads(content)
    for name, kind in get_type_hints(Origin).items():
        if not is_of(values.get(name), kind):
            raise ValueError(f"origin field {name} is {str(values.get(name))[:40]!r}")
    lists: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Origin(**values | lists)


def is_of(value: object, kind: Any) -> bool:
    if get_args(kind):  # a tuple in Origin, a list in JSON
        return isinstance(value, list) and all(is_of(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is kind and (kind is not str or bool(text(value) == value))


class Parts:
    """The parts of a feature file that is being written. Parts with the same origin are reused, unless `anew`."""

    def __init__(self, out: Path, origin: Origin, anew: bool = False) -> None:
        self.out, self.origin = out, origin
        self.folder = out.with_name(f"{out.name}.partial")
        fields = origin.as_dict()
        if self.folder.exists() and (anew or not self.has_origin(fields)):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, "*")
        remove_leftovers(out.parent, out.name)
        write_json(self.folder / "origin.json", fields)

    def has_origin(self, fields: dict[str, Any]) -> bool:
        try:
            return bool(json.loads((self.folder / "origin.json").read_text()) == fields)
        except (OSError, ValueError):
            return False

    def path(self, split: str, start: int, count: int) -> Path:
        return self.folder / f"{split}-{start:012d}-{count}.npy"

    def has(self, split: str, start: int, count: int) -> bool:
        return self.path(split, start, count).exists()

    def write(self, split: str, start: int, features: Floats) -> None:
        with np.errstate(over="ignore"):
            values = features.astype(self.origin.dtype)
        if not np.isfinite(values).all():
            raise RunError(
                f"{self.origin.model}: features of {split} are not finite in {self.origin.dtype}; "
                "use dtype=float32 and precision float32"
            )
        with explain_full_disk(self.out, self.folder):
            save_array(self.path(split, start, len(features)), values)

    def finish(self, splits: Mapping[str, Mapping[str, Any]], created_by: str) -> FeatureFile:
        """Merges the parts with the other columns of each split, then deletes them."""
        with explain_full_disk(self.out, self.folder), atomic_write(self.out) as aside, create_hdf5(aside) as file:
            file.attrs.update({"format": FEATURES.name, "version": FEATURES.version, "created_by": created_by})
            file["origin"] = (self.folder / "origin.json").read_text()
            for name, columns in splits.items():
                group = file.create_group(name)
                self.copy(group, name, len(columns["labels"]))
                for column, values in columns.items():
                    kind = h5py.string_dtype() if column == "names" else None
                    group.create_dataset(column, data=values, dtype=kind)
        shutil.rmtree(self.folder)
        return FeatureFile(self.out)

    def copy(self, group: h5py.Group, split: str, rows: int) -> None:
        paths = sorted(path for path in self.folder.glob("*.npy") if path.stem.rsplit("-", 2)[0] == split)
        shape = np.load(paths[0], mmap_mode="r", allow_pickle=False).shape[1:]
        whole = group.create_dataset("features", (rows, *shape), self.origin.dtype)
        for path in paths:
            part = np.load(path, allow_pickle=False)
            start = int(path.stem.rsplit("-", 2)[1])
            whole[start : start + len(part)] = part


def save_array(path: Path, values: Any) -> None:
    """Writes an .npy through memory, because np.save hides the errno of a full disk."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


@contextmanager
def explain_full_disk(out: Path, parts: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_no_space(error):
            raise
        raise NoSpace(
            f"{out}: no space left; free some space and run the same command again; finished parts are saved in {parts}"
        ) from error


EXPORTS = {"npy": ("-features.npy", "-labels.npy"), "csv": (".csv",), "parquet": (".parquet",)}


def export_paths(kind: str, splits: Iterable[str], stem: Path) -> list[Path]:
    """STEM-val.csv, ..."""
    return [stem.with_name(f"{stem.name}-{split}{ending}") for split in splits for ending in EXPORTS[kind]]


def export_features(file: FeatureFile, kind: str, stem: Path) -> list[Path]:
    """Writes the files of all splits for other tools; after an error, no new file is left."""
    paths = export_paths(kind, file.splits, stem)
    new = [path for path in paths if not path.exists()]
    write = {"npy": to_npy, "csv": to_csv, "parquet": to_parquet}[kind]
    try:
        for split in file.splits:
            write(file, split, export_paths(kind, [split], stem))
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    return paths


def to_npy(file: FeatureFile, split: str, paths: list[Path]) -> None:
    for path, values in zip(paths, (file.features(split), file.truth(split)), strict=True):
        save_array(path, values)


def to_csv(file: FeatureFile, split: str, paths: list[Path]) -> None:
    import csv

    flat = file.features(split).reshape(file.splits[split][0], -1)
    with atomic_write(paths[0]) as aside, open(aside, "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["name", "label", *(f"f{number}" for number in range(flat.shape[1]))])
        for name, label, values in zip(file.names(split), list_labels(file, split), flat, strict=True):
            rows.writerow([text_cell(name), label_cell(label), *(format(float(value), ".9g") for value in values)])


def list_labels(file: FeatureFile, split: str) -> list[Any]:
    """The number of a class (-1 if it is unknown), the numbers of the classes of a set, or a number; else None."""
    truth = file.truth(split)
    if file.task == "classes":
        return truth.tolist()  # type: ignore[no-any-return]
    known = zip(truth, file.has_label(split), strict=True)
    return [(np.flatnonzero(each).tolist() if each.ndim else float(each)) if is_known else None
            for each, is_known in known]  # fmt: skip


def label_cell(label: Any) -> Any:
    """A set as in a manifest: an empty one is "|", and an unknown one an empty cell."""
    return "|".join(map(str, label)) or "|" if isinstance(label, list) else label


def to_parquet(file: FeatureFile, split: str, paths: list[Path]) -> None:
    import pyarrow
    from pyarrow import parquet

    flat = file.features(split).reshape(file.splits[split][0], -1)
    columns = {"name": file.names(split), "label": list_labels(file, split), "features": list(flat)}
    with atomic_write(paths[0]) as aside:
        parquet.write_table(pyarrow.table(columns), aside)
