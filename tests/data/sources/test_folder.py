import os
import socket

import pytest

from vitctl.data.sources import Declared
from vitctl.errors import DataError


def test_class_folders_in_sorted_order(look, make, tmp_path):
    scan = look(make.write_folder(tmp_path / "set", make.CLASSES))
    assert list(scan.placed().items()) == [
        ("cat/1.jpg", ("cat", None)),
        ("cat/2.png", ("cat", None)),
        ("dog/1.jpg", ("dog", None)),
        ("dog/deep/er/3.JPEG", ("dog", None)),
    ]
    assert scan.declared == [Declared("cat"), Declared("dog")]
    assert scan.source.kind == "classes"
    assert scan.read() == make.CLASSES


def test_class_order_is_that_of_torchvision(look, make, tmp_path):
    from torchvision.datasets import ImageFolder

    root = make.write_folder(
        tmp_path / "set", make.contents([f"{name}/1.jpg" for name in ("b", "B", "a10", "a9", "é", "_x")])
    )
    assert [each.label for each in look(root).declared] == ImageFolder(str(root)).classes


def test_splits(look, make, tmp_path):
    scan = look(make.write_folder(tmp_path / "set", {**make.SPLITS, "extra/x/9.jpg": "x", "8.jpg": "x", "9.jpg": "x"}))
    assert scan.placed() == {
        "Test/dog/4.jpg": ("dog", "test"),
        "train/cat/1.jpg": ("cat", "train"),
        "train/dog/2.jpg": ("dog", "train"),
        "valid/cat/3.jpg": ("cat", "val"),
    }
    assert scan.source.kind == "splits"
    assert scan.source.notes() == ["skipped folders: extra", "skipped 2 images next to the split folders"]


def test_flat_and_flat_below_splits(look, make, tmp_path):
    flat = look(make.write_folder(tmp_path / "flat", make.contents(["2.jpg", "1.jpg", "noending"])))
    assert list(flat.placed()) == ["1.jpg", "2.jpg", "noending"]
    assert not flat.declared
    splits = look(
        make.write_folder(tmp_path / "splits", make.contents(["train/cat/1.jpg", "test/1.jpg", "test/2.jpg"]))
    )
    assert splits.placed()["test/2.jpg"] == (None, "test")
    assert splits.placed()["train/cat/1.jpg"] == ("cat", "train")


def test_empty_classes_are_declared(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.SPLITS)
    (root / "valid" / "dog").mkdir()
    assert Declared("dog", "val") in look(root).declared


def test_one_class_and_an_empty_one(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", {"cat/1.jpg": "x", "dog/.gitkeep": ""})
    assert look(root).declared == [Declared("cat"), Declared("dog")]
    make.write_folder(root, {"0.jpg": "x"})
    (root / "cat" / "1.jpg").unlink()
    assert look(root).source.kind == "flat"


def test_endings_of_all_sorts_are_not_all_kept(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, **make.contents([f"cat/x.{n:03}" for n in range(300)])})
    kinds = ".*, .000, .001, .002, .003 and 96 more"
    assert look(root).source.notes() == [f"skipped 300 files that are not images ({kinds})"]


def test_one_folder_inside(look, make, tmp_path):
    scan = look(make.write_folder(tmp_path / "a", make.contents(["top/train/cat/1.jpg", "top/val/cat/2.jpg"])))
    assert scan.placed()["top/val/cat/2.jpg"] == ("cat", "val")
    flat = look(make.write_folder(tmp_path / "b", make.contents(["images/1.jpg", "images/2.jpg"])))
    assert flat.placed()["images/1.jpg"] == (None, None)
    assert flat.source.notes() == ["every image is in images: read as one folder without labels"]
    assert look(tmp_path / "b", "classes").placed()["images/1.jpg"] == ("images", None)


def test_what_is_skipped_is_noted(look, make, tmp_path):
    others = [
        "cat/a.txt",
        "cat/b.txt",
        "README",
        "x.db",
        "cat/Thumbs.db",
        ".hidden/1.jpg",
        "cat/._1.jpg",
        "__MACOSX/cat/1.jpg",
    ]
    scan = look(make.write_folder(tmp_path / "set", make.CLASSES | make.contents(others)))
    assert set(scan.placed()) == set(make.CLASSES)
    assert scan.source.notes() == ["skipped 4 files that are not images (.txt, no extension, .db)"]


def test_strays(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "0.jpg": "x"})
    with pytest.raises(DataError, match=r"kind=classes.*kind=flat"):
        look(root)
    assert look(root, "classes").reasons() == {"0.jpg": "not in any class folder"}
    assert set(look(root, "flat").placed().values()) == {(None, None)}


def test_links_are_followed(look, make, tmp_path):
    make.write_folder(tmp_path / "away", make.contents(["cat/1.jpg", "2.jpg"]))
    root = make.write_folder(tmp_path / "set", make.contents(["dog/1.jpg"]))
    (root / "cat").symlink_to(tmp_path / "away" / "cat")
    (root / "dog" / "2.jpg").symlink_to(tmp_path / "away" / "2.jpg")
    scan = look(root)
    assert scan.placed() == {"cat/1.jpg": ("cat", None), "dog/1.jpg": ("dog", None), "dog/2.jpg": ("dog", None)}
    assert scan.read()["dog/2.jpg"] == b"2.jpg"


def test_loops_and_what_cannot_be_read(look, make, tmp_path, monkeypatch):
    root = make.write_folder(tmp_path / "set", make.CLASSES)
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "dog" / "gone.jpg").symlink_to("nowhere")
    (root / "dog" / "gone").symlink_to("nowhere")
    (root / "closed").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root / "dog")  # the name of a socket must be short
        listener.bind("socket.jpg")
        ordinary = os.scandir
        monkeypatch.setattr(
            os, "scandir", lambda path: ordinary(path) if not str(path).endswith("closed") else refuse()
        )
        scan = look(root)
    assert set(scan.placed()) == set(make.CLASSES)
    assert scan.reasons() == {
        "cat/loop": "a symbolic link to a parent folder: a loop",
        "cat/up": "a symbolic link to a parent folder: a loop",
        "self": "cannot be read (Too many levels of symbolic links)",
        "dog/gone.jpg": "a broken symbolic link",
        "dog/gone": "a broken symbolic link",
        "closed": "this folder cannot be read (Permission denied)",
        "dog/socket.jpg": "neither a file nor a folder",
    }


def refuse():
    raise PermissionError(13, "Permission denied")


def test_many_loops_end(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.CLASSES)
    for name in ("a", "b", "c", "train", "val"):
        (root / "cat" / name).symlink_to(root)
    assert len(look(root).found) == 4


def test_names_that_are_not_text(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.CLASSES)
    strange = [b"caf\xe9/\xff.jpg", b"caf\xe9/back\\slash.jpg", "café/ü.jpg".encode()]
    for name in strange:
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    scan = look(root)
    read = scan.read()
    assert {name: read[name] for name in read if name.startswith("caf")} == dict(
        zip([r"caf\xe9/\xff.jpg", r"caf\xe9/back\x5cslash.jpg", "café/ü.jpg"], strange, strict=True)
    )
    assert scan.placed()[r"caf\xe9/\xff.jpg"] == (r"caf\xe9", None)


def test_no_image(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.contents(["a/b.npz", "c.txt"]))
    with pytest.raises(DataError, match=r"no images; looked for .*found 1 \.(npz|txt), 1"):
        look(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images; looked for"):
        look(tmp_path / "empty")


def test_an_image_that_goes_away_is_an_error_of_the_system(look, make, tmp_path):
    scan = look(make.write_folder(tmp_path / "set", make.CLASSES))
    (tmp_path / "set" / "cat" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        scan.read()


def test_a_film_is_not_read_into_memory(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.CLASSES)
    with open(root / "cat" / "film", "wb") as file:
        file.truncate(2 << 30)
    scan = look(root)
    with pytest.raises(DataError, match="too large for an image: 2048 MB"):
        scan.source.read("cat/film", 0, 0, 0)
