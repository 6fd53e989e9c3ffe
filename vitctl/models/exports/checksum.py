"""The SHA-256 of an exported file, stored in the file: of all bytes, with zeros for the digits of the checksum itself.

Without it damage goes unnoticed: a flipped bit of a weight in .onnx is a valid weight, and torch's reader ignores most
fields of its zip. The checksum is a key and a value as protobuf encodes them: in the metadata of .onnx, and in the zip
comment of .pt2. It is found by searching for the bytes of the key. A `.data` file of an .onnx has a second checksum.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

from vitctl.errors import WeightsError

WHOLE, DATA, LOCATION = "checksum", "data_checksum", "location"  # the last is ONNX's key of the .data file's name
DIGITS = 64
UNSET = "0" * DIGITS  # before the checksum is known, and for the data if there is no .data file
BLOCK = 1 << 20


def pair_with_data(key: str, length: bytes = bytes([DIGITS])) -> bytes:
    """The bytes before a value in protobuf: the key, and the value's length."""
    return b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12" + length


def seal(path: Path, data: Path | None = None) -> None:
    """Writes the checksums into a complete file that has room for them."""
    with open(path, "r+b") as file:
        data_offset, offset = find_seal(file, pair_with_data(DATA)), find_seal(file, pair_with_data(WHOLE))
        assert offset is not None
        if data_offset is not None:
            write_digest_at(file, data_offset, file_digest(data) if data else UNSET)
        write_digest_at(file, offset, digest_without_seal(file, offset))


def is_sealed(path: Path) -> bool:
    """Whether the file has a checksum; an error if the checksum does not match the bytes."""
    with open(path, "rb") as file:
        offset = find_seal(file, pair_with_data(WHOLE))
        if offset is None:
            return False
        if read_digest_at(file, offset) != digest_without_seal(file, offset):
            raise make_damage_error(path)
        data_offset, name_offset = find_seal(file, pair_with_data(DATA)), find_seal(file, pair_with_data(LOCATION, b""))
        expected = UNSET if data_offset is None else read_digest_at(file, data_offset)
        if expected != UNSET and name_offset is not None:
            data = path.with_name(read_text(file, name_offset))
            if not data.is_file():
                raise WeightsError(f"{data}: is missing; it holds the weights of {path.name}, so copy both files")
            if file_digest(data) != expected:
                raise make_damage_error(data)
    return True


def make_damage_error(path: Path) -> WeightsError:
    return WeightsError(f"{path}: is damaged: its checksum does not match its bytes; copy or export it again")


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_without_seal(file: BinaryIO, offset: int) -> str:
    """SHA-256 of the file with zeros for the digits at `offset`."""
    total, start = hashlib.sha256(), 0
    file.seek(0)
    while block := bytearray(file.read(BLOCK)):
        begin, end = max(offset - start, 0), min(offset + DIGITS - start, len(block))
        if begin < end:
            block[begin:end] = UNSET[: end - begin].encode()
        total.update(block)
        start += len(block)
    return total.hexdigest()


def find_seal(file: BinaryIO, key: bytes) -> int | None:
    """The offset behind the first `key` in the file, which may cross the border of two blocks."""
    file.seek(0)
    start, before = 0, b""
    while block := file.read(BLOCK):
        place = (before + block).find(key)
        if place >= 0:
            return start - len(before) + place + len(key)
        start += len(block)
        before = block[-len(key) :]
    return None


def read_digest_at(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    return file.read(DIGITS).decode("latin-1")


def read_text(file: BinaryIO, offset: int) -> str:
    """A text behind its length, which is a varint of one or two bytes."""
    file.seek(offset)
    length = file.read(1)[0]
    length = length if length < 128 else length - 128 + 128 * file.read(1)[0]
    return file.read(length).decode()


def write_digest_at(file: BinaryIO, offset: int, digits: str) -> None:
    file.seek(offset)
    file.write(digits.encode())
