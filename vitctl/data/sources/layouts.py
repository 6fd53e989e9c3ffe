"""What a picture's folders say about it: its class and its split. The same for folders on disk, tars and zips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vitctl.data.sources.contract import several_readings
from vitctl.data.sources.names import Parts, printable, split_of
from vitctl.errors import DataError

MANY = 1000


class Place(NamedTuple):
    label: str | None
    split: str | None


Misplaced = Literal["stray", "outside"]  # beside class folders; not below what is read


@dataclass
class Capabilities:
    """Where a folder has pictures."""

    own: bool = False
    below: bool = False


class Evidence:
    """Which folders hold pictures, seen one after another: what it takes to know the layout, and no more."""

    def __init__(self) -> None:
        self.top: Parts | None = None  # the deepest folder that every picture so far lies in or below
        self.own = False  # whether some lie in it
        self.folders: dict[str, Capabilities] = {}  # the folders in it that hold pictures
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
            holds = self.folders.setdefault(rest[0], Capabilities())
            holds.own |= len(rest) == 1
            holds.below |= len(rest) > 1

    def add_empty(self, folder: Parts) -> None:
        if len(self.over_empty) < MANY:
            self.over_empty.add(folder[:-1])

    def lone_class(self) -> Parts | None:
        """Where class folders lie of which only one holds pictures, if the others are empty."""
        top = self.top or ()
        return next((top[:depth] for depth in range(len(top)) if top[:depth] in self.over_empty), None)

    def rise(self, top: Parts) -> None:
        """What was known of the old top becomes what is known of one folder in the new one."""
        assert self.top is not None
        deep = len(self.top) > len(top) + 1
        holds = Capabilities(self.own and not deep, deep or bool(self.folders))
        self.top, self.own, self.folders = top, False, {self.top[len(top)]: holds}


def common_start(one: Parts, other: Parts) -> Parts:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:place]
    return one if len(one) < len(other) else other


@dataclass(frozen=True)
class Layout:
    kind: Literal["flat", "classes", "splits"]
    base: Parts = ()  # class or split folders lie here
    flat: frozenset[str] = frozenset()  # split folders without class folders
    labels: bool = False  # some folders are classes

    def place(self, folder: Parts) -> Place | Misplaced:
        """What it means to lie in `folder`."""
        if self.kind == "flat":
            return Place(None, None)
        rest = folder[len(self.base) :]
        if folder[: len(self.base)] != self.base:
            return "outside"
        if self.kind == "classes":
            return Place(printable(rest[0]), None) if rest else "stray"
        split = split_of(rest[0]) if rest else None
        if split is None:
            return "outside"
        if rest[0] in self.flat:
            return Place(None, split)
        return Place(printable(rest[1]), split) if len(rest) > 1 else "stray"

    def enters(self, folder: Parts) -> bool:
        """Whether pictures of ours can lie in or below `folder`."""
        return folder == self.base[: len(folder)] or self.place(folder) != "outside"


def layout_of(evidence: Evidence, kind: str, where: str) -> Layout:
    """The only layout that fits, or the one that was asked for."""
    if kind == "flat" or evidence.top is None:
        return Layout("flat")
    splits = split_layout(evidence)
    if kind == "splits":
        if splits is None:
            raise DataError(f"{where}: has no train folder, so no splits; without --set kind its folders are classes")
        return splits[0]
    if kind == "classes":
        return Layout("classes", evidence.top if evidence.folders else evidence.top[:-1], labels=True)
    if splits is not None:
        layout, folders = splits
        check_splits(layout, folders, where)
        return layout
    if evidence.own and evidence.folders:
        raise several_readings(
            where,
            {
                "classes": "class folders with pictures beside them, which are refused",
                "flat": "pictures without labels, whatever folder they are in",
            },
        )
    base = evidence.top if evidence.folders else evidence.lone_class()
    return Layout("flat", evidence.top) if base is None else Layout("classes", base, labels=True)


def split_layout(evidence: Evidence) -> tuple[Layout, Mapping[str, Capabilities]] | None:
    """The layout if there is a train folder, and what the folders beside it hold."""
    top = evidence.top or ()
    folders: Mapping[str, Capabilities] = evidence.folders
    for depth, name in enumerate(top):
        if split_of(name) == "train":  # every picture is below train
            last = depth + 1 == len(top)
            folders = {name: Capabilities(evidence.own and last, not last or bool(evidence.folders))}
            top = top[:depth]
            break
    if not any(split_of(name) == "train" for name in folders):
        return None
    flat = frozenset(name for name, holds in folders.items() if split_of(name) and not holds.below)
    labels = any(split_of(name) and holds.below for name, holds in folders.items())
    return Layout("splits", top, flat, labels), folders


def check_splits(layout: Layout, folders: Mapping[str, Capabilities], where: str) -> None:
    """A class may be called 'train', and pictures may lie in a split folder beside its class folders."""
    train = next(name for name in folders if split_of(name) == "train")
    others = [name for name in folders if split_of(name) is None]
    if train in layout.flat and others:
        raise several_readings(
            where,
            {
                "splits": f"splits, leaving out {printable(min(others))!r}",
                "classes": f"classes, one of which is {printable(train)!r}",
            },
        )
    mixed = [name for name, holds in folders.items() if split_of(name) and holds.own and holds.below]
    if mixed:
        raise several_readings(
            f"{where}, {printable(min(mixed))}",
            {
                "splits": "class folders with pictures beside them, which are refused",
                "flat": "pictures without labels or splits, whatever folder they are in",
            },
        )
