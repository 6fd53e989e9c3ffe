"""Labels of every form: one class, a set of classes, or a number, from each source that can hold them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitctl.data.sources import Declared, Hints
from vitctl.data.sources.labels import as_number, divide, make_set, text_to_label, value_to_label
from vitctl.errors import DataError

IMAGES = [f"{number}.jpg" for number in range(4)]
Listed = Callable[..., Any]


@pytest.fixture
def listed(make: Any, tmp_path: Path, look: Any) -> Listed:
    """Scans a manifest whose column `label` has these cells, one per image."""

    def listed(cells: list[Any], column: str = "label", json_lines: bool = False, **hints: Any) -> Any:
        rows = list(zip(IMAGES, cells, strict=False))
        text = f"path,{column}\n" + "".join(f"{name},{cell}\n" for name, cell in rows)
        if json_lines:
            text = "".join(json.dumps({"path": name, column: cell}) + "\n" for name, cell in rows)
        name = "list.jsonl" if json_lines else "list.csv"
        root = make.write_folder(tmp_path / "set", {**make.contents(IMAGES), name: text})
        return look(root / name, hints=Hints(**hints))

    return listed


def labels(scan: Any) -> list[Any]:
    return [each.label for each in scan.found]


def test_cells_are_divided_only_if_a_part_also_stands_alone(listed: Listed) -> None:
    scan = listed(["a", "b|a", "", "|"])
    assert labels(scan) == [("a",), ("a", "b"), None, ()]
    assert scan.source.notes() == [
        "list.csv: column label is read as sets of classes: 'b|a' (--set labels=classes keeps such names whole)"
    ]
    scan = listed(["en|us", "fr|ca", "fr|ca", "de"])
    assert labels(scan) == ["en|us", "fr|ca", "fr|ca", "de"]
    assert scan.source.notes() == [
        "list.csv: column label: 'en|us' is read as one class (--set labels=sets divides it at |)"
    ]


def test_the_user_decides(listed: Listed) -> None:
    assert labels(listed(["a", "b|a", "", "|"], labels="classes")) == ["a", "b|a", None, "|"]
    assert labels(listed(["en|us", "de", "", "|"], labels="sets")) == [("en", "us"), ("de",), None, ()]
    assert labels(listed(["0.5", "1.5", "", "2"], labels="classes")) == ["0.5", "1.5", None, "2"]
    assert labels(listed(["1", "3", "", "-1"], labels="numbers")) == [1.0, 3.0, None, -1.0]
    assert listed(["a", "b|a"], labels="classes").source.notes() == []


def test_numbers_in_sets_are_class_numbers(listed: Listed) -> None:
    assert labels(listed(["3", "0|3", "5|1|5", ""])) == [(3,), (0, 3), (1, 5), None]
    assert labels(listed([[3, 0], [], None, 2], json_lines=True)) == [(0, 3), (), None, (2,)]
    assert labels(listed([["3", "x"], [], None, 2], json_lines=True)) == [("3", "x"), (), None, ("2",)]


def test_tags_with_spaces_need_a_hint(listed: Listed) -> None:
    """Kaggle's planet: guessing would divide 'partly cloudy' of another set."""
    scan = listed(["haze primary", "clear", "", "primary"], "tags")
    assert labels(scan) == ["haze primary", "clear", None, "primary"]
    assert scan.source.notes() == [
        "list.csv: column tags: labels with spaces are read as one class (--set separator=space divides them)"
    ]
    scan = listed(["haze primary", "clear", "", "primary"], "tags", labels="sets", separator=" ")
    assert labels(scan) == [("haze", "primary"), ("clear",), None, ("primary",)]


def test_json_lists_are_sets_and_what_cannot_be_in_one_is_refused(listed: Listed) -> None:
    scan = listed([["b", "a", "a"], "a", [1.5], [["a"]]], "labels", json_lines=True)
    assert labels(scan) == [("a", "b"), ("a",)]
    reason = "its list of labels holds something that is neither a name nor a class number"
    assert scan.reasons() == {"list.jsonl line 3": reason, "list.jsonl line 4": reason}
    scan = listed([["a"], "a"], json_lines=True, labels="classes")
    assert labels(scan) == ["a"]
    assert "--set labels=sets" in scan.reasons()["list.jsonl line 1"]


def test_decimals_are_numbers_and_whole_ones_are_not(listed: Listed) -> None:
    scan = listed(["0.37", "2", "", "1e3"])
    assert labels(scan) == [0.37, 2.0, None, 1000.0]
    assert "is read as numbers to predict (--set labels=classes" in scan.source.notes()[0]
    assert labels(listed(["1.0", "2.0", "", "0.0"])) == ["1.0", "2.0", None, "0.0"]  # pandas writes class numbers so
    assert labels(listed([0.37, 2, None, -1], json_lines=True)) == [0.37, 2.0, None, -1.0]
    scan = listed([3.0, "x", None, "y"], json_lines=True)
    assert labels(scan) == ["x", None, "y"]
    assert "neither a name nor a class number" in scan.reasons()["list.jsonl line 1"]


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "x", "1_000", "1,5"])
def test_what_is_no_number_is_refused_with_its_line(listed: Listed, cell: str) -> None:
    scan = listed(["1.5", f'"{cell}"', "", "2"], "age", label="age", labels="numbers")
    assert labels(scan) == [1.5, None, 2.0]
    assert scan.reasons() == {"list.csv line 3": f"in column age, {cell!r} is not a finite number"}
    scan = listed([1.5, math.nan, None, True], "age", json_lines=True, label="age", labels="numbers")
    assert labels(scan) == [1.5, None]
    assert set(scan.reasons()) == {"list.jsonl line 2", "list.jsonl line 4"}


def table(make: Any, tmp_path: Path, text: str, name: str = "list.csv") -> Path:
    root = make.write_folder(tmp_path / "set", {**make.contents(IMAGES), name: text})
    return Path(root / name)


def test_columns_of_zeros_and_ones_are_classes(make: Any, tmp_path: Path, look: Any) -> None:
    path = table(make, tmp_path, "path,cat,big dog,owl\n0.jpg,1,0,0\n1.jpg,1.0,True,0\n2.jpg,0,0,0\n3.jpg,,,\n")
    scan = look(path)
    assert labels(scan) == [("cat",), ("big dog", "cat"), (), None]
    assert scan.declared == [Declared("cat"), Declared("big dog"), Declared("owl")]
    assert "are classes, of which an image has any number: cat, big dog, owl" in scan.source.notes()[0]
    lines = '{"path": "0.jpg", "cat": true, "owl": false}\n{"path": "1.jpg", "cat": 0, "owl": 1}\n'
    assert labels(look(table(make, tmp_path, lines, "list.jsonl"))) == [("cat",), ("owl",)]
    assert labels(look(path, hints=Hints(columns=("owl", "CAT")))) == [("cat",), ("cat",), (), None]


@pytest.mark.parametrize("columns", ["cat", "cat,age", "0,1"])
def test_columns_of_anything_else_are_not(make: Any, tmp_path: Path, look: Any, columns: str) -> None:
    values = ",".join("17" for _ in columns.split(",")) if columns != "cat" else "1"
    scan = look(table(make, tmp_path, f"path,{columns}\n0.jpg,{values}\n"))
    assert labels(scan) == [None]
    assert "class_columns=A,B" in scan.source.notes()[0]


def test_chexpert(make: Any, tmp_path: Path, look: Any) -> None:
    """Columns about the patient beside those of the classes, blanks, and -1 for uncertain ones."""
    text = (
        "Path,Sex,Age,No Finding,Edema,Fracture\n"
        "0.jpg,Male,61,1.0,,\n1.jpg,Female,7,,1.0,0.0\n2.jpg,Male,8,,-1.0,1.0\n3.jpg,Male,9,x,,\n"
    )
    columns = ("No Finding", "Edema", "Fracture")
    path = table(make, tmp_path, text)
    scan = look(path, hints=Hints(columns=columns))
    assert labels(scan) == [("No Finding",), ("Edema",)]
    assert scan.reasons() == {
        "list.csv line 4": "column Edema holds -1; --set uncertain=no or =yes decides what that means",
        "list.csv line 5": "column No Finding holds 'x', which is neither 0 nor 1",
    }
    assert labels(look(path, hints=Hints(columns=columns, uncertain="no")))[2] == ("Fracture",)
    assert labels(look(path, hints=Hints(columns=columns, uncertain="yes")))[2] == ("Edema", "Fracture")
    text = text.replace(",x,", ",1,")
    assert labels(look(table(make, tmp_path, text), hints=Hints(columns=("all",), uncertain="no")))[1] == ("Edema",)
    with pytest.raises(DataError, match=r"list.csv: has no column 'Oedema'; its columns: Path, Sex"):
        look(path, hints=Hints(columns=("Oedema",)))


def test_chest_x_ray14(make: Any, tmp_path: Path, look: Any) -> None:
    text = "Image Index,Finding Labels,Patient Age\n0.jpg,No Finding,58\n1.jpg,Mass|Hernia,7\n2.jpg,Mass,8\n"
    assert labels(look(table(make, tmp_path, text))) == [("No Finding",), ("Hernia", "Mass"), ("Mass",)]


def test_webdataset(make: Any, tmp_path: Path, look: Any) -> None:
    members = {
        "0.jpg": b"0", "0.cls": "dog\ncat\n", "1.jpg": b"1", "1.json": json.dumps({"labels": ["dog", "dog"]}),
        "2.jpg": b"2", "2.cls": "[]", "3.jpg": b"3", "3.cls": "golden retriever", "4.jpg": b"4", "4.cls": "",
        "5.jpg": b"5", "5.json": json.dumps({"labels": [0.5]}), "6.jpg": b"6", "6.txt": "dog|owl",
    }  # fmt: skip
    root = make.write_folder(tmp_path / "set", {"x.tar": make.tar_bytes(members)})
    scan = look(root / "x.tar")
    assert labels(scan) == [("cat", "dog"), ("dog",), (), "golden retriever", None, None]
    assert list(scan.reasons()) == ["x.tar/5.jpg"]
    assert labels(look(root / "x.tar", hints=Hints(labels="sets")))[-1] == ("dog", "owl")
    numbers = {f"{row}.{kind}": text for row in range(3) for kind, text in (("jpg", b"x"), ("json", '{"label": 1.5}'))}
    numbers |= {"3.jpg": b"x", "3.json": '{"label": NaN}', "4.jpg": b"x", "4.json": '{"label": null}'}
    root = make.write_folder(tmp_path / "numbers", {"y.tar": make.tar_bytes(numbers)})
    scan = look(root / "y.tar")
    assert labels(scan) == [1.5, 1.5, 1.5, None]
    assert scan.reasons() == {"y.tar/3.jpg": "'nan' is not a finite number"}


def test_a_json_that_belongs_to_no_image_says_nothing_about_a_tar(make: Any, tmp_path: Path, look: Any) -> None:
    files = {**make.CLASSES, "about.json": json.dumps({"classes": ["cat", "dog"]})}
    root = make.write_folder(tmp_path / "set", {"x.tar": make.tar_bytes(files)})
    assert look(root / "x.tar").source.kind == "classes"


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
@pytest.mark.parametrize("below", ["", "train/"])
def test_json_beside_images(make: Any, tmp_path: Path, look: Any, form: str, below: str) -> None:
    contents = {
        "0": {"labels": ["b", "a"]},
        "1": {"tags": []},
        "2": {"title": "none"},
        "3": {"label": 3},
        "5": {"classes": [None, 1.5]},
    }
    files: dict[str, Any] = {f"{below}{row}.jpg": b"x" for row in range(6)}
    files |= {f"{below}{row}.json": json.dumps(values) for row, values in contents.items()}
    files |= {f"{below}noise.txt": "x"}
    if form == "folder":
        path = make.write_folder(tmp_path / "set", files)
    else:
        path = make.write_folder(tmp_path, {"set": getattr(make, f"{form}_bytes")(files)}) / "set"
    scan = look(path, "splits" if below else "flat")
    assert labels(scan) == [("a", "b"), (), None, 3, None]
    assert list(scan.reasons()) == [f"{below}5.jpg"]
    keys = "label, class, cls, labels, classes, tags"
    note = f"labels come from the .json files beside the images; 2 images without ({keys})"
    assert scan.source.notes()[0] == note
    assert "skipped 1 file that is not an image (.txt)" in scan.source.notes()


def test_numbers_in_json_beside_images_and_in_arrays(make: Any, tmp_path: Path, look: Any) -> None:
    files = {"1.jpg": "x", "1.json": '{"label": "cat", "age": 7}', "2.jpg": "x", "2.json": '{"age": 7.5}'}
    root = make.write_folder(tmp_path / "set", files)
    assert labels(look(root, "flat", Hints(label="age", labels="numbers"))) == [7.0, 7.5]
    assert labels(look(root)) == ["cat", None]
    content = make.npz_bytes(x=make.pixels(3, 4, 4), y=np.array([0.5, -1, 2]))
    path = make.write_folder(tmp_path, {"a.npz": content}) / "a.npz"
    assert labels(look(path, hints=Hints(labels="numbers"))) == [0.5, -1.0, 2.0]
    with pytest.raises(DataError, match="not whole"):
        look(path)


def test_class_folders_beside_columns_of_zeros_and_ones_stay_classes(make: Any, tmp_path: Path, look: Any) -> None:
    table = "path,blurred,cropped\ncat/1.jpg,0,1\ndog/1.jpg,0,0\n"
    root = make.write_folder(tmp_path / "set", {**make.CLASSES, "about.csv": table})
    assert look(root).placed()["cat/1.jpg"] == ("cat", None)
    assert look(root, "manifest").placed()["cat/1.jpg"] == (("cropped",), None)


def test_class_folders_with_json_keep_their_classes(make: Any, tmp_path: Path, look: Any) -> None:
    files = {**make.CLASSES, "cat/1.json": '{"labels": ["x"]}'}
    assert look(make.write_folder(tmp_path / "set", files)).placed()["cat/1.jpg"] == ("cat", None)


def test_parquet(make: Any, tmp_path: Path, look: Any) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for form in (
        {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["cat", "dog"]}},
        {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["cat", "dog"]}},
        [{"_type": "ClassLabel", "names": ["cat", "dog"]}],
    ):
        columns = {"image": pa.array([b"0", b"1", b"2", b"3"]), "classes": [[1, 0], [], None, [1]],
                   "age": [0.5, None, float("nan"), 2.0], "tag": ["x", "y", "z", None]}  # fmt: skip
        rows = pa.table(columns).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": {"classes": form}}})}
        )
        parquet.write_table(rows, tmp_path / "x.parquet")
        scan = look(tmp_path / "x.parquet")
        assert (labels(scan), scan.source.class_names) == ([(0, 1), (), None, (1,)], ("cat", "dog"))
    scan = look(tmp_path / "x.parquet", hints=Hints(label="age", labels="numbers"))
    assert (labels(scan), scan.source.class_names) == ([0.5, None, 2.0], None)
    assert list(scan.reasons().values()) == ["in column age, 'nan' is not a finite number"]
    assert labels(look(tmp_path, hints=Hints(label="tag"))) == ["x", "y", "z", None]
    with pytest.raises(DataError, match="has no column 'tags'; its columns: classes, age, tag"):
        look(tmp_path / "x.parquet", hints=Hints(label="tags"))


members = st.one_of(st.lists(st.integers(0, 999)), st.lists(st.text("abc|/é", min_size=1)))


@given(members)
def test_a_set_has_each_member_once_and_in_order(values: list[Any]) -> None:
    made = make_set(values)
    assert list(made) == sorted(set(values))


@given(st.lists(st.text(st.characters(exclude_characters="|\\\0", exclude_categories=["Cs"]), min_size=1)))
def test_what_is_joined_is_divided_again(names: list[str]) -> None:
    names = [name.strip() for name in names if name.strip()]
    assert divide("|".join(names), "|") == names


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_to_the_last_bit(number: float) -> None:
    assert as_number(repr(number)) == number
    assert value_to_label(number, Hints()) == number
    assert text_to_label(repr(number), Hints(labels="numbers")) == number


def test_half_a_file_is_read_as_text() -> None:
    assert text_to_label("[cat", Hints()) == "[cat"
