"""What a manifest on a server lists: addresses, or paths relative to its own address."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, TextIO

from vitctl.data.sources.addresses import hide_secrets, is_address, resolve_address
from vitctl.data.sources.contract import Entry, Refused, Tree, everywhere
from vitctl.data.sources.files import LARGE, LargeFile
from vitctl.data.sources.names import Parts, on_disk
from vitctl.data.sources.remote import HEAD, PATIENCE, RemoteFile, connection_to, explain_failure, is_lost, persist
from vitctl.errors import DataError, RunError, VitctlError


class RemoteFolder(Tree):
    """The folder of a manifest. It is not listed, which a web server cannot do, and asked for each image only once."""

    def __init__(self, table: RemoteFile) -> None:
        self.table = table
        self.where, self.root = (address.rpartition("/")[0] for address in (table.path, table.url.partition("?")[0]))

    def survey(self) -> Iterator[Entry]:
        yield Entry((self.table.name,))

    def entries(self, enters: Callable[[Parts], bool] = everywhere) -> Iterator[Entry | Refused]:
        yield Entry((self.table.name,))

    def place(self, path: str, base: Parts) -> Parts:
        if not path.strip("./"):
            return ()
        parts = tuple(path.split("/"))
        return (
            parts
            if is_address(path) or path.startswith("/")
            else (*base, *(part for part in parts if part not in ("", ".")))
        )

    def folder(self, path: str) -> Parts:
        return tuple(path.rstrip("/").split("/"))

    @contextmanager
    def lookup(self) -> Iterator[Callable[[Parts], Entry | str]]:
        yield Entry

    def text(self, entry: Entry) -> TextIO:
        if self.table.size <= LARGE:
            stream: BinaryIO = io.BytesIO(read_table(self.table, os.getpid()))
        else:
            stream = self.table.open()
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        address = resolve_address(tuple(on_disk(name).split("/")), self.root)
        try:
            return read_remote_image(address)
        except VitctlError:
            raise
        except Exception as error:  # every library has its own
            if is_lost(error) and self.is_there():
                raise DataError(explain_failure(error)) from error
            reason = f"cannot be read ({explain_failure(error)}); once it can, add --resume"
            raise RunError(f"{hide_secrets(address)}: {reason}") from error

    def is_there(self) -> bool:
        """False if the whole server is gone: then no image is to blame."""
        try:
            table = RemoteFile.find(self.table.url)
        except DataError:
            return False
        return table is not None


@lru_cache(maxsize=1)
def read_table(table: RemoteFile, process: int) -> bytes:
    return bytes(table.fetch(0, table.size))


def read_remote_image(address: str) -> bytes | LargeFile:
    """With one request if it is short. Its version is compared only if there are more."""
    size, version, head = persist(lambda: connection_to(address, os.getpid()).open(HEAD), PATIENCE)
    file = RemoteFile(hide_secrets(address), size, version, address)
    if size > LARGE:
        return file.content(0, size)
    return head[:size] + bytes(file.fetch(len(head), size - len(head)))
