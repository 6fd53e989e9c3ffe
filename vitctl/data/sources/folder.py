"""A folder on disk as a tree: walked in sorted order, symbolic links followed, loops refused."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from vitctl.data.sources.contract import Refused
from vitctl.data.sources.files import LargeFile, content_of, name_damaged_file
from vitctl.data.sources.names import TABLES, Parts, extension, is_image_name, is_junk, join_parts, on_disk
from vitctl.data.sources.tree import Entry, Tree, everywhere
from vitctl.errors import DataError

Identity = tuple[int, int]


@dataclass
class Listing:
    """One folder's content, in no order."""

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
            picture = next((name for name in listing.files if is_image_name(name)), None)
            if picture is not None:
                yield Entry((*parts, picture))
            yield from (Entry((*parts, name)) for name in listing.files if extension(name) in TABLES)

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
        """Every folder, sorted, with its content or the reason why it has none that can be read."""
        pending: list[tuple[Parts, tuple[Identity, ...]]] = [((), ())]
        while pending:
            parts, above = pending.pop()
            try:
                status = os.stat(self.path(parts))
                identity = (status.st_dev, status.st_ino)
                if identity in above:
                    yield parts, "a symbolic link to a folder above it: a loop"
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
        """An absolute path begins with an empty part."""
        return os.path.join(self.root, "/".join(parts))

    def place(self, path: str, base: Parts) -> Parts:
        """Anywhere on this machine: a manifest of one's own may name what it likes."""
        if not path.strip("./"):
            return ()
        return self.parts_of(path if os.path.isabs(path) else "/".join((*base, path)))

    def folder(self, path: str) -> Parts | None:
        path = os.path.abspath(os.path.expanduser(path))
        return self.parts_of(path) if os.path.isdir(path) else None

    def parts_of(self, path: str) -> Parts:
        """Relative to the root where it is below it, else as it is."""
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
                    listing.refused.append((entry.name, odd(entry)))
            except OSError as error:
                listing.refused.append((entry.name, f"cannot be read ({error.strerror})"))
    return listing


def odd(entry: "os.DirEntry[str]") -> str:
    return "a symbolic link to nothing" if entry.is_symlink() else "neither a file nor a folder"
