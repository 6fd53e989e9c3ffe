import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]
SIZES = {"pictures": 6, "copies": 3, "large": 1, "batch": 4, "batches": 2}
TINY = [part for name, value in SIZES.items() for part in ("--set", f"{name}={value}")]


def test_data_measures_both_sides_and_keeps_the_figures(vitctl: Run, tmp_path: Path) -> None:
    answer = vitctl("bench", "data", "--rounds", "2", "--out", "run", "--json", *TINY).json
    assert set(answer) == {
        "command", "version", "run", "machine", "cores", "libraries", "figures", "ratios", "left_out", "remarks",
        "curves", "elapsed_s"}  # fmt: skip
    figures = {figure["name"]: figure for figure in answer["figures"]}
    assert {"patchify, 1 core", "torchvision on PIL, 1 core", "rows, uint8", "row gather from RAM"} <= set(figures)
    assert all(0 < figure["min"] <= figure["median"] <= figure["max"] for figure in figures.values())
    assert all(figure["runs"] == 2 for figure in figures.values())
    pairs = {(ratio["name"], ratio["against"]) for ratio in answer["ratios"]}
    assert ("crops of whole rows", "ImageFolder in timm's loader") in pairs
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["figures"] == answer["figures"]
    with Image.open(tmp_path / "run" / "bench.png") as figure:
        assert figure.width > 800
    assert "vitctl" not in vitctl("info", "run").err


@pytest.mark.slow
def test_images_may_be_given(vitctl: Run, folder: Callable[..., Path]) -> None:
    folder({"cat": 4}, ending="jpg")
    figures = vitctl("bench", "data", "--data", "pictures", "--rounds", "1", "--json", *TINY).json["figures"]
    assert len(figures) >= 8
    assert "contains no JPEG" in vitctl("bench", "data", "--data", "cache", code=3).error


def test_train_runs_both_loops_on_the_same_images(vitctl: Run) -> None:
    small = ["--set", "train=vit-ti/16@32x4", "--set", "train_images=8", "--set", "pictures=8"]
    answer = vitctl("bench", "train", "--rounds", "1", "--json", *small).json
    figures = {figure["name"]: figure["median"] for figure in answer["figures"]}
    names = {f"vit-ti/16@32x4 {what}, float32" for what in ("our loop", "timm's loop", "matrix product")}
    assert names <= set(figures)
    assert all(value > 0 for value in figures.values())
    assert answer["ratios"][0]["against"] == "vit-ti/16@32x4 timm's loop, float32"
    assert any("of the matrix ceiling" in line for line in answer["remarks"])


@pytest.mark.slow
def test_train_takes_images_of_any_number_of_classes(vitctl: Run, folder: Callable[..., Path]) -> None:
    folder({f"class{number}": 2 for number in range(7)}, ending="jpg")
    small = ["--set", "train=vit-ti/16@32x4", "--set", "train_images=8"]
    assert vitctl("bench", "train", "--data", "pictures", "--rounds", "1", "--json", *small).json["figures"]


def test_selfsup_measures_what_hidden_patches_save(vitctl: Run) -> None:
    small = ["--set", "selfsup=vit-ti/16@64x4", "--set", "train_images=8", "--set", "pictures=8"]
    answer = vitctl("bench", "selfsup", "--rounds", "1", "--json", *small).json
    assert [figure["median"] > 0 for figure in answer["figures"]] == [True] * 3
    assert {ratio["against"] for ratio in answer["ratios"]} == {"vit-ti/16@64x4 all tokens (mean-color)"}
    assert all("by count of operations" in line for line in answer["remarks"])


def test_exported_files_are_measured_against_torch(vitctl: Run) -> None:
    small = ["--set", "export=vit-ti/16@32x8", "--set", "pictures=8"]
    answer = vitctl("bench", "export", "--rounds", "1", "--json", *small).json
    figures = {figure["name"]: figure["median"] for figure in answer["figures"]}
    ways = ("torch, float32", "torch.export, float32", "onnxruntime, float32", "onnxruntime, int8")
    assert {f"vit-ti/16@32x8 {way}" for way in ways} <= set(figures)
    assert all(value > 0 for value in figures.values())
    assert {ratio["against"] for ratio in answer["ratios"]} == {"vit-ti/16@32x8 torch, float32"}
    assert sum("top-1 agrees" in line for line in answer["remarks"]) == 3


def test_features_and_probes_are_measured_against_the_usual_ways(vitctl: Run) -> None:
    small = ["features=vit-ti/16@32x4", "features_images=8", "pictures=8", "probe_classes=6", "probe_width=12"]
    sizes = [part for value in small for part in ("--set", value)]
    answer = vitctl("bench", "fewshot", "--rounds", "1", "--json", *sizes).json
    figures = {figure["name"]: figure["median"] for figure in answer["figures"]}
    extraction = {f"vit-ti/16@32x4 {what}, float32" for what in ("vitctl features", "timm's loader and model")}
    probes = {"LogisticRegression, 10 shots, one cell", "lsr-grid, 12 cells, 30 strengths each"}
    assert extraction | probes <= set(figures)
    assert all(value > 0 for value in figures.values())


def test_a_train_case_that_is_not_one_is_refused(vitctl: Run) -> None:
    assert "MODEL@PIXELSxBATCH" in vitctl("bench", "train", "--set", "train=vit-ti/16", code=2).error


SCRIPT = """
import sys, time
epochs = int(sys.argv[sys.argv.index("--epochs") + 1])
for epoch in range(epochs):
    time.sleep(0.1)
    print(f"Train: {epoch} [   1/2 (100%)]  Loss: 1.5")
    print("Test: [   0/1]  Time: 0.1  Loss: 1.6  Acc@1:  10.0 ( 10.0)  Acc@5: 100.0 (100.0)")
    top1 = f"{min(90, 30 + epoch)}.000"
    print(f"Test: [   1/1]  Time: 0.1  Loss: 1.6  Acc@1:   0.0 ( {top1})  Acc@5: 100.0 (100.0)", flush=True)
"""


@pytest.mark.slow
def test_accuracy_is_that_of_every_program_after_the_same_minutes(
    vitctl: Run, folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder({f"{split}/{name}": 8 for split in ("train", "val") for name in ("cat", "dog")}, ending="jpg")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "train.py").write_text(SCRIPT)
    small = ["--set", "res=32", "--set", "timm_scripts=timm", "--set", "ours=--model vit-ti/16 --batch 4"]
    line = ("bench", "accuracy", "--data", "pictures", "--minutes", "0.4", "--rounds", "1", "--out", "run", *small)
    answer = vitctl(*line, "--json").json
    names = ["vitctl pretrain", "timm's train.py", "ResNet-18 of torchvision"]
    assert [(each["name"], each["unit"], each["runs"]) for each in answer["figures"]] == [
        (name, "% top-1", 1) for name in names
    ]
    assert list(answer["curves"]) == names
    for figure in answer["figures"]:
        (points,) = answer["curves"][figure["name"]]
        assert figure["median"] == pytest.approx(100 * points[-1][1])
        assert sorted(minutes for minutes, _ in points) == [minutes for minutes, _ in points]
    (points,) = answer["curves"][names[1]]
    assert [top1 for _, top1 in points][:3] == [0.3, 0.31, 0.32]
    with Image.open(tmp_path / "run" / "accuracy.png") as figure:
        assert figure.width > 800


def test_accuracy_needs_a_split_to_measure_it_on(vitctl: Run, folder: Callable[..., Path]) -> None:
    folder({"train/cat": 2}, ending="jpg")
    assert "has no train/ with val/ or test/" in vitctl("bench", "accuracy", "--data", "pictures", code=3).error
    assert "name a folder with train/ and val/ or test/" in vitctl("bench", "accuracy", code=2).error
