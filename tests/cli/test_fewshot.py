import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.io.feature_file import FeatureFile
from vitctl.probing.draws import draw_orders, take_shots
from vitctl.probing.estimators import LeastSquares
from vitctl.workflows.patchify import patchify

Run = Callable[..., Any]
KEYS = {
    "command", "version", "data", "data_digest", "weights_digests", "split", "pictures", "task", "classes", "protocol",
    "ways", "width",
    "results", "differences", "closer", "short", "plot", "elapsed_s"}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_it_prints_can_be_repeated_elsewhere(ran: Run, data: str, newest: str) -> None:
    ran("features", "--precision", "float32", "--out", "f.h5")
    told = json.loads(ran("fewshot", "--shots", "1", "--shots", "5", "--precision", "float32", "--json").stdout)
    assert set(told) == KEYS
    assert (told["split"], told["pictures"], told["classes"]) == ("val", 30, 3)
    file = FeatureFile("f.h5")
    x, y = file.features("train"), file.labels("train")
    assert [(each["probe"], each["shots"]) for each in told["results"]] == [("lsr", 1), ("lsr", 5)]
    for each in told["results"]:
        assert [seed["seed"] for seed in each["seeds"]] == [0, 1, 2]
        assert each["mean"] == pytest.approx(np.mean([seed["top1"] for seed in each["seeds"]]))
        for seed in each["seeds"]:
            rows = seed["indices"]
            assert np.bincount(y[rows]).tolist() == [each["shots"]] * 3
            probe = LeastSquares(seed["l2"]).fit(x[rows], y[rows])
            assert (probe.predict(file.features("val")) == file.labels("val")).mean() == seed["top1"]
    nested = [set(each["seeds"][0]["indices"]) for each in told["results"]]
    assert nested[0] < nested[1]


def test_models_are_compared_on_the_same_draws(ran: Run, data: str, newest: str) -> None:
    answer = ran("fewshot", "--from", newest, "--from", "pixels", "--shots", "5", "--json")
    told = json.loads(answer.stdout)
    ours, pixels = told["results"]
    assert [seed["indices"] for seed in ours["seeds"]] == [seed["indices"] for seed in pixels["seeds"]]
    (difference,) = told["differences"]
    assert (difference["weights"], difference["against"]) == (newest, "pixels")
    assert difference["mean"] == pytest.approx(ours["mean"] - pixels["mean"])
    assert difference["mean"] > 0  # the model has learned these classes
    assert told["closer"][0]["per_class"].keys() == {"ant", "bee", "cow"}


@pytest.mark.parametrize("probe", ["lsr", "lsr-grid", "logreg", "knn", "ncm"])
def test_every_probe_knows_most_with_all_shots(ran: Run, data: str, newest: str, probe: str) -> None:
    told = json.loads(ran("fewshot", "--shots", "all", "--seeds", "1", "--probe", probe, "--json").stdout)
    assert told["results"][0]["mean"] > 0.8
    assert told["results"][0]["ci95"] is None
    assert len(told["results"][0]["seeds"][0]["indices"]) == 120


def test_the_table_the_figure_and_the_word_for_what_the_test_images_chose(
    ran: Run, data: str, newest: str, tmp_path: Path
) -> None:
    line = ("fewshot", "--shots", "2", "--probe", "lsr-grid", "--set", "select=test", "--plot", "shots.png")
    answer = ran(*line)
    assert "chosen on test" in answer.stdout
    assert "lowest top-1" in answer.stdout
    with Image.open(tmp_path / "shots.png") as picture:
        assert picture.size[0] > 600


def test_a_part_of_the_only_split_is_held_out(ran: Run, blots: Path, newest: str, tmp_path: Path) -> None:
    patchify(
        PatchifyConfig(source=str(blots / "train"), out=str(tmp_path / "data.h5"), res=Res(16), patch=8, workers=1)
    )
    answer = ran("fewshot", "--shots", "5", "--json")
    told = json.loads(answer.stdout)
    assert "30 images of train are held out" in answer.stderr
    assert told["pictures"] == 30
    drawn = {row for seed in told["results"][0]["seeds"] for row in seed["indices"]}
    again = json.loads(ran("fewshot", "--shots", "all", "--seeds", "1", "--json").stdout)["results"][0]["seeds"][0]
    assert len(again["indices"]) == 90
    assert drawn <= set(again["indices"])  # what is judged on is never drawn


def test_classes_that_have_fewer_images_are_named(ran: Run, data: str, newest: str, refused: Any) -> None:
    with h5py.File("data.h5", "a") as file:
        labels = file["train/labels"][:]
        labels[np.flatnonzero(labels == 1)[3:]] = -1
        file["train/labels"][:] = labels
    answer = ran("fewshot", "--shots", "5", "--seeds", "1", "--json")
    assert "1 class with fewer than 5 images; all of them are used: bee (3)" in answer.stderr
    assert json.loads(answer.stdout)["short"] == {"bee": 3}
    assert "--shots 41: the largest class has only 40 images; use fewer shots" in refused(
        "fewshot", "--shots", "41", code=3
    )


@pytest.mark.parametrize("broken", ["nan", "one class", "no labels", "constant", "other weights"])
def test_features_that_cannot_be_used(ran: Run, refused: Any, data: str, newest: str, broken: str) -> None:
    ran("features", "--out", "f.h5")
    with h5py.File("f.h5", "a") as file:
        if broken == "nan":
            file["train/features"][3, 5] = np.nan
        if broken in ("one class", "no labels"):
            file["train/labels"][:] = 0 if broken == "one class" else -1
        if broken == "constant":
            file["train/features"][:, :3] = 1.0
    line = ("fewshot", "--features", "f.h5", "--shots", "5")
    if broken == "constant":
        assert "3 features of 32 constant over the fewest shots" in ran(*line).stderr
        return
    if broken == "other weights":
        from vitctl.io.weights import save_weights
        from vitctl.models.create import create_model, weights_of

        save_weights(weights_of(create_model("vit-mu/8", height=16, width=16, classes=3)), Path("other.safetensors"))
        line = (*line, "--from", "other.safetensors")
    words = {
        "nan": "f.h5: has features that are not finite; extract them with --precision float32",
        "one class": "all its images are of one class; a probe needs two or more classes",
        "no labels": "f.h5: has no labeled images",
        "other weights": "with other weights than those of other.safetensors",
    }[broken]
    assert words in refused(*line, code=3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--shots", "few"), "--shots few: expected a whole number, or all"),
        (("--shots", "0"), "shots is 0"),
        (("--probe", "lrs"), "did you mean 'lsr'"),
        (("--seeds", "0"), "seeds is 0"),
        (("--set", "extract.pool=none"), "a probe needs one per image"),
        (("--split", "tset"), "has no split 'tset'"),
    ],
)
def test_wrong_usage(ran: Run, data: str, newest: str, flags: tuple[str, ...], words: str) -> None:
    answer = ran("fewshot", *flags, code=3 if "tset" in flags else 2)
    assert words in " ".join(answer.stderr.replace("│", " ").split())
    assert answer.stdout == ""


def test_a_leak_is_told_again(ran: Run, blots: Path, newest: str, tmp_path: Path) -> None:
    pictures = tmp_path / "leaky"
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (pictures / split / name).mkdir(parents=True)
            for path in sorted((blots / split / name).iterdir()):
                os.link(path, pictures / split / name / path.name)
    os.link(blots / "train" / "ant" / "00.png", pictures / "val" / "ant" / "copy.png")
    patchify(PatchifyConfig(source=str(pictures), out=str(tmp_path / "data.h5"), res=Res(16), patch=8, workers=1))
    assert (
        "1 test or val image also in train; list them with vitctl info data.h5 --rejects"
        in ran("fewshot", "--shots", "1").stderr
    )


def test_an_unlabeled_test_split_does_not_hide_a_labeled_val(ran: Run, data: str, newest: str) -> None:
    ran("features", "--out", "f.h5")
    with h5py.File("f.h5", "a") as file:
        file.copy("val", "test")
        file["test/labels"][:] = -1
    assert json.loads(ran("fewshot", "--features", "f.h5", "--shots", "5", "--json").stdout)["split"] == "val"


def test_a_single_split_without_labels_is_one_line(ran: Run, refused: Any, data: str, newest: str) -> None:
    ran("features", "--out", "f.h5")
    with h5py.File("f.h5", "a") as file:
        del file["val"]
        file["train/labels"][:] = -1
    assert "f.h5: has no labeled images to fit a probe to" in refused(
        "fewshot", "--features", "f.h5", "--shots", "5", code=3
    )


def test_the_very_images_of_training_are_told(ran: Run, data: str, newest: str) -> None:
    answer = ran("fewshot", "--set", "test=train", "--shots", "5", "--seeds", "1")
    assert "was trained on the test images, so its accuracy is too high" in answer.stderr


def test_usual_shots_that_no_class_has_are_left_out(ran: Run, data: str, newest: str) -> None:
    ran("features", "--out", "f.h5")
    with h5py.File("f.h5", "a") as file:
        labels = file["train/labels"][:]
        for number in range(3):
            labels[(labels == number).nonzero()[0][12:]] = -1
        file["train/labels"][:] = labels
    told = json.loads(ran("fewshot", "--features", "f.h5", "--seeds", "1", "--json").stdout)
    assert [each["shots"] for each in told["results"]] == [1, 5, 10]
    named = [word for shots in ("1", "5", "10", "25") for word in ("--shots", shots)]  # the same, but asked for
    assert (
        "--shots 25: the largest class has only 12 images; use fewer shots"
        in ran("fewshot", "--features", "f.h5", *named, code=3).stderr
    )


def test_weights_that_were_fitted_to_the_data_are_still_the_same(ran: Run, data: str, newest: str) -> None:
    ran("features", "--out", "f.h5", "--set", "res=24")
    assert ran("fewshot", "--features", "f.h5", "--from", newest, "--shots", "5").exit_code == 0


def test_a_protocol_brings_its_evaluation_crop_its_draws_and_its_grid(ran: Run, data: str, newest: str) -> None:
    told = json.loads(ran("fewshot", "--protocol", "dinov3/knn", "--json").stdout)
    assert told["protocol"] == "dinov3/knn"
    names = ["knn, k=10", "knn, k=20", "knn, k=100", "knn, k=200"]
    assert [(each["probe"], each["shots"]) for each in told["results"]] == [(name, None) for name in names]
    few = json.loads(ran("fewshot", "--protocol", "dinov3/knn", "--shots", "2", "--set", "k=1", "--json").stdout)
    (result,) = few["results"]
    assert (result["probe"], result["shots"], result["trials"]) == ("knn", 2, 3)
    ran("features", "--eval-crop", "dino", "--precision", "float32", "--out", "f.h5")
    y = FeatureFile("f.h5").labels("train")
    assert result["seeds"][1]["indices"] == take_shots(draw_orders(y, 3, 1, "dinov3"), 2).tolist()
    repeated = json.loads(ran("fewshot", "--protocol", "dinov3/knn", "--features", "f.h5", "--json").stdout)
    exact = json.loads(ran("fewshot", "--protocol", "dinov3/knn", "--precision", "float32", "--json").stdout)
    assert repeated["results"][0]["mean"] == exact["results"][0]["mean"]


def test_features_of_another_crop_than_the_protocols_are_told(ran: Run, data: str, newest: str) -> None:
    ran("features", "--out", "f.h5")
    told = ran("fewshot", "--features", "f.h5", "--protocol", "dinov3/knn", "--shots", "2").stderr
    assert "those of dinov3/knn are so: the short side is resized (bicubic), then the central 0.875" in told.replace(
        "\n", " "
    )
    told = ran("fewshot", "--features", "f.h5", "--protocol", "dinov3/logreg", "--shots", "2", "--seeds", "1").stderr
    assert "are so" not in told  # the whole short side, as the weights have it


def test_options_override_a_protocol(ran: Run, data: str, newest: str) -> None:
    told = json.loads(
        ran("fewshot", "--protocol", "big_vision", "--probe", "ncm", "--seeds", "2", "--shots", "3", "--json").stdout
    )
    (result,) = told["results"]
    assert (result["probe"], result["shots"], len(result["seeds"])) == ("ncm", 3, 2)
    assert "did you mean 'simpleshot'?" in ran("fewshot", "--protocol", "simpelshot", code=2).stderr


def test_episodes_are_of_the_classes_of_one_split(ran: Run, data: str, newest: str) -> None:
    options = ["--protocol", "simpleshot", "--seeds", "150", "--set", "ways=2", "--set", "queries=3"]
    answer = ran("fewshot", *options, "--from", newest, "--from", "pixels", "--set", f"base={data}", "--json")
    told = json.loads(answer.stdout)
    assert (told["split"], told["ways"], told["closer"]) == ("train", 2, [])
    names = ["ncm-un", "ncm-l2n", "ncm"]
    cells = [(weights, name, shots) for weights in (newest, "pixels") for name in names for shots in (1, 5)]
    assert [(each["weights"], each["probe"], each["shots"]) for each in told["results"]] == cells
    assert {each["trials"] for each in told["results"]} == {150}
    assert {len(each["seeds"]) for each in told["results"]} == {100}
    assert [each["ci95"] is not None for each in told["differences"]] == [True] * 6
    five = [each["mean"] for each in told["results"] if each["weights"] == newest and each["shots"] == 5]
    assert min(five) > 0.6  # the model has learned these classes
    shown = ran("fewshot", *options)
    assert "150 episodes" in shown.stdout
    assert "in episodes of 2 classes" in " ".join(shown.stdout.split())
    assert "SimpleShot subtracts the mean of the classes that the model was trained on" in shown.stderr


def test_episodes_that_cannot_be_drawn_are_refused(ran: Run, data: str, newest: str) -> None:
    told = ran("fewshot", "--protocol", "simpleshot", code=3).stderr
    assert "3 classes of train with the 5 + 15 images of an episode, which needs 5 classes" in told
    told = ran("fewshot", "--protocol", "simpleshot", "--shots", "all", code=2).stderr
    assert "write --shots N, the images per class that an episode learns from" in told
    told = ran("fewshot", "--set", "draws=episodes", "--probe", "logreg-val", "--set", "ways=2", "--shots", "1", code=2)
    assert "has no images to choose its strength on in an episode" in told.stderr
