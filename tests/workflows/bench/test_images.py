from pathlib import Path

import pytest

from vitctl.workflows.bench.images import link_or_copy, multiply_images


def test_images_of_one_name_stay_apart_and_as_they_were(tmp_path: Path) -> None:
    paths = [tmp_path / split / "cat" / "1.jpg" for split in ("train", "val")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes([number]) * 9)
    many = sorted((multiply_images(tmp_path / "many", paths, 2) / "cat").iterdir())
    assert sorted(each.read_bytes()[0] for each in many) == [0, 0, 1, 1]
    assert [path.read_bytes()[0] for path in paths] == [0, 1]


def test_what_is_there_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"b"
