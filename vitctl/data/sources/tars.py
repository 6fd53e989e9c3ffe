"""Tars, read in place by offset and size. A compressed one is unpacked once, to a plain tar."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vitctl.data.sources.archives import Archive, member
from vitctl.data.sources.contract import Entry, Refused, Source
from vitctl.data.sources.files import LargeFile, Place, name_damaged_file
from vitctl.data.sources.remote import RemoteFile
from vitctl.reporting import Reporter

BLOCK = tarfile.BLOCKSIZE


class Tar(Archive):
    def prepare(self, spool: Path, reporter: Reporter) -> None:
        super().prepare(spool, reporter)
        self.file = self.original.unpack_into(spool, reporter)

    def members(self) -> Iterator[Entry | Refused]:
        with name_damaged_file(self.where), self.file.open() as stream:
            yield from map(tar_entry, headers(stream, self.where))

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return self.file.content(offset, size)


class TarSource(Source):
    """Images in several tars. `FoundImage.file` is the index of the tar."""

    def __init__(self, paths: Sequence[Place], where: str) -> None:
        self.where, self.tars = where, [Tar(path) for path in paths]
        self.reads_ahead = isinstance(self.tars[0].file, RemoteFile)

    def prepare(self, spool: Path, reporter: Reporter) -> None:
        for tar in self.tars:
            tar.prepare(spool, reporter)

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        return self.tars[file].file.content(offset, size)


def headers(stream: BinaryIO, where: str) -> Iterator[tarfile.TarInfo]:
    """Front to back, without collecting them. A tar that ends too early is an error, not a short tar."""
    with (
        name_damaged_file(where),
        tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        while (header := tar.next()) is not None:
            if tar.offset <= header.offset:  # a negative size would lead back, endlessly
                raise tarfile.ReadError(f"broken header at byte {header.offset}")
            tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
            yield header
        stream.seek(tar.offset)
        end = stream.read(BLOCK)
        if end != bytes(BLOCK):
            raise tarfile.ReadError(f"no header at byte {tar.offset}" if end else "its end marker is missing")


def tar_entry(header: tarfile.TarInfo) -> Entry | Refused:
    if header.isdir() or (header.isreg() and header.sparse is None):
        problem = ""
    elif header.issym() or header.islnk():
        problem = "a link inside an archive"
    else:
        problem = "a device" if header.isdev() else "not a regular file"
    return member(header.name, header.isdir(), problem, 0, header.offset_data, header.size)


def starts_as_tar(start: bytes) -> bool:
    """Whether the first 512 bytes of a file are a tar's first header, or the end of an empty tar."""
    if start == bytes(BLOCK):
        return True
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
