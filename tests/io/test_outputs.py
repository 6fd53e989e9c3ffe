"""Which paths a command may write."""

import os
from pathlib import Path

import h5py
import pytest

from vitctl.errors import UsageError
from vitctl.io.outputs import check_inputs_outside, check_output, check_replaceable


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_a_path_that_cannot_be_written_is_named() -> None:
    with pytest.raises(UsageError, match=r"^/proc/a\.csv: cannot be written \(.*\); choose another path$"):
        check_output("/proc/a.csv")


def test_the_check_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old")
    check_output(tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_path_without_a_name_is_not_an_output(name: str) -> None:
    with pytest.raises(UsageError, match=r": has no file name; add one$"):
        check_output(name)


def test_an_output_is_never_an_input(tmp_path: Path) -> None:
    """Through links too, and in a folder that is an input."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"an image")
    os.symlink(tmp_path / "images", tmp_path / "link")
    os.link(tmp_path / "images" / "a.png", tmp_path / "hard.png")
    for path, source in (
        ("images/a.png", "images/a.png"), ("images/a.png", "images"), ("link/a.png", "images"),
        ("images/a.png", "link"), ("hard.png", "images/a.png"), ("images/../images/a.png", "images"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="is an input of this command and would be overwritten; choose another"):
            check_output(tmp_path / path, None, tmp_path / source, ending=".png")
    check_output(tmp_path / "images" / "new.png", tmp_path / "images", ending=".png")
    check_output(tmp_path / "hard.png", tmp_path / "link", "timm:vit_tiny_patch16_224", ending=(".jpg", ".png"))


def test_a_figure_must_have_an_image_ending() -> None:
    with pytest.raises(UsageError, match=r"data\.h5: must end in \.png"):
        check_output("data.h5", ending=".png")


def test_only_a_file_of_the_same_format_is_replaced(tmp_path: Path) -> None:
    for name in ("patches", "features"):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["format"] = f"vitctl.{name}"
    check_replaceable(tmp_path / "patches", "vitctl.patches")
    check_replaceable(tmp_path / "nothing", "vitctl.patches")
    (tmp_path / "cut").write_bytes((tmp_path / "patches").read_bytes()[:600])
    check_replaceable(tmp_path / "cut", "vitctl.patches")
    (tmp_path / "note").write_text("mine")
    for name in ("features", "note"):
        with pytest.raises(UsageError, match="is not overwritten"):
            check_replaceable(tmp_path / name, "vitctl.patches")


def test_a_run_with_an_input_in_it_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data.h5").touch()
    check_inputs_outside(tmp_path / "run", (None, tmp_path / "data.h5", "digits"))
    for name in ("run", "run/data.h5"):
        with pytest.raises(UsageError, match=r"--overwrite would delete .*, an input of this command; use another"):
            check_inputs_outside(tmp_path / "run", (tmp_path / name,))
