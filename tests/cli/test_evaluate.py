import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.io.patch_file import PatchFile
from vitctl.io.recognize import open_weights
from vitctl.io.save import save_as
from vitctl.workflows.patchify import patchify
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]


def cut(source: Path, tmp_path: Path, **options: Any) -> None:
    patchify(
        PatchifyConfig(source=str(source), out=str(tmp_path / "data.h5"), res=Res(16), patch=8, workers=1, **options)
    )


def test_it_finds_what_the_run_found(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran("evaluate", "--from", f"{newest}:last", "--precision", "float32", "--json").stdout)
    assert set(told) == {
        "command", "version", "weights", "weights_digest", "model", "res", "data", "data_digest", "split", "pictures",
        "task", "classes", "top1", "top1_ci95",
        "top5", "balanced", "macro_f1", "loss", "calibration_error", "per_class",
        "eval_crop", "selected_on_split",
        "comparison", "labels_digest", "wrong",
        "crops", "labels", "confusion", "precision", "device", "images_per_s", "elapsed_s"}  # fmt: skip
    named = f"{newest}:last"
    assert (told["command"], told["weights"], told["data"], told["split"]) == ("evaluate", named, "data.h5", "val")
    assert (told["weights_digest"], told["data_digest"]) == (trained.digest, trained.data_digest)
    assert (told["pictures"], told["classes"], told["top5"]) == (30, 3, 1.0)
    assert told["top1"] == trained.top1 > 0.5  # type: ignore[operator]
    assert told["loss"] == pytest.approx(trained.val_loss, rel=1e-5)


def test_the_best_weights_and_every_name_of_the_newest_run(
    ran: Run, data: str, newest: str, trained: TrainResult
) -> None:
    ask = ("evaluate", "--batch", "7", "--json", "--from")
    best = json.loads(ran(*ask, f"{newest}/best.safetensors").stdout)
    assert best["top1"] == pytest.approx(trained.best_top1)
    chosen = [ran(*ask, newest), ran(*ask, newest, "--split", "train"), ran(*ask, f"{newest}:last")]
    assert [json.loads(each.stdout)["selected_on_split"] for each in chosen] == [True, False, False]
    assert ["were chosen as the best on val" in each.stderr for each in chosen] == [True, False, False]
    answers = [ran("evaluate", "--from", name, "--split", "train").stdout for name in (newest, "runs", "runs/LATEST")]
    for answer in answers:
        assert "data.h5, split train, 120 images" in answer
        assert answer.splitlines()[2:5] == answers[0].splitlines()[2:5]


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_evaluation_repeats_that_of_training(ran: Run, data: str, precision: str, tmp_path: Path) -> None:
    """Same weights, machine and precision: the same answers, though the size of a batch decides the last bits."""
    line = ("pretrain", "--model", "vit-mu/4", "--batch", "10", "--micro-batch", "5", "--steps", "12", "--lr", "0.01")
    result = json.loads(ran(*line, "--precision", precision, "--out", "run", "--json").stdout)
    found = json.loads(ran("evaluate", "--from", "run:last", "--precision", precision, "--json").stdout)
    assert found["weights_digest"] == result["digest"]
    assert (found["top1"], found["top5"]) == (result["top1"], result["top5"])
    assert found["loss"] == pytest.approx(result["val_loss"], rel=1e-6)


@pytest.mark.parametrize("name", ["pipe", "pipe.onnx", "pipe.pt2"])
def test_a_pipe_is_not_waited_for(refused: Callable[..., str], data: str, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert f"{name}: is a pipe, a device or a socket, not a file" in refused("evaluate", "--from", name, code=3)


def test_bf16_is_near(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran("evaluate", "--from", f"{newest}:last", "--precision", "bf16", "--json").stdout)
    assert told["precision"] == "bf16"
    assert told["loss"] == pytest.approx(trained.val_loss, rel=0.02)


def test_evaluate_and_predict_say_in_which_precision_they_answered(
    ran: Run, data: str, newest: str, blots: Path
) -> None:
    """An exported file has its own, whatever --precision says."""
    ran("export", "--from", newest, "--data", data, "--precision", "fp16", "--out", "half.onnx")
    image = str(blots / "val" / "ant" / "00.png")
    cases = {(newest, "float32"): "float32", (newest, "bf16"): "bf16", ("half.onnx", "float32"): "fp16"}
    for (source, precision), said in cases.items():
        for command in (("evaluate",), ("predict", image)):
            line = (*command, "--from", source, "--precision", precision)
            assert json.loads(ran(*line, "--json").stdout)["precision"] == said
            assert re.search(rf"\bcpu, {said}\b", ran(*line, "--device", "cpu").stdout)


def test_classes_in_another_order_are_matched_by_name(
    ran: Run, blots: Path, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("cow\nant\nbee\n")
    cut(blots, tmp_path, classes=str(tmp_path / "names.txt"))
    answer = ran("evaluate", "--precision", "float32", "--json")
    assert "classes are matched by name: 3 of the model's 3 are in the data" in answer.stderr
    assert json.loads(answer.stdout)["top1"] == trained.top1


def test_some_of_the_classes_are_enough_and_others_are_named(
    ran: Run, refused: Callable[..., str], blots: Path, newest: str, tmp_path: Path
) -> None:
    for name in ("ant", "cow"):
        shutil.copytree(blots / "val" / name, tmp_path / "some" / name)
    cut(tmp_path / "some", tmp_path)
    assert "2 of the model's 3 are in the data" in ran("evaluate", "--split", "train").stderr
    assert "data.h5: has no split test or val; choose one of train with --split" in refused("evaluate", code=3)
    (tmp_path / "data.h5").unlink()
    (tmp_path / "some" / "cow").rename(tmp_path / "some" / "cat")
    cut(tmp_path / "some", tmp_path)
    line = refused("evaluate", "--split", "train", code=3)
    assert "data.h5: the model lacks 1 class of it (cat) and has ant, bee, cow" in line
    assert "train a new head with vitctl finetune" in line


def test_weights_without_names_go_by_number(
    ran: Run, refused: Callable[..., str], data: str, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    weights = open_weights(tmp_path / newest)
    nameless = replace(weights, about=replace(weights.about, class_names=()), stated="")
    save_as(nameless, tmp_path / "nameless.safetensors")
    answer = ran("evaluate", "--from", "nameless.safetensors", "--precision", "float32", "--json")
    assert "the weights have no class names: assuming the classes are in the same order as in the data" in answer.stderr
    assert json.loads(answer.stdout)["top1"] == trained.top1
    line = refused("evaluate", "--from", "nameless.safetensors", "--data", "digits", code=3)
    assert "has 10 classes, but the model has 3; train a new head with vitctl finetune" in line


def test_data_that_nobody_names_are_those_of_the_training(
    ran: Run, refused: Callable[..., str], data: str, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    (tmp_path / data).rename(tmp_path / "blots.h5")
    path = tmp_path / newest / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"config": config["config"] | {"data": "blots.h5"}}))
    for source in ((), ("--from", newest), ("--from", f"{newest}/weights.safetensors")):
        answer = ran("evaluate", *source, "--precision", "float32", "--json")
        assert "data: blots.h5 (what the weights were trained on)" in answer.stderr
        assert json.loads(answer.stdout)["top1"] == trained.top1
    (tmp_path / "blots.h5").unlink()
    assert "the model lacks 10 classes of it (" in refused("evaluate", code=3)
    assert "other classes; name a patch file with --data" in refused("export", "--precision", "int8", code=2)


def test_what_cannot_be_evaluated(refused: Callable[..., str], data: str, newest: str, tmp_path: Path) -> None:
    assert "test" in refused("evaluate", "--split", "test", code=3)
    assert "nowhere: no such file" in refused("evaluate", "--from", "nowhere", code=3)
    assert "batch is 0" in refused("evaluate", "--batch", "0", code=2)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file["val"]["labels"][:2] = -1
    assert "split val: 2 of 30 images have no label" in refused("evaluate", code=3)


def test_class_by_class(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("evaluate", "--confusion", "taken.png", "--json").stdout)
    assert [each["name"] for each in told["per_class"]] == ["ant", "bee", "cow"]
    assert sum(each["pictures"] * each["top1"] for each in told["per_class"]) / 30 == pytest.approx(told["top1"])
    assert told["top1_ci95"][0] < told["top1"] < told["top1_ci95"][1]
    assert 0 < told["calibration_error"] < 1
    assert Path("taken.png").stat().st_size > 1000


def test_several_right_answers(ran: Run, data: str, newest: str, blots_h5: Path) -> None:
    names = PatchFile(blots_h5).split("val").names(np.arange(30))
    Path("all.json").write_text(json.dumps({name: ["ant", "bee", 2] for name in names[:20]}))
    told = json.loads(ran("evaluate", "--labels", "all.json", "--json").stdout)
    assert (told["pictures"], told["top1"], told["loss"]) == (20, 1.0, pytest.approx(0, abs=1e-6))
    Path("wrong.json").write_text(json.dumps({names[0]: ["elk"]}))
    assert "'elk', which is not a class of the model" in ran("evaluate", "--labels", "wrong.json", code=3).stderr


def test_crops(ran: Run, data: str, newest: str) -> None:
    one, five, ten = (
        json.loads(ran("evaluate", "--crops", count, "--json").stdout)["loss"] for count in ("1", "5", "10")
    )
    assert len({one, five, ten}) == 3
    assert "crops is 3" in ran("evaluate", "--crops", "3", code=2).stderr
