"""The list of classes, and the final label of every image that a scan has found."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.config.patchify import PatchifyConfig
from vitctl.data.patchifier.scan import BATCH, NO_CLASS, Ints, Scan
from vitctl.errors import DataError, did_you_mean
from vitctl.io.files import check_regular_file
from vitctl.reporting import format_count

UNKNOWN = -3  # the label of an image of an unknown class; -1 is NO_CLASS, -2 is EMPTY_SET


class Classes:
    """The list of classes, which train decides, and the final label of every scanned image (`final`, int64 [count])."""

    def __init__(self, scan: Scan, numbered_names: tuple[str, ...] | None, config: PatchifyConfig) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.refused: list[tuple[str, str]] = []
        listed = read_class_names(config.classes) if config.classes else None
        if scan.numbered and scan.labels:
            raise DataError(f"{config.source}: some labels are numbers and some are names; use one kind")
        self.scan, self.position = scan, np.empty(0, np.int64)  # of sets: the class of each number in the scan
        self.names: tuple[str, ...] = ()
        if scan.task == "sets":
            self.final = self.assign_sets(listed, numbered_names, config)
        elif scan.task == "numbers":
            self.final = np.full(scan.count, NO_CLASS)
        elif scan.numbered:
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

    def assign_sets(
        self, listed: tuple[str, ...] | None, numbered_names: tuple[str, ...] | None, config: PatchifyConfig
    ) -> Ints:
        """The lowest class of each set. A set that names an unknown class is refused."""
        images, in_train = self.count_members()
        seen = np.flatnonzero(in_train)
        if self.scan.numbered:
            named = listed or numbered_names
            self.names = named or tuple(map(str, range(int(seen.max(initial=-1)) + 1)))
            numbers = np.arange(len(images))
            self.position = np.where(numbers < len(self.names) if named else in_train > 0, numbers, UNKNOWN)
            by_number = dict(enumerate([*self.names, *map(str, range(len(self.names), len(images)))]))
        else:
            by_number = {number: name for name, number in self.scan.labels.items()}
            declared = self.scan.declared.get("train", self.scan.declared.get(None, []))
            self.names = listed or tuple(sorted({by_number[number] for number in seen.tolist()}.union(declared)))
            place = {name: number for number, name in enumerate(self.names)}
            self.position = np.array([place.get(by_number[each], UNKNOWN) for each in range(len(images))], np.int64)
        if not self.names:
            raise DataError(f"{config.source}: no label names a class; --classes FILE lists the classes")
        self.warn_empty(self.names, {by_number[number]: count for number, count in enumerate(images.tolist())})
        final = np.concatenate([self.lowest(rows) for rows in self.scan.batches()])
        self.refuse_sets(final, by_number, config.classes or ("the class names" if numbered_names else "train"))
        return final

    def count_members(self) -> tuple[Ints, Ints]:
        """How many images of all splits, and of train, have each class of the scan."""
        scan, count = self.scan, int(self.scan.column("member").max(initial=-1)) + 1
        train = scan.splits.get("train", scan.splits.get(None))
        images, in_train = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for rows in scan.batches():
            own, owner = scan.members_of(rows)
            chosen = (scan.column("split")[rows] == train)[owner] | (train is None)
            images += np.bincount(own, minlength=count)
            in_train += np.bincount(own[chosen], minlength=count)
        return images, in_train

    def lowest(self, rows: Ints) -> Ints:
        """The lowest class of the sets of these rows; UNKNOWN if one of it is, EMPTY_SET or NO_CLASS if it has none."""
        own, owner = self.scan.members_of(rows)
        lowest = np.full(len(rows), len(self.names))
        np.minimum.at(lowest, owner, self.position[own])
        return np.where(lowest < len(self.names), lowest, self.scan.column("label")[rows])

    def pack(self, rows: Ints) -> Any:
        """uint8 [n, ceil(K / 8)]: a bit for each class of the sets of these rows."""
        own, owner = self.scan.members_of(rows)
        packed, place = np.zeros((len(rows), -(-len(self.names) // 8)), np.uint8), self.position[own]
        np.bitwise_or.at(packed, (owner, place >> 3), (1 << (place & 7)).astype(np.uint8))
        return packed

    def count(self, rows: Ints) -> Ints:
        """How many of these rows have each class."""
        if self.scan.task != "sets":
            labels = self.final[rows]
            return np.bincount(labels[labels >= 0], minlength=len(self.names))
        counts = np.zeros(len(self.names), np.int64)
        for start in range(0, len(rows), BATCH):
            own, _ = self.scan.members_of(rows[start : start + BATCH])
            counts += np.bincount(self.position[own], minlength=len(self.names))
        return counts

    def refuse_sets(self, final: Ints, by_number: Mapping[int, str], where: str) -> None:
        rows = np.flatnonzero(final == UNKNOWN)
        outside: Counter[str] = Counter()
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            own, owner = self.scan.members_of(part)
            unknown = self.position[own] == UNKNOWN
            owners, first = np.unique(owner[unknown], return_index=True)
            labels = [by_number[number] for number in own[unknown][first].tolist()]
            outside.update(labels)
            for name, label in zip(self.scan.names(part[owners]), labels, strict=True):
                self.refused.append((name.decode(), f"class {label!r} is not in {where}"))
        if len(rows) == self.scan.count:
            raise DataError(f"{where}: lacks a class of every image; the first is {self.refused[0][1]}")
        if outside:
            more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
            self.warnings.append(f"classes that are not in {where}: {', '.join(sorted(outside)[:5])}{more}")

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
