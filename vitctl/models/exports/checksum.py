"""The SHA-256 of an exported file inside it: of all its bytes, with the digits of the checksum itself read as zeros.

A flipped bit of a weight in .onnx is a valid weight, and torch's reader ignores most fields of its zip. The checksum
is a pair of texts as protobuf has it: in .onnx metadata, in .pt2 the comment at the end of the zip. Nothing is parsed
to find it. What lies in a `.data` file beside an .onnx has a second one.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

from vitctl.errors import WeightsError

WHOLE, DATA, LOCATION = "checksum", "data_checksum", "location"  # the last is ONNX's own: the name of the .data file
DIGITS = 64
UNSET = "0" * DIGITS  # before it is known; for the data, where no file lies beside
BLOCK = 1 << 20


def pair_with_data(key: str, length: bytes = bytes([DIGITS])) -> bytes:
    """What stands before a value in protobuf: the key, and the value's length."""
    return b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12" + length


def seal(path: Path, data: Path | None = None) -> None:
    """Writes the checksums into a complete file that has room for them."""
    with open(path, "r+b") as file:
        data_place, place = find_seal(file, pair_with_data(DATA)), find_seal(file, pair_with_data(WHOLE))
        assert place is not None
        if data_place is not None:
            write_digest_at(file, data_place, file_digest(data) if data else UNSET)
        write_digest_at(file, place, digest_without_seal(file, place))


def is_sealed(path: Path) -> bool:
    """Whether the file has a checksum; an error if it is not that of its bytes."""
    with open(path, "rb") as file:
        place = find_seal(file, pair_with_data(WHOLE))
        if place is None:
            return False
        if read_digest_at(file, place) != digest_without_seal(file, place):
            raise make_damage_error(path)
        data_place, name_place = find_seal(file, pair_with_data(DATA)), find_seal(file, pair_with_data(LOCATION, b""))
        wanted = UNSET if data_place is None else read_digest_at(file, data_place)
        if wanted != UNSET and name_place is not None:
            check_data(path.with_name(read_text(file, name_place)), wanted)
    return True


def check_data(data: Path, wanted: str) -> None:
    if not data.is_file():
        raise WeightsError(f"{data}: is missing; it holds the weights of the .onnx file beside it: copy both")
    if file_digest(data) != wanted:
        raise make_damage_error(data)


def make_damage_error(path: Path) -> WeightsError:
    return WeightsError(f"{path}: damaged: its bytes are not those that vitctl export wrote; copy or export it again")


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_without_seal(file: BinaryIO, place: int) -> str:
    """SHA-256 of the file with zeros for the digits at `place`."""
    total, at = hashlib.sha256(), 0
    file.seek(0)
    while block := bytearray(file.read(BLOCK)):
        begin, end = max(place - at, 0), min(place + DIGITS - at, len(block))
        if begin < end:
            block[begin:end] = UNSET[: end - begin].encode()
        total.update(block)
        at += len(block)
    return total.hexdigest()


def find_seal(file: BinaryIO, key: bytes) -> int | None:
    """The place behind the first `key` in the file."""
    file.seek(0)
    at, before = 0, b""
    while block := file.read(BLOCK):
        place = (before + block).find(key)
        if place >= 0:
            return at - len(before) + place + len(key)
        at += len(block)
        before = block[-len(key) :]
    return None


def read_digest_at(file: BinaryIO, place: int) -> str:
    file.seek(place)
    return file.read(DIGITS).decode("latin-1")


def read_text(file: BinaryIO, place: int) -> str:
    """A text behind its length, which is a varint of one byte or two."""
    file.seek(place)
    length = file.read(1)[0]
    length = length if length < 128 else length - 128 + 128 * file.read(1)[0]
    return file.read(length).decode()


def write_digest_at(file: BinaryIO, place: int, digits: str) -> None:
    file.seek(place)
    file.write(digits.encode())
