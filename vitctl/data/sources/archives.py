"""Shared by tars and zips: an index of their members, created in one pass, and read in archive order or by path."""

import io
import os
import sqlite3
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from vitctl.data.sources.contract import Entry, Refused, Tree, everywhere
from vitctl.data.sources.files import File, LargeFile, hash_values
from vitctl.data.sources.names import (
    TABLES,
    Parts,
    extension,
    is_image_name,
    is_junk,
    join_parts,
    printable,
    relative_parts,
)
from vitctl.errors import DataError, NoSpace
from vitctl.io.atomic import flush_file
from vitctl.reporting import Reporter

COLUMNS = "path, reason, is_folder, file, offset, size"


class Archive(Tree):
    """Reading through an archive may take an hour, and it may hold millions of members. So the index is on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self.original = self.file = File.at(path)  # `file` becomes the unpacked copy of a compressed archive
        self.spool: Path | None = None  # set by `prepare`

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        self.spool = spool

    @abstractmethod
    def members(self) -> Iterator[Entry | Refused]:
        """Everything in the archive, in its order, including junk; read from the archive itself."""

    def walk(self) -> Iterator[Entry | Refused]:
        """The same without junk, for a caller that needs a single pass and no index."""
        for member in self.members():
            if isinstance(member, Refused) or not any(map(is_junk, member.parts)):
                yield member

    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        with self.index() as index:
            yield from map(row_member, index.execute(f"SELECT {COLUMNS} FROM members ORDER BY rowid"))

    def survey(self) -> Iterator[Entry]:
        for entry in self.entries():
            if isinstance(entry, Entry) and not entry.is_folder:
                name = entry.parts[-1]
                if is_image_name(name) or extension(name) in TABLES or extension(name) == "json":
                    yield entry

    @contextmanager
    def lookup(self) -> Iterator[Callable[[Parts], Entry | str]]:
        condition = "path = ? AND reason IS NULL AND NOT is_folder"
        with self.index() as index:
            index.execute("CREATE INDEX IF NOT EXISTS by_path ON members (path)")

            def find(parts: Parts) -> Entry | str:
                query = f"SELECT {COLUMNS} FROM members WHERE {condition} ORDER BY rowid DESC"
                row = index.execute(query, [encode_parts(parts)]).fetchone()  # the last one wins, as in unpacking
                return Entry(parts, False, *row[3:]) if row else "is not in the archive"

            yield find

    @contextmanager
    def index(self) -> Iterator[sqlite3.Connection]:
        """Created on first use under a temporary name, then renamed, so that a kill leaves a complete index or none."""
        assert self.spool is not None
        path = self.spool / f"{hash_values(self.file)}.members"
        try:
            if not path.exists():
                aside = path.with_suffix(".part")
                aside.unlink(missing_ok=True)
                with closing(connect(aside)) as index:
                    index.execute("PRAGMA journal_mode=OFF")
                    index.execute(f"CREATE TABLE members ({COLUMNS})")
                    index.execute("BEGIN")
                    index.executemany("INSERT INTO members VALUES (?, ?, ?, ?, ?, ?)", map(member_row, self.walk()))
                    index.execute("COMMIT")
                flush_file(aside)
                os.replace(aside, path)
            with closing(connect(path)) as index:
                yield index
        except sqlite3.Error as error:
            kind = NoSpace if "full" in str(error) else DataError
            raise kind(
                f"{path}: the index of {self.where} cannot be written or read ({error}); free some space or remove "
                "this file, then add --resume"
            ) from error

    def text(self, entry: Entry) -> TextIO:
        content = self.read(join_parts(entry.parts), entry.file, entry.offset, entry.size)
        if isinstance(content, LargeFile):
            content = content.whole()
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="surrogateescape", newline="")


def connect(path: Path) -> sqlite3.Connection:
    """Without locks, which some network disks lack: only this process writes the file."""
    index = sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True, isolation_level=None)
    index.execute("PRAGMA synchronous=OFF")
    return index


def encode_parts(parts: Parts) -> bytes:
    return "/".join(parts).encode("utf-8", "surrogateescape")


def member_row(member: Entry | Refused) -> tuple[Any, ...]:
    if isinstance(member, Refused):
        return member.name.encode(), member.reason, False, 0, 0, 0
    return encode_parts(member.parts), None, member.is_folder, member.file, member.offset, member.size


def row_member(row: tuple[Any, ...]) -> Entry | Refused:
    path, reason, is_folder, file, offset, size = row
    if reason is not None:
        return Refused(path.decode(), reason)
    text = path.decode("utf-8", "surrogateescape")
    return Entry(tuple(text.split("/")) if text else (), bool(is_folder), file, offset, size)


def member(name: str, is_folder: bool, problem: str, file: int, offset: int, size: int) -> Entry | Refused:
    """One member, or the reason why it is refused: its path is unsafe, or the caller passed a `problem`."""
    parts = relative_parts(name)
    if parts is None:
        return Refused(printable(name), "its path leads out of the archive")
    if not parts and not is_folder:
        return Refused(printable(name), "has no name")
    if problem:
        return Refused(join_parts(parts), problem)
    return Entry(parts, is_folder, file, offset, size)
