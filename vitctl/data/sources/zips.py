"""Zips: streams the central directory, so that millions of members need no memory, and reads members by offset.

The standard library's reader keeps every member in memory, in every process that opens the file. The layout of the
records is PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from stat import S_ISLNK
from typing import BinaryIO
from zipfile import BadZipFile

from vitctl.data.sources.archives import Archive, member
from vitctl.data.sources.contract import Entry, Refused
from vitctl.data.sources.files import LARGE, LARGEST, PIECE, LargeFile, check_size, name_damaged_file, too_long
from vitctl.data.sources.names import is_image_name
from vitctl.errors import DataError

END = struct.Struct("<4s4H2LH")  # ..., entries here, entries, size and offset of the directory, length of the comment
END64_AT = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
STORED, DEFLATED = 0, 8
ENCRYPTED, STREAMED = 1, 8  # flags; a streamed member has its sizes after its content
FULL = 0xFFFFFFFF  # means that the value is in the 64-bit extra field


class Zip(Archive):
    def members(self) -> Iterator[Entry | Refused]:
        with name_damaged_file(self.where), open(self.file.path, "rb") as stream:
            yield from central_directory(stream, self.file.size)

    def read(self, name: str, file: int, offset: int, size: int) -> bytes | LargeFile:
        """`file` is the image's checksum, `offset` the position of its local header, `size` its compressed size."""
        local = LOCAL.unpack(self.file.read(offset, LOCAL.size))
        signature, _, flags, method, _, _, _, _, length, name_length, extra_length = local
        if signature != b"PK\3\4":
            raise DataError("damaged: its header in the zip is broken")
        stated = None if flags & STREAMED or length in (0, FULL) else length
        check_size(stated or 0)
        start = offset + LOCAL.size + name_length + extra_length
        large = LargeFile(unpack_member(self.file.pieces(start, size), method, file, stated), stated)
        content = large.read(LARGE)
        if len(content) < LARGE:
            return bytes(content)
        return LargeFile(chain([bytes(content)], large.pieces), large.size)


def unpack_member(pieces: Iterator[bytes], method: int, checksum: int, expected: int | None) -> Iterator[bytes]:
    """The uncompressed member in short pieces. Its checksum is compared after the last one."""
    crc = length = 0
    for piece in inflate(pieces) if method == DEFLATED else pieces:
        crc, length = zlib.crc32(piece, crc), length + len(piece)
        if expected is not None and length > expected:
            raise DataError(f"damaged: longer than the {expected:,} bytes stated in the zip")
        yield piece
    if crc != checksum:
        raise DataError("damaged: its checksum in the zip differs")


def inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for packed in pieces:
            plain = inflater.decompress(packed, PIECE)
            while plain:
                yield plain
                plain = inflater.decompress(inflater.unconsumed_tail, PIECE)
    except zlib.error as error:
        raise DataError(f"damaged in the zip ({error})") from error
    if not inflater.eof:
        raise DataError("damaged: truncated in the zip")


def central_directory(stream: BinaryIO, size: int) -> Iterator[Entry | Refused]:
    start, length, shift = find_directory(stream, size)
    stream.seek(start)
    done = 0
    while done < length:
        record = CENTRAL.unpack(stream.read(CENTRAL.size))
        name_length, extra_length, comment_length = record[10:13]
        name, extra = stream.read(name_length), stream.read(extra_length)
        stream.seek(comment_length, 1)
        done += CENTRAL.size + name_length + extra_length + comment_length
        if record[0] != b"PK\1\2" or len(name) != name_length or done > length:
            raise BadZipFile("its directory is broken")
        yield zip_entry(record, name, extra, shift, start)


def find_directory(stream: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the directory starts, its length, and how many bytes come before the archive."""
    tail = min(size, END.size + 0xFFFF)
    stream.seek(size - tail)
    end = stream.read(tail)
    place = end.rfind(b"PK\5\6")
    if place < 0 or len(end) - place < END.size:
        raise BadZipFile("the directory at its end is missing")
    *_, length, offset, _ = END.unpack_from(end, place)
    at = size - tail + place
    if at >= END64_AT.size + END64.size:
        stream.seek(at - END64_AT.size - END64.size)
        wide = stream.read(END64.size + END64_AT.size)
        if wide.startswith(b"PK\6\6") and wide[END64.size :].startswith(b"PK\6\7"):
            *_, length, offset = END64.unpack_from(wide)
            at -= END64.size + END64_AT.size
    start = at - length
    if start < 0 or start < offset:
        raise BadZipFile("its directory is broken")
    return start, length, start - offset


def zip_entry(record: tuple[int, ...], name: bytes, extra: bytes, shift: int, limit: int) -> Entry | Refused:
    _, _, _, flags, method, _, _, checksum, packed, size, _, _, _, _, _, attributes, offset = record
    size, packed, offset = wide_fields(size, packed, offset, extra)
    if offset + shift + LOCAL.size + packed > limit:
        raise BadZipFile("its directory points outside of the file")
    text = text_of(name)
    problem = ""
    if S_ISLNK(attributes >> 16):
        problem = "a link inside an archive"
    elif flags & ENCRYPTED:
        problem = "encrypted"
    elif method not in (STORED, DEFLATED):
        problem = f"compressed with zip method {method}, which is not supported; repack it with deflate"
    elif size > LARGEST and is_image_name(text.rpartition("/")[2]):
        problem = too_long(size)
    return member(text, text.endswith("/"), problem, checksum, offset + shift, packed)


def wide_fields(size: int, packed: int, offset: int, extra: bytes) -> tuple[int, int, int]:
    """Size, compressed size and offset, from the 64-bit extra field if they do not fit in 32 bits."""
    place = 0
    while FULL in (size, packed, offset) and place + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, place)
        if tag == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            size, packed, offset = (next(values, FULL) if value == FULL else value for value in (size, packed, offset))
            break
        place += 4 + length
    return size, packed, offset


def text_of(name: bytes) -> str:
    """UTF-8 if it is valid, regardless of the flag, else the DOS code page. Old Windows tools write backslashes."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = name.decode("cp437")
    return text.replace("\\", "/")
