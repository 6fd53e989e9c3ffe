import json
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import DataError
from vitctl.io.answers import read_answers


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_imagenets_list_is_indexed_by_the_numbers_of_its_images(tmp_path: Path) -> None:
    path = write(tmp_path, [[1], [], [2, 3]])
    names = ["val/n01/ILSVRC2012_val_00000003.JPEG", "val/n02/ILSVRC2012_val_00000001.JPEG"]
    assert read_answers(path, names) == [[2, 3], [1]]
    with pytest.raises(DataError, match="has 3 answers, but the data has image number 9"):
        read_answers(path, ["ILSVRC2012_val_00000009.JPEG"])


def test_another_list_is_in_the_order_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, [["a"], ["b"], ["c"]])
    assert read_answers(path, ["z.png", "x.png", "y.png"]) == [["c"], ["a"], ["b"]]
    with pytest.raises(DataError, match="3 answers for 2 images"):
        read_answers(path, ["a", "b"])


def test_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, {"val/cat/1.jpg": ["cat", "dog"], "2.jpg": 3})
    assert read_answers(path, ["val/cat/1.jpg", "val/dog/2.jpg", "val/dog/3.jpg"]) == [["cat", "dog"], [3], []]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('"text"', "must be a list of answers, or an object that maps image names to answers"),
        ('{"other.jpg": [1]}', r"contains none of the images; its keys must be names such as 1\.jpg"),
        ('{"1.jpg": [1.5]}', r"answers must be class numbers or class names, not \[1\.5\]"),
        ('{"1.jpg": [true]}', "answers must be class numbers or class names"),
    ],
)
def test_other_files_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"answers\.json: {message}"):
        read_answers(write(tmp_path, content), ["1.jpg"])
