"""The plan of a build: which image goes to which row of which split, decided before the first one is decoded.

It is stored as columns on disk. So a data set of any size can be planned, workers look up their rows by number, and a
build that was killed resumes with the plan that it started with.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.patchify import SPLITS, PatchifyConfig
from vitctl.data.patchifier.classes import UNKNOWN, Classes
from vitctl.data.patchifier.merge import merge_copies
from vitctl.data.patchifier.scan import BATCH, Ints, Scan
from vitctl.data.patchifier.stored import choose_format, choose_sample
from vitctl.data.patchifier.workspace import Build
from vitctl.errors import DataError
from vitctl.io.atomic import flush_file, write_json
from vitctl.io.patch_format import EMPTY_SET, Geometry
from vitctl.randomness import scramble, stream
from vitctl.reporting import Reporter

WHERE = ("label", "file", "offset", "size")  # int64 columns of a plan


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
    task: str = "classes"

    @property
    def total(self) -> int:
        return sum(self.splits.values())

    def column(self, name: str) -> Any:
        """label, file, offset or size: int64 [total]; name: bytes [total]; and what the task adds: label_sets, uint8
        [total, ceil(K / 8)], or targets, float64 [total]."""
        path = self.folder / name
        if name == "name":
            return np.memmap(path, f"S{path.stat().st_size // self.total}", "r") if self.total else np.empty(0, "S1")
        if name == "label_sets":
            return np.memmap(path, np.uint8, "r", shape=(self.total, -(-len(self.class_names) // 8)))
        kind = np.float64 if name == "targets" else np.int64
        return np.memmap(path, kind, "r") if self.total else np.empty(0, kind)

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
        scan.run(build.source, reporter)
        if config.merge_copies:
            scan.notes.append(merge_copies(scan, build.source, reporter))
        scan.save()
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
        scan.task,
    )
    plan.save()
    if not build.shared:
        shutil.rmtree(scan.folder)
    return plan


def find_emptied_classes(splits: Mapping[str, Ints], classes: "Classes") -> list[str]:
    """Warnings about classes that had images, but none of them is left in train."""
    if "train" not in splits or not classes.names:
        return []
    usable = np.flatnonzero(classes.final != UNKNOWN)
    before, after = (np.flatnonzero(classes.count(rows)) for rows in (usable, splits["train"]))
    return [f"class {classes.names[label]!r} has no image left in train" for label in np.setdiff1d(before, after)[:5]]


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
    """The rank of each row within its class, the lowest one of a set, int64 [rows], and the size of that class.

    The shuffle depends on names alone, so an image keeps its split when others are added.
    """
    shuffled = scramble(scan.column("key")[rows] ^ stream(seed, purpose))
    own = labels[rows] - EMPTY_SET  # images without a label form a class of their own here, and so do empty sets
    order = np.lexsort((shuffled, own))
    sizes = np.bincount(own)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return rank, sizes[own]


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
    extra = {"classes": (), "sets": ("label_sets",), "numbers": ("targets",)}[scan.task]
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in (*WHERE, *extra, "name")}
        for split, rows in splits.items():
            own = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
            if len(own):
                counts[split] = len(own)
            for start in range(0, len(own), BATCH):
                part = own[start : start + BATCH]
                for name in WHERE:
                    columns[name][part].tofile(files[name])
                for name in extra:
                    (classes.pack(part) if name == "label_sets" else scan.column("target")[part]).tofile(files[name])
                np.array(scan.names(part), f"S{max(scan.widest, 1)}").tofile(files["name"])
    for name in files:
        flush_file(folder / name)
    if not counts:
        raise DataError(f"shard {shard} of {shards} would be empty; use fewer shards")
    return counts
