from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import create_run

Run = Callable[..., Any]
Folder = Callable[..., Path]


@pytest.fixture
def data(vitctl: Run, folder: Folder, tmp_path: Path) -> Path:
    folder({"train/cat": 5, "train/dog": 4, "val/cat": 2})
    vitctl("patchify", "pictures", "--res", "16", "--patch", "4")
    return tmp_path / "data.h5"


def damage(path: Path, split: str, row: int) -> str:
    """Flips one bit of one picture; its name."""
    part = PatchFile(path).split(split)
    offset = part.segments[0].look()[0]["patches"].offset + row * part.geometry.row + 99
    name = part.names(np.array([row]))[0]
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 16]))
    return name


def test_verify_finds_one_bit_and_names_its_picture(vitctl: Run, data: Path) -> None:
    assert vitctl("info", data, "--verify", "--json").json["verified"] is True
    name = damage(data, "train", 6)
    answer = vitctl("info", data, "--verify", "--json", code=3)
    assert f"1 picture damaged ({name})" in answer.error
    assert answer.out == ""
    assert vitctl("info", data, "--json").json["verified"] is None


def test_verify_finds_a_chunk_that_cannot_be_unpacked(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 5})
    vitctl("patchify", "pictures", "--res", "16", "--patch", "4", "--compress")
    dataset = PatchFile(tmp_path / "data.h5").split("train").segments[0].column("patches")
    chunk = dataset.id.get_chunk_info(3)
    with open(tmp_path / "data.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    answer = vitctl("info", "data.h5", "--verify", code=3)
    assert "1 picture damaged (train/cat/003.png)" in answer.error


def test_what_is_no_artefact_is_one_line(vitctl: Run, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    for name, message in (("text.h5", "not an HDF5 file"), ("none.h5", "no such file"), (".", "not a run directory")):
        assert message in vitctl("info", name, code=3).error


def test_a_run_directory_is_described(vitctl: Run, tmp_path: Path) -> None:
    create_run(tmp_path / "runs" / "one", "bench", {"rounds": 3}, "0.1.0").finish({"x": 1})
    answer = vitctl("info", "runs", "--json").json
    assert (answer["kind"], answer["finished"], answer["config"], answer["result"]) == (
        "run",
        True,
        {"rounds": 3},
        {"x": 1},
    )


def test_without_a_path_it_takes_what_other_commands_would(vitctl: Run, data: Path, tmp_path: Path) -> None:
    assert vitctl("info", "--json").json["path"] == "data.h5"
    elsewhere = tmp_path / "other.h5"
    data.rename(elsewhere)
    assert vitctl("info", "--json", env={"VITCTL_DATA": "other.h5"}).json["path"] == "other.h5"
    first = vitctl("info", "--json")
    assert "embedded, as no --data was given), patchified now as" in first.err
    assert first.json["splits"]["val"]["images"] == 359
    again = vitctl("info", "--json")
    assert "patchified before as" in again.err
    assert again.json == first.json


@pytest.mark.parametrize("augment", [[], ["--augment", "deit3"]])
def test_sheets_are_drawn(vitctl: Run, data: Path, tmp_path: Path, augment: list[str]) -> None:
    vitctl("info", data, "--sheet", "sheet.png", *augment)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert min(pixels.shape[:2]) > 300
    assert (pixels[:5] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_a_sheet_that_cannot_be_drawn_is_one_line(vitctl: Run, data: Path) -> None:
    for arguments, code, message in (
        (["--sheet", "sheet.txt"], 2, "a sheet is a .png"),
        (["--sheet", "nowhere/sheet.png"], 3, "cannot be written"),
        (["--augment", "deit3"], 2, "wants --sheet"),
        (["--sheet", "s.png", "--augment", "deit"], 2, "did you mean 'deit3'"),
        (["--sheet", "s.png", "--split", "vaal"], 3, "did you mean 'val'"),
    ):
        assert message in vitctl("info", data, *arguments, code=code).error
