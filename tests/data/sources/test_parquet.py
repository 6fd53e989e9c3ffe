import json
import sys

import numpy as np
import pytest

from vitctl.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def write(tmp_path):
    """Writes one file of these columns; `classes` are those that the hub's metadata names."""

    def write(name="set.parquet", classes=None, **columns):
        table = pa.table(columns)
        features = {column: {"_type": "ClassLabel", "names": names} for column, names in (classes or {}).items()}
        if features:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path, row_group_size=2)
        return path

    return write


def structs(*contents):
    return pa.array(
        [{"bytes": content, "path": path} for content, path in contents],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


def test_the_hubs_layout(look, make, tmp_path):
    scan = look(make.make_parquet(tmp_path))
    assert [(each.name, each.label, each.split) for each in scan.found][3:] == [
        ("train-00000-of-00001.parquet/000000/a.png", 0, "train"),
        ("train-00000-of-00001.parquet/000001", 1, "train"),
        ("train-00000-of-00001.parquet/000002/c", None, "train"),
    ]
    assert {each.split for each in scan.found[:3]} == {"test"}
    assert scan.source.class_names == ("cat", "dog")
    assert list(scan.read().values()) == [b"a", b"b", b"c"] * 2
    assert not scan.source.notes()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_and_names(look, write, kind):
    scan = look(write(img=pa.array([b"0", b"1", b"2"], kind), label=["b", "a", None], width=[1, 2, 3]))
    assert [each.label for each in scan.found] == ["b", "a", None]
    assert list(scan.read().values()) == [b"0", b"1", b"2"]
    assert [each.split for each in scan.found] == [None] * 3


def test_a_table_without_labels(look, write):
    assert [each.label for each in look(write(image=structs((b"0", None)), caption=["x"])).found] == [None]


def test_columns_are_chosen_and_noted(look, write):
    scan = look(
        write(
            mask=structs((b"m", None)),
            image=structs((b"i", None)),
            coarse_label=[1],
            fine_label=[0],
            classes={"coarse_label": ["a", "b"], "fine_label": ["x"]},
        )
    )
    assert (scan.found[0].label, scan.source.class_names) == (0, ("x",))
    assert list(scan.read().values()) == [b"i"]
    assert scan.source.notes() == [
        "image column: image; ignored: mask",
        "label column: fine_label; ignored: coarse_label",
    ]


def test_folders_and_patterns(look, write):
    for name in ("train/0.parquet", "train/1.parquet", "validation/0.parquet"):
        path = write(name, image=structs((name.encode(), None)), label=[1])
    assert [each.split for each in look(path.parent.parent).found] == ["train", "train", "val"]
    assert list(look(f"{path.parent.parent}/train/{{0,1}}.parquet").read().values()) == [
        b"train/0.parquet",
        b"train/1.parquet",
    ]
    write("other/train-0.parquet", image=structs((b"x", None)))
    with pytest.raises(DataError, match="holds several data sets"):
        look(path.parent.parent)


def test_an_image_that_is_elsewhere(look, write):
    scan = look(write(image=structs((None, "somewhere/else.png"), (b"x", None)), label=[0, 1]))
    with pytest.raises(DataError, match="no bytes for it"):
        scan.read()


def test_files_that_differ(look, write):
    write("a.parquet", image=structs((b"x", None)), label=[1])
    path = write("b.parquet", image=structs((b"x", None)), klass=[1])
    with pytest.raises(DataError, match=r"b.parquet: damaged.*label"):
        look(path.parent)


def test_no_images(look, write):
    with pytest.raises(DataError, match=r"no column of images .*: text, label"):
        look(write(text=["x"], label=[1]))
    with pytest.raises(DataError, match="no rows"):
        look(write("b.parquet", image=structs(), label=pa.array([], pa.int64())))


def test_without_pyarrow(look, write, monkeypatch):
    from vitctl.data.sources.parquet import open_parquet_file

    path = write(image=structs((b"x", None)))
    open_parquet_file.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install pyarrow$"):
        look(path)


def test_cut_anywhere_or_flipped(look, write):
    path = write(image=structs((b"x" * 50, "a"), (b"y", "b"), (b"z", None)), label=["a", "b", "c"])
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            look(path)
    draw = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        content[draw.integers(len(content))] ^= 1 << draw.integers(8)
        path.write_bytes(content)
        try:
            look(path).read()
        except DataError:
            continue
