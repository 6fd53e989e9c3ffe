"""Sets of classes and numbers, from people's files to `vitctl info`, as a shell sees it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.io.patch_file import PatchFile
from vitctl.workflows.patchify import patchify

Run = Callable[..., Any]
Folder = Callable[..., Path]
SMALL = ("--res", "16", "--patch", "4", "--workers", "1")
CELLS = ["cat", "dog", "cat|dog", "|", "", "owl", "owl|dog", "cat", "cat|owl", "dog"]


@pytest.fixture
def listed(folder: Folder, tmp_path: Path) -> Callable[..., str]:
    """A manifest of ten images with these columns; the first eight are train."""
    folder({"im": 10})

    def listed(**columns: list[Any]) -> str:
        rows = [["path", *columns, "split"]]
        for row in range(10):
            rows.append(
                [f"pictures/im/{row:03d}.png", *(each[row] for each in columns.values()), "train" if row < 8 else "val"]
            )
        (tmp_path / "list.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
        return "list.csv"

    return listed


def test_sets_from_a_manifest_to_info(vitctl: Run, listed: Callable[..., str], tmp_path: Path) -> None:
    answer = vitctl("patchify", listed(label=CELLS), *SMALL, "--json")
    assert "column label is read as sets of classes: 'cat|dog'" in answer.err
    data = vitctl("info", "data.h5", "--verify", "--json").json
    assert (data["task"], data["class_names"], data["verified"]) == ("sets", ["cat", "dog", "owl"], True)
    assert data["splits"]["train"] == {
        "pictures": 8, "labelled": 7, "classes": 3, "smallest_class": 2, "largest_class": 3, "skew": "",
        "numbers": None,
        "sets": {"least": 0, "mean": pytest.approx(8 / 7), "most": 2, "empty": 1}}  # fmt: skip
    assert "classes per image" in vitctl("info", "data.h5").out
    for extra in ([], ["--augment", "augreg-medium2"]):
        vitctl("info", "data.h5", "--sheet", "sheet.png", *extra)
        assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert (
        vitctl("patchify", "list.csv", "b.h5", *SMALL, "--set", "labels=classes", "--json").json["data"]["classes"] == 6
    )


def test_numbers_from_a_manifest_to_info(vitctl: Run, listed: Callable[..., str], tmp_path: Path) -> None:
    ages: list[Any] = [1.5, 2, -3, "nan", "", "old", 7, 8, 9.25, 10]
    answer = vitctl("patchify", listed(age=ages), *SMALL, "--set", "target_column=age", "--json")
    data = answer.json["data"]
    assert {each["name"]: each["reason"] for each in data["rejected"]} == {
        "list.csv line 5": "in column age, 'nan' is not a finite number",
        "list.csv line 7": "in column age, 'old' is not a finite number",
    }
    kept = np.array([1.5, 2, -3, 7, 8])
    assert (data["task"], data["classes"]) == ("numbers", 0)
    assert data["splits"]["train"] == {
        "pictures": 6, "labelled": 5, "classes": 0, "smallest_class": 0, "largest_class": 0, "skew": "", "sets": None,
        "numbers": {"min": -3.0, "mean": pytest.approx(kept.mean()), "std": pytest.approx(kept.std()), "max": 8.0},
    }  # fmt: skip
    assert "none: a label is a number" in vitctl("info", "data.h5").out
    for extra in ([], ["--augment", "augreg-medium2"]):
        vitctl("info", "data.h5", "--sheet", "sheet.png", *extra)
    assert "'agg'" in vitctl("patchify", "list.csv", "b.h5", "--set", "target_column=agg", code=3).error


def test_shards_and_their_index_hold_the_same_sets(vitctl: Run, listed: Callable[..., str], tmp_path: Path) -> None:
    listed(label=CELLS)
    one = vitctl("patchify", "list.csv", "one.h5", *SMALL, "--json").json["data"]
    many = vitctl("patchify", "list.csv", "many.h5", *SMALL, "--shards", "2", "--json").json["data"]
    assert (one["digest"], one["splits"]) == (many["digest"], many["splits"])
    whole, index = (PatchFile(tmp_path / name).split("train") for name in ("one.h5", "many.h5"))
    assert np.array_equal(whole.label_sets(), index.label_sets())
    assert vitctl("info", "many.h5", "--verify", "--json").json["verified"] is True


def test_equal_images_of_several_classes_are_told_and_merged(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    root = folder({"cat": 3, "dog": 3})
    shutil.copy(root / "cat/001.png", root / "dog/same.png")
    told = vitctl("patchify", "pictures", *SMALL).err
    assert (
        "1 image of train equal one of another class: train/dog/same.png is train/cat/001.png; --merge-copies" in told
    )
    answer = vitctl("patchify", "pictures", "merged.h5", *SMALL, "--merge-copies")
    assert "merged 1 equal file: 1 image of several classes" in answer.err
    assert "exact copies" not in answer.err
    assert PatchFile(tmp_path / "merged.h5").split("train").label_sets().sum() == 7
    error = vitctl("patchify", "pictures", "c.h5", "--merge-copies", "--set", "labels=classes", code=2).error
    assert "--merge-copies makes sets of classes" in error


@pytest.mark.parametrize(
    "settings",
    [
        ["target_column=age", "label_column=x"],
        ["target_column=age", "class_columns=a,b"],
        ["target_column=age", "labels=sets"],
        ["separator=space", "labels=classes"],
        ["labels=set"],
        ["class_columns=a,b", "kind=parquet"],
    ],
)
def test_settings_that_contradict_one_another_are_one_line(vitctl: Run, folder: Folder, settings: list[str]) -> None:
    folder({"im": 1})
    assert vitctl("patchify", "pictures", *(part for each in settings for part in ("--set", each)), code=2).error


def test_selfsup_needs_no_labels(vitctl: Run, listed: Callable[..., str]) -> None:
    vitctl("patchify", listed(label=CELLS), *SMALL)
    vitctl("selfsup", "--model", "vit-mu/4", "--objective", "mae", "--steps", "2", "--batch", "4")


names = st.text(st.characters(codec="utf-8", exclude_characters="|\\\0\r\n"), min_size=1, max_size=8)
clean = names.map(str.strip).filter(lambda name: name and not name.lstrip("-").isdigit())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.none(), st.frozensets(clean, max_size=4)), min_size=1, max_size=8).filter(any))
def test_any_sets_of_any_names_come_back_from_a_manifest(tmp_path: Path, labels: list[frozenset[str] | None]) -> None:
    import csv

    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for label in labels:
            table.writerow(["x.png", "" if label is None else "|".join(sorted(label)) or "|"])
    out = tmp_path / "out.h5"
    config = PatchifyConfig(
        source=str(tmp_path / "list.csv"), out=str(out), res=Res(4), patch=4, workers=1, labels="sets"
    )
    patchify(config, overwrite=True)
    file = PatchFile(out)
    split = file.split("train")
    found = [{file.class_names[place] for place in np.flatnonzero(row)} for row in split.label_sets()]
    assert found == [set(label or ()) for label in labels]
    assert [label == -1 for label in split.labels()] == [label is None for label in labels]
