"""`--mean` and `--std`: every command computes as if the weights said them; what is assumed is a warning."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitctl
from vitctl.io.feature_file import FeatureFile
from vitctl.io.recognize import open_weights
from vitctl.io.save import save_as
from vitctl.models.exports.onnx_file import OnnxModel
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.9)
FLAGS = ("--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.9")


@pytest.fixture
def twins(trained: TrainResult, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.safetensors says 0.5, b.safetensors has the same numbers and says MEAN and STD."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = open_weights(Path(str(trained.run)))
    save_as(weights, tmp_path / "a.safetensors")
    save_as(replace(weights, about=replace(weights.about, mean=MEAN, std=STD)), tmp_path / "b.safetensors")


def told(run: Run, command: str, source: str, *options: str) -> Any:
    return json.loads(run(command, "--from", source, *options, "--json").stdout)


def differs(run: Run, command: str, keys: tuple[str, ...], *options: str) -> None:
    """The same with the flags as from a file that says so, and something else without them."""
    plain, given, stated = (
        [found[key] for key in keys]
        for found in (
            told(run, command, "a.safetensors", *options),
            told(run, command, "a.safetensors", *FLAGS, *options),
            told(run, command, "b.safetensors", *options),
        )
    )
    assert given == stated != plain


def test_evaluate(ran: Run, twins: None) -> None:
    differs(ran, "evaluate", ("loss", "top1"), "--precision", "float32")


def test_predict(ran: Run, twins: None, blots: Path) -> None:
    differs(ran, "predict", ("predictions",), str(blots / "val" / "ant"), "--precision", "float32")


def test_fewshot(ran: Run, twins: None) -> None:
    plain, given, stated = (
        [each["mean"] for each in told(ran, "fewshot", *words, "--shots", "5", "--from", "pixels")["results"]]
        for words in (("a.safetensors",), ("a.safetensors", *FLAGS), ("b.safetensors",))
    )
    assert given == stated != plain
    assert given[-1] == plain[-1]  # of the pixels, which nothing normalizes


def test_features_have_a_place_of_their_own_in_the_cache(ran: Run, twins: None) -> None:
    first, second = (told(ran, "features", "a.safetensors", *flags) for flags in ((), FLAGS))
    assert first["out"] != second["out"]
    third = FeatureFile(Path(told(ran, "features", "b.safetensors", "--no-cache")["out"]))
    assert np.array_equal(FeatureFile(Path(second["out"])).features("val"), third.features("val"))
    assert FeatureFile(Path(second["out"])).origin.mean == MEAN
    random = told(ran, "features", "random:vit-mu/8", *FLAGS)["out"]
    assert FeatureFile(Path(random)).origin.std == STD


def test_inspect(ran: Run, twins: None) -> None:
    differs(ran, "inspect", ("distances", "layer_top1"))


def test_interpolate_pos_carries_them_into_what_it_writes(ran: Run, twins: None) -> None:
    told(ran, "interpolate-pos", "a.safetensors", *FLAGS, "--res", "32", "--out", "c.safetensors")
    about = open_weights(Path("c.safetensors")).about
    assert (about.mean, about.std) == (MEAN, STD)
    assert [step["step"] for step in about.history] == ["normalization", "positions"]
    line = ran("interpolate-pos", "--from", "a.safetensors", *FLAGS, "--res", "32", "--out", "c.npz", code=2).stderr
    assert "mean [0.1, 0.2, 0.3] (only 0.5), std [0.4, 0.5, 0.9] (only 0.5)" in line


def test_finetune_trains_with_them_and_stores_them(ran: Run, twins: None) -> None:
    options = ("--steps", "2", "--batch", "16", "--precision", "float32", "--set", "save_every=1")
    by_flags = told(ran, "finetune", "a.safetensors", *FLAGS, *options, "--out", "one")
    by_file = told(ran, "finetune", "b.safetensors", *options, "--out", "two")
    by_settings = [f"--set={each}" for each in ("mean=0.1,0.2,0.3", "std=(0.4,0.5,0.9)")]
    by_set = told(ran, "finetune", "a.safetensors", *by_settings, *options, "--out", "three")
    assert by_flags["digest"] == by_file["digest"] == by_set["digest"]
    assert open_weights(Path("one")).about.mean == MEAN
    plain = told(ran, "finetune", "a.safetensors", *options, "--out", "four")
    assert plain["digest"] != by_flags["digest"]
    shutil.rmtree("one/checkpoints")
    Path("one/result.json").unlink()
    assert json.loads(ran("finetune", "--resume", "one", "--json").stdout)["digest"] == by_flags["digest"]


@pytest.mark.parametrize("format", ["onnx", "torch", "safetensors"])
def test_exports_carry_them(ran: Run, twins: None, format: str) -> None:
    found = told(ran, "export", "a.safetensors", *FLAGS, "--format", format)
    assert (found["mean"], found["std"], found["comparison"]["agrees"]) == ([*MEAN], [*STD], True)
    if format == "onnx":
        assert OnnxModel(Path(found["out"])).about.mean == MEAN
    stated, given = (
        told(ran, "evaluate", path, "--precision", "float32")["loss"] for path in ("b.safetensors", found["out"])
    )
    assert given == pytest.approx(stated, rel=1e-4)


def test_an_export_takes_them_unless_it_normalizes_inside(ran: Run, twins: None) -> None:
    ran("export", "--from", "a.safetensors", "--out", "a.onnx")
    ran("export", "--from", "a.safetensors", "--out", "inside.onnx", "--with-preprocessing")
    stated = told(ran, "evaluate", "b.safetensors", "--precision", "float32")["loss"]
    assert told(ran, "evaluate", "a.onnx", *FLAGS)["loss"] == pytest.approx(stated, rel=1e-4)
    line = ran("evaluate", "--from", "inside.onnx", *FLAGS, code=2).stderr
    assert "inside.onnx: prepares its images itself; --mean, --std and --eval-crop are for the weights" in line


def test_one_number_is_for_every_channel(ran: Run, twins: None) -> None:
    one, three = (told(ran, "evaluate", "a.safetensors", "--mean", text)["loss"] for text in ("0.25", "0.25,0.25,0.25"))
    assert one == three != told(ran, "evaluate", "a.safetensors")["loss"]


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("evaluate", ("--mean", "gray"), "--mean gray: expected a number"),
        ("evaluate", ("--mean", ""), "--mean: expected numbers, separated by commas"),
        ("evaluate", ("--mean", "nan"), "mean is nan; it must lie between -1,000 and 1,000"),
        ("evaluate", ("--mean", "1e999"), "mean is inf; it must lie between -1,000 and 1,000"),
        ("evaluate", ("--std", "0.5,0,0.5"), "std is 0.0; it must be above 0"),
        ("evaluate", ("--std", "-1"), "std is -1.0; it must be above 0"),
        ("evaluate", ("--mean", "0.1,0.2"), "mean has 2 numbers; use one for all channels, or one for each of the 3"),
        ("features", ("--from", "pixels", "--mean", "0.5"), "pixels are features as they are"),
        ("fewshot", ("--from", "pixels", "--std", "0.5"), "--mean and --std are for weights"),
        ("fewshot", ("--features", "f.h5", "--std", "0.5"), "--mean and --std are for weights"),
        ("pretrain", ("--set", "std=-1"), "std is -1.0; it must be above 0"),
        ("selfsup", ("--set", "std=0"), "std is 0.0; it must be above 0"),
    ],
)
def test_numbers_that_make_no_sense(
    ran: Run, newest: str, data: str, command: str, options: tuple[str, ...], said: str
) -> None:
    assert said in " ".join(ran(command, *options, code=2).stderr.split())


def bare(path: Path) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 8, embed_dim=192, depth=1, num_heads=3, num_classes=3)
    torch.save(model.state_dict(), path)


ASSUMED = "warning: weights: mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5 of the pixels assumed"


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_what_is_assumed_is_a_warning_that_names_the_flags(ran: Run, data: str, quiet: tuple[str, ...]) -> None:
    bare(Path("w.pth"))
    words = ("interpolate-pos", "--from", "w.pth", "--res", "32", "--overwrite", *quiet)
    lines = ran(*words).stderr.splitlines()
    (line,) = [each for each in lines if each.startswith(ASSUMED)]
    assert line.endswith("if they are others, give --mean and --std")
    assert any("warning: weights: 3 heads (usual for width 192) and exact GELU are assumed" in each for each in lines)
    half = ran(*words, "--mean", "0.4").stderr
    assert "std 0.5, 0.5, 0.5 of the pixels assumed" in half
    assert "mean 0.5" not in half
    assert "of the pixels assumed" not in ran(*words, *FLAGS).stderr
    assert "3 heads" in ran(*words, *FLAGS).stderr


def test_what_a_file_says_is_no_warning(ran: Run, twins: None) -> None:
    assert "warning" not in ran("evaluate", "--from", "a.safetensors").stderr


def test_info_lists_what_is_assumed(ran: Run) -> None:
    bare(Path("w.pth"))
    notes = json.loads(ran("info", "w.pth", "--json").stdout)["notes"]
    assert [note for note in notes if "mean and std are assumed" in note and "--mean and --std" in note]
    assert vitctl.load_weights("w.pth").normalization_guess
