"""What an image's folders say about it: its class and its split. The same for folders on disk, tars and zips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vitctl.data.sources.contract import several_readings
from vitctl.data.sources.names import Parts, printable, split_name
from vitctl.errors import DataError

MANY = 1000


class FolderRole(NamedTuple):
    label: str | None
    split: str | None


Misplaced = Literal["stray", "outside"]  # beside class folders; not below what is read


@dataclass
class FolderReadings:
    """Where a folder has images."""

    own: bool = False
    below: bool = False


class Evidence:
    """Which folders hold images, seen one after another: what it takes to know the layout, and no more."""

    def __init__(self) -> None:
        self.top: Parts | None = None  # the deepest folder that every image so far lies in or below
        self.own = False  # whether some lie in it
        self.folders: dict[str, FolderReadings] = {}  # the folders in it that hold images
        self.over_empty: set[Parts] = set()  # folders with an empty folder in them

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
        """Where class folders lie of which only one holds images, if the others are empty."""
        top = self.top or ()
        return next((top[:depth] for depth in range(len(top)) if top[:depth] in self.over_empty), None)

    def rise(self, top: Parts) -> None:
        """What was known of the old top becomes what is known of one folder in the new one."""
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
    base: Parts = ()  # class or split folders lie here
    flat: frozenset[str] = frozenset()  # split folders without class folders
    labels: bool = False  # some folders are classes

    def place(self, folder: Parts) -> FolderRole | Misplaced:
        """What it means to lie in `folder`."""
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
        """Whether images of ours can lie in or below `folder`."""
        return folder == self.base[: len(folder)] or self.place(folder) != "outside"


def layout_of(evidence: Evidence, kind: str, where: str) -> FolderLayout:
    """The only layout that fits, or the one that was asked for."""
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
        raise several_readings(
            where,
            {
                "classes": "class folders with images beside them, which are refused",
                "flat": "images without labels, whatever folder they are in",
            },
        )
    base = evidence.top if evidence.folders else evidence.lone_class()
    return FolderLayout("flat", evidence.top) if base is None else FolderLayout("classes", base, labels=True)


def split_layout(evidence: Evidence) -> tuple[FolderLayout, Mapping[str, FolderReadings]] | None:
    """The layout if there is a train folder, and what the folders beside it hold."""
    top = evidence.top or ()
    folders: Mapping[str, FolderReadings] = evidence.folders
    for depth, name in enumerate(top):
        if split_name(name) == "train":  # every image is below train
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
    """A class may be called 'train', and images may lie in a split folder beside its class folders."""
    train = next(name for name in folders if split_name(name) == "train")
    others = [name for name in folders if split_name(name) is None]
    if train in layout.flat and others:
        raise several_readings(
            where,
            {
                "splits": f"splits, leaving out {printable(min(others))!r}",
                "classes": f"classes, one of which is {printable(train)!r}",
            },
        )
    mixed = [name for name, holds in folders.items() if split_name(name) and holds.own and holds.below]
    if mixed:
        raise several_readings(
            f"{where}, {printable(min(mixed))}",
            {
                "splits": "class folders with images beside them, which are refused",
                "flat": "images without labels or splits, whatever folder they are in",
            },
        )
