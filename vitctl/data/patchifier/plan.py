"""The plan of a build: which image goes to which row of which split, decided before the first one is decoded.

It lies on the disk in columns, so that a set of any size can be planned, workers find their rows by number, and a build
that was killed goes on with the plan it began with.
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
from vitctl.data.sources.contract import FoundImage, Refused, Source
from vitctl.errors import DataError, did_you_mean
from vitctl.io.atomic import flush_file, write_json
from vitctl.io.files import check_regular_file
from vitctl.io.patch_format import Geometry
from vitctl.randomness import scramble, stream
from vitctl.reporting import Reporter

Ints = np.ndarray[Any, np.dtype[np.int64]]
NUMBERS = ("split", "label", "file", "offset", "size", "key", "end")  # int64 columns of a scan
WHERE = ("label", "file", "offset", "size")  # int64 columns of a plan
NO_CLASS, UNKNOWN = -1, -2
BATCH = 65536
PHOTO = 224  # pixels a side of a photo, where nothing else is asked for
SMALL = 96  # arrays of images up to this size are kept as they are
LARGEST_PATCH = 16
FEWEST = 16  # patches in a small image, where nothing was asked for


@dataclass(frozen=True)
class RowPlan:
    """One shard's worth of rows: split after split, each in the order of the source."""

    folder: Path
    geometry: Geometry
    splits: dict[str, int]  # rows planned
    class_names: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    digest: str  # of what all shards have in common: two plans with the same one share out the same rows

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
        values = {**asdict(self), "folder": ""}
        write_json(self.folder / "plan.json", values)

    @classmethod
    def load(cls, folder: Path) -> "RowPlan":
        values = json.loads((folder / "plan.json").read_text())
        return cls(
            folder,
            Geometry(**values["geometry"]),
            values["splits"],
            tuple(values["class_names"]),
            tuple((name, reason) for name, reason in values["refused"]),
            tuple(values["notes"]),
            tuple(values["warnings"]),
            values["digest"],
        )


def make_plan(
    source: Source, config: PatchifyConfig, folder: Path, shard: int, reporter: Reporter, scan_folder: Path
) -> RowPlan:
    """Scans the source, unless `scan_folder` has its scan, and writes the plan of one shard (0 of 1) into `folder`."""
    geometry = choose_geometry(source, config)
    scan = Scan(scan_folder)
    if not scan.load():
        with reporter.progress("scan", None, "files") as bar:
            scan.run(source, bar.advance)
    classes = Classes(scan, source.class_names, config)
    splits = assign_splits(scan, classes, config)
    folder.mkdir(parents=True, exist_ok=True)
    counts = write_rows(scan, classes, splits, folder, shard, config.shards or 1)
    plan = RowPlan(
        folder,
        geometry,
        counts,
        classes.names,
        tuple(scan.refused + classes.refused if shard == 0 else []),
        tuple(scan.notes + classes.notes),
        tuple(classes.warnings + find_emptied_classes(splits, classes)),
        scan.digest(classes.final, splits),
    )
    plan.save()
    if scan_folder.parent == folder.parent:
        shutil.rmtree(scan_folder)  # no other shard wants it
    return plan


def find_emptied_classes(splits: Mapping[str, Ints], classes: "Classes") -> list[str]:
    """Classes that had images and have none in train any more."""
    if "train" not in splits or not classes.names:
        return []
    had, has = (np.unique(values[values >= 0]) for values in (classes.final, classes.final[splits["train"]]))
    return [f"class {classes.names[label]!r} is left without an image in train" for label in np.setdiff1d(had, has)[:5]]


class Scan:
    """What the source has, as it comes: columns on the disk, and the few things that stay small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.widest = 0
        self.refused: list[tuple[str, str]] = []
        self.labels: dict[str, int] = {}  # class name -> the number that the scan gave it
        self.splits: dict[str | None, int] = {}
        self.declared: dict[str | None, list[str]] = {}  # split -> its class folders
        self.numbered = False  # the source's labels are numbers
        self.notes: list[str] = []

    def load(self) -> bool:
        """Takes up a scan that is there, and whole."""
        path = self.folder / "scan.json"
        if not path.exists():
            return False
        values = json.loads(path.read_text())
        pairs = {name: values.pop(name) for name in ("refused", "splits", "declared")}
        vars(self).update(values)
        self.refused = [(name, reason) for name, reason in pairs["refused"]]
        self.splits, self.declared = dict(pairs["splits"]), dict(pairs["declared"])
        return True

    def save(self) -> None:
        values = {name: value for name, value in vars(self).items() if name != "folder"}
        values |= {name: list(values[name].items()) for name in ("splits", "declared")}
        write_json(self.folder / "scan.json", values)

    def digest(self, labels: Ints, splits: Mapping[str, Ints]) -> str:
        """Of the names, their labels, and which of them go to which split."""
        whole = hashlib.sha256()
        with open(self.folder / "scan.names", "rb") as names:
            while piece := names.read(1 << 20):
                whole.update(piece)
        for column in (self.column("end"), labels, *splits.values()):
            for start in range(0, len(column), BATCH):
                whole.update(np.ascontiguousarray(column[start : start + BATCH]).data)
        return whole.hexdigest()

    def run(self, source: Source, advance: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(open(self.folder / f"scan.{name}", "wb")) for name in (*NUMBERS, "names")
            }
            columns = {name: array("q") for name in NUMBERS}
            for sighting in source.scan():
                if isinstance(sighting, FoundImage):
                    self.add(sighting, columns, files["names"])
                elif isinstance(sighting, Refused):
                    self.refused.append((sighting.name, sighting.reason))
                else:
                    self.declared.setdefault(sighting.split, []).append(sighting.label)
                if len(columns["key"]) >= BATCH:
                    advance(len(columns["key"]))
                    empty(columns, files)
            advance(len(columns["key"]))
            empty(columns, files)
        self.notes = source.notes()
        self.save()

    def add(self, picture: FoundImage, columns: Mapping[str, "array[int]"], names: BinaryIO) -> None:
        name = picture.name.encode("utf-8", "backslashreplace")
        names.write(name)
        self.count += 1
        self.widest = max(self.widest, len(name))
        values = {
            "split": self.splits.setdefault(picture.split, len(self.splits)),
            "label": self.number(picture.label),
            "file": picture.file,
            "offset": picture.offset,
            "size": picture.size,
            "key": zlib.crc32(name),
            "end": names.tell(),
        }
        for column, value in values.items():
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


def empty(columns: Mapping[str, "array[int]"], files: Mapping[str, BinaryIO]) -> None:
    for name, values in columns.items():
        values.tofile(files[name])
        del values[:]


class Classes:
    """The list of classes, fixed by train, and what becomes of each label that the scan saw."""

    def __init__(self, scan: Scan, numbered_names: tuple[str, ...] | None, config: PatchifyConfig) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.refused: list[tuple[str, str]] = []
        wanted = read_class_names(config.classes) if config.classes else None
        if scan.numbered:
            if scan.labels:
                raise DataError(f"{config.source}: some labels are numbers and some are names; use one kind")
            self.final = self.numbers(scan, wanted or numbered_names, config)
        else:
            self.final = self.assign_numbers(scan, wanted, config)

    def numbers(self, scan: Scan, names: tuple[str, ...] | None, config: PatchifyConfig) -> Ints:
        """Labels that are numbers stay what they are; without names, there are as many classes as train has numbers."""
        labels = np.array(scan.column("label"), np.int64)
        if labels.min() < NO_CLASS:
            raise DataError(f"{config.source}: label {labels.min()} is negative; -1 means none")
        train = scan.splits.get("train", scan.splits.get(None))
        counts = np.bincount(labels[(labels >= 0) & ((scan.column("split") == train) | (train is None))])
        self.names = names or tuple(str(number) for number in range(len(counts)))
        if names and labels.max() >= len(names):
            raise DataError(f"{config.source}: label {labels.max()} is there, but only {len(names)} classes are named")
        self.tell_empty(self.names, {self.names[number]: int(count) for number, count in enumerate(counts)})
        outside = np.setdiff1d(labels[labels >= 0], np.flatnonzero(counts)) if not names else np.empty(0, np.int64)
        if len(outside):
            final = np.where(np.isin(labels, outside), UNKNOWN, labels)
            self.refuse(
                scan, final, [str(label) for label in outside], dict(enumerate(map(str, range(labels.max() + 1))))
            )
            return final
        return labels

    def assign_numbers(self, scan: Scan, wanted: tuple[str, ...] | None, config: PatchifyConfig) -> Ints:
        """Final number of each image's class; images of classes that train lacks are refused by name."""
        labels, by_number = scan.column("label"), {number: name for name, number in scan.labels.items()}
        train = scan.splits.get("train", scan.splits.get(None))
        in_train = np.unique(labels[scan.column("split") == train]) if train is not None else np.unique(labels)
        known = {by_number[number] for number in in_train.tolist() if number >= 0}
        known |= set(scan.declared.get("train", scan.declared.get(None, [])))
        self.names = wanted or tuple(sorted(known))
        place = {name: number for number, name in enumerate(self.names)}
        table = np.array(
            [place.get(by_number[number], UNKNOWN) for number in range(len(by_number))] + [NO_CLASS], np.int64
        )
        final: Ints = table[labels]  # NO_CLASS is the last entry
        counts = Counter(
            {
                by_number[number]: int(count)
                for number, count in enumerate(np.bincount(labels[labels >= 0], minlength=len(by_number)))
            }
        )
        self.tell_empty(known | set(wanted or ()), counts)
        outside = sorted(set(counts) - set(self.names))
        if wanted:
            self.tell_left_out(outside, counts, known, config)
        elif outside:
            self.refuse(scan, final, outside, by_number)
        return final

    def tell_empty(self, known: Iterable[str], counts: Mapping[str, int]) -> None:
        for name in sorted(name for name in known if not counts.get(name)):
            self.warnings.append(f"class {name!r} has no image")

    def tell_left_out(
        self, outside: list[str], counts: Mapping[str, int], known: set[str], config: PatchifyConfig
    ) -> None:
        if set(outside) >= known:
            raise DataError(
                f"{config.classes}: names none of the classes; {did_you_mean(self.names[0], sorted(known))}"
            )
        if outside:
            self.notes.append(
                f"{sum(counts[name] for name in outside)} images of {len(outside)} classes "
                f"that {config.classes} does not name are left out"
            )

    def refuse(self, scan: Scan, final: Ints, outside: list[str], by_number: Mapping[int, str]) -> None:
        rows = np.flatnonzero(final == UNKNOWN)
        labels = scan.column("label")[rows]
        for name, label in zip(scan.names(rows), labels.tolist(), strict=True):
            self.refused.append((name.decode(), f"class {by_number[label]!r} is not in train"))
        self.warnings.append(
            f"classes that train does not have: {', '.join(outside[:5])}"
            + (f" and {len(outside) - 5} more" if len(outside) > 5 else "")
        )


def read_class_names(path: str) -> tuple[str, ...]:
    check_regular_file(path)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--classes {path}: cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) != len(names):
        raise DataError(f"--classes {path}: wants one class name a line, each once")
    return names


def assign_splits(scan: Scan, classes: Classes, config: PatchifyConfig) -> dict[str, Ints]:
    """{split: rows of the scan}, in the order of the source."""
    split, usable = scan.column("split"), classes.final != UNKNOWN
    given = {name or "train": np.flatnonzero((split == number) & usable) for name, number in scan.splits.items()}
    for name in config.parts:
        if name in given:
            raise DataError(f"{config.source}: has a {name} split already; drop --split {name}=...")
    if config.parts:
        given |= cut_parts(given.get("train", np.empty(0, np.int64)), scan, classes.final, config)
    if config.limit:
        given = {name: limit_rows(rows, scan, classes.final, config) for name, rows in given.items()}
    return {name: given[name] for name in SPLITS if name in given and len(given[name])}


def ranks(rows: Ints, scan: Scan, labels: Ints, seed: int, purpose: str) -> tuple[Ints, Ints]:
    """(rank of each row inside its class in a shuffle that depends on names alone, size of its class)."""
    shuffled = scramble(scan.column("key")[rows] ^ stream(seed, purpose))
    order = np.lexsort((shuffled, labels[rows]))
    sizes = np.bincount(labels[rows] + 1)  # NO_CLASS is a class of its own here
    begins = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(begins, sizes)
    return rank, sizes[labels[rows] + 1]


def cut_parts(rows: Ints, scan: Scan, labels: Ints, config: PatchifyConfig) -> dict[str, Ints]:
    """A share of every class, rounded, for each of val and test; train keeps the rest."""
    rank, of = ranks(rows, scan, labels, config.seed, "split")
    parts, begin = {}, np.zeros(len(rows), np.int64)
    for name, share in config.parts.items():
        end = begin + np.floor(of * share + 0.5).astype(np.int64)
        end = np.minimum(end, np.maximum(of - 1, begin))  # train keeps at least one of each class
        parts[name] = rows[(rank >= begin) & (rank < end)]
        if not len(parts[name]):
            raise DataError(f"--split {name}={share}: no class has enough images for it")
        begin = end
    return {"train": rows[rank >= begin], **parts}


def limit_rows(rows: Ints, scan: Scan, labels: Ints, config: PatchifyConfig) -> Ints:
    """At most `limit` rows, one of each class in turn."""
    if not config.limit or len(rows) <= config.limit:
        return rows
    rank, _ = ranks(rows, scan, labels, config.seed, "limit")
    return rows[np.sort(np.argsort(rank, kind="stable")[: config.limit])]


def write_rows(
    scan: Scan, classes: Classes, splits: Mapping[str, Ints], folder: Path, shard: int, shards: int
) -> dict[str, int]:
    """The plan's columns for one shard: its equal part of every split."""
    counts: dict[str, int] = {}
    columns = {"label": classes.final, **{name: scan.column(name) for name in WHERE[1:]}}
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in (*WHERE, "name")}
        for split, rows in splits.items():
            mine = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
            if len(mine):
                counts[split] = len(mine)
            for start in range(0, len(mine), BATCH):
                part = mine[start : start + BATCH]
                for name in WHERE:
                    columns[name][part].tofile(files[name])
                np.array(scan.names(part), f"S{max(scan.widest, 1)}").tofile(files["name"])
    for name in (*WHERE, "name"):
        flush_file(folder / name)
    if not counts:
        raise DataError(f"shard {shard} of {shards} would be empty; use fewer shards")
    return counts


def choose_geometry(source: Source, config: PatchifyConfig) -> Geometry:
    """What was asked for; else 224 in patches of 16, and small arrays as they are."""
    height, width = config.res or (source.native[:2] if source.native and is_small(source) else (PHOTO, PHOTO))
    channels = config.channels or (1 if source.native and source.native[2] == 1 else 3)
    patch = config.patch or (LARGEST_PATCH if config.res else largest_patch(height, width))
    return Geometry(patch, height, width, channels)


def is_small(source: Source) -> bool:
    return source.native is not None and max(source.native[:2]) <= SMALL


def largest_patch(height: int, width: int) -> int:
    """The largest patch of at most 16 that divides both sides and leaves FEWEST patches, or failing that any."""
    fits = [patch for patch in range(1, LARGEST_PATCH + 1) if height % patch == 0 and width % patch == 0]
    enough = [patch for patch in fits if height * width >= FEWEST * patch * patch]
    return (enough or fits)[-1]
