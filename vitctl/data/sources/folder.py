"""A folder on disk as a tree: walks it in sorted order, follows symbolic links, and refuses loops."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from vitctl.data.sources.contract import Entry, Refused, Tree, everywhere
from vitctl.data.sources.files import LargeFile, content_of, name_damaged_file
from vitctl.data.sources.names import TABLES, Parts, extension, is_image_name, is_junk, join_parts, on_disk
from vitctl.errors import DataError

Identity = tuple[int, int]


@dataclass
class Listing:
    """The content of one folder, unsorted."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)  # name, reason


class Folder(Tree):
    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self.where = str(root)

    def survey(self) -> Iterator[Entry]:
        for parts, listing in self.walk(everywhere):
            if not isinstance(listing, Listing):
                continue
            if not (listing.files or listing.folders or listing.refused):
                yield Entry(parts, is_folder=True)
            image = next((name for name in listing.files if is_image_name(name)), None)
            if image is not None:
                yield Entry((*parts, image))
            yield from (Entry((*parts, name)) for name in listing.files if extension(name) in TABLES)
            json = next((name for name in listing.files if extension(name) == "json"), None)
            if json is not None:
                yield Entry((*parts, json))

    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        for parts, listing in self.walk(enters):
            if not isinstance(listing, Listing):
                yield Refused(join_parts(parts), listing)
                continue
            if parts:
                yield Entry(parts, is_folder=True)
            yield from (Refused(join_parts((*parts, name)), reason) for name, reason in sorted(listing.refused))
            yield from (Entry((*parts, name)) for name in sorted(listing.files))

    def walk(self, enters: Callable[[Parts], bool]) -> Iterator[tuple[Parts, Listing | str]]:
        """Every folder in sorted order, with its content, or the reason why it cannot be read."""
        pending: list[tuple[Parts, tuple[Identity, ...]]] = [((), ())]
        while pending:
            parts, above = pending.pop()
            try:
                status = os.stat(self.path(parts))
                identity = (status.st_dev, status.st_ino)
                if identity in above:
                    yield parts, "a symbolic link to a parent folder: a loop"
                    continue
                listing = list_folder(self.path(parts))
            except OSError as error:
                if not parts:
                    raise DataError(f"{self.where}: cannot be read ({error.strerror})") from error
                yield parts, f"this folder cannot be read ({error.strerror})"
                continue
            yield parts, listing
            below = [(*parts, name) for name in sorted(listing.folders, reverse=True)]
            pending += [(each, (*above, identity)) for each in below if enters(each)]

    def path(self, parts: Parts) -> str:
        """The first part of an absolute path is empty."""
        return os.path.join(self.root, "/".join(parts))

    def place(self, path: str, base: Parts) -> Parts:
        """Unlike an archive's, a local manifest may name any path on this machine."""
        if not path.strip("./"):
            return ()
        return self.parts_of(path if os.path.isabs(path) else "/".join((*base, path)))

    def folder(self, path: str) -> Parts | None:
        path = os.path.abspath(os.path.expanduser(path))
        return self.parts_of(path) if os.path.isdir(path) else None

    def parts_of(self, path: str) -> Parts:
        """Relative to the root if the path is below it."""
        parts, root = (tuple(part for part in each.split("/") if part not in ("", ".")) for each in (path, self.root))
        if not path.startswith("/"):
            return parts
        return parts[len(root) :] if parts[: len(root)] == root else ("", *parts)

    @contextmanager
    def lookup(self) -> Iterator[Callable[[Parts], Entry | str]]:
        def find(parts: Parts) -> Entry | str:
            path = self.path(parts)
            if os.path.isfile(path):
                return Entry(parts)
            if os.path.isdir(path):
                return "is a folder"
            return "is neither a file nor a folder" if os.path.exists(path) else "does not exist"

        yield find

    def text(self, entry: Entry) -> TextIO:
        with name_damaged_file(self.path(entry.parts)):
            return open(self.path(entry.parts), encoding="utf-8-sig", errors="surrogateescape", newline="")

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return content_of(os.path.join(self.root, on_disk(name)))


def list_folder(path: str) -> Listing:
    listing = Listing()
    with os.scandir(path) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            try:
                if entry.is_dir():
                    listing.folders.append(entry.name)
                elif entry.is_file():
                    listing.files.append(entry.name)
                else:
                    odd = "a broken symbolic link" if entry.is_symlink() else "neither a file nor a folder"
                    listing.refused.append((entry.name, odd))
            except OSError as error:
                listing.refused.append((entry.name, f"cannot be read ({error.strerror})"))
    return listing
