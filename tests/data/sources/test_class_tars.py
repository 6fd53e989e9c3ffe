import tarfile

import pytest

from vitctl.data.sources import Declared
from vitctl.errors import DataError


def test_a_tar_of_class_tars(look, make, tmp_path):
    scan = look(make.make_class_tars(tmp_path))
    assert scan.source.kind == "class-tars"
    assert scan.placed()["n00000001/1_b.JPEG"] == ("n00000001", None)
    assert scan.declared == [Declared(f"n0000000{number}") for number in range(3)]
    assert scan.read() == {
        f"n0000000{number}/{number}_{letter}.JPEG": f"{number}_{letter}.JPEG".encode()
        for number in range(3)
        for letter in "ab"
    }


def test_a_folder_of_class_tars(look, make, tmp_path):
    files = {
        name: make.tar_bytes(make.contents(["x/1.jpg", "2.jpg", "a.txt", "._1.jpg"])) for name in ("cat.tar", "dog.tar")
    }
    scan = look(make.write_folder(tmp_path / "set", files))
    assert list(scan.placed().items()) == [
        ("cat/x/1.jpg", ("cat", None)),
        ("cat/2.jpg", ("cat", None)),
        ("dog/x/1.jpg", ("dog", None)),
        ("dog/2.jpg", ("dog", None)),
    ]
    assert scan.read()["dog/2.jpg"] == b"2.jpg"
    assert scan.source.notes() == ["skipped 2 files that are not images (.txt)"]


def test_compressed_class_tars(look, make, tmp_path):
    files = {f"n0000000{number}.tar.gz": make.tar_bytes(make.contents(["1.jpg"]), "w:gz") for number in range(2)}
    root = make.write_folder(tmp_path / "set", files)
    assert [each.label for each in look(root).found] == ["n00000000", "n00000001"]
    (tmp_path / "outer.tgz").write_bytes(make.tar_bytes({"cat.tar": make.tar_bytes(make.contents(["1.jpg"]))}, "w:gz"))
    assert look(tmp_path / "outer.tgz").read() == {"cat/1.jpg": b"1.jpg"}


def test_a_class_tar_cut_short_inside(look, make, tmp_path):
    inner = make.tar_bytes(make.contents(["1.jpg", "2.jpg"]))
    for length in (700, 1024, 1300, 2048, 2300):
        (tmp_path / "set.tar").write_bytes(make.tar_bytes({"cat.tar": inner, "dog.tar": inner[:length]}))
        with pytest.raises(DataError, match=r"set.tar, dog.tar: damaged or truncated"):
            look(tmp_path / "set.tar")


def test_what_is_not_to_be_trusted(look, make, tmp_path):
    inner = make.tar_bytes({"../1.jpg": "x", "2.jpg": "x"})
    (tmp_path / "set.tar").write_bytes(make.tar_bytes({"cat.tar": inner, "../dog.tar": inner, "n.txt": "x"}))
    scan = look(tmp_path / "set.tar")
    assert scan.reasons() == dict.fromkeys(("cat/../1.jpg", "../dog.tar"), "its path leads out of the archive")
    assert list(scan.placed()) == ["cat/2.jpg"]


def test_a_class_tar_may_be_larger_than_any_image(look, make, tmp_path):
    header = tarfile.TarInfo("big.tar")
    header.size = (1 << 30) + 10240
    inner = tarfile.TarInfo("film")
    inner.size = (1 << 30) + 1
    image = make.tar_bytes({"1.jpg": b"1"})[:1024]
    with open(tmp_path / "set.tar", "wb") as file:  # its zeros take no room on the disk
        file.write(header.tobuf() + image + inner.tobuf())
        file.truncate(512 + header.size + 1024)
    scan = look(tmp_path / "set.tar")
    assert list(scan.placed()) == ["big/1.jpg", "big/film"]
    assert scan.source.read("", *vars_of(scan.found[0])) == b"1"
    with pytest.raises(DataError, match="too large for an image: 1024 MB"):
        scan.source.read("", *vars_of(scan.found[1]))


def vars_of(found):
    return found.file, found.offset, found.size


def test_several_tars_of_tars(look, make, tmp_path):
    outer = make.tar_bytes({"cat.tar": make.tar_bytes(make.contents(["1.jpg"]))})
    with pytest.raises(DataError, match="name one of them"):
        look(make.write_folder(tmp_path / "set", {"a.tar": outer, "b.tar": outer}))
