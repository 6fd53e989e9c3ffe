import json

import pytest

from vitctl.errors import DataError


def shards(make, root, files):
    return make.write_folder(root, {name: make.tar_bytes(members) for name, members in files.items()})


def test_a_shard(look, make, tmp_path):
    members = {
        "a/0.jpg": b"0",
        "a/0.cls": "3\n",
        "a/0.txt": "words",
        "1.json": json.dumps({"cls": 4}),
        "1.seg.png": b"x",
        "1.PNG": b"1",
        "2.jpg": b"2",
        "2.cls": "cat",
        "3.cls": "1",
        "4.webp": b"4",
        "5.json": "{",
        "5.jpg": b"5",
    }
    scan = look(shards(make, tmp_path, {"x.tar": members}) / "x.tar")
    assert scan.source.kind == "webdataset"
    assert [(each.name, each.label) for each in scan.found] == [
        ("x.tar/a/0.jpg", 3),
        ("x.tar/1.PNG", 4),
        ("x.tar/2.jpg", "cat"),
        ("x.tar/4.webp", None),
        ("x.tar/5.jpg", None),
    ]
    assert list(scan.read().values()) == [b"0", b"1", b"2", b"4", b"5"]
    assert scan.source.notes() == [
        "2 samples without a label (.cls, or .json with label, class, cls, labels, classes, tags)",
        "skipped 1 sample without an image",
    ]


@pytest.mark.parametrize("label", [{"label": 7}, {"class": 7}, {"cls": 7, "x": {}}])
def test_labels_in_json(look, make, tmp_path, label):
    root = shards(make, tmp_path, {"x.tar": {"0.jpg": b"0", "0.json": json.dumps(label)}})
    assert look(root / "x.tar").found[0].label == 7


def numbered(make, root):
    files = {f"train-{number:06d}.tar": {f"{number}.jpg": b"%d" % number, f"{number}.cls": "1"} for number in range(12)}
    return shards(make, root / "data", files | {"val-0.tar": {"0.jpg": b"v", "0.cls": "0"}})


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("train-{000000..000011}.tar", 12),
        ("train-{000009..000010}.tar", 2),
        ("train-00000*.tar", 10),
        ("{train-000001,val-0}.tar", 2),
        ("{train,val}-*.tar", 13),
        ("train-0000{00..02}{,}.tar", 6),
        ("val-{0..0}.tar", 1),
    ],
)
def test_patterns(look, make, tmp_path, pattern, count):
    scan = look(f"{numbered(make, tmp_path)}/{pattern}")
    assert len(scan.found) == count
    assert {each.split for each in scan.found} <= {"train", "val"}
    assert all(
        content in (b"v", name.rpartition("/")[2].removesuffix(".jpg").encode())
        for name, content in scan.read().items()
    )


def test_a_folder_of_shards(look, make, tmp_path):
    root = numbered(make, tmp_path)
    (root / "classes.txt").write_text("cat\ndog\n\n")
    scan = look(root)
    assert len(scan.found) == 13
    assert scan.source.class_names == ("cat", "dog")
    assert scan.placed()["val-0.tar/0.jpg"] == (0, "val")
    assert (scan.found[0].file, scan.found[-1].file) == (0, 12)


def test_split_folders_of_shards(look, make, tmp_path):
    root = shards(make, tmp_path / "data", {"train/0.tar": make.SHARD, "validation/0.tar": make.SHARD})
    assert [each.split for each in look(root).found] == ["train", "train", "val", "val"]


def test_splits_only_if_all_shards_name_one(look, make, tmp_path):
    scan = look(shards(make, tmp_path / "data", {"train-0.tar": make.SHARD, "more-0.tar": make.SHARD}))
    assert {each.split for each in scan.found} == {None}
    assert scan.source.notes() == ["more-0.tar: no split in its name, so all shards are read as one set"]


def test_compressed_shards(look, make, tmp_path):
    root = make.write_folder(
        tmp_path / "data", {f"{number}.tar.gz": make.tar_bytes(make.SHARD, "w:gz") for number in range(2)}
    )
    assert list(look(root).read().values()) == [b"zero", b"one"] * 2


def test_shards_without_labels_could_be_classes(look, make, tmp_path):
    root = shards(make, tmp_path / "data", {f"{number:03d}.tar": make.contents(["1.jpg"]) for number in range(3)})
    with pytest.raises(DataError, match=r"kind=webdataset.*kind=class-tars"):
        look(root)
    assert [each.label for each in look(root, "webdataset").found] == [None] * 3
    assert [each.label for each in look(root, "class-tars").found] == ["000", "001", "002"]


def test_json_beside_class_folders_could_be_either(look, make, tmp_path):
    members = {"cat/0.jpg": b"0", "cat/0.json": '{"label": 1}', "dog/0.jpg": b"1", "dog/0.json": '{"label": 2}'}
    path = shards(make, tmp_path, {"x.tar": members}) / "x.tar"
    with pytest.raises(DataError, match=r"kind=webdataset.*kind=classes"):
        look(path)
    assert [each.label for each in look(path, "classes").found] == ["cat", "dog"]
    assert [each.label for each in look(path, "webdataset").found] == [1, 2]


def test_missing_shards(look, make, tmp_path):
    root = numbered(make, tmp_path)
    with pytest.raises(DataError, match=r"train-000012.tar does not exist; did you mean 'train-0000\d\d.tar'"):
        look(f"{root}/train-{{000000..000999}}.tar")
    with pytest.raises(DataError, match="no file matches"):
        look(f"{root}/nothing-*.tar")


def test_a_damaged_shard_is_named(look, make, tmp_path):
    root = numbered(make, tmp_path)
    path = root / "train-000007.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train-000007.tar: damaged or truncated"):
        look(root)


def test_no_sample(look, make, tmp_path):
    root = shards(make, tmp_path / "data", {"x.tar": {"0.cls": "1"}})
    with pytest.raises(DataError, match="no sample with an image in 1 shard;"):
        look(root)
