"""NumPy's .npz: stored arrays are checked and memory-mapped; equal arrays are written as equal bytes."""

import math
import mmap
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from vitctl.errors import WeightsError
from vitctl.io.atomic import atomic_write
from vitctl.reporting import format_size

Array = np.ndarray[Any, Any]
LOCAL_HEADER = 30  # bytes before the name of a member
RATIO, FREE = 20, 2**28  # a file of n bytes may unpack to RATIO * n + FREE bytes


def read_arrays(path: Path) -> dict[str, Array]:
    """{name: array}. Uncompressed arrays are memory-mapped, not copied."""
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        check_proportion(path, sum(member.file_size for member in archive.infolist()))
        mapped, members = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), archive.infolist()
        return {each.filename.removesuffix(".npy"): read_array(archive, each, mapped, path) for each in members}


def check_proportion(path: Path, unpacked: int) -> None:
    """Rejects zip bombs. Trained weights hardly compress, so a high ratio is no file of weights."""
    packed = path.stat().st_size
    if unpacked > RATIO * packed + FREE:
        raise WeightsError(
            f"{path}: is {format_size(packed)} but would unpack to {format_size(unpacked)}; refused, because weights "
            "do not compress that well. If you trust the file, save it uncompressed"
        )


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, mapped: mmap.mmap, path: Path) -> Array:
    with archive.open(member) as file:
        shape, fortran, dtype = read_npy_header(file)
        if dtype.hasobject:
            raise WeightsError(
                f"{path}: {member.filename} holds Python objects (a pickle), which could run code when read; refused. "
                "Ask the author for a file of plain arrays"
            )
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise WeightsError(f"{path}: {member.filename} is not as long as its header says; download the file again")
        if member.compress_type == zipfile.ZIP_STORED:
            content = read_stored_member(member, mapped)[file.tell() :]
        else:
            content = memoryview(bytearray(file.read()))
    array: Array = np.frombuffer(content, dtype, count=math.prod(shape))
    return array.reshape(shape, order="F" if fortran else "C")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an array."""
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def read_stored_member(member: zipfile.ZipInfo, mapped: mmap.mmap) -> memoryview:
    """The bytes of an uncompressed member, after checking its CRC."""
    start = member.header_offset
    name, extra = (int.from_bytes(mapped[start + at : start + at + 2], "little") for at in (26, 28))  # lengths
    begin = start + LOCAL_HEADER + name + extra
    content = memoryview(mapped)[begin : begin + member.file_size]
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return content


def write_arrays(arrays: Iterable[tuple[str, Array]], path: Path) -> None:
    """Writes one array at a time, so that only one is in memory. Stores no times: equal arrays give equal bytes."""
    with atomic_write(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, array in arrays:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
