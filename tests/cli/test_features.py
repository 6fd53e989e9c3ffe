import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import vitctl
from vitctl.io.feature_file import FeatureFile
from vitctl.io.patch_file import PatchFile
from vitctl.io.weights import save_weights
from vitctl.models.create import create_model, weights_of
from vitctl.patches import unpatchify_images

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def reference(data: str, split: str, source: str) -> Any:
    """What timm says of every image before its head, one at a time."""
    model, rows = vitctl.load_model(source), PatchFile(data).split(split)
    found = []
    for row in range(rows.rows):
        pixels = torch.from_numpy(unpatchify_images(rows.patches(np.array([row])), 16, 16, 8)).permute(0, 3, 1, 2)
        with torch.no_grad():
            tokens = model.forward_features(pixels.float() / 127.5 - 1)  # type: ignore[operator]
            found.append(model.forward_head(tokens, pre_logits=True)[0].numpy())  # type: ignore[operator]
    return np.stack(found)


def test_features_are_those_before_the_head(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("features", "--precision", "float32", "--out", "f.h5", "--json").stdout)
    assert told["splits"] == {"train": [120, 32], "val": [30, 32]}
    assert (told["weights"], told["computed"], told["out"]) == (newest, True, "f.h5")
    file = FeatureFile("f.h5")
    for split in ("train", "val"):
        assert np.abs(file.features(split) - reference(data, split, newest)).max() < 1e-5
        assert np.array_equal(file.labels(split), PatchFile(data).split(split).labels())
    assert file.origin.data_digest == PatchFile(data).digest


def test_they_are_computed_once(ran: Run, data: str, newest: str) -> None:
    first = json.loads(ran("features", "--json").stdout)
    again = ran("features", "--json")
    assert ", cached (" in again.stderr
    assert json.loads(again.stdout)["computed"] is False
    assert json.loads(ran("features", "--json", "--no-cache").stdout)["computed"] is True
    other = json.loads(ran("features", "--json", "--pool", "gap").stdout)
    assert other["out"] != first["out"]


def test_last_blocks_and_patches(ran: Run, data: str) -> None:
    line = ("features", "--from", "random:vit-ti/8", "--precision", "float32")
    ran(*line, "--layers", "2", "--pool", "gap", "--out", "two.h5")
    ran(*line, "--pool", "none", "--set", "dtype=float16", "--out", "patches.h5")
    two, patches = FeatureFile("two.h5").features("val"), FeatureFile("patches.h5").features("val")
    assert two.shape == (30, 384)
    assert (patches.shape, patches.dtype) == ((30, 4, 192), np.float16)
    assert np.abs(two[:, 192:] - patches.astype(np.float32).mean(1)).max() < 1e-2


def test_pixels_and_a_fresh_model(ran: Run, data: str) -> None:
    ran("features", "--from", "pixels", "--out", "p.h5")
    rows = PatchFile(data).split("val")
    wanted = rows.images(np.arange(30)).reshape(30, -1) / 127.5 - 1
    assert np.abs(FeatureFile("p.h5").features("val") - wanted).max() < 1e-6
    ran("features", "--from", "random:vit-mu/8", "--out", "r.h5")
    assert FeatureFile("r.h5").splits["val"] == (30, 32)


def test_an_export_writes_over_nothing(ran: Run, refused: Callable[..., str], data: str, tmp_path: Path) -> None:
    (tmp_path / "features-val.csv").write_text("mine")
    line = ("features", "--from", "pixels", "--export", "csv")
    assert "features-val.csv: exists" in refused(*line, code=2)
    assert (tmp_path / "features-val.csv").read_text() == "mine"
    ran(*line, "--overwrite")
    assert (tmp_path / "features-val.csv").read_text().startswith("name,label,f0")


def test_info_knows_a_feature_file(ran: Run, refused: Callable[..., str], data: str, newest: str) -> None:
    ran("features", "--out", "f.h5")
    told = json.loads(ran("info", "f.h5", "--verify", "--json").stdout)
    assert (told["kind"], told["splits"], told["verified"]) == ("features", {"train": [120, 32], "val": [30, 32]}, True)
    assert "the head's input" in ran("info", "f.h5").stdout
    with h5py.File("f.h5", "a") as file:
        file["val/features"][7, 0] = np.inf
    assert "f.h5: features of 1 image in val are not finite; extract them again" in refused(
        "info", "f.h5", "--verify", code=3
    )


def test_exports(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    told = json.loads(ran("features", "--out", "f.h5", "--export", "npy", "--json").stdout)
    assert np.array_equal(np.load("f-val-features.npy"), FeatureFile("f.h5").features("val"))
    assert set(told["exported"]) == {
        f"f-{split}-{what}.npy" for split in ("train", "val") for what in ("features", "labels")
    }


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--layers", "9"), 2, "layers is 9, but"),
        (("--layers", "0"), 2, "layers is 0"),
        (("--out", "f.npy"), 2, "features are written as .h5"),
        (("--from", "random:vit-xx/8"), 2, "vit-xx"),
        (("--from", "nothing"), 3, "nothing: no such file or folder"),
        (("--out", "data.h5"), 2, "data.h5: exists"),
        (("--from", "pixels", "--set", "res=0"), 2, "resolution '0'"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], data: str, newest: str, flags: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused("features", *flags, code=code)


def test_a_folder_that_is_not_there_is_made(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    ran("features", "--out", "new/folder/f.h5")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["f.h5"]


@pytest.mark.slow
def test_killed_runs_go_on_where_they_were(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    line = ("features", "--from", newest, "--precision", "float32", "--set", "batch=1", "--set", "part=4")
    ran(*line, "--out", "whole.h5")
    command = [sys.executable, "-m", "vitctl", *line, "--out", "killed.h5"]
    partial = tmp_path / "killed.h5.partial"
    for wanted in (2, 8, 20):
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, stderr=subprocess.DEVNULL)
        while len(list(partial.glob("*.npy"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.npy")}
    assert len(there) >= 20
    ran(*line, "--out", "killed.h5")
    whole, killed = (FeatureFile(tmp_path / name) for name in ("whole.h5", "killed.h5"))
    assert all(np.array_equal(whole.features(split), killed.features(split)) for split in ("train", "val"))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_photos_are_patchified_for_the_weights_and_enlarged_ones_are_warned_of(
    ran: Run, folder: Any, tmp_path: Path
) -> None:
    folder({"train/one": 3, "train/two": 3, "val/one": 2, "val/two": 2}, scale=10)
    wide = create_model("vit-mu/14", height=392, width=392, classes=2)
    save_weights(weights_of(wide), tmp_path / "wide.safetensors")
    told = ran("features", "--from", "wide.safetensors", "--data", "pictures", "--out", "f.h5")
    assert "patchifying it to pictures.h5" in told.stderr
    assert "enlarged" not in told.stderr
    assert PatchFile("pictures.h5").geometry.height == 448
    told = ran("fewshot", "--from", "wide.safetensors", "--from", "pixels", "--data", "pictures", "--shots", "1")
    assert "using pictures.h5" in told.stderr
    ran("patchify", "pictures", "small.h5", "--res", "28", "--patch", "14")
    told = ran("features", "--from", "wide.safetensors", "--data", "small.h5", "--out", "g.h5", "--quiet")
    assert "warning: small.h5: images stored at 28x28 are enlarged to 392x392" in told.stderr
