"""Training as a whole, in this process: what may differ between two runs, and what may not."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from vitctl.config.augment import AugmentConfig
from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.config.train import OptimConfig, PretrainConfig, ScheduleConfig
from vitctl.errors import RunError
from vitctl.io import checkpoint
from vitctl.io.patch_file import PatchFile
from vitctl.io.run_directory import RunDirectory
from vitctl.io.weights import About, Tensors, Weights
from vitctl.models.create import collect_tensors, create_model
from vitctl.reporting import SilentReporter
from vitctl.training.environment import Environment
from vitctl.training.fit import Fit
from vitctl.training.pace import FEWEST
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop
from vitctl.training.task import make_labeled_task
from vitctl.workflows.patchify import patchify

STEPS = 12
EVERYTHING = PretrainConfig(
    batch=16,
    steps=STEPS,
    micro_batch="4",
    smoothing=0.1,
    ema=0.9,
    optim=OptimConfig(lr=1e-2, weight_decay=0.1, clip=1.0),
    schedule=ScheduleConfig(kind="cosine", warmup=3),
    augment=AugmentConfig(crop="inception", flip=0.5, brightness=0.2, mixup=0.4, cutmix=0.5, erase=0.2),
    eval_every=4,
    log_every=3,
    save_every=1,
)
PLAIN = dataclasses.replace(EVERYTHING, augment=AugmentConfig(), smoothing=0.0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> PatchFile:
    path = tmp_path_factory.mktemp("data") / "digits.h5"
    patchify(PatchifyConfig(source="digits", out=str(path), res=Res(16), patch=8, limit=150), SilentReporter())
    return PatchFile(path)


def fresh_weights(dropout: float = 0.1) -> Weights:
    rates = dict.fromkeys(("dropout", "drop_path", "patch_dropout"), dropout)
    model: Any = create_model("vit-mu/8", height=16, width=16, channels=1, classes=10, depth=2, **rates)
    return Weights(model.spec, collect_tensors(model), About("vitctl", "", (0.5,), (0.5,)))


class StopsAt(Stop):
    """Asked to stop once so many steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


def fit(
    config: PretrainConfig,
    file: PatchFile,
    folder: Path | None,
    weights: Weights | None = None,
    precision: Any = "float32",
    stop: Stop | None = None,
) -> Fit:
    run = RunDirectory(folder, {}) if folder else None
    if folder:
        folder.mkdir(exist_ok=True)
    env = Environment(
        file.split("train"),
        file.split("val"),
        Ranks(),
        torch.device("cpu"),
        precision,
        SilentReporter(),
        stop or Stop(),
    )
    return Fit(config, make_labeled_task(config, weights or fresh_weights(), env), env, run)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor", "muon"])
def test_stopped_anywhere_it_ends_in_the_same_bytes(
    file: PatchFile, tmp_path: Path, precision: str, optimizer: str
) -> None:
    config = dataclasses.replace(EVERYTHING, optim=dataclasses.replace(EVERYTHING.optim, name=optimizer))
    fit(config, file, tmp_path / "whole", precision=precision).train()
    for step in (1, 5, 4):
        with pytest.raises(BaseException, match="stopped after step"):
            fit(config, file, tmp_path / "parts", precision=precision, stop=StopsAt(step)).train()
    fit(config, file, tmp_path / "parts", precision=precision).train()
    whole, parts = files(tmp_path / "whole"), files(tmp_path / "parts")
    assert set(whole) == set(parts) >= {"metrics.jsonl", "weights.safetensors", "best.safetensors"}
    assert [name for name in whole if whole[name] != parts[name]] == []


def test_a_slow_disk_changes_no_byte_of_a_checkpoint(
    file: PatchFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the background thread writes is a copy: training goes on meanwhile."""
    monkeypatch.setattr(checkpoint, "MAX_CHECKPOINTS", STEPS)
    fit(EVERYTHING, file, tmp_path / "quick").train()
    monkeypatch.setattr(checkpoint, "json", SlowJson)
    fit(EVERYTHING, file, tmp_path / "slow").train()
    quick, slow = files(tmp_path / "quick"), files(tmp_path / "slow")
    assert len([name for name in quick if name.startswith("checkpoints/")]) == STEPS
    assert [name for name in quick if quick[name] != slow[name]] == []


class SlowJson:
    """Looks at what it is given only after a while."""

    @staticmethod
    def dumps(value: Any) -> str:
        time.sleep(0.03)
        return json.dumps(value)


def test_a_finished_run_is_not_trained_again(file: PatchFile, tmp_path: Path) -> None:
    first = fit(PLAIN, file, tmp_path / "run").train()
    again = fit(PLAIN, file, tmp_path / "run").train()
    assert (again.digest, again.val, again.loss) == (first.digest, first.val, first.loss)


def train(file: PatchFile, config: PretrainConfig, weights: Weights | None = None) -> tuple[Tensors, list[Any]]:
    one = fit(config, file, None, weights)
    one.train()
    return one.state.weights(), one.recorder.lines


@pytest.mark.parametrize("micro", ["16", "8", "2"])
def test_micro_batches_change_nothing_but_rounding(file: PatchFile, micro: str) -> None:
    config = dataclasses.replace(EVERYTHING, optim=dataclasses.replace(EVERYTHING.optim, lr=1e-3))
    without = fresh_weights(dropout=0.0)
    ours, _ = train(file, dataclasses.replace(config, micro_batch=micro), without)
    other, _ = train(file, config, without)
    for name, value in ours.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=2e-4)


def test_dropout_is_a_function_of_step_and_place(file: PatchFile) -> None:
    torch.manual_seed(1)
    one = train(file, EVERYTHING)[1]
    torch.manual_seed(2)
    assert train(file, EVERYTHING)[1] == one
    other = train(file, dataclasses.replace(EVERYTHING, seed=1))[1]
    assert other != one


@pytest.mark.parametrize("ramp", [True, False])
def test_the_average_is_the_one_that_is_promised(file: PatchFile, tmp_path: Path, ramp: bool) -> None:
    """average = keep * average + (1 - keep) * weights, from the weights of step 0 on, in float64. With the ramp of
    TensorFlow's ExponentialMovingAverage, keep is at most (1 + t) / (10 + t) at step t."""
    own: list[Tensors] = []
    for steps in range(1, 5):
        config = dataclasses.replace(PLAIN, steps=4, ema=0.0, schedule=ScheduleConfig(kind="constant"))
        one = fit(config, file, None)
        with pytest.raises(BaseException, match="stopped") if steps < 4 else _nothing():
            one.env = dataclasses.replace(one.env, stop=StopsAt(steps) if steps < 4 else Stop())
            one.train()
        own.append(one.state.weights())
    config = dataclasses.replace(PLAIN, steps=4, ema=0.9, ema_ramp=ramp, schedule=ScheduleConfig(kind="constant"))
    averaged, _ = train(file, config)
    for name, first in fresh_weights().tensors.items():
        expected = first.double().numpy()
        for step, weights in enumerate(own, 1):
            keep = min(0.9, (1 + step) / (10 + step)) if ramp else 0.9
            expected = keep * expected + (1 - keep) * weights[name].double().numpy()
        np.testing.assert_allclose(averaged[name].numpy(), expected, atol=1e-6)


class _nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def test_what_is_frozen_stays(file: PatchFile) -> None:
    before = fresh_weights()
    for what, moved in (("backbone", ("head.",)), ("1", ("blocks.1.", "norm.", "head."))):
        after, _ = train(file, dataclasses.replace(PLAIN, freeze=what, steps=3), before)
        changed = {name for name, value in after.items() if not torch.equal(value, before.tensors[name])}
        assert changed
        assert all(name.startswith(moved) for name in changed)
        assert all(any(name.startswith(part) for name in changed) for part in moved)


def test_a_loss_that_is_not_finite_updates_nothing(file: PatchFile, tmp_path: Path) -> None:
    bad = fresh_weights()
    bad.tensors["head.bias"][3] = float("inf")
    one = fit(PLAIN, file, tmp_path / "run", bad)
    with pytest.raises(RunError, match=r"step 0: the loss is nan.*The weights were not updated"):
        one.train()
    assert torch.equal(one.state.weights()["norm.weight"], bad.tensors["norm.weight"])
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_damaged_checkpoint_costs_no_more_than_a_checkpoint(file: PatchFile, tmp_path: Path) -> None:
    fit(PLAIN, file, tmp_path / "whole").train()
    with pytest.raises(BaseException, match="stopped"):
        fit(PLAIN, file, tmp_path / "run", stop=StopsAt(6)).train()
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:1000])
    fit(PLAIN, file, tmp_path / "run").train()
    assert files(tmp_path / "whole") == files(tmp_path / "run")


def test_zero_head_begins_at_ln_k(file: PatchFile) -> None:
    lines = train(file, dataclasses.replace(PLAIN, steps=1, log_every=1, schedule=ScheduleConfig(kind="constant")))[1]
    assert lines[0]["loss"] == pytest.approx(np.log(10), abs=1e-6)


def test_sigmoid_loss_begins_where_the_bias_of_the_head_puts_it(file: PatchFile) -> None:
    one = fresh_weights()
    one.tensors["head.bias"].fill_(-10.0)
    config = dataclasses.replace(PLAIN, steps=1, log_every=1, loss="sigmoid", schedule=ScheduleConfig(kind="constant"))
    expected = np.log1p(np.exp(10.0)) + 9 * np.log1p(np.exp(-10.0))
    assert train(file, config, one)[1][0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_patches_and_images_are_trained_alike(file: PatchFile) -> None:
    """Without augmentation rows of the file go in as they are; a flip that never comes forces images."""
    plain = train(file, dataclasses.replace(PLAIN, steps=3))[0]
    images = train(file, dataclasses.replace(PLAIN, steps=3, augment=AugmentConfig(grayscale=1e-9)))[0]
    assert all(torch.equal(plain[name], images[name]) for name in plain)


# --- runs in minutes -------------------------------------------------------------------------------------------------

TIMED = dataclasses.replace(EVERYTHING, steps=None, minutes=0.05, eval_every=None, log_every=2, save_every=20)


class KilledAt(Stop):
    """The process ends there and then, in the middle of this step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    @property
    def requested(self) -> bool:
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt
        return False


def leave_no_time(timed: Fit) -> None:
    timed.env = dataclasses.replace(timed.env, start_time=timed.env.start_time - 1000)
    timed.pace = timed.recorder.pace = timed.make_pace()


def trained_files(folder: Path) -> dict[str, bytes]:
    """All but the times of the plans."""
    return {name: content for name, content in files(folder).items() if name != "plans.jsonl"}


def test_the_recorded_plans_are_all_that_the_clock_decides(file: PatchFile, tmp_path: Path) -> None:
    """Another run that finds them ends in the same bytes, at whatever speed."""
    first = fit(TIMED, file, tmp_path / "first").train()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "plans.jsonl").write_bytes((tmp_path / "first" / "plans.jsonl").read_bytes())
    second = fit(TIMED, file, tmp_path / "second")
    leave_no_time(second)
    assert second.train() == dataclasses.replace(first, images_per_s=ANY)
    assert trained_files(tmp_path / "first") == trained_files(tmp_path / "second")
    lines = RunDirectory(tmp_path / "first", {}).metrics()
    assert lines[-2]["share"] == 1
    assert sum("val_loss" in line for line in lines) <= 10


@pytest.mark.parametrize("step", [9, 33, 58])
def test_a_timed_run_that_is_killed_repeats_what_it_did(file: PatchFile, tmp_path: Path, step: int) -> None:
    """From the last checkpoint to the last plan or evaluation before the kill, every line of its log is the same."""
    run, config = RunDirectory(tmp_path / "run", {}), dataclasses.replace(TIMED, minutes=10, eval_every=15)
    with pytest.raises(KeyboardInterrupt):
        fit(config, file, run.path, stop=KilledAt(step)).train()
    last, before, plans = max(line["step"] for line in run.plans()), run.metrics(), run.plans()
    with open(run.path / "plans.jsonl", "a") as broken:
        broken.write('{"step": 7')
    resumed = fit(config, file, run.path)
    leave_no_time(resumed)
    resumed.train()
    assert [line for line in run.metrics() if line["step"] <= last] == [line for line in before if line["step"] <= last]
    assert run.plans()[: len(plans)] == plans
    assert run.metrics()[-1]["step"] <= last + 1 + FEWEST


def test_patience_stops_after_so_many_evaluations_without_a_better_one(file: PatchFile, tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, steps=400, patience=3, eval_every=2, log_every=50, optim=OptimConfig(lr=0.0001))
    config = dataclasses.replace(config, schedule=ScheduleConfig(kind="constant"))
    fitted = fit(config, file, tmp_path / "run").train()
    lines = RunDirectory(tmp_path / "run", {}).metrics()
    scores = {line["step"]: line["val_top1"] for line in lines if "val_top1" in line}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert (fitted.best_step, fitted.steps) == (best, best + 3 * 2)
    assert fitted.stopped == f"val has not improved for 3 evaluations, since step {best}"
    assert max(line["step"] for line in lines if "loss" in line) == fitted.steps
    again = fit(config, file, tmp_path / "run").train()
    assert again == dataclasses.replace(fitted, images_per_s=again.images_per_s)
