"""Finds an image's class and split from its folders: the same rules for folders on disk, tars and zips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vitctl.data.sources.contract import several_readings
from vitctl.data.sources.names import Parts, printable, split_name
from vitctl.errors import DataError

MANY = 1000
STRAYS = "class folders, rejecting the images next to them"


class FolderRole(NamedTuple):
    label: str | None
    split: str | None


Misplaced = Literal["stray", "outside"]  # in no class folder; not below the folders that are read


@dataclass
class FolderReadings:
    """Whether a folder has images in it, and in folders below it."""

    own: bool = False
    below: bool = False


class Evidence:
    """Collects which folders hold images, one by one. It keeps only what decides the layout, not every folder."""

    def __init__(self) -> None:
        self.top: Parts | None = None  # the deepest folder that contains every image so far, at any depth
        self.own = False  # some images are directly in it
        self.folders: dict[str, FolderReadings] = {}  # its subfolders with images
        self.over_empty: set[Parts] = set()  # folders that contain an empty folder

    def add(self, folder: Parts) -> None:
        if self.top is None:
            self.top, self.own = folder, True
        common = common_start(self.top, folder)
        if len(common) < len(self.top):
            self.rise(common)
        rest = folder[len(common) :]
        if not rest:
            self.own = True
        else:
            holds = self.folders.setdefault(rest[0], FolderReadings())
            holds.own |= len(rest) == 1
            holds.below |= len(rest) > 1

    def add_empty(self, folder: Parts) -> None:
        if len(self.over_empty) < MANY:
            self.over_empty.add(folder[:-1])

    def lone_class(self) -> Parts | None:
        """The folder of the class folders, if all but one of them are empty."""
        top = self.top or ()
        return next((top[:depth] for depth in range(len(top)) if top[:depth] in self.over_empty), None)

    def rise(self, top: Parts) -> None:
        """Moves up to a new top, in which everything so far is one subfolder."""
        assert self.top is not None
        deep = len(self.top) > len(top) + 1
        holds = FolderReadings(self.own and not deep, deep or bool(self.folders))
        self.top, self.own, self.folders = top, False, {self.top[len(top)]: holds}


def common_start(one: Parts, other: Parts) -> Parts:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:place]
    return one if len(one) < len(other) else other


@dataclass(frozen=True)
class FolderLayout:
    kind: Literal["flat", "classes", "splits"]
    base: Parts = ()  # contains the class or split folders
    flat: frozenset[str] = frozenset()  # split folders without class folders
    labels: bool = False  # some folders are classes

    def place(self, folder: Parts) -> FolderRole | Misplaced:
        """The label and split of an image in `folder`."""
        if self.kind == "flat":
            return FolderRole(None, None)
        rest = folder[len(self.base) :]
        if folder[: len(self.base)] != self.base:
            return "outside"
        if self.kind == "classes":
            return FolderRole(printable(rest[0]), None) if rest else "stray"
        split = split_name(rest[0]) if rest else None
        if split is None:
            return "outside"
        if rest[0] in self.flat:
            return FolderRole(None, split)
        return FolderRole(printable(rest[1]), split) if len(rest) > 1 else "stray"

    def enters(self, folder: Parts) -> bool:
        """Whether images that are read can be in `folder`, at any depth."""
        return folder == self.base[: len(folder)] or self.place(folder) != "outside"


def layout_of(evidence: Evidence, kind: str, where: str) -> FolderLayout:
    """The only layout that fits, or the one that `kind` names."""
    if kind == "flat" or evidence.top is None:
        return FolderLayout("flat")
    splits = split_layout(evidence)
    if kind == "splits":
        if splits is None:
            raise DataError(f"{where}: has no train folder, so no splits; without --set kind its folders are classes")
        return splits[0]
    if kind == "classes":
        return FolderLayout("classes", evidence.top if evidence.folders else evidence.top[:-1], labels=True)
    if splits is not None:
        layout, folders = splits
        check_splits(layout, folders, where)
        return layout
    if evidence.own and evidence.folders:
        raise several_readings(where, {"classes": STRAYS, "flat": "images without labels, in any folder"})
    base = evidence.top if evidence.folders else evidence.lone_class()
    return FolderLayout("flat", evidence.top) if base is None else FolderLayout("classes", base, labels=True)


def split_layout(evidence: Evidence) -> tuple[FolderLayout, Mapping[str, FolderReadings]] | None:
    """The layout, if there is a train folder, and what the folders next to it hold."""
    top = evidence.top or ()
    folders: Mapping[str, FolderReadings] = evidence.folders
    for depth, name in enumerate(top):
        if split_name(name) == "train":  # all images are below train
            last = depth + 1 == len(top)
            folders = {name: FolderReadings(evidence.own and last, not last or bool(evidence.folders))}
            top = top[:depth]
            break
    if not any(split_name(name) == "train" for name in folders):
        return None
    flat = frozenset(name for name, holds in folders.items() if split_name(name) and not holds.below)
    labels = any(split_name(name) and holds.below for name, holds in folders.items())
    return FolderLayout("splits", top, flat, labels), folders


def check_splits(layout: FolderLayout, folders: Mapping[str, FolderReadings], where: str) -> None:
    """Raises if a class may be named 'train', or a split folder has images next to its class folders."""
    train = next(name for name in folders if split_name(name) == "train")
    others = [name for name in folders if split_name(name) is None]
    if train in layout.flat and others:
        splits, classes = f"splits, without {printable(min(others))!r}", f"classes, one of them {printable(train)!r}"
        raise several_readings(where, {"splits": splits, "classes": classes})
    mixed = [name for name, holds in folders.items() if split_name(name) and holds.own and holds.below]
    if mixed:
        readings = {"splits": STRAYS, "flat": "images without labels or splits, in any folder"}
        raise several_readings(f"{where}, {printable(min(mixed))}", readings)
