import os

import pytest

from vitctl.config.patchify import KINDS
from vitctl.data.sources import open_source
from vitctl.errors import ConfigError, DataError

EXPECTED = {
    "flat": "flat",
    "classes": "classes",
    "splits": "splits",
    "manifest": "manifest",
    "tar": "classes",
    "tar.gz": "splits",
    "zip": "classes",
    "tar with manifest": "manifest",
}


def test_every_kind_is_detected_by_its_content(look, make, tmp_path):
    for name, maker in make.MAKERS.items():
        if name != "parquet":
            assert look(maker(tmp_path / name)).source.kind == EXPECTED.get(name, name)


def test_endings_do_not_matter(look, make, tmp_path):
    for name in ("tar", "tar.gz", "zip", "arrays", "webdataset", "class-tars"):
        path = make.MAKERS[name](tmp_path / name)
        assert look(path.rename(path.with_name("data"))).source.kind == EXPECTED.get(name, name)


def test_unknown_kinds_and_paths(tmp_path):
    with pytest.raises(ConfigError, match=r"kind 'webdatasets' is unknown; did you mean 'webdataset'"):
        open_source(str(tmp_path), "webdatasets")
    (tmp_path / "flowers").mkdir()
    with pytest.raises(DataError, match=r"flower does not exist; did you mean 'flowers'"):
        open_source(str(tmp_path / "flower"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5 file; a patch file needs no patchify"),
        (b"\x93NUMPY\1\0", "one array without labels"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\7", "rar"),
        (b"\xff\xd8\xff\xe0", "one image"),
        (b"\x89PNG\r\n", "one image"),
        (b"\x80\4\x95", "a pickle, which can run any program"),
        (b"", "not a manifest"),
        (b"\x1f\x8b", "damaged or truncated"),
        (b"some words\n", r"not a manifest, .*\. Supported sources: class folders"),
        (bytes(700), "no image"),
    ],
)
def test_files_that_are_no_source(look, tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        look(tmp_path / "file")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe, a device or a socket, not a file"):
        open_source(str(tmp_path / "pipe"))


def test_compressed_files_that_hold_something_else(look, tmp_path):
    import gzip

    (tmp_path / "file.gz").write_bytes(gzip.compress(b"path,label\n"))
    with pytest.raises(DataError, match="holds neither a tar nor IDX"):
        look(tmp_path / "file.gz")


def test_a_folder_that_can_be_read_twice(look, make, tmp_path):
    root = make.make_cifar(tmp_path)
    make.write_folder(root, make.CLASSES)
    with pytest.raises(
        DataError, match=r"CIFAR's .bin files \(--set kind=cifar\) or image files in folders \(--set kind=folder\)"
    ):
        look(root)
    assert look(root, "cifar").source.kind == "cifar"
    assert len(look(root, "folder").found) == 4


def test_the_tar_that_folders_came_from_lies_beside_them(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "all.tar.gz": make.tar_bytes(make.CLASSES, "w:gz")})
    scan = look(root)
    assert list(scan.placed()) == list(make.CLASSES)
    assert scan.source.notes() == ["skipped 1 file that is not an image (.gz)"]


def test_a_tar_beside_what_was_asked_for(look, make, tmp_path):
    root = make.make_idx(tmp_path)
    make.write_folder(root, {"shard.tar": make.tar_bytes(make.SHARD)})
    assert look(root, "idx").source.kind == "idx"
    assert look(root, "webdataset").source.kind == "webdataset"
    with pytest.raises(DataError, match=r"kind=idx.*kind=webdataset"):
        look(root)


def test_a_folder_with_one_tar(look, make, tmp_path):
    assert look(make.write_folder(tmp_path / "set", {"all.tar": make.tar_bytes(make.SPLITS)})).source.kind == "splits"
    assert look(make.write_folder(tmp_path / "b", {"all.tar": make.tar_bytes(make.SHARD)})).source.kind == "webdataset"


def test_a_kind_that_does_not_fit(look, make, tmp_path):
    root = make.write_folder(tmp_path / "set", make.CLASSES)
    for kind in ("idx", "cifar", "parquet", "webdataset", "class-tars", "arrays"):
        with pytest.raises(DataError, match=f"cannot be read as {kind}"):
            look(root, kind)
    (tmp_path / "set.zip").write_bytes(make.zip_bytes(make.CLASSES))
    with pytest.raises(DataError, match="cannot be read as idx; its format, zip, can be read as folder, classes"):
        look(tmp_path / "set.zip", "idx")
    with pytest.raises(DataError, match="several files are one source only if"):
        look(f"{root}/cat/*")


def test_digits_may_also_be_a_folder(look, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make.write_folder(tmp_path / "digits", make.CLASSES)
    with pytest.raises(DataError, match=r"kind=digits.*kind=folder"):
        look("digits")
    assert len(look("digits", "folder").found) == len(look("./digits").found) == 4
    assert look("digits", "digits").source.kind == "digits"


def test_every_kind_can_be_asked_for(look, make, tmp_path):
    asked = {"flat": "flat", "classes": "classes", "splits": "splits", "manifest": "manifest", "folder": "zip"}
    for kind in set(KINDS) - {"auto", "parquet"}:
        assert look(make.MAKERS[asked.get(kind, kind)](tmp_path / kind), kind).found
