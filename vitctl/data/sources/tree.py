"""What a folder on disk, a tar and a zip have in common: entries with paths."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vitctl.data.sources.contract import Refused
from vitctl.data.sources.files import LargeFile
from vitctl.data.sources.names import Parts, relative_parts
from vitctl.reporting import Reporter


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder in a tree; `file`, `offset` and `size` are what the tree reads it by."""

    parts: Parts
    is_folder: bool = False
    file: int = 0
    offset: int = 0
    size: int = 0


def everywhere(folder: Parts) -> bool:
    return True


class Tree(ABC):
    """Picklable; junk is never given out."""

    where: str

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        return None

    @abstractmethod
    def survey(self) -> Iterator[Entry]:
        """Every table, one image at least of every folder that holds some, and where it can tell empty folders."""

    @abstractmethod
    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        """Everything, without the folders that `enters` declines where they can be skipped."""

    @abstractmethod
    def lookup(self) -> AbstractContextManager[Callable[[Parts], Entry | str]]:
        """A function from a file's path to its entry, or to the reason why there is none."""

    def place(self, path: str, base: Parts) -> Parts | None:
        """Where a path in a manifest leads that is relative to the folder `base`; None if it leads out."""
        parts = relative_parts(path)
        return None if parts is None else (*base, *parts) if parts else ()

    def folder(self, path: str) -> Parts | None:
        """What paths in a manifest are to be relative to; None where that is no folder."""
        return relative_parts(path)

    @abstractmethod
    def text(self, entry: Entry) -> TextIO:
        """A table, opened."""

    @abstractmethod
    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        """The bytes of an entry of that (printable) name."""
