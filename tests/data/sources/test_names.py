import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.data.sources.names import (
    as_label,
    extension,
    is_image_name,
    is_junk,
    is_number,
    on_disk,
    parse_label,
    printable,
    relative_parts,
    split_in,
    split_name,
)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPEG", "a.b.png", "a.JPE", "a.jfif", "a.tif", "a.Pbm", "a.jp2", "a.avif", "ILSVRC_0001"]
)
def test_images(name):
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["a.txt", "a.jpg.bak", "README", "License", "Thumbs.db", "a.tar.gz", "jpg.xml"])
def test_what_is_not_an_image(name):
    assert not is_image_name(name)


def test_endings():
    assert [extension(name) for name in ("a.B.JPG", "a", "a.")] == ["jpg", "", ""]


@pytest.mark.parametrize("name", [".DS_Store", "._a.jpg", "__MACOSX", "thumbs.DB", "desktop.ini", ".git"])
def test_junk(name):
    assert is_junk(name)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b.jpg", ("a", "b.jpg")),
        ("./a//b.jpg", ("a", "b.jpg")),
        ("a/./b/", ("a", "b")),
        ("", ()),
        ("./", ()),
        ("/a", None),
        ("../a", None),
        ("a/../b", None),
        ("a/..", None),
        ("a..b/c", ("a..b", "c")),
    ],
)
def test_paths_stay_inside(path, parts):
    assert relative_parts(path) == parts


def test_words_for_splits():
    assert [
        split_name(word) for word in ("train", "Training", " VAL ", "valid", "validation", "test", "testing", "extra")
    ] == ["train", "train", "val", "val", "val", "test", "test", None]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-0001.tar", "train"),
        ("imagenet-val-0001.tar", "val"),
        ("x_VALIDATION_3.parquet", "val"),
        ("training.tar", "train"),
        ("shard-01.tar", None),
        ("latest.tar", None),
        ("train-test.tar", None),
        ("retrain-1.tar", None),
    ],
)
def test_splits_in_names(name, split):
    assert split_in(name) == split


@given(st.binary(max_size=30).filter(lambda name: b"\0" not in name))
def test_any_name_can_be_printed_and_found_again(raw):
    name = os.fsdecode(raw)
    assert printable(name).encode("utf-8").decode() == printable(name)
    assert "\0" not in printable(name)
    assert os.fsencode(on_disk(printable(name))) == raw


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
        lambda name: "\\" not in name and "\0" not in name
    )
)
def test_ordinary_names_stay_as_they_are(name):
    assert printable(name) == name


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3),
        (0, 0),
        (-1, None),
        (999_999, 999_999),
        (1_000_000, "1000000"),
        ("cat ", "cat"),
        ("7", "7"),
        ("", None),
        (None, None),
        (True, None),
        (1.5, None),
        ([1], None),
    ],
)
def test_typed_labels(value, label):
    assert as_label(value) == label
    assert type(as_label(value)) is type(label)


def test_written_labels():
    assert [parse_label(text) for text in ("3\n", "-1", "007", "cat", "", "1234567")] == [
        3,
        None,
        "007",
        "cat",
        None,
        "1234567",
    ]
    assert not is_number("-2")
