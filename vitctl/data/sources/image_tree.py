"""Image files in a folder, a tar or a zip. Their labels and splits come from their folders or from a manifest."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from vitctl.data.sources.contract import Declared, Entry, FoundImage, Refused, Sighting, Source, Tree, several_readings
from vitctl.data.sources.files import LargeFile
from vitctl.data.sources.labels import LABEL_KEYS, LARGEST_LABEL, Label, json_to_label
from vitctl.data.sources.layouts import Evidence, FolderLayout, FolderRole, Misplaced, common_start, layout_of
from vitctl.data.sources.manifest import (
    Find,
    ManifestTable,
    check_table,
    list_columns,
    list_images,
    no_paths,
    table_at,
)
from vitctl.data.sources.names import (
    TABLES,
    Parts,
    extension,
    is_image_name,
    join_parts,
    on_disk,
    printable,
    split_name,
)
from vitctl.errors import DataError
from vitctl.reporting import Reporter, format_count

SHOWN = 5  # names in a note
KINDS = 100  # extensions that are counted; names such as frame.000001 must not fill the memory
FEW = 10  # lines of a table that decide whether it lists images
MANY = 20  # tables to look at, at most


class SkippedFiles:
    """Counts what a scan skips, for its notes."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()  # extensions of files that are not images
        self.folders: dict[str, None] = {}
        self.unsorted = 0  # images next to the split folders

    def file(self, name: str) -> None:
        kind = extension(name)
        self.kinds[kind if kind in self.kinds or len(self.kinds) < KINDS else "*"] += 1

    def notes(self) -> list[str]:
        notes = []
        if self.kinds:
            kinds = list_names([f".{name}" if name else "no extension" for name, _ in self.kinds.most_common()])
            count = self.kinds.total()
            what = "file that is not an image" if count == 1 else "files that are not images"
            notes.append(f"skipped {count} {what} ({kinds})")
        if self.folders:
            notes.append(f"skipped folders: {list_names(list(self.folders))}")
        if self.unsorted:
            notes.append(f"skipped {format_count(self.unsorted, 'image')} next to the split folders")
        return notes


def list_names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class ImageTree(Source):
    """After the scan, `kind` is flat, classes, splits or manifest; until then, it is the requested kind."""

    def __init__(self, tree: Tree, kind: str = "folder", manifest: Entry | None = None) -> None:
        self.tree, self.requested, self.manifest = tree, kind, manifest
        self.kind = kind
        self.table_read: ManifestTable | None = None
        self.has_json = False
        self.skipped = SkippedFiles()
        self.remarks: list[str] = []

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        self.tree.prepare(spool, reporter)

    def sightings(self) -> Iterator[Sighting]:
        self.skipped, self.remarks = SkippedFiles(), []
        plan = self.plan()
        if isinstance(plan, ManifestTable):
            plan = check_table(self.tree, plan)
            self.kind, self.table_read = "manifest", plan
            self.remark_labels(plan)
            yield from list_images(self.tree, plan)
        else:
            self.kind = plan.kind
            yield from self.sightings_of(plan)

    def plan(self) -> FolderLayout | ManifestTable:
        """Decides how to read the tree: by its folders or by a table."""
        if self.manifest:
            return self.only_table([self.manifest])
        evidence, tables = self.survey()
        if self.requested == "manifest":
            return self.only_table(tables)
        layout = layout_of(evidence, self.requested, self.tree.where)
        useful = [table for table in map(self.table, tables) if table and self.has_labels(table)]
        if self.requested != "folder" or not useful:
            self.remark(layout, evidence)
            return layout
        if layout.labels:
            readings = {"manifest": f"what {useful[0].name} lists", layout.kind: "folders that are classes"}
            raise several_readings(self.tree.where, readings)
        self.remarks.append(f"labels come from {useful[0].name}")
        return self.only_table([table.at for table in useful])

    def survey(self) -> tuple[Evidence, list[Entry]]:
        """Where images are, and the tables in folders above all of them."""
        evidence = Evidence()
        tables: list[Entry] = []
        for entry in self.tree.survey():
            if entry.is_folder:
                evidence.add_empty(entry.parts)
            elif extension(entry.parts[-1]) == "json":
                self.has_json = True
            elif extension(entry.parts[-1]) not in TABLES:
                evidence.add(entry.parts[:-1])
            elif len(tables) < MANY:
                tables.append(entry)
        top = evidence.top or ()
        return evidence, [table for table in tables if table.parts[:-1] == top[: len(table.parts) - 1]]

    def table(self, entry: Entry) -> ManifestTable | None:
        return table_at(self.tree, entry, self.hints)

    def has_labels(self, table: ManifestTable) -> bool:
        """Whether it has labels or splits of images. A column named id or name alone may be about anything."""
        if not (table.label or table.classes or table.split):
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
                "name one of them, after unpacking if it is an archive"
            )
        if not tables:
            raise DataError(no_paths(self.tree, entries, self.hints))
        return tables[0]

    def remark_labels(self, table: ManifestTable) -> None:
        self.remarks += table.notes
        others = [name for name in table.columns if name not in ("", table.path, table.split)]
        if table.label is None and others and not table.classes:
            columns = list_columns(others)
            self.remarks.append(
                f"{table.name}: read without labels; --set label_column=NAME chooses their column, "
                f"target_column=NAME one of numbers, class_columns=A,B one of 0 and 1 per class: {columns}"
            )

    def remark(self, layout: FolderLayout, evidence: Evidence) -> None:
        """Notes on folders whose names suggest another layout."""
        splits = sorted(printable(name) for name in evidence.folders if split_name(name))
        if layout.kind == "classes" and splits:
            self.remarks.append(f"{list_names(splits)}: read as classes, because there is no train folder")
        if layout.kind == "flat" and layout.base:
            self.remarks.append(f"every image is in {join_parts(layout.base)}: read as one folder without labels")

    def sightings_of(self, layout: FolderLayout) -> Iterator[Sighting]:
        """The images with the labels and splits of their folders, each class before its first image."""
        if self.has_json and (layout.kind == "flat" or layout.flat):
            yield from self.sightings_with_json(layout)
            return
        yield from self.sightings_in_folders(layout)

    def sightings_with_json(self, layout: FolderLayout) -> Iterator[Sighting]:
        """The same; an image without a class folder has the label in key.json beside key.jpg, if there is one."""
        labeled = unlabeled = 0
        with self.tree.lookup() as find:
            for sighting in self.sightings_in_folders(layout):
                if isinstance(sighting, FoundImage) and sighting.label is None:
                    try:
                        sighting = replace(sighting, label=self.read_sidecar(sighting, find))
                    except DataError as error:
                        yield Refused(sighting.name, f"in its .json, {error}")
                        continue
                    labeled, unlabeled = labeled + (sighting.label is not None), unlabeled + (sighting.label is None)
                yield sighting
        if labeled:
            del self.skipped.kinds["json"]
            rest = f"; {format_count(unlabeled, 'image')} without ({', '.join(LABEL_KEYS)})" if unlabeled else ""
            self.remarks.append(f"labels come from the .json files beside the images{rest}")

    def read_sidecar(self, image: FoundImage, find: Find) -> Label:
        *folders, name = on_disk(image.name).split("/")
        entry = find((*folders, f"{name.rpartition('.')[0]}.json")) if "." in name else ""
        if isinstance(entry, str):
            return None
        with self.tree.text(entry) as text:
            return json_to_label(text.read(LARGEST_LABEL), self.hints)

    def sightings_in_folders(self, layout: FolderLayout) -> Iterator[Sighting]:
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
        self.skipped.folders[join_parts(folder)] = None
        return False

    def file(self, entry: Entry, layout: FolderLayout, place: FolderRole | Misplaced) -> Iterator[Sighting]:
        name = entry.parts[-1]
        if place == "outside":
            self.skip(entry, layout)
        elif not is_image_name(name):
            self.skipped.file(name)
        elif place == "stray":
            yield Refused(join_parts(entry.parts), "not in any class folder")
        else:
            yield FoundImage(join_parts(entry.parts), *place, entry.file, entry.offset, entry.size)

    def skip(self, entry: Entry, layout: FolderLayout) -> None:
        depth = len(common_start(layout.base, entry.parts)) + 1
        if len(entry.parts) > depth:
            self.skipped.folders[join_parts(entry.parts[:depth])] = None
        elif is_image_name(entry.parts[-1]):
            self.skipped.unsorted += 1

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return self.tree.read(name, file, offset, size)

    def only_rejects_message(self, refused: Refused) -> str:
        if not self.table_read:
            return super().only_rejects_message(refused)
        base = os.path.join(self.tree.where, *([join_parts(self.table_read.base)] if self.table_read.base else []))
        return (
            f"{refused.name}: {refused.reason}; no other line names an image either. Paths are relative to {base}; "
            "--set root=DIR chooses another folder"
        )

    def no_images_message(self) -> str:
        if self.table_read:
            return f"{self.tree.where}: {self.table_read.name} lists no images"
        kinds = list_names([f"{count} .{name}" for name, count in self.skipped.kinds.most_common()])
        return (
            f"{self.tree.where}: no images; looked for .jpg, .png and similar files in class folders, in train / val / "
            "test, and in the folder itself" + (f"; found {kinds}" if kinds else "")
        )

    def notes(self) -> list[str]:
        return self.remarks + self.skipped.notes()
