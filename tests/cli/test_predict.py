import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vitctl
from vitctl.cli import make_app
from vitctl.io.recognize import open_weights
from vitctl.io.save import save_as

Run = Callable[..., Any]


def test_a_folder_with_labels(ran: Run, newest: str, blots: Path) -> None:
    told = json.loads(ran("predict", str(blots / "val"), "--precision", "float32", "--json").stdout)
    assert set(told) == {
        "command", "version", "weights", "weights_digest", "model", "res", "pictures", "predictions", "unreadable",
        "labelled", "top1", "task", "csv", "sheet", "precision", "device", "images_per_s", "elapsed_s"}  # fmt: skip
    assert (told["pictures"], told["labelled"], told["unreadable"]) == (30, 30, [])
    for each in told["predictions"]:
        assert [set(answer) for answer in each["top"]] == [{"name", "probability"}] * 3
        assert sum(answer["probability"] for answer in each["top"]) == pytest.approx(1)
        assert Path(each["path"]).parent.name == each["label"]
    right = [each["top"][0]["name"] == each["label"] for each in told["predictions"]]
    assert told["top1"] == np.mean(right)


def test_it_agrees_with_evaluate(ran: Run, data: str, newest: str, blots: Path) -> None:
    told = json.loads(ran("predict", str(blots / "val"), "--precision", "float32", "--json").stdout)
    score = json.loads(ran("evaluate", "--precision", "float32", "--json").stdout)
    assert told["top1"] == score["top1"]


def test_images_in_memory_get_the_answers_of_their_files(ran: Run, newest: str, blots: Path) -> None:
    files = sorted((blots / "val" / "ant").iterdir())[:3]
    told = json.loads(ran("predict", *files, "--precision", "float32", "--json").stdout)["predictions"]
    expected = [[(answer["name"], answer["probability"]) for answer in each["top"]] for each in told]
    pictures = [Image.open(path) for path in files]
    model = vitctl.load_model(newest)
    for images in (files, pictures, [np.asarray(each) for each in pictures]):
        found = vitctl.predict(images, source=model, top=3)
        assert [[answer.name for answer in each] for each in found] == [[name for name, _ in each] for each in expected]
        for row, answers in zip(expected, found, strict=True):
            assert [answer.probability for answer in answers] == pytest.approx([value for _, value in row], abs=1e-6)
    single = vitctl.predict(pictures[0], source=newest)
    assert [len(each) for each in single] == [3]
    inputs = model.preprocess(pictures)
    assert (inputs.shape, inputs.dtype) == ((3, 3, 16, 16), torch.float32)
    with torch.no_grad():
        assert model(inputs).softmax(1)[0].max().item() == pytest.approx(expected[0][0][1], abs=1e-6)
    with pytest.raises(TypeError, match=r"an image is uint8 \[H, W\] or \[H, W, C\], not float32"):
        model.preprocess(np.zeros((8, 8), np.float32))


def test_an_exported_file_says_the_same(ran: Run, data: str, newest: str, blots: Path) -> None:
    ran("export", "--out", "m.onnx")
    one, other = (
        json.loads(ran("predict", str(blots / "val"), *source, "--precision", "float32", "--json").stdout)
        for source in ((), ("--from", "m.onnx"))
    )
    assert [each["top"][0]["name"] for each in one["predictions"]] == [
        each["top"][0]["name"] for each in other["predictions"]
    ]


def test_table_csv_and_sheet(ran: Run, newest: str, blots: Path) -> None:
    answer = ran("predict", str(blots / "val" / "ant"), "--top", "2", "--csv", "out.csv", "--sheet", "out.png")
    assert "top-1" in answer.stdout
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert list(rows[0]) == ["path", "label", "class1", "probability1", "class2", "probability2"]
    assert {row["label"] for row in rows} == {"ant"}
    with Image.open("out.png") as sheet:
        assert sheet.size[0] > 8 * 168


def test_a_table_holds_no_formulas_and_no_control_characters(
    ran: Run, newest: str, blots: Path, tmp_path: Path
) -> None:
    names = ["=1+1.png", "-x.png", "a\x1b[31mb.png", os.fsdecode(b"caf\xe9.png")]
    (tmp_path / "=in").mkdir()
    for name in names:
        shutil.copy(blots / "val" / "bee" / "00.png", tmp_path / "=in" / name)
    ran("predict", "=in", "--csv", "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == [
        "'=in/-x.png", "'=in/=1+1.png", r"'=in/a\x1b[31mb.png", r"'=in/caf\udce9.png"]  # fmt: skip
    assert all(row[3].startswith("0.") for row in rows[1:])


def test_what_cannot_be_read_stops_nothing(ran: Run, newest: str, blots: Path, tmp_path: Path) -> None:
    good = blots / "val" / "bee" / "00.png"
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((20, 30, 4), np.uint8), "CMYK").save(tmp_path / "cmyk.jpg")
    answer = ran("predict", "cut.png", "text.jpg", str(good), "cmyk.jpg", "--json")
    told = json.loads(answer.stdout)
    assert [each["path"] for each in told["predictions"]] == [str(good), "cmyk.jpg"]
    assert {each["path"] for each in told["unreadable"]} == {"cut.png", "text.jpg"}
    assert "warning: text.jpg: not an image" in answer.stderr


def test_another_image_is_shown_for_one_that_cannot_be_read(newest: str, blots: Path, tmp_path: Path) -> None:
    weights = str(tmp_path / newest)
    first, *others = sorted(map(str, (blots / "val" / "bee").glob("*.png")))[:3]
    (tmp_path / "cut.png").write_bytes(Path(first).read_bytes()[:200])
    tiles = []
    for pictures in ((str(tmp_path / "cut.png"), first, *others), (first, others[-1])):
        vitctl.predict(
            vitctl.PredictConfig(pictures=pictures, source=weights, sheet=str(tmp_path / "sheet.png"), sheet_pictures=2)
        )
        with Image.open(tmp_path / "sheet.png") as sheet:
            tiles.append(np.asarray(sheet.convert("RGB"))[-160:])
    assert tiles[0].shape == tiles[1].shape
    assert np.array_equal(*tiles)


@pytest.mark.parametrize(("options", "code", "words"), [
    (("no.jpg",), 3, "no.jpg: no such file or folder"),
    (("text.jpg",), 3, "none of 1 image can be read"),
    (("picture.png", "--from", "broken.onnx"), 3, "broken.onnx"),
    (("picture.png", "--sheet", "nowhere/sheet.png"), 2, "the folder nowhere does not exist; create it first"),
    (("picture.png", "--csv", "nowhere/table.csv"), 2, "the folder nowhere does not exist; create it first"),
    (("picture.png", "--sheet", "sheet.gif"), 2, "sheet.gif: must end in .png"),
    (("picture.png", "--from", "missing.onnx"), 3, "missing.onnx: no such file"),
])  # fmt: skip
def test_what_makes_no_sense(
    ran: Run, newest: str, blots: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 not a model")
    (tmp_path / "picture.png").write_bytes((blots / "val" / "bee" / "00.png").read_bytes())
    answer = ran("predict", *options, code=code)
    assert words in " ".join(answer.stderr.split())


def test_weights_without_a_head(ran: Run, blots: Path, tmp_path: Path) -> None:
    model = vitctl.create_model("vit-mu/16", height=16, width=16, classes=0)
    vitctl.save_as(vitctl.weights_of(model), tmp_path / "features.safetensors")
    answer = ran("predict", str(blots / "val"), "--from", "features.safetensors", code=2)
    assert "has no head" in answer.stderr


def test_names_may_come_on_stdin(newest: str, blots: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = sorted(map(str, (blots / "val" / "bee").iterdir()))
    answer = CliRunner().invoke(make_app(), ["predict", "-", "--json"], input="\n".join(names[:3]) + "\n")
    assert [each["path"] for each in json.loads(answer.stdout)["predictions"]] == names[:3]


def test_images_are_fitted_as_in_training(ran: Run, newest: str, blots: Path, tmp_path: Path) -> None:
    """Weights remember how; --fit says otherwise."""
    weights = open_weights(Path(newest))
    wide = tmp_path / "wide.png"
    Image.open(sorted((blots / "val" / "bee").iterdir())[0]).crop((0, 4, 16, 12)).save(wide)
    answers = {}
    for fit in ("crop", "squash"):
        save_as(replace(weights, about=replace(weights.about, fit=fit)), tmp_path / f"{fit}.safetensors")
        for asked in ((), ("--fit", "crop"), ("--fit", "squash")):
            line = ("predict", str(wide), "--from", f"{fit}.safetensors", *asked, "--json")
            answers[fit, asked] = json.loads(ran(*line).stdout)["predictions"][0]["top"]
    assert answers["crop", ()] == answers["crop", ("--fit", "crop")] == answers["squash", ("--fit", "crop")]
    assert answers["squash", ()] == answers["squash", ("--fit", "squash")] != answers["crop", ()]


@pytest.mark.parametrize("command", ["predict", "patchify"])
def test_an_image_starts_no_program(vitctl: Run, newest: str, tmp_path: Path, command: str) -> None:
    """Pillow runs Ghostscript over EPS, whatever its file is called: here a program that leaves a mark."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    (tmp_path / "photos").mkdir()
    for name, kind in (("x.jpg", "EPS"), ("y.png", "PNG")):
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / name, kind)
    answer = vitctl(command, "photos", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert "x.jpg: PostScript is a program, not an image" in answer.err
    assert not (tmp_path / "ran").exists()
