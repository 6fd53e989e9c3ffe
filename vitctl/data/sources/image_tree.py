"""Image files in a folder, a tar or a zip, with the labels and splits that their folders or a manifest give them."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vitctl.data.sources.contract import Declared, FoundImage, Refused, Sighting, Source, several_readings
from vitctl.data.sources.files import LargeFile
from vitctl.data.sources.layouts import Evidence, FolderLayout, FolderRole, Misplaced, common_start, layout_of
from vitctl.data.sources.manifest import (
    Hints,
    ManifestTable,
    check_table,
    list_columns,
    list_images,
    no_paths,
    table_at,
)
from vitctl.data.sources.names import TABLES, Parts, extension, is_image_name, join_parts, printable, split_name
from vitctl.data.sources.tree import Entry, Tree
from vitctl.errors import DataError
from vitctl.reporting import Reporter

SHOWN = 5  # names in a note
KINDS = 100  # endings counted one by one: names such as frame.000001 must not fill the memory
FEW = 10  # lines by which a table is known
MANY = 20  # tables: of so many none describes the whole


class SkippedFiles:
    """What a scan did not take, for its notes."""

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()  # of files that are not images
        self.folders: dict[str, None] = {}
        self.beside = 0  # images beside the split folders

    def file(self, name: str) -> None:
        kind = extension(name)
        self.endings[kind if kind in self.endings or len(self.endings) < KINDS else "*"] += 1

    def notes(self) -> list[str]:
        notes = []
        if self.endings:
            count = self.endings.total()
            kinds = list_names([f".{name}" if name else "no ending" for name, _ in self.endings.most_common()])
            notes.append(
                f"{count} file{' that is not a picture' if count == 1 else 's that are not pictures'} "
                f"({kinds}) {'was' if count == 1 else 'were'} left out"
            )
        if self.folders:
            notes.append(f"folders left out: {list_names(list(self.folders))}")
        if self.beside:
            notes.append(f"{self.beside} images beside the split folders were left out")
        return notes


def list_names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class ImageTree(Source):
    """`kind` is what was asked for until the tree was scanned, then flat, classes, splits or manifest."""

    def __init__(self, tree: Tree, kind: str = "folder", manifest: Entry | None = None) -> None:
        self.tree, self.asked, self.manifest = tree, kind, manifest
        self.kind = kind
        self.hints = Hints()
        self.taken: ManifestTable | None = None  # the manifest that is read
        self.left_out = SkippedFiles()
        self.remarks: list[str] = []

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        self.tree.prepare(spool, reporter)

    def sightings(self) -> Iterator[Sighting]:
        self.left_out, self.remarks = SkippedFiles(), []
        plan = self.plan()
        if isinstance(plan, ManifestTable):
            self.kind, self.taken = "manifest", plan
            self.remark_labels(plan)
            yield from list_images(self.tree, check_table(self.tree, plan))
        else:
            self.kind = plan.kind
            yield from self.sightings_of(plan)

    def plan(self) -> FolderLayout | ManifestTable:
        """Looks before it leaps: which reading is the right one."""
        if self.manifest:
            return self.only_table([self.manifest])
        evidence, tables = self.survey()
        if self.asked == "manifest":
            return self.only_table(tables)
        layout = layout_of(evidence, self.asked, self.tree.where)
        telling = [table for table in map(self.table, tables) if table and self.tells(table)]
        if self.asked != "folder" or not telling:
            self.remark(layout, evidence)
            return layout
        if layout.labels:
            raise several_readings(
                self.tree.where,
                {
                    "manifest": f"what {telling[0].name} lists",
                    layout.kind: "folders that are classes",
                },
            )
        self.remarks.append(f"labels are those of {telling[0].name}")
        return self.only_table([table.at for table in telling])

    def survey(self) -> tuple[Evidence, list[Entry]]:
        """Where images lie, and the tables above them all."""
        evidence = Evidence()
        tables: list[Entry] = []
        for entry in self.tree.survey():
            if entry.is_folder:
                evidence.add_empty(entry.parts)
            elif extension(entry.parts[-1]) not in TABLES:
                evidence.add(entry.parts[:-1])
            elif len(tables) < MANY:
                tables.append(entry)
        top = evidence.top or ()
        return evidence, [table for table in tables if table.parts[:-1] == top[: len(table.parts) - 1]]

    def table(self, entry: Entry) -> ManifestTable | None:
        return table_at(self.tree, entry, self.hints)

    def tells(self, table: ManifestTable) -> bool:
        """Whether it says something about images: a column called id or name may be about anything."""
        if not (table.label or table.split):
            return False
        return table.explicit or any(
            isinstance(each, FoundImage) for each in islice(list_images(self.tree, table), FEW)
        )

    def only_table(self, entries: list[Entry]) -> ManifestTable:
        tables = [table for table in map(self.table, entries) if table]
        tables = [table for table in tables if table.explicit] or tables
        if len(tables) > 1:
            raise DataError(
                f"{self.tree.where}: holds several tables ({list_names([table.name for table in tables])}); "
                "unpack it if it is an archive, and name the one that is meant"
            )
        if not tables:
            raise DataError(no_paths(self.tree, entries, self.hints))
        return tables[0]

    def remark_labels(self, table: ManifestTable) -> None:
        others = [name for name in table.columns if name not in ("", table.path, table.split)]
        if table.label is None and others:
            self.remarks.append(
                f"{table.name}: read without labels; --set label_column=NAME takes them from one of its columns: "
                + list_columns(others)
            )

    def remark(self, layout: FolderLayout, evidence: Evidence) -> None:
        """What somebody may have meant otherwise."""
        splits = sorted(printable(name) for name in evidence.folders if split_name(name))
        if layout.kind == "classes" and splits:
            self.remarks.append(f"{list_names(splits)}: read as classes, as there is no train folder beside")
        if layout.kind == "flat" and layout.base:
            self.remarks.append(f"every image lies in {join_parts(layout.base)}: read as one folder without labels")

    def sightings_of(self, layout: FolderLayout) -> Iterator[Sighting]:
        """The images with what their folders say, each class before its first image."""
        declared: set[FolderRole] = set()
        for entry in self.tree.entries(lambda folder: self.enters(layout, folder)):
            if isinstance(entry, Refused):
                yield entry
                continue
            place = layout.place(entry.parts if entry.is_folder else entry.parts[:-1])
            if isinstance(place, FolderRole) and place.label is not None and place not in declared:
                declared.add(place)
                yield Declared(place.label, place.split)
            if not entry.is_folder:
                yield from self.file(entry, layout, place)

    def enters(self, layout: FolderLayout, folder: Parts) -> bool:
        if layout.enters(folder):
            return True
        self.left_out.folders[join_parts(folder)] = None
        return False

    def file(self, entry: Entry, layout: FolderLayout, place: FolderRole | Misplaced) -> Iterator[Sighting]:
        name = entry.parts[-1]
        if place == "outside":
            self.pass_by(entry, layout)
        elif not is_image_name(name):
            self.left_out.file(name)
        elif place == "stray":
            yield Refused(join_parts(entry.parts), "lies beside the class folders, in none of them")
        else:
            yield FoundImage(join_parts(entry.parts), *place, entry.file, entry.offset, entry.size)

    def pass_by(self, entry: Entry, layout: FolderLayout) -> None:
        depth = len(common_start(layout.base, entry.parts)) + 1
        if len(entry.parts) > depth:
            self.left_out.folders[join_parts(entry.parts[:depth])] = None
        elif is_image_name(entry.parts[-1]):
            self.left_out.beside += 1

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return self.tree.read(name, file, offset, size)

    def only_rejects_message(self, refused: Refused) -> str:
        if not self.taken:
            return super().only_rejects_message(refused)
        base = os.path.join(self.tree.where, *([join_parts(self.taken.base)] if self.taken.base else []))
        return (
            f"{refused.name}: {refused.reason}; no other line names an image either. Paths are relative to {base}; "
            "--set root=DIR names another folder"
        )

    def no_images_message(self) -> str:
        if self.taken:
            return f"{self.tree.where}: {self.taken.name} lists nothing"
        kinds = list_names([f"{count} .{name}" for name, count in self.left_out.endings.most_common()])
        return (
            f"{self.tree.where}: no image there; looked for .jpg, .png and the like in class folders, "
            "below train / val / test, and in the folder itself" + (f"; found {kinds}" if kinds else "")
        )

    def notes(self) -> list[str]:
        return self.remarks + self.left_out.notes()
