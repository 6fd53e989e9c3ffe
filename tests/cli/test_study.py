"""Studies, as small as they get: every grid can be priced, some run whole, and one that is stopped ends the same."""

import csv
import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitctl.config.model import model_spec
from vitctl.config.study import NAMES, StudyConfig
from vitctl.reporting import SilentReporter
from vitctl.workflows.study import open_study_data
from vitctl.workflows.study.grids import STUDIES
from vitctl.workflows.study.plan import make_setting
from vitctl.workflows.study.price import Prices
from vitctl.workflows.study.speed import measure_image_rates

Run = Callable[..., Any]
TINY = ("--data", "digits", "--steps", "2", "--seeds", "1", "--set", "size=mu", "--set", "batch=4")
LARGER = ("36x36", "100x100")
QUICK = ("head", "optimizer", "resolution")  # to price within a budget
ON_DIGITS = [name for name in NAMES if name != "vtab"]


@pytest.fixture
def studied(ran: Run) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        return dict(json.loads(ran("study", *arguments, "--quiet", "--json", code=code).stdout))

    return run


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("cells/*/cell.json"))}


@pytest.mark.parametrize(
    ("name", "scale"),
    [(name, "paper") for name in ON_DIGITS]
    + [pytest.param(name, "budget", marks=[] if name in QUICK else pytest.mark.slow) for name in ON_DIGITS],
)
def test_every_grid_is_priced_before_it_runs(studied: Run, tmp_path: Path, name: str, scale: str) -> None:
    found = studied(name, "--data", "digits", "--scale", scale, "--dry-run")
    assert (found["done"], found["rows"]) == (0, [])
    assert found["cells"] % found["seeds"] == 0
    assert found["expected_s"] > 0
    if name != "speed":
        assert found["flops"] > 0
        assert (found["steps"] is None) == (scale == "paper")
    if scale == "budget" and name != "speed":
        assert found["scaled_down"]
        assert found["expected_s"] <= 600 or any("longer than the budget" in line for line in found["scaled_down"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("size", ["28x28", "48x64", *(pytest.param(size, marks=pytest.mark.slow) for size in LARGER)])
def test_grids_fit_images_of_any_size(folder: Run, ran: Run, tmp_path: Path, size: str) -> None:
    height, width = map(int, size.split("x"))
    folder({"train/one": 4, "train/two": 4, "test/one": 2, "test/two": 2}, ending="png")
    ran("patchify", "pictures", "odd.h5", "--res", size, "--patch", str(math.gcd(height, width)), "--quiet")
    for name in ON_DIGITS:
        config = StudyConfig(name=name, data="odd.h5")  # type: ignore[arg-type]
        data = open_study_data(config, SilentReporter())
        setting, told = make_setting(config, data, tmp_path)
        assert told == [f"images of {size} are resized to {setting.side}x{setting.side}"]
        prices = Prices(data, None, lambda spec: 1e-3, torch.device("cpu"))
        assert prices.total(list(STUDIES[name].grid(setting))).seconds > 0


def test_positions_end_in_a_table_and_a_figure(studied: Run, ran: Run, tmp_path: Path) -> None:
    found = studied("positions", *TINY)
    assert [tuple(row["factors"].values()) for row in found["rows"]] == [
        ("none", "stem"), ("1d", "stem"), ("1d", "every"), ("1d", "shared"), ("2d", "stem"), ("2d", "every"),
        ("2d", "shared"), ("relative", "every"), ("relative", "shared"), ("rope", "stem")]  # fmt: skip
    assert (found["done"], found["cells"]) == (10, 10)
    with Image.open(found["figure"]) as figure:
        assert figure.width > 500
    with open(found["table"], newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["mean"]) for line in table] == pytest.approx([row["mean"] for row in found["rows"]], abs=1e-6)
    kept = json.loads((tmp_path / "runs/study-positions/result.json").read_text())
    assert kept["rows"] == found["rows"]
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
    assert "beats none" in ran("study", "positions", *TINY).stdout  # again: all is there
    refusal = ran("study", "positions", *TINY[:-6], "--seeds", "2", code=2).stderr
    assert "was started with another config" in refusal
    assert "--overwrite" in refusal


def test_a_command_of_a_cell_gives_its_numbers_again(studied: Run, ran: Run, tmp_path: Path) -> None:
    studied("resolution", *TINY)
    found = cells(tmp_path / "runs/study-resolution")["pixels-16_positions-interpolated_seed-0"]
    first = found["commands"][0].split()
    again = json.loads(ran(*first[1:-1], "again", "--json", "--quiet").stdout)
    assert again["digest"] == found["digests"][0]


def test_fields_of_training_are_set_in_every_run(studied: Run, ran: Run, tmp_path: Path) -> None:
    studied("selfsup", *TINY, "--set", "augment.flip=0.25")
    lines = [line for each in cells(tmp_path / "runs/study-selfsup").values() for line in each["commands"]]
    assert len(lines) == 12
    configs = [json.loads(path.read_text()) for path in (tmp_path / "runs/study-selfsup").rglob("*/*/config.json")]
    runs = [each["config"] for each in configs if each["command"] != "study"]
    assert [run["augment"]["flip"] for run in runs] == [0.25] * 12
    refusal = ran("study", "selfsup", *TINY, "--set", "augment.flip=0.5", code=2).stderr
    assert "settings was ['augment.flip=0.25']" in refusal
    assert "did you mean 'flip'" in ran("study", "selfsup", *TINY, "--set", "augment.flp=0", code=2).stderr


def test_cells_that_begin_alike_share_their_first_run(studied: Run, tmp_path: Path) -> None:
    studied("resolution", *TINY, "--seeds", "2")
    found = cells(tmp_path / "runs/study-resolution")
    firsts = {seed: {each["digests"][0] for each in found.values() if each["seed"] == seed} for seed in (0, 1)}
    assert [len(digests) for digests in firsts.values()] == [1, 1]
    assert firsts[0] != firsts[1]
    assert len(list((tmp_path / "runs/study-resolution/shared").iterdir())) == 2


def test_cells_of_several_machines_come_together(studied: Run, tmp_path: Path) -> None:
    whole = studied("head", *TINY, "--out", "whole")
    one = studied("head", *TINY, "--cells", "1/2", "--out", "one")
    assert (one["done"], one["cells"]) == (3, 6)
    studied("head", *TINY, "--cells", "2/2", "--out", "two")
    shutil.copytree(tmp_path / "two/cells", tmp_path / "one/cells", dirs_exist_ok=True)
    together = studied("head", *TINY, "--out", "one")
    means = [[(row["factors"], row["values"]) for row in each["rows"]] for each in (together, whole)]
    assert means[0] == means[1]
    assert together["done"] == 6


def test_cells_of_other_studies_are_not_taken_for_these(studied: Run, ran: Run, tmp_path: Path) -> None:
    studied("head", *TINY, "--cells", "1/6", "--out", "one")
    studied("head", *TINY, "--steps", "3", "--cells", "2/6", "--out", "two")
    shutil.copytree(tmp_path / "two/cells", tmp_path / "one/cells", dirs_exist_ok=True)
    assert "with other steps, batch or data" in ran("study", "head", *TINY, "--out", "one", code=3).stderr


def test_a_chain_that_is_stopped_in_its_last_run_goes_on(studied: Run, tmp_path: Path) -> None:
    studied("resolution", *TINY, "--set", "keep=true", "--out", "study")
    before = cells(tmp_path / "study")
    for name in before:
        (tmp_path / "study/cells" / name / "cell.json").unlink()
    assert studied("resolution", *TINY, "--set", "keep=true", "--out", "study")["done"] == 5
    after = cells(tmp_path / "study")
    assert {name: each["digests"] for name, each in after.items()} == {
        name: each["digests"] for name, each in before.items()}  # fmt: skip
    assert {name: each["train_s"] for name, each in after.items()} == {
        name: each["train_s"] for name, each in before.items()}  # fmt: skip


def test_a_run_that_was_killed_behind_its_last_checkpoint_goes_on(studied: Run, tmp_path: Path) -> None:
    """No step is left, so there is no rate to divide by."""
    studied("head", *TINY, "--set", "keep=true", "--out", "study")
    before = cells(tmp_path / "study")
    for pattern in ("cells/*/cell.json", "cells/*/*/result.json"):
        for path in (tmp_path / "study").glob(pattern):
            path.unlink()
    assert studied("head", *TINY, "--set", "keep=true", "--out", "study")["done"] == 6
    after = cells(tmp_path / "study")
    assert {name: each["digests"] for name, each in after.items()} == {
        name: each["digests"] for name, each in before.items()}  # fmt: skip
    assert all(each["train_s"] > 0 for each in after.values())


def test_what_is_for_another_study_is_refused(ran: Run) -> None:
    assert "--from is for the study vtab" in ran("study", "head", "--from", "w", "--dry-run", code=2).stderr
    assert "budget is 0" in ran("study", "head", "--budget", "0", "--dry-run", code=2).stderr


def test_one_that_is_stopped_ends_as_one_that_was_not(studied: Run, tmp_path: Path) -> None:
    studied("head", *TINY, "--out", "whole")
    words = ["vitctl", "study", "head", *TINY, "--out", "stopped"]
    child = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("stopped/cells/*/cell.json")):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    told = child.communicate()[1]
    assert child.returncode == 130, told
    assert "continue with: vitctl study head" in told
    assert 1 <= len(cells(tmp_path / "stopped")) < 6
    assert studied("head", *TINY, "--out", "stopped")["done"] == 6
    digests = [{name: each["digests"] for name, each in cells(tmp_path / run).items()} for run in ("stopped", "whole")]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_speed_is_measured_in_images_a_second(studied: Run) -> None:
    found = studied("speed", "--data", "digits", "--seeds", "1", "--set", "size=mu")
    assert found["score"] == "images_per_s"
    assert all(row["mean"] > 0 and row["more"]["largest_batch"] >= 1 for row in found["rows"])


def test_vtab_is_many_tasks_and_the_means_of_their_groups(studied: Run, ran: Run, folder: Run, tmp_path: Path) -> None:
    for group, task in (("natural", "cats"), ("natural", "dogs"), ("structured", "dots")):
        folder({"train/one": 6, "train/two": 6, "test/one": 4, "test/two": 4}, ending="png")
        (tmp_path / "tasks" / group).mkdir(parents=True, exist_ok=True)
        ran("patchify", "pictures", f"tasks/{group}/{task}.h5", "--res", "16", "--patch", "8", "--quiet")
        shutil.rmtree(tmp_path / "pictures")
    ran("pretrain", "--model", "vit-mu/8", "--data", "digits", "--res", "16", "--steps", "2", "--out", "w", "--quiet")
    small = ("--steps", "2", "--seeds", "1", "--set", "batch=4")
    found = studied("vtab", "--data", "tasks", "--from", "w", *small)
    assert [(each["group"], each["tasks"]) for each in found["groups"]] == [
        ("natural", 2), ("structured", 1), ("all tasks", 3)]  # fmt: skip
    mean = sum(row["mean"] for row in found["rows"]) / 3
    assert found["groups"][-1]["mean"] == pytest.approx(mean)
    assert "needs --data" in ran("study", "vtab", "--data", "tasks", code=2).stderr


def test_a_model_is_quickest_at_some_batch() -> None:
    rates = measure_image_rates(model_spec("vit-mu/16", height=32, width=32, classes=2), torch.device("cpu"))
    assert list(rates) == [1, 8, 32, 64]
    assert rates[1] < max(rates.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data-size", "scaling", "shape", "optimizer", "selfsup", "axial"])
def test_the_others_run_whole_too(studied: Run, name: str) -> None:
    found = studied(name, *TINY)
    assert found["done"] == found["cells"] == len(found["rows"])
    assert Path(found["figure"]).exists()
