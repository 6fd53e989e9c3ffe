import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitctl.io.csv_cells import text_cell
from vitctl.io.feature_file import Origin, Parts, export_features
from vitctl.workflows.study.gather import StudyRow, write_study_csv

NASTY = [
    "=1+1",
    "+1",
    "-2.png",
    "@SUM(A1)",
    "＝1",
    "\t=1",
    "\r\n=1",
    "a\x1b[31m.png",
    "bell\a",
    "caf\udce9",
    "\u202egpj.x",
]
TAME = ["'=1+1", "'+1", "'-2.png", "'@SUM(A1)", "'＝1", r"\t=1", r"\r\n=1", r"a\x1b[31m.png", r"bell\x07",
        r"caf\udce9", r"\u202egpj.x"]  # fmt: skip
PLAIN = ["photos/a b.jpg", "é/ö,x.png", "a=b.png", 'say "hi"', "", "'quoted", "0", "日本"]


@pytest.mark.parametrize(("text", "cell"), [*zip(NASTY, TAME, strict=True), *zip(PLAIN, PLAIN, strict=True)])
def test_a_cell_is_text_and_nothing_else(text: str, cell: str) -> None:
    assert text_cell(text) == cell
    assert cell.isprintable()


def test_features_export_tame_names_and_leave_numbers(tmp_path: Path) -> None:
    origin = Origin("w", "d", "vit-mu/8", 1, "auto", 16, 16, "float32", "float32", ("cat",))
    parts = Parts(tmp_path / "f.h5", origin)
    values = -np.ones((2, 1), np.float32)
    parts.write("train", 0, values)
    file = parts.finish({"train": {"labels": np.array([0, -1]), "names": ["=1+1", "a\x1bb"]}}, "a test")
    (path,) = export_features(file, "csv", tmp_path / "f")
    with open(path, newline="", encoding="utf-8") as table:
        assert list(csv.reader(table))[1:] == [["'=1+1", "0", "-1"], [r"a\x1bb", "-1", "-1"]]


def test_a_study_writes_tame_factors(tmp_path: Path) -> None:
    row = StudyRow({"task": "=cmd()", "shots": -1}, 1, 0, 0.5, None, [0.5], 1.0, 1.0, {})
    write_study_csv([row, replace(row, factors={"task": "pets", "shots": 5})], tmp_path / "study.csv")
    with open(tmp_path / "study.csv", newline="", encoding="utf-8") as table:
        assert [line[:2] for line in csv.reader(table)] == [["task", "shots"], ["'=cmd()", "-1"], ["pets", "5"]]
