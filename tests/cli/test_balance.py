"""Classes of different sizes through the real command: --balance, weights of the loss, and what is measured."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.test_kills import kept, killed
from tests.conftest import Answer
from vitctl.io.patch_file import PatchFile
from vitctl.probing.metrics import ClassCounts

Run = Callable[..., Any]
QUICK = (
    "pretrain", "--data", "data.h5", "--model", "vit-mu/8", "--recipe", "small", "--batch", "8", "--micro-batch", "4",
    "--device", "cpu", "--precision", "float32")  # fmt: skip
COUNTS = {"train/ant": 44, "train/bee": 6, "train/cow": 4, "val/ant": 4, "val/bee": 4, "val/cow": 4}


@pytest.fixture
def here(ran: Run) -> Run:
    """Runs a command in this process."""

    def run(*arguments: str | Path, code: int = 0) -> Answer:
        result = ran(*arguments, code=code)
        return Answer(code, result.stdout, result.stderr)

    return run


@pytest.fixture
def skewed(here: Run, folder: Callable[..., Path]) -> str:
    """11 to 1."""
    here("patchify", folder(COUNTS), "data.h5", "--res", "16", "--patch", "8", "--workers", "1")
    return "data.h5"


def test_a_skewed_set_is_named_where_it_matters(here: Run, skewed: str) -> None:
    line = "train is skewed: 44 images of ant, the largest class, and 4 of cow, the smallest"
    answer = here("info", "data.h5")
    assert f"{line}; train with --balance sqrt or full" in answer.out
    told = here("info", "data.h5", "--json").json["splits"]
    assert (told["train"]["skew"], told["val"]["skew"]) == (line, "")
    assert f"{line}; --balance sqrt or full draws small classes" in here(*QUICK, "--dry-run").err
    assert f"{line}; --balance full\n" in here(*QUICK, "--dry-run", "--balance", "full").err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("balance", ["sqrt", "full"])
def test_killed_balanced_runs_end_in_the_bytes_of_an_undisturbed_one(
    vitctl: Run, skewed: str, tmp_path: Path, balance: str, ranks: int
) -> None:
    line = (
        *QUICK, "--balance", balance, "--steps", "240", "--set", "save_every=3", "--set", "eval_every=20",
        *(("--devices", "2") if ranks == 2 else ()))  # fmt: skip
    vitctl(*line, "--out", "whole")
    chance, kills, number = random.Random(f"{balance} {ranks}"), 0, 0
    while kills < 5:
        out = f"run-{number}"
        while kills < 5 and killed((*line, "--resume", "auto", "--out", out), tmp_path, out, chance):
            kills += 1
        vitctl(*line, "--resume", "auto", "--out", out)
        assert kept(tmp_path / out) == kept(tmp_path / "whole"), f"{out}, behind {kills} kills"
        number += 1


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["sqrt", "full"])
def test_two_ranks_train_on_the_images_of_one_and_count_the_same(
    vitctl: Run, skewed: str, tmp_path: Path, balance: str
) -> None:
    line = (*QUICK, "--balance", balance, "--steps", "12", "--set", "log_every=1", "--set", "eval_every=4")
    vitctl(*line, "--out", "one")
    vitctl(*line, "--out", "two", "--devices", "2")
    one, two = (
        [json.loads(text) for text in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("one", "two")
    )
    assert len(one) == len(two) == 15
    for mine, theirs in zip(one, two, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    (first, *_) = [each for each in one if "val_balanced" in each]
    assert first["val_balanced"] == pytest.approx(first["val_top1"]), "val has as many images of each class"


def test_evaluate_says_what_training_said(here: Run, skewed: str, tmp_path: Path) -> None:
    here(*QUICK, "--steps", "20", "--set", "val=train", "--balance", "full", "--out", "run")
    said = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    line = ("evaluate", "--from", "run:last", "--split", "train", "--precision", "float32")
    told = here(*line, "--json").json
    for name in ("top1", "balanced", "macro_f1"):
        assert told[name] == pytest.approx(said[f"val_{name}"]) == here("info", "run", "--json").json["result"][name]
    each = {row["name"]: row for row in told["per_class"]}
    counts = ClassCounts(
        *np.array([[row["pictures"], row["top1"] * row["pictures"], row["answers"]] for row in each.values()]).T
    )
    assert told["balanced"] == pytest.approx(np.mean([row["top1"] for row in each.values()]))
    assert told["balanced"] != pytest.approx(told["top1"])
    assert told["macro_f1"] == pytest.approx(counts.macro_f1)
    assert f"{told['balanced']:.2%}, mean accuracy of the classes; macro F1 {told['macro_f1']:.2%}" in here(*line).out


@pytest.mark.parametrize("best", ["top1", "macro_f1", "balanced", "loss"])
def test_what_chooses_the_best_weights(here: Run, skewed: str, tmp_path: Path, best: str) -> None:
    told = here(*QUICK, "--steps", "20", "--lr", "0.02", "--set", "val=train", "--set", "eval_every=2", "--out",
                  "run", "--set", f"best={best}", "--json").json  # fmt: skip
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "val_loss" in line]
    assert len(evaluated) == 10
    chosen = max(evaluated, key=lambda line: -line["val_loss"] if best == "loss" else line[f"val_{best}"])
    assert told["best_step"] == chosen["step"]
    assert [told[f"best_{name}"] for name in ("top1", "balanced", "macro_f1")] == [
        chosen[f"val_{name}"] for name in ("top1", "balanced", "macro_f1")
    ]


def test_balanced_draws_are_other_images_in_a_run(here: Run, skewed: str) -> None:
    digests = [
        here(*QUICK, "--steps", "4", *more, "--out", f"run-{number}", "--json").json["digest"]
        for number, more in enumerate((
            (), ("--balance", "sqrt"), ("--balance", "full"), ("--set", "loss_weights=effective"),
            ("--set", "logit_adjustment=1"), ("--balance", "none"), ("--set", "logit_adjustment=0")))
    ]  # fmt: skip
    assert len(set(digests[:5])) == 5
    assert digests[0] == digests[5] == digests[6]


def test_learning_rates_are_tried_with_balance_too(here: Run, skewed: str, tmp_path: Path) -> None:
    here(*QUICK, "--steps", "4", "--out", "run")
    line = ("finetune", "--from", "run", "--data", "data.h5", "--steps", "4", "--batch", "8", "--lr", "0.001,0.003")
    told = here(*line, "--balance", "full", "--set", "best=macro_f1", "--out", "tuned", "--json").json
    assert set(told["tried"]) == {"0.001", "0.003"}


def test_an_empty_class_cannot_be_drawn(here: Run, folder: Callable[..., Path], tmp_path: Path) -> None:
    counts = {"train/ant": 4, "train/bee": 4, "train/cow": 4, "val/ant": 4, "val/bee": 4}
    here("patchify", folder(counts), "data.h5", "--res", "16", "--patch", "8", "--workers", "1")
    line = (*QUICK, "--steps", "2", "--set", "split=val", "--set", "val=train", "--out", "run")
    for more, what in (
        (("--balance", "full"), "--balance full"),
        (("--set", "loss_weights=effective"), "loss_weights=effective"),
        (("--set", "logit_adjustment=0.5"), "logit_adjustment=0.5"),
    ):
        assert here(*line, *more, code=3).error == (
            f"error: split val: has no images of 1 class (cow), which {what} needs; add some, or patchify the data "
            "without"
        )
    assert not (tmp_path / "run").exists()
    here(*line)


def test_one_of_them_is_enough(refused: Callable[..., str]) -> None:
    line = refused("pretrain", "--balance", "full", "--set", "loss_weights=effective", code=2)
    assert line == (
        "error: --balance full and loss_weights=effective make up for the sizes of the classes in different ways; "
        "choose one of them"
    )
    line = refused("pretrain", "--set", "logit_adjustment=1", "--set", "loss=sigmoid", code=2)
    assert line == "error: logit_adjustment=1 is of the softmax loss; use --balance, or --set loss=softmax"


def test_a_run_of_an_older_version_goes_on(here: Run, skewed: str, tmp_path: Path) -> None:
    """Its config lacks the fields, and its result lacks the values."""
    line = (*QUICK, "--steps", "6", "--set", "save_every=2")
    here(*line, "--out", "run")
    before = kept(tmp_path / "run")
    config, result = tmp_path / "run" / "config.json", tmp_path / "run" / "result.json"
    facts = json.loads(config.read_text())
    for name in ("balance", "loss_weights", "logit_adjustment", "best"):
        del facts["config"][name]
    config.write_text(json.dumps(facts))
    values = json.loads(result.read_text())
    result.write_text(
        json.dumps({name: value for name, value in values.items() if not name.endswith(("balanced", "f1"))})
    )
    told = here("pretrain", "--resume", "run", "--json").json
    assert (told["top1"], told["balanced"]) == (values["top1"], None)
    here("pretrain", "--resume", "run")
    result.unlink()
    max((tmp_path / "run" / "checkpoints").iterdir()).unlink()
    here("pretrain", "--resume", "run")
    assert kept(tmp_path / "run") == before


def test_a_resumed_run_keeps_its_balance(here: Run, skewed: str) -> None:
    here(*QUICK, "--steps", "4", "--balance", "full", "--out", "run")
    line = here("pretrain", "--resume", "run", "--balance", "none", code=2).error
    assert "balance is 'none' now and was 'full'" in line


def test_the_skewed_set_is_as_it_says(here: Run, skewed: str, tmp_path: Path) -> None:
    labels = PatchFile(tmp_path / "data.h5").split("train").labels()
    assert np.bincount(labels).tolist() == [44, 6, 4]
