import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitctl.data.sources import Hints
from vitctl.errors import DataError

IMAGES = ["a/1.jpg", "a/2.jpg", "b c/3.jpg"]


@pytest.fixture
def listed(make, tmp_path, look):
    """Scans a manifest of this text that lies beside IMAGES."""

    def listed(text, name="list.csv"):
        root = make.write_folder(tmp_path / "set", {**make.contents(IMAGES), name: text})
        return look(root / name)

    return listed


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na/1.jpg,cat,train\nb c/3.jpg,dog,valid\n",
        "\ufeffFile , Class,SET\r\na/1.jpg,cat,training\r\n\r\nb c/3.jpg,dog,VAL\r\n",
        "split;target;filename\ntrain;cat;a/1.jpg\nvalidation;dog;b c/3.jpg",
        "image\tcategory\tset\na/1.jpg\tcat\ttrain\n./b c//3.jpg\tdog\tval\n",
        'id|path|label|split\n1|a/1.jpg|cat|train\n2|"b c/3.jpg"|dog|val\n',
        '{"path": "a/1.jpg", "label": "cat", "split": "train"}\n\n{"path": "b c/3.jpg", "set": "val", "class": "dog"}',
    ],
)
def test_forms(listed, text):
    scan = listed(text)
    assert scan.placed() == {"a/1.jpg": ("cat", "train"), "b c/3.jpg": ("dog", "val")}
    assert scan.read()["b c/3.jpg"] == b"b c/3.jpg"
    assert scan.source.kind == "manifest"


def test_the_table_decides_the_order_and_may_repeat(listed):
    assert [each.name for each in listed("path\nb c/3.jpg\na/1.jpg\na/1.jpg\n").found] == [
        "b c/3.jpg",
        "a/1.jpg",
        "a/1.jpg",
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("0", "12", "-1"), (0, 12, None)),
        (("0", "12", "cat"), ("0", "12", "cat")),
        (("01", "2", "3"), ("01", "2", "3")),
        (("1", "", "2"), (1, None, 2)),
        (("5000000", "1", "2"), ("5000000", "1", "2")),
        ((" ", "", " a "), (None, None, "a")),
    ],
)
def test_labels_are_numbers_if_all_are(listed, labels, expected):
    lines = "\n".join(f"{name},{label}" for name, label in zip(IMAGES, labels, strict=True))
    assert tuple(each.label for each in listed(f"path,label\n{lines}\n").found) == expected
    rows = "\n".join(json.dumps({"path": name, "label": label}) for name, label in zip(IMAGES, labels, strict=True))
    assert tuple(each.label for each in listed(rows, "list.jsonl").found) == expected


def test_json_numbers(listed):
    scan = listed('{"path": "a/1.jpg", "label": 3}\n{"path": "a/2.jpg", "label": null}\n{"path": "b c/3.jpg"}\n')
    assert [each.label for each in scan.found] == [3, None, None]


def test_lines_may_lead_anywhere_on_this_machine(listed, tmp_path, make):
    make.write_folder(tmp_path / "away", make.contents(["1.jpg"]))
    root = make.write_folder(tmp_path / "set", {})
    root.mkdir(exist_ok=True)
    (root / "out").symlink_to(tmp_path / "away")
    (root / "file.jpg").symlink_to(tmp_path / "away" / "1.jpg")
    (root / "same").symlink_to(root)
    os.mkfifo(root / "pipe.jpg")
    paths = ["../away/1.jpg", f"{tmp_path}/away/1.jpg", "out/1.jpg", "file.jpg", "same/a/1.jpg", f"{root}//a/./2.jpg",
             "a/../../x.jpg", "none.jpg", "a", "pipe.jpg", "/dev/zero", "a/1.jpg\0", "/", "."]  # fmt: skip
    scan = listed("path\n" + "\n".join(paths))
    assert scan.read() == {
        "../away/1.jpg": b"1.jpg", f"{tmp_path}/away/1.jpg": b"1.jpg", "out/1.jpg": b"1.jpg", "file.jpg": b"1.jpg",
        "same/a/1.jpg": b"a/1.jpg", "a/2.jpg": b"a/2.jpg"}  # fmt: skip
    assert list(scan.reasons().values()) == [
        "a/../../x.jpg does not exist",
        "none.jpg does not exist",
        "a is a folder, and there is no a.jpg or similar",
        "pipe.jpg is neither a file nor a folder",
        "/dev/zero is neither a file nor a folder, and there is no zero.jpg or similar",
        r"a/1.jpg\x00 does not exist, and there is no 1.jpg\x00.jpg or similar",
        "/ has no path",
        ". has no path",
    ]


SHAPES = [  # as pandas, Kaggle and fastai write them
    ",Image_ID,Label\n0,{0},cat\n1,{1},dog\n",
    "id,breed\n{0},cat\n{1},dog\n",
    "ImageId;Class Name\r\n{0};cat\r\n{1};dog\r\n",
    "\ufefffname,labels\n{0},cat\n{1},dog\n",
    'id_code,note,diagnosis\n{0},"a, b",cat\n{1},"x\ny",dog\n',
    "image_name,target\n{0},cat\n{1},dog\n",
    "label\tname\ncat\t{0}\ndog\t{1}\n",
    "path,id,label\n{0},7,cat\n{1},8,dog\n",
    '{{"image_id": "{0}", "category": "cat"}}\n{{"image_id": "{1}", "category": "dog"}}\n',
]


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize(("one", "other"), [("a/1.jpg", "b c/3.jpg"), ("a/1", "b c/3")])
def test_widespread_columns_and_identifiers_without_an_ending(listed, text, one, other):
    assert listed(text.format(one, other)).placed() == {"a/1.jpg": ("cat", None), "b c/3.jpg": ("dog", None)}


def test_identifiers_may_be_numbers_and_endings_in_capitals(make, tmp_path, look):
    files = {"7.JPG": "seven", "8.png": "eight", "9.webp": "nine", "list.jsonl": '{"id": 7}\n{"id": 8}\n{"id": "9"}\n'}
    root = make.write_folder(tmp_path / "set", files)
    assert look(root / "list.jsonl").read() == {"7.JPG": b"seven", "8.png": b"eight", "9.webp": b"nine"}


def hinted(look, source, **hints):
    return look(source, hints=Hints(**hints))


def test_the_root_and_the_columns_can_be_said(make, tmp_path, look, monkeypatch):
    away = make.write_folder(tmp_path / "away", make.contents(["1.jpg", "2.jpg"]))
    root = make.write_folder(
        tmp_path / "set", {"im/1.jpg": "inside", "list.csv": "Image,Id,x\n1.jpg,cat,5\n2.jpg,dog,6\n"}
    )
    monkeypatch.chdir(tmp_path)
    scan = hinted(look, root / "list.csv", root="away", label="id")
    assert scan.placed() == {f"{away}/1.jpg": ("cat", None), f"{away}/2.jpg": ("dog", None)}
    assert scan.read()[f"{away}/1.jpg"] == b"1.jpg"
    scan = hinted(look, root / "list.csv", root="set/im")
    assert scan.placed() == {"im/1.jpg": (None, None)}
    assert scan.source.notes() == [
        "list.csv: read without labels; --set label_column=NAME chooses their column, "
        "target_column=NAME one of numbers, "
        "class_columns=A,B one of 0 and 1 per class: Id, x"]  # fmt: skip
    (root / "list.csv").write_text("mine,label\n1.jpg,cat\n")
    assert hinted(look, root, root="set/im", path="mine").placed() == {"im/1.jpg": ("cat", None)}
    (root / "list.jsonl").write_text('{"mine": "im/1.jpg", "path": "x"}\n')
    assert hinted(look, root / "list.jsonl", path="mine", label="path").placed() == {"im/1.jpg": ("x", None)}


@pytest.mark.parametrize(
    ("text", "hints", "message"),
    [
        (
            "foo,bar\n1,2\n",
            {},
            "list.csv: not a manifest, because no column has a usual name for paths; its columns: foo, bar; --set path",
        ),
        (
            "path,bar\n1,2\n",
            {"path": "im"},
            "not a manifest, because it has no column 'im'; its columns: path, bar; --set path_column=NAME",
        ),
        ("path,,bar\n1,2,3\n", {"label": "x"}, r"list.csv: has no column 'x'; its columns: path, \(no name\), bar"),
        ("path\na/1.jpg\n", {"root": "nowhere"}, "--set root=nowhere: no such folder"),
        ("path\nphotos/x.jpg\n", {}, "^list.csv line 2: photos/x.jpg does not exist; no other line names an image"),
        ("path\n", {}, "list.csv lists no images"),
    ],
)
def test_errors_begin_with_the_cause(make, tmp_path, look, text, hints, message):
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "list.csv": text})
    with pytest.raises(DataError, match=message) as caught:
        hinted(look, root / "list.csv", **hints)
    assert "class folders" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_about_something_else_is_no_manifest(make, tmp_path, look):
    """Its id and name are no images."""
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "classes.csv": "id,name,label\n0,cat,x\n1,dog,y\n"})
    assert look(root).source.kind == "classes"
    flat = make.write_folder(tmp_path / "flat", {"1.jpg": "1", "2.jpg": "2", "train.csv": "id,label\n1,x\n2,y\n"})
    assert look(flat).placed() == {"1.jpg": ("x", None), "2.jpg": ("y", None)}


def test_malformed_lines(listed):
    scan = listed("path,label\na/1.jpg\na/2.jpg,x,y\n,x\nb c/3.jpg,ok\n" + "x" * 200_000 + ",x\n")
    assert list(scan.placed()) == ["b c/3.jpg"]
    assert scan.reasons()["list.csv line 2"] == "has 1 values, but the header has 2"
    assert set(scan.reasons()) == {f"list.csv line {line}" for line in (2, 3, 4, 6)}
    rows = [
        '{"path": "a/1.jpg"}',
        "{",
        "[1]",
        '{"path": 3}',
        '{"label": "x"}',
        '{"path": "a/2.jpg", "label": [1, [2]]}',
        '{"path": "\\ud800"}',
        "[" * 100_000,
        '{"path": "a/2.jpg", "label": true}',
    ]
    scan = listed("\n".join(rows), "list.jsonl")
    assert set(scan.reasons()) == {f"list.jsonl line {line}" for line in range(2, 10)}


def test_splits(listed):
    with pytest.raises(DataError, match=r"list.csv line 3: unknown split 'tset'; did you mean 'test'"):
        listed("path,split\na/1.jpg,train\na/2.jpg,tset\n")
    scan = listed("path,split\na/1.jpg,train\na/2.jpg,\n")
    assert scan.reasons() == {"list.csv line 3": "a/2.jpg has no split"}
    assert listed("path,split\na/1.jpg,\na/2.jpg,\n").placed() == {"a/1.jpg": (None, None), "a/2.jpg": (None, None)}


def test_names_that_are_not_text(make, tmp_path, look):
    root = make.write_folder(
        tmp_path / "set", {"list.csv": "path,label\ncaf\udce9.jpg,\udcff\n".encode("utf-8", "surrogateescape")}
    )
    (root / "caf\udce9.jpg").write_bytes(b"1")
    scan = look(root / "list.csv")
    assert scan.read() == {r"caf\xe9.jpg": b"1"}
    assert scan.found[0].label == r"\xff"


def test_a_manifest_in_a_folder(make, tmp_path, look):
    flat = make.write_folder(
        tmp_path / "flat", {**make.contents(["im/1.jpg", "im/2.jpg"]), "labels.csv": "file,label\nim/2.jpg,x\n"}
    )
    scan = look(flat)
    assert scan.placed() == {"im/2.jpg": ("x", None)}
    assert scan.source.notes() == ["labels come from labels.csv"]
    assert len(look(flat, "flat").found) == 2
    classes = make.write_folder(tmp_path / "classes", {**make.CLASSES, "labels.csv": "file,label\ncat/1.jpg,x\n"})
    with pytest.raises(DataError, match=r"labels.csv lists \(--set kind=manifest\) or .*kind=classes"):
        look(classes)
    assert look(classes, "manifest").placed() == {"cat/1.jpg": ("x", None)}
    assert len(look(classes, "classes").found) == 4


def test_tables_that_tell_nothing_are_left_out(make, tmp_path, look):
    files = {
        **make.contents(["1.jpg", "2.jpg"]),
        "sizes.csv": "a,b\n1,2\n",
        "list.csv": "path\n1.jpg\n",
        "deep/x.csv": "path,label\n",
    }
    assert len(look(make.write_folder(tmp_path / "set", files)).found) == 2


def test_two_tables(make, tmp_path, look):
    table = "path,label\n1.jpg,x\n"
    root = make.write_folder(tmp_path / "set", {"1.jpg": "x", "a.csv": table, "b.csv": table})
    with pytest.raises(DataError, match=r"several tables \(a.csv, b.csv\)"):
        look(root)


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("form", ["tar_bytes", "zip_bytes"])
def test_a_manifest_in_an_archive(make, tmp_path, look, form, top):
    table = "path,label,split\nim/2.jpg,x,train\n../im/1.jpg,x,train\nim/9.jpg,x,val\nim/1.jpg,y,val\n"
    files = {**make.contents([f"{top}im/1.jpg", f"{top}im/2.jpg"]), f"{top}list.csv": table}
    (tmp_path / "set").write_bytes(getattr(make, form)(files))
    scan = look(tmp_path / "set")
    assert scan.placed() == {f"{top}im/2.jpg": ("x", "train"), f"{top}im/1.jpg": ("y", "val")}
    assert scan.read()[f"{top}im/1.jpg"] == f"{top}im/1.jpg".encode()
    assert scan.reasons()["list.csv line 4"] == "im/9.jpg is not in the archive"
    assert scan.reasons()["list.csv line 3"] == "../im/1.jpg leads out of the archive"
    ids = {**files, f"{top}list.csv": "id,label\n2,x\n3,y\n"}
    (tmp_path / "set").write_bytes(getattr(make, form)(ids))
    scan = hinted(look, tmp_path / "set", root=f"{top}im")
    assert scan.placed() == {f"{top}im/2.jpg": ("x", None)}
    assert scan.reasons() == {"list.csv line 3": "3 is not in the archive, and there is no 3.jpg or similar"}
    with pytest.raises(DataError, match=r"root=\.\./x: no such folder"):
        hinted(look, tmp_path / "set", root="../x")


def test_a_member_that_is_there_twice(make, tmp_path, look):
    members = {"1.jpg": b"old", "list.csv": "path,label\n1.jpg,x\n"}
    old, new = make.tar_bytes(members), make.tar_bytes({"1.jpg": b"new"})
    (tmp_path / "set.tar").write_bytes(old[:2048] + new)
    assert look(tmp_path / "set.tar").read() == {"1.jpg": b"new"}


def test_no_manifest(make, tmp_path, look):
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "a.csv": "x,y\n1,2\n", "b.csv": ""})
    with pytest.raises(DataError, match=r"a.csv: not a manifest, .* columns: x, y; .*; not manifests either: b.csv"):
        look(root, "manifest")
    with pytest.raises(DataError, match=r"a.csv: not a manifest, because no column .* for paths; its columns: x, y"):
        look(root / "a.csv")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_an_error(listed, junk):
    for head in (b"path,label\na/1.jpg,x\n", b'{"path": "a/1.jpg"}\n', b""):
        try:
            assert listed(head + junk).found
        except DataError:
            continue


def test_json_lines_may_have_other_keys_each(listed):
    scan = listed(
        '{"path": "a/1.jpg"}\n{"file": "a/2.jpg", "class": "x"}\n{"label": "y", "class": "z", "image": "b c/3.jpg"}\n'
    )
    assert [each.label for each in scan.found] == [None, "x", "y"]
