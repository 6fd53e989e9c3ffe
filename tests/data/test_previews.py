import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vitctl.data.patchifier.decode import Target
from vitctl.data.previews import images_at, read_previews
from vitctl.errors import DataError

Folder = Callable[..., Path]


def test_files_folders_and_patterns_each_image_once(folder: Folder) -> None:
    root = folder({"a/b": 2, "c": 1})
    (root / "c" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    found = images_at([str(root / "c" / "000.png"), str(root), str(root / "**" / "*.png")])
    assert [str(Path(each).relative_to(root)) for each in found] == ["c/000.png", "a/b/000.png", "a/b/001.png"]


def test_what_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("no.jpg", "no such file"), ("*.jpg", "no match"), ("empty", "no image in this folder")):
        with pytest.raises(DataError, match=words):
            images_at([str(tmp_path / name)])


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_all_come_in_order_and_what_cannot_be_read_says_why(folder: Folder, batch: int) -> None:
    root = folder({"a": 5})
    paths = sorted(map(str, (root / "a").iterdir()))
    Path(paths[1]).write_bytes(b"text")
    Path(paths[3]).unlink()
    found = [each for part in read_previews(paths, Target(8, 12, 3), batch) for each in part]
    assert [each.path for each in found] == paths
    assert [each.pixels is not None for each in found] == [True, False, True, False, True]
    assert found[1].reason.startswith("not an image")
    assert found[3].reason == "No such file or directory"
    assert found[0].pixels is not None
    assert found[0].pixels.shape == (8, 12, 3)


def test_nothing_is_left_behind_in_the_process(folder: Folder) -> None:
    """Many threads decode; what Pillow is told meanwhile is told back."""
    paths = sorted(map(str, (folder({"a": 40}, ending="webp") / "a").iterdir()))
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    assert len([each for part in read_previews(paths, Target(8, 12, 3), 5) for each in part]) == 40
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before
