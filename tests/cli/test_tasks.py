"""Labels that are sets of classes or numbers, from a manifest to an exported file and back, by the real command."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import clean_environment
from vitctl.config.export import ExportConfig
from vitctl.config.fewshot import ProbeConfig
from vitctl.data.balance import order_sets
from vitctl.data.loader import Loader
from vitctl.io.feature_file import FeatureFile
from vitctl.io.patch_file import PatchFile
from vitctl.io.recognize import open_weights
from vitctl.io.weights import save_weights
from vitctl.models.create import create_model, weights_of
from vitctl.probing.metrics import best_thresholds
from vitctl.probing.targets import TargetTask, run_target_trial
from vitctl.workflows.export.compare import summarize_comparison
from vitctl.workflows.inputs.weights import load_model, load_weights
from vitctl.workflows.inspect.images import caption_for

Run = Callable[..., Any]
NAMES = ("red", "green", "blue")
SPLITS = {"train": 96, "val": 40, "test": 32}
MODEL = ("--model", "vit-mu/8", "--recipe", "digits", "--batch", "16", "--device", "cpu", "--precision", "float32")


@pytest.fixture
def manifests(tmp_path: Path) -> None:
    """sets.csv: the colors of each noisy image, which may be none; numbers.csv: how bright its red is."""
    random, sets, numbers, one = np.random.default_rng(0), [], [], []
    (tmp_path / "images").mkdir()
    for split, count in SPLITS.items():
        for number in range(count):
            colors = random.integers(0, 2, 3)
            pixels = random.integers(0, 180, (16, 16, 3)) + 30 * colors
            name = f"images/{split}{number:03d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
            sets.append((name, split, *colors.tolist()))
            numbers.append((name, split, 1e6 + pixels[..., 0].mean()))
            one.append((name, split, NAMES[colors.argmax()]))
    columns = {"sets": NAMES, "numbers": ("red",), "one": ("label",)}
    for name, rows in (("sets", sets), ("numbers", numbers), ("one", one)):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "split", *columns[name]), *rows])


@pytest.fixture
def sets(ran: Run, manifests: None) -> str:
    ran("patchify", "sets.csv", "sets.h5", "--res", "16", "--patch", "8", "--set", "class_columns=all")
    return "sets.h5"


@pytest.fixture
def numbers(ran: Run, manifests: None) -> str:
    ran("patchify", "numbers.csv", "numbers.h5", "--res", "16", "--patch", "8", "--set", "target_column=red")
    return "numbers.h5"


def kill_at_step(line: tuple[str, ...], place: Path, checkpoint: Path) -> None:
    """Starts the command and kills it once it has written this checkpoint."""
    process = subprocess.Popen([sys.executable, "-m", "vitctl", *line], cwd=place, env=clean_environment(place))
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def digests(run: Path) -> list[str]:
    files = [run / name for name in ("best.safetensors", "weights.safetensors", "metrics.jsonl")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()]


def scores(told: dict[str, Any]) -> list[float]:
    names = ("mean_average_precision", "micro_f1", "macro_f1", "exact_match", "loss")
    return [told[name] for name in names]


def test_sets_go_from_a_manifest_to_onnx_and_back(vitctl: Run, manifests: None, tmp_path: Path) -> None:
    vitctl("patchify", "sets.csv", "sets.h5", "--res", "16", "--patch", "8", "--set", "class_columns=all")
    assert vitctl("info", "sets.h5", "--json").json["task"] == "sets"
    line = ("pretrain", "--data", "sets.h5", *MODEL, "--steps", "60")
    line += ("--set", "save_every=10", "--set", "eval_every=20", "--set", "smoothing=0.1", "--set", "augment.mixup=0.2")
    whole = vitctl(*line, "--out", "whole", "--json").json
    kill_at_step((*line, "--out", "run"), tmp_path, tmp_path / "run/checkpoints/step-000000030.safetensors")
    assert not (tmp_path / "run/weights.safetensors").exists()
    told = vitctl("pretrain", "--resume", "run", "--json").json
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert (told["task"], told["scores"], told["digest"]) == ("sets", whole["scores"], whole["digest"])
    assert told["scores"]["mean_average_precision"] > 0.9

    thresholds = load_weights(tmp_path / "run").about.thresholds
    assert len(thresholds) == 3
    assert thresholds != (0.5, 0.5, 0.5)
    val = vitctl("evaluate", "--from", "run:last", "--data", "sets.h5", "--split", "val", "--precision", "float32",
                 "--json").json  # fmt: skip
    assert scores(val) == pytest.approx([told["scores"][name] for name in (
        "mean_average_precision", "micro_f1", "macro_f1", "exact_match", "loss")], rel=1e-6)  # fmt: skip
    shown = vitctl("export", "--from", "run", "--data", "sets.h5", "--out", "model.onnx").out
    assert "the set of classes agrees on 32 of 32 images" in " ".join(shown.split())
    found = [
        vitctl("evaluate", "--from", name, "--data", "sets.h5", "--precision", "float32", "--json").json
        for name in ("run", "model.onnx")
    ]
    assert scores(found[1]) == pytest.approx(scores(found[0]), rel=1e-5)
    assert [each["threshold"] for each in found[1]["per_class"]] == list(thresholds)
    images = [f"images/test{number:03d}.png" for number in range(32)]
    told = [
        vitctl("predict", *images, "--from", name, "--precision", "float32", "--json").json["predictions"]
        for name in ("run", "model.onnx")
    ]
    answers = [[{each["name"] for each in prediction["top"]} for prediction in one] for one in told]
    assert answers[0] == answers[1]
    file = PatchFile(tmp_path / "sets.h5")
    truth = [{file.class_names[number] for number in np.flatnonzero(each)} for each in file.split("test").label_sets()]
    assert np.mean([one == other for one, other in zip(answers[0], truth, strict=True)]) == found[0]["exact_match"]


def test_balanced_sets_end_in_the_same_bytes_behind_a_kill(vitctl: Run, sets: str, tmp_path: Path) -> None:
    line = ("pretrain", "--data", sets, *MODEL, "--steps", "40", "--set", "save_every=5", "--set", "eval_every=20")
    seen = set()
    for balance in ("none", "sqrt", "full"):
        vitctl(*line, "--balance", balance, "--out", balance)
        seen.add(tuple(digests(tmp_path / balance)))
    assert len(seen) == 3
    kill_at_step((*line, "--balance", "full", "--out", "run"), tmp_path,
                 tmp_path / "run/checkpoints/step-000000010.safetensors")  # fmt: skip
    vitctl("pretrain", "--resume", "run")
    assert digests(tmp_path / "run") == digests(tmp_path / "full")


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_batch_of_balanced_sets_is_the_same_on_any_number_of_ranks(sets: str, world: int) -> None:
    """And every class is drawn as often, those of no class too."""
    split = PatchFile(sets).split("train")
    order = order_sets(split, "full", 0)
    loaders = [Loader(split, 16, rank=rank, world=world, order=order) for rank in range(world)]
    for step in (0, 7, 100):
        parts = [loader.at(step) for loader in loaders]
        rows, keys = order.at(np.arange(16 * step, 16 * step + 16))
        assert torch.cat([part.rows for part in parts]).tolist() == rows.tolist()
        assert torch.cat([part.epochs for part in parts]).tolist() == keys.tolist()
    rows, keys = order.at(np.arange(96))
    assert np.bincount(keys % 4).tolist() == [24] * 4
    assert not split.label_sets(rows[keys % 4 == 3]).any()


def test_balance_needs_images_of_every_class_and_more_of_them(vitctl: Run, manifests: None, tmp_path: Path) -> None:
    for name, keep in (("few", range(3)), ("empty", range(96))):
        rows = (tmp_path / "sets.csv").read_text().splitlines()
        kept = [row if name == "few" else ",".join([*row.split(",")[:4], "0"]) for row in (rows[1:][n] for n in keep)]
        (tmp_path / f"{name}.csv").write_text("\n".join([rows[0], *kept]))
        vitctl("patchify", f"{name}.csv", f"{name}.h5", "--res", "16", "--patch", "8", "--set", "class_columns=all")
    line = ("pretrain", *MODEL, "--steps", "1", "--balance", "full", "--set", "val=absent", "--data")
    error = vitctl(*line, "empty.h5", code=3).error
    assert "train: has no images of 1 class (blue), which --balance full needs; add some, or patchify the" in error
    error = vitctl(*line, "few.h5", code=3).error
    assert error == "error: split train: has 3 images of 3 classes; --balance full needs more images than classes"


def test_thresholds_are_the_best_on_val_and_predict_answers_by_them(ran: Run, sets: str, tmp_path: Path) -> None:
    ran("pretrain", "--data", sets, *MODEL, "--steps", "20", "--out", "run")
    file, model = PatchFile(tmp_path / sets), load_model(tmp_path / "run/weights.safetensors")
    val, thresholds = file.split("val"), model.about.thresholds
    with torch.no_grad():
        probabilities = model(model.preprocess(list(val.images(np.arange(40))))).sigmoid().numpy()
    assert thresholds == pytest.approx(best_thresholds(probabilities, val.label_sets().astype(bool)), abs=1e-5)
    images = [f"images/val{number:03d}.png" for number in range(40)]
    ran("predict", *images, "--from", "run:last", "--precision", "float32", "--csv", "a.csv", "--sheet", "a.png")
    with open(tmp_path / "a.csv") as table:
        told = [row["classes"] for row in csv.DictReader(table)]
    for answer, row in zip(told, probabilities, strict=True):
        chosen = sorted(np.flatnonzero(row >= thresholds), key=lambda number: -row[number])
        assert answer == ("|".join(file.class_names[number] for number in chosen) or "none")


def test_an_empty_set_is_an_answer(ran: Run, sets: str, tmp_path: Path) -> None:
    ran("pretrain", "--data", sets, *MODEL, "--steps", "2", "--out", "run")
    weights = load_weights(tmp_path / "run")
    save_weights(replace(weights, about=replace(weights.about, thresholds=(1.0, 1.0, 1.0))), tmp_path / "w.safetensors")
    told = ran("predict", "images/val000.png", "--from", "w.safetensors", "--csv", "a.csv", "--sheet", "a.png").stdout
    assert "none" in told
    assert (tmp_path / "a.csv").read_text().splitlines() == ["path,classes,probabilities", "images/val000.png,none,"]


def test_without_val_each_threshold_is_one_half(ran: Run, sets: str, tmp_path: Path) -> None:
    ran("pretrain", "--data", sets, *MODEL, "--steps", "2", "--out", "run", "--set", "val=absent")
    assert load_weights(tmp_path / "run").about.thresholds == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("format", [pytest.param("torch", marks=pytest.mark.slow), "onnx"])
def test_numbers_go_from_a_manifest_to_an_export_and_back(ran: Run, numbers: str, format: str, tmp_path: Path) -> None:
    line = ("pretrain", "--data", numbers, *MODEL, "--steps", "120", "--set", "augment.mixup=0.1", "--json")
    told = json.loads(ran(*line, "--out", "run").stdout)
    assert told["scores"]["r_squared"] > 0.9
    assert told["top1"] is None
    out = "model.onnx" if format == "onnx" else "model.pt2"
    ran("export", "--from", "run", "--data", numbers, "--format", format, "--out", out)
    for name in ("run", out):
        line = ("evaluate", "--from", name, "--data", numbers, "--split", "val", "--precision", "float32", "--json")
        found = json.loads(ran(*line).stdout)
        assert found["r_squared"] == pytest.approx(told["best_scores"]["r_squared"], abs=1e-5)
        assert found["mean_absolute_error"] == pytest.approx(told["best_scores"]["mean_absolute_error"], rel=1e-3)
    line = ("predict", *[f"images/val{number:03d}.png" for number in range(40)], "--from", out, "--json")
    answers = [each["number"] for each in json.loads(ran(*line).stdout)["predictions"]]
    truth = PatchFile(tmp_path / numbers).split("val").targets()
    assert np.abs(answers - truth).mean() == pytest.approx(found["mean_absolute_error"], rel=1e-3)


def test_two_models_of_sets_and_of_numbers_are_compared(ran: Run, sets: str, numbers: str, tmp_path: Path) -> None:
    for data, metric in ((sets, "mean_average_precision"), (numbers, "r_squared")):
        told: dict[str, Any] = {}
        for steps in ("60", "6"):
            ran("pretrain", "--data", data, *MODEL, "--steps", steps, "--out", f"{data}-{steps}")
            line = ["evaluate", "--from", f"{data}-{steps}:last", "--data", data, "--precision", "float32"]
            line += ["--compare", f"{data}.json"] if told else []
            other, told = told, json.loads(ran(*line, "--json").stdout)
            (tmp_path / f"{data}.json").write_text(json.dumps(other or told))
        found = told["comparison"]
        assert (found["metric"], found["difference"]) == (metric, told[metric] - other[metric])
        low, high = found["ci95"]
        assert low < found["difference"] < high < 0  # it has learned less
        shown = " ".join(ran(*line).stdout.split())
        if data == sets:
            own, theirs = (set(each["wrong"]) for each in (told, other))
            assert [len(own), len(theirs)] == [32 - round(32 * each["exact_match"]) for each in (told, other)]
            assert (found["only_this"], found["only_other"]) == (len(theirs - own), len(own - theirs))
            assert f"difference mAP {100 * found['difference']:+.2f} points, 95% interval {100 * low:+.2f} to" in shown
            assert f"only this has the whole set right: {found['only_this']}, only the other: " in shown
        else:
            assert (found["only_this"], found["p"]) == (None, None)
            assert f"difference R² {found['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f} on" in shown
        (tmp_path / "bad.json").write_text(json.dumps(other | {"resamples": other["resamples"][:-1]}))
        error = ran(*line[:-1], "bad.json", code=3).stderr
        assert "bad.json: lacks the answers per image, as of an earlier version" in error


@pytest.mark.parametrize("kind", ["sets", pytest.param("numbers", marks=pytest.mark.slow)])
def test_weights_are_finetuned_with_the_rates_that_are_tried(ran: Run, kind: str, sets: str, numbers: str) -> None:
    data = f"{kind}.h5"
    ran("pretrain", "--data", data, *MODEL, "--steps", "20", "--out", "run")
    line = ("finetune", "--from", "run", "--data", data, "--batch", "16", "--device", "cpu", "--json", "--steps", "20")
    told = json.loads(ran(*line, "--lr", "0.001,0.01", "--out", "tried").stdout)
    assert set(told["tried"]) == {"0.001", "0.01"}
    kept = json.loads(ran(*line, "--keep-head", "--out", "kept").stdout)
    assert kept["task"] == kind
    other = {"sets": numbers, "numbers": sets}[kind]
    refusal = ran("finetune", "--from", "run", "--data", other, "--keep-head", code=2).stderr
    assert "the weights answer with a" in refusal
    moved = json.loads(ran(*line[:3], "--data", other, *line[5:], "--out", "moved").stdout)
    assert moved["task"] != kind


def test_other_objectives_take_sets_as_they_are(ran: Run, sets: str) -> None:
    line = ("selfsup", "--data", sets, "--model", "vit-mu/8", "--steps", "2", "--batch", "8", "--device", "cpu")
    assert "needs one class per image" in ran(*line, "--out", "run").stderr
    ran("finetune", "--from", "run", "--data", sets, "--steps", "2", "--batch", "8", "--device", "cpu")


def test_a_feature_file_has_the_labels_of_the_data(ran: Run, sets: str, numbers: str) -> None:
    for data, task in ((sets, "sets"), (numbers, "numbers")):
        line = ("features", "--from", "pixels", "--data", data, "--out", f"{task}-features.h5", "--export", "npy")
        assert json.loads(ran(*line, "--json").stdout)["splits"] == {name: [SPLITS[name], 768] for name in SPLITS}
        file, whole = FeatureFile(f"{task}-features.h5"), PatchFile(data)
        for name, split in whole.splits.items():
            truth = split.label_sets() if task == "sets" else split.targets()
            np.testing.assert_array_equal(file.truth(name), truth)
            np.testing.assert_array_equal(np.load(f"{task}-features-{name}-labels.npy"), truth)
            np.testing.assert_array_equal(file.labels(name), split.labels())
        told = ran("info", f"{task}-features.h5", "--verify").stdout
        assert {"sets": f"3: {', '.join(whole.class_names)}", "numbers": "none: a label is a number"}[task] in told


def test_probes_of_sets_from_the_command_to_the_figure(vitctl: Run, sets: str, tmp_path: Path) -> None:
    probes = [word for name in ("lsr", "lsr-grid", "logreg", "knn") for word in ("--probe", name)]
    line = ("fewshot", "--data", sets, "--from", "pixels", "--shots", "4", "--shots", "all", *probes)
    answer = vitctl(*line, "--from", "random:vit-mu/8", "--plot", "shots.png", "--json")
    told = answer.json
    assert (told["task"], told["classes"], told["pictures"]) == ("sets", 3, 32)
    vitctl("features", "--data", sets, "--from", "pixels", "--out", "f.h5")
    file, config = FeatureFile(tmp_path / "f.h5"), ProbeConfig()
    rows = {name: file.truth(name).astype(float) for name in ("train", "test")}
    task = TargetTask("sets", file.features("train"), rows["train"], file.features("test"), rows["test"])
    for each in told["results"]:
        if each["weights"] == "pixels":
            trials = [
                run_target_trial(task, each["probe"], config, each["shots"], seed["seed"]) for seed in each["seeds"]
            ]
            assert [seed["indices"] for seed in each["seeds"]] == [trial.rows.tolist() for trial in trials]
            assert [seed["scores"] for seed in each["seeds"]] == [pytest.approx(trial.scores) for trial in trials]
            assert each["mean"] == each["scores"]["mean_average_precision"] == pytest.approx(
                np.mean([trial.main for trial in trials]))  # fmt: skip
            assert {seed["top1"] for seed in each["seeds"]} == {None}
            if each["shots"] is None and each["probe"] != "knn":
                assert each["mean"] > 0.9
    assert len(told["differences"]) == 8
    assert told["closer"][0]["per_class"].keys() == {"red", "green", "blue"}
    with Image.open(tmp_path / "shots.png") as picture:
        assert picture.size[0] > 600
    again = vitctl("fewshot", "--features", "f.h5", *line[5:], "--json").json  # in place of the data
    assert again["results"] == [
        {**each, "weights": "f.h5"} for each in told["results"] if each["weights"] == "pixels"
    ]  # fmt: skip
    table = vitctl("fewshot", "--features", "f.h5", "--shots", "4").out
    for word in ("mAP on 32 images of test, 3 classes", "exact match", "macro F1", "lowest average precision"):
        assert word in table


def test_probes_of_numbers(ran: Run, numbers: str) -> None:
    line = ("fewshot", "--data", numbers, "--from", "pixels", "--probe", "lsr-grid", "--probe", "knn")
    told = json.loads(ran(*line, "--plot", "shots.png", "--json").stdout)
    assert [each["shots"] for each in told["results"]] == [10, 25, 10, 25]  # train has no 100 images
    assert all(len(each["seeds"][0]["indices"]) == each["shots"] for each in told["results"])
    assert (told["task"], told["closer"], told["classes"]) == ("numbers", [], 0)
    whole = json.loads(ran(*line, "--shots", "all", "--json").stdout)["results"][0]
    assert whole["mean"] == whole["scores"]["r_squared"] > 0.8
    assert whole["scores"]["mean_absolute_error"] < 20
    table = ran(*line, "--shots", "all").stdout
    assert "R² on 32 images of test" in table
    assert "mean absolute error" in table


def test_inspect_leaves_out_only_what_needs_a_class(ran: Run, sets: str, numbers: str) -> None:
    for data in (sets, numbers):
        ran("pretrain", "--data", data, *MODEL, "--steps", "2", "--out", "run", "--overwrite")
        told = json.loads(
            ran("inspect", "--from", "run", "--data", data, "--out", "seen", "--overwrite", "--json").stdout
        )
        figures = ["rollout", "heads", "distance", "filters", "positions", "cka"]
        assert [Path(each).stem for each in told["figures"]] == figures
        assert told["left_out"] == ["value of layers: needs shots, and a train split with one class per image, of two"]


def test_images_are_captioned_with_their_labels(sets: str, numbers: str) -> None:
    for data in (sets, numbers):
        file = PatchFile(data)
        split = file.split("test")
        captions = [caption_for(file, split, row) for row in range(split.rows)]
        if data == numbers:
            assert captions == [f"{value:.4g}" for value in split.targets()]
            continue
        for row, (caption, own) in enumerate(zip(captions, split.label_sets(), strict=True)):
            names = [file.class_names[number] for number in np.flatnonzero(own)]
            assert caption == (", ".join(names) or f"test{row:03d}.png")


def test_studies_need_one_class_per_image(refused: Callable[..., str], sets: str, numbers: str, tmp_path: Path) -> None:
    for data, words in ((sets, "a set of classes"), (numbers, "a number")):
        line = f"{data}: has {words} per image, but a study compares top-1, which needs one class"
        assert line in refused("study", "scaling", "--data", data, "--dry-run", code=3)


def test_an_export_of_sets_is_compared_at_the_thresholds() -> None:
    weights = weights_of(create_model("vit-mu/8", height=16, width=16, classes=3))
    about = replace(weights.about, task="sets", class_names=NAMES, thresholds=(0.5, 0.5, 0.9))
    weights, expected = replace(weights, about=about), torch.tensor([[2.0, 0.1, 1.0], [-1.0, -2.0, -3.0]])
    for change, agreement in ((-0.2, 0.5), (0.2, 1.0)):  # it is in the set at 0, and in no case the first class
        actual = expected.clone()
        actual[0, 1] += change
        gaps = (actual - expected).abs()
        found = summarize_comparison(expected, actual, gaps, None, ExportConfig(out="a.onnx"), weights)
        assert found.agreement == agreement
        assert f"the set of classes agrees on {round(2 * agreement)} of 2 images" in found.summary()


def test_a_part_of_the_only_split_of_sets_and_numbers_is_held_out(ran: Run, sets: str, numbers: str) -> None:
    for data, words in ((sets, "25% of each class"), (numbers, "24 images of train are held out for it, 25% of all")):
        answer = ran("fewshot", "--data", data, "--from", "pixels", "--shots", "10", "--set", "test=train", "--json")
        assert words in answer.stderr
        told = json.loads(answer.stdout)
        assert 20 <= told["pictures"] <= 28
        assert max(row for each in told["results"][0]["seeds"] for row in each["indices"]) < 96


def test_labels_that_say_nothing_are_one_line(ran: Run, refused: Callable[..., str], sets: str, numbers: str) -> None:
    for data in (sets, numbers):
        ran("features", "--from", "pixels", "--data", data, "--out", f"f-{data}")
    for split, words in (("test", "no image of test has a class"), ("train", "none of its images has a class")):
        with h5py.File("f-sets.h5", "a") as file:
            file[f"{split}/label_sets"][:] = 0
        assert words in refused("fewshot", "--features", "f-sets.h5", "--shots", "1", code=3)
    with h5py.File("f-numbers.h5", "a") as file:
        file["test/targets"][1:] = np.nan
    assert "has a single labeled image in test" in refused("fewshot", "--features", "f-numbers.h5", code=3)


@pytest.mark.slow
def test_two_ranks_score_as_one(vitctl: Run, sets: str, numbers: str, tmp_path: Path) -> None:
    """40 images of val in batches of 7: the ranks have different numbers of them."""
    for data in (sets, numbers):
        line = (
            "pretrain",
            "--data",
            data,
            *MODEL,
            "--micro-batch",
            "4",
            "--steps",
            "4",
            "--set",
            "eval_every=2",
            "--json",
        )
        one, two = (vitctl(*line, "--json", "--devices", count, "--out", f"{data}{count}").json for count in ("1", "2"))
        assert one["scores"] == pytest.approx(two["scores"], rel=1e-4)
        abouts = [open_weights(tmp_path / f"{data}{count}/weights.safetensors").about for count in (1, 2)]
        assert abouts[0].thresholds == pytest.approx(abouts[1].thresholds, abs=1e-4)


def test_what_does_not_fit_is_one_line(refused: Callable[..., str], ran: Run, sets: str, numbers: str) -> None:
    ran("patchify", "one.csv", "one.h5", "--res", "16", "--patch", "8")
    for name in ("sets", "numbers", "one"):
        ran("pretrain", "--data", f"{name}.h5", *MODEL, "--steps", "2", "--out", name)
    words = {"sets": "a set of classes", "numbers": "a number", "one": "one class"}
    for name, word in words.items():
        for other, its in words.items():
            if name != other:
                line = refused("evaluate", "--from", name, "--data", f"{other}.h5", code=3)
                assert f"{other}.h5: has {its} per image, but the model answers with {word}" in line
    line = ("pretrain", "--steps", "1", "--data")
    assert "loss=softmax is not for; use loss=sigmoid" in refused(*line, sets, "--set", "loss=softmax", code=2)
    assert "use loss=squared" in refused(*line, numbers, "--set", "loss=sigmoid", code=2)
    assert "use loss=softmax or sigmoid" in refused(*line, "one.h5", "--set", "loss=squared", code=2)
    assert "--balance full needs one class" in refused(*line, numbers, "--balance", "full", code=2)
    for setting in ("loss_weights=effective", "logit_adjustment=1"):
        assert f"{setting} needs one class" in refused(*line, sets, "--set", setting, code=2)
    assert "best is top1 or macro_f1 or loss" in refused(*line, sets, "--set", "best=balanced", code=2)
    line = ("evaluate", "--data", sets, "--from", "sets", "--confusion", "c.png")
    assert "--confusion: needs one class" in refused(*line, code=2)
    assert "cannot store the scale" in refused(
        "export", "--from", "numbers", "--data", numbers, "--format", "timm", code=2
    )
    line = ("fewshot", "--from", "pixels", "--data")
    assert (
        "--probe ncm: needs one class per image, and the data has a set of classes; use lsr, lsr-grid, knn, logreg"
        in (refused(*line, sets, "--probe", "ncm", code=2))
    )
    assert "has a number; use lsr, lsr-grid, knn" in refused(*line, numbers, "--probe", "logreg", code=2)
    assert "--shots 97: train has only 96 images" in refused(*line, numbers, "--shots", "97", code=3)


def test_a_threshold_outside_of_0_and_1_is_one_line(
    refused: Callable[..., str], ran: Run, sets: str, tmp_path: Path
) -> None:
    ran("pretrain", "--data", sets, *MODEL, "--steps", "2", "--out", "run", "--set", "val=absent")
    content = (tmp_path / "run/weights.safetensors").read_bytes()
    for bad in (b"1.5", b"-.5"):
        broken = content.replace(b'\\"thresholds\\": [0.5,', b'\\"thresholds\\": [' + bad + b",")
        assert broken != content
        (tmp_path / "bad.safetensors").write_bytes(broken)
        line = refused("evaluate", "--from", "bad.safetensors", "--data", sets, code=3)
        assert "its metadata is damaged" in line
