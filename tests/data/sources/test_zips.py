import io
import struct
import zipfile

import numpy as np
import pytest

from vitctl.errors import DataError


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips(look, make, tmp_path, method):
    files = {**make.SPLITS, "train/cat/large.jpg": bytes(100_000)}
    scan = look(write(tmp_path / "set.zip", make.zip_bytes(files, method)))
    assert scan.read() == files
    assert scan.placed()["valid/cat/3.jpg"] == ("cat", "val")


class Unseekable(io.RawIOBase):
    """Makes zipfile write sizes and checksums behind the members."""

    def __init__(self):
        self.content = bytearray()

    def writable(self):
        return True

    def write(self, piece):
        self.content += piece
        return len(piece)


def test_zips_that_were_streamed_have_a_prefix_and_a_comment(look, make, tmp_path):
    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in make.CLASSES.items():
            archive.writestr(name, content)
        archive.comment = b"a comment"
    assert look(write(tmp_path / "a.zip", bytes(stream.content))).read() == make.CLASSES


def test_a_zip_behind_something_else(tmp_path, make):
    from vitctl.data.sources.zips import Zip

    tree = Zip(write(tmp_path / "a.zip", b"#!/bin/sh\n" * 9 + make.zip_bytes(make.CLASSES)))
    read = {"/".join(each.parts): tree.read("", each.file, each.offset, each.size) for each in tree.members()}
    assert read == make.CLASSES


def test_sixty_four_bit_fields(look, make, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in make.CLASSES.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    content = as_zip64(stream.getvalue())
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == list(make.CLASSES)
    assert look(write(tmp_path / "set.zip", content)).read() == make.CLASSES


def as_zip64(content: bytes) -> bytes:
    """The same archive with every size and offset of its directory in 64-bit fields."""
    *_, length, offset, _ = struct.unpack("<4s4H2LH", content[-22:])
    place, directory, count = offset, b"", 0
    while place < offset + length:
        record = list(struct.unpack_from("<4s6H3L5H2L", content, place))
        name, extra = record[10:12]
        wide = struct.pack("<2H3Q", 1, 24, record[9], record[8], record[16])
        text = content[place + 46 : place + 46 + name]
        place += 46 + name + extra + record[12]
        record[8] = record[9] = record[16] = 0xFFFFFFFF
        record[11], record[12] = len(wide), 0
        directory += struct.pack("<4s6H3L5H2L", *record) + text + wide
        count += 1
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), offset)
    at = struct.pack("<4sLQL", b"PK\6\7", 0, offset + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:offset] + directory + end + at + last


def test_names_in_zips(look, make, tmp_path):
    content = make.zip_bytes({"cat/aaaa.jpg": "1", "cat/bbbb.jpg": "2", "cat_3.jpg": "3", "cat_/4.jpg": "4"})
    content = content.replace(b"aaaa", b"\xc3\xbcaa").replace(b"bbbb", b"\x81bbb").replace(b"cat_3", b"cat\\3")
    assert look(write(tmp_path / "set.zip", content)).read() == {
        "cat/üaa.jpg": b"1",
        "cat/übbb.jpg": b"2",
        "cat/3.jpg": b"3",
        "cat_/4.jpg": b"4",
    }


def test_members_that_are_not_to_be_trusted(look, make, tmp_path):
    link = zipfile.ZipInfo("cat/link.jpg")
    link.external_attr = 0o120777 << 16
    stream = io.BytesIO(make.zip_bytes({**make.CLASSES, "../up.jpg": "x", "/abs.jpg": "x", "cat/locked.jpg": "x"}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(link, "1.jpg")
        archive.writestr("cat/odd.jpg", "x", zipfile.ZIP_LZMA)
    content = bytearray(stream.getvalue())
    content[content.rfind(b"cat/locked.jpg") - 46 + 8] |= 1
    scan = look(write(tmp_path / "set.zip", bytes(content)))
    assert scan.read() == make.CLASSES
    assert scan.reasons() == {
        "../up.jpg": "its path leads out of the archive",
        "/abs.jpg": "its path leads out of the archive",
        "cat/link.jpg": "a link inside an archive",
        "cat/locked.jpg": "encrypted",
        "cat/odd.jpg": "compressed with zip method 14, which is not supported; repack it with deflate",
    }


def test_folders_and_junk(look, make, tmp_path):
    scan = look(write(tmp_path / "set.zip", make.zip_bytes({"cow/": "", "__MACOSX/cat/._1.jpg": "x", **make.CLASSES})))
    assert [each.label for each in scan.declared] == ["cow", "cat", "dog"]
    assert scan.read() == make.CLASSES


def test_a_zip_cut_anywhere_is_an_error(look, make, tmp_path):
    whole = make.zip_bytes(make.CLASSES)
    for length in range(0, len(whole), 3):
        with pytest.raises(DataError):
            look(write(tmp_path / "set.zip", whole[:length]))


def test_flipped_bytes_are_found_or_harmless(look, make, tmp_path):
    whole = make.zip_bytes({name: content * 50 for name, content in make.CLASSES.items()})
    draw = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[draw.integers(len(content))] ^= 1 << draw.integers(8)
        try:
            scan = look(write(tmp_path / "set.zip", bytes(content)))
        except DataError:
            continue
        for each in scan.found:
            try:
                assert scan.source.read("", each.file, each.offset, each.size) in [
                    name * 50 for name in make.CLASSES.values()
                ]
            except DataError:
                continue
