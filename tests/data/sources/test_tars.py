import io
import tarfile

import pytest

from vitctl.data.sources import Declared
from vitctl.errors import DataError


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_in_their_own_order(look, make, tmp_path, form):
    files = make.contents(["dog/2.jpg", "cat/1.jpg", "dog/1.jpg", "cat/" + "long" * 20 + ".png"])
    scan = look(write(tmp_path / "set.tar", make.tar_bytes(files, form=form)))
    assert list(scan.placed()) == list(files)
    assert scan.placed()["cat/1.jpg"] == ("cat", None)
    assert scan.read() == files
    assert scan.declared == [Declared("dog"), Declared("cat")]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_unpacked_once(look, make, tmp_path, spool, mode):
    scan = look(write(tmp_path / "set.bin", make.tar_bytes(make.SPLITS, mode)))
    assert scan.read() == make.SPLITS
    assert scan.placed()["valid/cat/3.jpg"] == ("cat", "val")
    assert [path.read_bytes() for path in spool.iterdir() if not path.suffix] == [make.tar_bytes(make.SPLITS)]


def test_a_kill_while_unpacking_leaves_nothing_that_is_believed(look, make, tmp_path, spool):
    path = write(tmp_path / "set.tar.gz", make.tar_bytes(make.SPLITS, "w:gz"))
    look(path)
    whole = next(path for path in spool.iterdir() if not path.suffix)
    index = next(spool.glob("*.members"))
    index.rename(index.with_suffix(".part"))
    whole.rename(whole.with_name(whole.name + ".part")).write_bytes(b"half")
    assert look(path).read() == make.SPLITS


def test_another_tar_under_the_same_name_is_unpacked_again(look, make, tmp_path):
    path = write(tmp_path / "set.tar.gz", make.tar_bytes(make.SPLITS, "w:gz"))
    look(path)
    write(path, make.tar_bytes(make.CLASSES, "w:gz"))
    assert look(path).read() == make.CLASSES


@pytest.mark.parametrize("top", ["", "./", "set/", "./set/"])
def test_common_top_folders(look, make, tmp_path, top):
    files = {top + name: content for name, content in make.SPLITS.items()}
    folders = (top, f"{top}train", f"{top}train/cat", f"{top}train/cow", f"{top}other") if top else ("train/cow",)
    scan = look(write(tmp_path / "set.tar", make.tar_bytes(files, folders=folders)))
    inner = top.removeprefix("./")
    assert scan.placed() == {
        f"{inner}train/cat/1.jpg": ("cat", "train"),
        f"{inner}train/dog/2.jpg": ("dog", "train"),
        f"{inner}valid/cat/3.jpg": ("cat", "val"),
        f"{inner}Test/dog/4.jpg": ("dog", "test"),
    }
    assert Declared("cow", "train") in scan.declared


def test_flat_tars(look, make, tmp_path):
    for top in ("", "images/"):
        files = make.contents([f"{top}2.jpg", f"{top}1.jpg"])
        assert look(write(tmp_path / "set.tar", make.tar_bytes(files))).placed() == dict.fromkeys(files, (None, None))


def test_what_systems_leave_behind(look, make, tmp_path):
    junk = make.contents(["._cat/1.jpg", "__MACOSX/cat/._1.jpg", "cat/.DS_Store", "cat/Thumbs.db"])
    scan = look(write(tmp_path / "set.tar", make.tar_bytes({**junk, **make.CLASSES, "cat/a.txt": "x"})))
    assert scan.read() == make.CLASSES
    assert scan.source.notes() == ["skipped 1 file that is not an image (.txt)"]
    assert not scan.refused


def test_members_that_are_not_to_be_trusted(look, make, tmp_path):
    stream = io.BytesIO(make.tar_bytes({**make.CLASSES, "../up.jpg": "x", "/abs.jpg": "x", "cat/../../up.jpg": "x"}))
    with tarfile.open(fileobj=stream, mode="a") as tar:
        for name, kind in (
            ("cat/soft.jpg", tarfile.SYMTYPE),
            ("cat/hard.jpg", tarfile.LNKTYPE),
            ("cat/dev.jpg", tarfile.CHRTYPE),
            ("cat/pipe.jpg", tarfile.FIFOTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "cat/1.jpg"
            tar.addfile(header)
    scan = look(write(tmp_path / "set.tar", stream.getvalue()))
    assert scan.read() == make.CLASSES
    assert scan.reasons() == {
        "../up.jpg": "its path leads out of the archive",
        "/abs.jpg": "its path leads out of the archive",
        "cat/../../up.jpg": "its path leads out of the archive",
        "cat/soft.jpg": "a link inside an archive",
        "cat/hard.jpg": "a link inside an archive",
        "cat/dev.jpg": "a device",
        "cat/pipe.jpg": "a device",
    }


def test_names_that_are_not_text(look, make, tmp_path):
    files = {"caf\udce9/1.jpg": b"1", "cat/back\\slash.jpg": b"2"}
    scan = look(write(tmp_path / "set.tar", make.tar_bytes(files, form=tarfile.GNU_FORMAT)))
    assert scan.read() == {r"caf\xe9/1.jpg": b"1", r"cat/back\x5cslash.jpg": b"2"}


def test_a_tar_cut_anywhere_is_an_error(look, make, tmp_path):
    whole = make.tar_bytes(make.CLASSES)
    end = len(make.CLASSES) * 1024
    for length in (*range(0, end, 256), end + 511):
        with pytest.raises(DataError):
            look(write(tmp_path / "set.tar", whole[:length]))
    assert len(look(write(tmp_path / "set.tar", whole[: end + 512])).found) == 4


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_cut_anywhere_is_an_error(look, make, tmp_path, mode):
    whole = make.tar_bytes(make.CLASSES, mode)
    for length in range(0, len(whole), 7):
        with pytest.raises(DataError):
            look(write(tmp_path / "set.tar", whole[:length]))


def test_a_broken_header_is_an_error_and_not_the_end(look, make, tmp_path):
    content = bytearray(make.tar_bytes(make.CLASSES))
    content[1024 + 150] ^= 1  # in the checksum of the second header
    with pytest.raises(DataError, match="no header at byte 1024"):
        look(write(tmp_path / "set.tar", bytes(content)))


def test_a_negative_size_does_not_lead_back_for_ever(look, make, tmp_path):
    content = bytearray(make.tar_bytes({"cat/1.jpg": b"1", "dog/1.jpg": b"2"}, form=tarfile.GNU_FORMAT))
    header = tarfile.TarInfo.frombuf(bytes(content[1024:1536]), "utf-8", "strict")
    header.size = -1024
    content[1024:1536] = header.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="damaged"):
        look(write(tmp_path / "set.tar", bytes(content)))


def test_a_tar_changed_after_the_scan(look, make, tmp_path):
    scan = look(write(tmp_path / "set.tar", make.tar_bytes(make.CLASSES)))
    write(tmp_path / "set.tar", b"short")
    with pytest.raises(DataError, match="ends before byte"):
        scan.read()


def test_an_empty_tar(look, make, tmp_path):
    with pytest.raises(DataError, match="no image"):
        look(write(tmp_path / "set.tar", make.tar_bytes({})))
