"""The plan of a build: which image goes to which row of which split, decided before the first one is decoded.

It is stored as columns on disk. So a data set of any size can be planned, workers look up their rows by number, and a
build that was killed resumes with the plan that it started with.
"""

import hashlib
import json
import shutil
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitctl.config.patchify import SPLITS, PatchifyConfig
from vitctl.data.patchifier.stored import choose_format, choose_sample
from vitctl.data.patchifier.workspace import Build
from vitctl.data.sources.contract import FoundImage, Refused, Source
from vitctl.errors import DataError, did_you_mean
from vitctl.io.atomic import flush_file, write_json
from vitctl.io.files import check_regular_file
from vitctl.io.patch_format import Geometry
from vitctl.randomness import scramble, stream
from vitctl.reporting import Reporter, format_count

Ints = np.ndarray[Any, np.dtype[np.int64]]
NUMBERS = ("split", "label", "file", "offset", "size", "key", "end")  # int64 columns of a scan
WHERE = ("label", "file", "offset", "size")  # int64 columns of a plan
NO_CLASS, UNKNOWN = -1, -2
BATCH = 65536


@dataclass(frozen=True)
class RowPlan:
    """The rows of one shard: split after split, each in the order of the source."""

    folder: Path
    geometry: Geometry
    fit: str
    codec: str
    splits: dict[str, int]  # rows planned
    class_names: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    digest: str  # of the part that all shards share: plans with the same digest divide the same rows

    @property
    def total(self) -> int:
        return sum(self.splits.values())

    def column(self, name: str) -> Any:
        """label, file, offset or size: int64 [total]; name: bytes [total]."""
        path = self.folder / name
        if name != "name":
            return np.memmap(path, np.int64, "r") if self.total else np.empty(0, np.int64)
        return np.memmap(path, f"S{path.stat().st_size // self.total}", "r") if self.total else np.empty(0, "S1")

    def save(self) -> None:
        write_json(self.folder / "plan.json", {**asdict(self), "folder": ""})

    @classmethod
    def load(cls, folder: Path) -> "RowPlan":
        values = json.loads((folder / "plan.json").read_text())
        values |= {name: tuple(values[name]) for name in ("class_names", "notes", "warnings")}
        values |= {"folder": folder, "geometry": Geometry(**values["geometry"])}
        return cls(**values | {"refused": tuple((name, reason) for name, reason in values["refused"])})


def make_plan(build: Build, reporter: Reporter) -> RowPlan:
    """Scans the source, unless another shard's build has, and writes the plan of one shard."""
    config, folder = build.config, build.space.plan
    scan = Scan(build.scratch / "scan")
    if not scan.load():
        with reporter.progress("scan", None, "files") as bar:
            scan.run(build.source, bar.advance)
    classes = Classes(scan, build.source.class_names, config)
    splits = assign_splits(scan, classes, config)
    folder.mkdir(parents=True, exist_ok=True)
    sample = choose_sample(scan.count)
    places = np.stack([scan.column(name)[sample] for name in ("file", "offset", "size")], 1)
    stored = choose_format(build, scan.names(sample), places, sum(map(len, splits.values())))
    plan = RowPlan(
        folder,
        stored.geometry,
        stored.fit,
        stored.codec,
        write_rows(scan, classes, splits, build),
        classes.names,
        tuple(scan.refused + classes.refused if build.shard == 0 else []),
        tuple(scan.notes + classes.notes + list(stored.notes)),
        tuple(classes.warnings + find_emptied_classes(splits, classes) + list(stored.warnings)),
        scan.digest(classes.final, splits),
    )
    plan.save()
    if not build.shared:
        shutil.rmtree(scan.folder)
    return plan


def find_emptied_classes(splits: Mapping[str, Ints], classes: "Classes") -> list[str]:
    """Warnings about classes that had images, but none of them is left in train."""
    if "train" not in splits or not classes.names:
        return []
    before, after = (np.unique(values[values >= 0]) for values in (classes.final, classes.final[splits["train"]]))
    return [f"class {classes.names[label]!r} has no image left in train" for label in np.setdiff1d(before, after)[:5]]


class Scan:
    """The source's images, in its order: columns on disk, and in memory only what stays small.

    All attributes but `folder` are stored in scan.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.widest = 0
        self.refused: list[tuple[str, str]] = []
        self.labels: dict[str, int] = {}  # class name -> its number in the column "label"
        self.splits: dict[str | None, int] = {}
        self.declared: dict[str | None, list[str]] = {}  # split -> its class folders
        self.numbered = False  # the source's labels are numbers
        self.notes: list[str] = []

    def load(self) -> bool:
        """Reads the scan that the folder holds; False if it holds none that is complete."""
        path = self.folder / "scan.json"
        if not path.exists():
            return False
        vars(self).update(json.loads(path.read_text()))
        self.refused = [(name, reason) for name, reason in self.refused]
        self.splits, self.declared = dict(self.splits), dict(self.declared)
        return True

    def save(self) -> None:
        values = {name: value for name, value in vars(self).items() if name != "folder"}
        values |= {name: list(values[name].items()) for name in ("splits", "declared")}  # a key may be None
        write_json(self.folder / "scan.json", values)

    def digest(self, labels: Ints, splits: Mapping[str, Ints]) -> str:
        """The digest of names, labels and splits."""
        digest = hashlib.sha256()
        with open(self.folder / "scan.names", "rb") as names:
            while piece := names.read(1 << 20):
                digest.update(piece)
        for column in (self.column("end"), labels, *splits.values()):
            for start in range(0, len(column), BATCH):
                digest.update(np.ascontiguousarray(column[start : start + BATCH]).data)
        return digest.hexdigest()

    def run(self, source: Source, advance: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            paths = {name: self.folder / f"scan.{name}" for name in (*NUMBERS, "names")}
            files = {name: stack.enter_context(open(path, "wb")) for name, path in paths.items()}
            columns = {name: array("q") for name in NUMBERS}

            def write_columns() -> None:
                advance(len(columns["key"]))
                for name, values in columns.items():
                    values.tofile(files[name])
                    del values[:]

            for sighting in source.scan():
                if isinstance(sighting, FoundImage):
                    self.add(sighting, columns, files["names"])
                elif isinstance(sighting, Refused):
                    self.refused.append((sighting.name, sighting.reason))
                else:
                    self.declared.setdefault(sighting.split, []).append(sighting.label)
                if len(columns["key"]) >= BATCH:
                    write_columns()
            write_columns()
        self.notes = source.notes()
        self.save()

    def add(self, image: FoundImage, columns: Mapping[str, "array[int]"], names: BinaryIO) -> None:
        name = image.name.encode("utf-8", "backslashreplace")
        names.write(name)
        self.count += 1
        self.widest = max(self.widest, len(name))
        split, label = self.splits.setdefault(image.split, len(self.splits)), self.number(image.label)
        values = (split, label, image.file, image.offset, image.size, zlib.crc32(name), names.tell())
        for column, value in zip(NUMBERS, values, strict=True):
            columns[column].append(value)

    def number(self, label: str | int | None) -> int:
        if label is None:
            return NO_CLASS
        if isinstance(label, int):
            self.numbered = True
            return label
        return self.labels.setdefault(label, len(self.labels))

    def column(self, name: str) -> Any:
        return np.memmap(self.folder / f"scan.{name}", np.int64, "r")

    def names(self, rows: Ints) -> list[bytes]:
        ends, blob = self.column("end"), np.memmap(self.folder / "scan.names", np.uint8, "r")
        starts = np.where(rows > 0, ends[rows - 1], 0)
        return [blob[start:end].tobytes() for start, end in zip(starts, ends[rows], strict=True)]


class Classes:
    """The list of classes, which train decides, and the final label of every scanned image (`final`, int64 [count])."""

    def __init__(self, scan: Scan, numbered_names: tuple[str, ...] | None, config: PatchifyConfig) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.refused: list[tuple[str, str]] = []
        listed = read_class_names(config.classes) if config.classes else None
        if scan.numbered and scan.labels:
            raise DataError(f"{config.source}: some labels are numbers and some are names; use one kind")
        if scan.numbered:
            self.final = self.keep_numbers(scan, listed or numbered_names, config)
        else:
            self.final = self.assign_numbers(scan, listed, config)

    def keep_numbers(self, scan: Scan, names: tuple[str, ...] | None, config: PatchifyConfig) -> Ints:
        """Labels that are numbers stay as they are. Without names, train's largest number decides how many."""
        labels = np.array(scan.column("label"), np.int64)
        if labels.min() < NO_CLASS:
            raise DataError(f"{config.source}: label {labels.min()} is negative; only -1, for no label, may be")
        train = scan.splits.get("train", scan.splits.get(None))
        counts = np.bincount(labels[(labels >= 0) & ((scan.column("split") == train) | (train is None))])
        self.names = names or tuple(str(number) for number in range(len(counts)))
        if names and labels.max() >= len(names):
            raise DataError(f"{config.source}: has label {labels.max()}, but only {len(names)} class names")
        self.warn_empty(self.names, {self.names[number]: int(count) for number, count in enumerate(counts)})
        outside = np.setdiff1d(labels[labels >= 0], np.flatnonzero(counts)) if not names else np.empty(0, np.int64)
        if not len(outside):
            return labels
        final = np.where(np.isin(labels, outside), UNKNOWN, labels)
        self.refuse(scan, final, list(map(str, outside)), dict(enumerate(map(str, range(labels.max() + 1)))))
        return final

    def assign_numbers(self, scan: Scan, listed: tuple[str, ...] | None, config: PatchifyConfig) -> Ints:
        """Numbers the class names. Images of classes that train lacks are refused by name."""
        labels, by_number = scan.column("label"), {number: name for name, number in scan.labels.items()}
        train = scan.splits.get("train", scan.splits.get(None))
        in_train = np.unique(labels[scan.column("split") == train]) if train is not None else np.unique(labels)
        known = {by_number[number] for number in in_train.tolist() if number >= 0}
        known |= set(scan.declared.get("train", scan.declared.get(None, [])))
        self.names = listed or tuple(sorted(known))
        position = {name: number for number, name in enumerate(self.names)}
        final_numbers = [position.get(by_number[number], UNKNOWN) for number in range(len(by_number))]
        final: Ints = np.array([*final_numbers, NO_CLASS], np.int64)[labels]  # label -1 picks the last entry, NO_CLASS
        images = np.bincount(labels[labels >= 0], minlength=len(by_number)).tolist()
        counts = Counter({by_number[number]: count for number, count in enumerate(images)})
        self.warn_empty(known | set(listed or ()), counts)
        outside = sorted(set(counts) - set(self.names))
        if listed:
            self.note_skipped(outside, counts, known, config)
        elif outside:
            self.refuse(scan, final, outside, by_number)
        return final

    def warn_empty(self, known: Iterable[str], counts: Mapping[str, int]) -> None:
        self.warnings += [f"class {name!r} has no image" for name in sorted(known) if not counts.get(name)]

    def note_skipped(
        self, outside: list[str], counts: Mapping[str, int], known: set[str], config: PatchifyConfig
    ) -> None:
        """Adds a note about classes that --classes does not list."""
        if set(outside) >= known:
            raise DataError(
                f"{config.classes}: names none of the classes; {did_you_mean(self.names[0], sorted(known))}"
            )
        if outside:
            images = format_count(sum(counts[name] for name in outside), "image")
            classes = format_count(len(outside), "class")
            self.notes.append(f"skipped {images} of {classes} that {config.classes} does not list")

    def refuse(self, scan: Scan, final: Ints, outside: list[str], by_number: Mapping[int, str]) -> None:
        rows = np.flatnonzero(final == UNKNOWN)
        labels = scan.column("label")[rows]
        for name, label in zip(scan.names(rows), labels.tolist(), strict=True):
            self.refused.append((name.decode(), f"class {by_number[label]!r} is not in train"))
        more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
        self.warnings.append(f"classes that are not in train: {', '.join(outside[:5])}{more}")


def read_class_names(path: str) -> tuple[str, ...]:
    check_regular_file(path)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--classes {path}: cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) != len(names):
        raise DataError(f"--classes {path}: must hold one class name per line, each once")
    return names


def assign_splits(scan: Scan, classes: Classes, config: PatchifyConfig) -> dict[str, Ints]:
    """{split: rows of the scan}, in the order of the source."""
    split, usable = scan.column("split"), classes.final != UNKNOWN
    splits = {name or "train": np.flatnonzero((split == number) & usable) for name, number in scan.splits.items()}
    for name in config.parts:
        if name in splits:
            raise DataError(f"{config.source}: has a {name} split already; drop --split {name}=...")
    if config.parts:
        splits |= cut_parts(splits.get("train", np.empty(0, np.int64)), scan, classes.final, config)
    if config.limit:
        splits = {name: limit_rows(rows, scan, classes.final, config) for name, rows in splits.items()}
    return {name: splits[name] for name in SPLITS if name in splits and len(splits[name])}


def ranks(rows: Ints, scan: Scan, labels: Ints, seed: int, purpose: str) -> tuple[Ints, Ints]:
    """The rank of each row within its class, int64 [rows], and the size of its class.

    The shuffle depends on names alone, so an image keeps its split when others are added.
    """
    shuffled = scramble(scan.column("key")[rows] ^ stream(seed, purpose))
    order = np.lexsort((shuffled, labels[rows]))
    sizes = np.bincount(labels[rows] + 1)  # images without a label form a class of their own here
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return rank, sizes[labels[rows] + 1]


def cut_parts(rows: Ints, scan: Scan, labels: Ints, config: PatchifyConfig) -> dict[str, Ints]:
    """Takes the same share of every class, rounded, for val and test; train keeps the rest."""
    rank, class_size = ranks(rows, scan, labels, config.seed, "split")
    parts, start = {}, np.zeros(len(rows), np.int64)
    for name, share in config.parts.items():
        end = start + np.floor(class_size * share + 0.5).astype(np.int64)
        end = np.minimum(end, np.maximum(class_size - 1, start))  # train keeps at least one of each class
        parts[name] = rows[(rank >= start) & (rank < end)]
        if not len(parts[name]):
            raise DataError(f"--split {name}={share}: no class has enough images for it")
        start = end
    return {"train": rows[rank >= start], **parts}


def limit_rows(rows: Ints, scan: Scan, labels: Ints, config: PatchifyConfig) -> Ints:
    """At most `limit` rows, spread evenly over the classes."""
    if not config.limit or len(rows) <= config.limit:
        return rows
    rank, _ = ranks(rows, scan, labels, config.seed, "limit")
    return rows[np.sort(np.argsort(rank, kind="stable")[: config.limit])]


def write_rows(scan: Scan, classes: Classes, splits: Mapping[str, Ints], build: Build) -> dict[str, int]:
    """Writes the plan's columns for one shard: its equal part of every split. Returns {split: rows}."""
    folder, shard, shards = build.space.plan, build.shard, build.config.shards or 1
    counts: dict[str, int] = {}
    columns = {"label": classes.final, **{name: scan.column(name) for name in WHERE[1:]}}
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in (*WHERE, "name")}
        for split, rows in splits.items():
            own = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
            if len(own):
                counts[split] = len(own)
            for start in range(0, len(own), BATCH):
                part = own[start : start + BATCH]
                for name in WHERE:
                    columns[name][part].tofile(files[name])
                np.array(scan.names(part), f"S{max(scan.widest, 1)}").tofile(files["name"])
    for name in (*WHERE, "name"):
        flush_file(folder / name)
    if not counts:
        raise DataError(f"shard {shard} of {shards} would be empty; use fewer shards")
    return counts
