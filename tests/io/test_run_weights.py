"""Which weights of a run are meant by its name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vitctl.config.res import Res
from vitctl.config.train import PretrainConfig, RunOptions, SelfsupConfig
from vitctl.errors import UsageError, WeightsError
from vitctl.io.run_weights import newest_with_weights, run_weights, split_reference
from vitctl.workflows.inputs.weights import load_weights
from vitctl.workflows.pretrain import pretrain
from vitctl.workflows.selfsup import selfsup

STEPS = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with labels and one without, each with checkpoints of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("runs")
    fields: Any = {"model": "vit-mu/8", "data": "digits", "res": Res(16), "steps": STEPS, "batch": 8}
    fields |= {"precision": "float32", "save_every": 2, "eval_every": 2, "ema": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        pretrain(PretrainConfig(**fields), RunOptions(out=str(folder / "labeled")))
        selfsup(SelfsupConfig(**fields, objective="mean-color"), RunOptions(out=str(folder / "masked")))
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    for name in ("labeled", "masked"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def unfinish(run: Path, *names: str) -> None:
    for name in ("weights.safetensors", "result.json", *names):
        (run / name).unlink()


def test_a_run_means_the_best_where_val_chose_them_and_else_the_last(copied: Path) -> None:
    assert [run_weights(str(copied / name)).file.name for name in ("labeled", "masked")] == [  # type: ignore[union-attr]
        "best.safetensors", "weights.safetensors"]  # fmt: skip
    (note,) = load_weights(copied / "labeled").notes
    assert note == f"the best on val; {copied / 'labeled'}:last are those of the last step"


def test_each_is_called_by_its_name(copied: Path) -> None:
    for name in ("labeled", "masked"):
        last = load_weights(f"{copied / name}:last")
        assert last.about.training["step"] == STEPS
        at_step = {step: load_weights(f"{copied / name}:step-{step}") for step in (4, 6)}
        assert at_step[4].about.training["step"] == 4
        assert at_step[6].spec == last.spec
        assert at_step[6].digest() == last.digest()  # the average, as in the run's own file
        assert at_step[4].digest() != last.digest()
    with pytest.raises(WeightsError, match="no weights called step-3; it has best, last, step-4, step-6"):
        load_weights(f"{copied / 'labeled'}:step-3")
    with pytest.raises(UsageError, match="is not a run directory"):
        load_weights(f"{copied}:best")


def test_a_run_that_was_stopped_has_weights_too(copied: Path) -> None:
    unfinish(copied / "labeled")
    assert "; this run is not finished" in load_weights(copied / "labeled").notes[0]
    (copied / "labeled" / "best.safetensors").unlink()
    unfinish(copied / "masked")
    for name in ("labeled", "masked"):
        weights = load_weights(copied / name)
        assert weights.notes[0] == "of its checkpoint step-6; this run is not finished"
        assert torch.isfinite(weights.tensors["norm.weight"]).all()
        shutil.rmtree(copied / name / "checkpoints")
        if name == "masked":
            assert load_weights(copied / name).notes[0] == "the best so far; this run is not finished"
            (copied / name / "best.safetensors").unlink()
        with pytest.raises(WeightsError, match="has no weights; none were saved yet"):
            load_weights(copied / name)


def test_the_newest_run_with_weights_is_taken(copied: Path) -> None:
    (copied / "young").mkdir()
    (copied / "young" / "config.json").write_text(json.dumps({"command": "pretrain", "version": "1", "config": {}}))
    os.utime(copied / "labeled" / "config.json", (1, 1))
    (copied / "LATEST").write_text("young\n")
    assert newest_with_weights(copied)[0] == copied / "masked"
    assert "young: has no weights" in newest_with_weights(copied)[1]
    (copied / "LATEST").write_text("labeled\n")
    assert newest_with_weights(copied) == (copied / "labeled", "the newest run")


@pytest.mark.parametrize("content", [b"\xff\x00\x80", b"", b"..", b"/etc", b"../elsewhere", b"no such run", b"a\nb"])
def test_a_damaged_latest_is_passed_over(copied: Path, content: bytes) -> None:
    (copied / "LATEST").write_bytes(content)
    path, why = newest_with_weights(copied)
    assert path in (copied / "labeled", copied / "masked")
    assert "names no run of this folder" in why


@pytest.mark.parametrize("name", ["LATEST", "config.json"])
def test_a_pipe_in_a_folder_of_runs_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert run_weights(str(tmp_path)) is None


def test_a_file_with_such_a_name_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a:best").touch()
    assert split_reference(str(tmp_path / "a:best")) == (tmp_path / "a:best", "")
    assert split_reference("timm:best") == (Path("timm:best"), "")
