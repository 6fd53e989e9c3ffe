import json
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import DataError
from vitctl.io.answers import read_answers


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_imagenets_list_goes_by_the_numbers_of_its_images(tmp_path: Path) -> None:
    path = written(tmp_path, [[1], [], [2, 3]])
    names = ["val/n01/ILSVRC2012_val_00000003.JPEG", "val/n02/ILSVRC2012_val_00000001.JPEG"]
    assert read_answers(path, names) == [[2, 3], [1]]
    with pytest.raises(DataError, match="number 9"):
        read_answers(path, ["ILSVRC2012_val_00000009.JPEG"])


def test_another_list_goes_by_the_order_of_names(tmp_path: Path) -> None:
    path = written(tmp_path, [["a"], ["b"], ["c"]])
    assert read_answers(path, ["z.png", "x.png", "y.png"]) == [["c"], ["a"], ["b"]]
    with pytest.raises(DataError, match="3 answers for 2 images"):
        read_answers(path, ["a", "b"])


def test_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, {"val/cat/1.jpg": ["cat", "dog"], "2.jpg": 3})
    assert read_answers(path, ["val/cat/1.jpg", "val/dog/2.jpg", "val/dog/3.jpg"]) == [["cat", "dog"], [3], []]


@pytest.mark.parametrize(
    "content", ["not JSON", "[" * 100_000, '"text"', '{"other.jpg": [1]}', '{"1.jpg": [1.5]}', '{"1.jpg": [true]}']
)
def test_what_is_no_file_of_answers(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"answers\.json"):
        read_answers(written(tmp_path, content), ["1.jpg"])
