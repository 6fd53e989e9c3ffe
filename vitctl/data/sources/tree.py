"""The interface that a folder on disk, a tar and a zip share: entries with paths."""

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
    """A file or a folder in a tree. `file`, `offset` and `size` are for the tree's own `read`."""

    parts: Parts
    is_folder: bool = False
    file: int = 0
    offset: int = 0
    size: int = 0


def everywhere(folder: Parts) -> bool:
    return True


class Tree(ABC):
    """Can be pickled, and never yields junk files."""

    where: str

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        return None

    @abstractmethod
    def survey(self) -> Iterator[Entry]:
        """Every table, at least one image of every folder that holds some, and empty folders where it can see them."""

    @abstractmethod
    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        """Everything, except in folders that `enters` declines. A tree that cannot skip folders may ignore `enters`."""

    @abstractmethod
    def lookup(self) -> AbstractContextManager[Callable[[Parts], Entry | str]]:
        """A function from a file's path to its entry, or to the reason why there is none."""

    def place(self, path: str, base: Parts) -> Parts | None:
        """The entry that a manifest's path means, relative to the folder `base`. None if it is outside of the tree."""
        parts = relative_parts(path)
        return None if parts is None else (*base, *parts) if parts else ()

    def folder(self, path: str) -> Parts | None:
        """The folder that a manifest's paths are relative to, from --set root. None if there is no such folder."""
        return relative_parts(path)

    @abstractmethod
    def text(self, entry: Entry) -> TextIO:
        """Opens a table."""

    @abstractmethod
    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        """The bytes of an entry; `name` is its printable path."""
