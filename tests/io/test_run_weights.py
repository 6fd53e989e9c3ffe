"""Which weights RUN, RUN:best, RUN:last and RUN:step-N are."""

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
def copies(runs: Path, tmp_path: Path) -> Path:
    for name in ("labeled", "masked"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def unfinish(run: Path, *names: str) -> None:
    for name in ("weights.safetensors", "result.json", *names):
        (run / name).unlink()


def test_a_run_means_the_best_on_val_after_training_with_labels_or_else_the_last(copies: Path) -> None:
    assert [run_weights(str(copies / name)).file.name for name in ("labeled", "masked")] == [  # type: ignore[union-attr]
        "best.safetensors", "weights.safetensors"]  # fmt: skip
    (note,) = load_weights(copies / "labeled").notes
    assert note == f"the best on val; {copies / 'labeled'}:last for the last step"


def test_best_last_and_step_n(copies: Path) -> None:
    for name in ("labeled", "masked"):
        last = load_weights(f"{copies / name}:last")
        assert last.about.training["step"] == STEPS
        at_step = {step: load_weights(f"{copies / name}:step-{step}") for step in (4, 6)}
        assert at_step[4].about.training["step"] == 4
        assert at_step[6].spec == last.spec
        assert at_step[6].digest() == last.digest()  # the average, as in the run's own file
        assert at_step[4].digest() != last.digest()
    with pytest.raises(WeightsError, match=r"has no weights named step-3; available: best, last, step-4, step-6$"):
        load_weights(f"{copies / 'labeled'}:step-3")
    with pytest.raises(UsageError, match=r"is not a run directory, so it has no weights named best$"):
        load_weights(f"{copies}:best")


def test_an_unfinished_run_has_weights(copies: Path) -> None:
    unfinish(copies / "labeled")
    assert "; the run is not finished" in load_weights(copies / "labeled").notes[0]
    (copies / "labeled" / "best.safetensors").unlink()
    unfinish(copies / "masked")
    for name in ("labeled", "masked"):
        weights = load_weights(copies / name)
        assert weights.notes[0] == "from its checkpoint step-6; the run is not finished"
        assert torch.isfinite(weights.tensors["norm.weight"]).all()
        shutil.rmtree(copies / name / "checkpoints")
        if name == "masked":
            assert load_weights(copies / name).notes[0] == "the best so far; the run is not finished"
            (copies / name / "best.safetensors").unlink()
        with pytest.raises(WeightsError, match="has no weights; none were saved yet"):
            load_weights(copies / name)


def test_the_newest_run_with_weights_is_used(copies: Path) -> None:
    (copies / "young").mkdir()
    (copies / "young" / "config.json").write_text(json.dumps({"command": "pretrain", "version": "1", "config": {}}))
    os.utime(copies / "labeled" / "config.json", (1, 1))
    (copies / "LATEST").write_text("young\n")
    assert newest_with_weights(copies)[0] == copies / "masked"
    assert "young: has no weights" in newest_with_weights(copies)[1]
    (copies / "LATEST").write_text("labeled\n")
    assert newest_with_weights(copies) == (copies / "labeled", "the newest run")


@pytest.mark.parametrize("content", [b"\xff\x00\x80", b"", b"..", b"/etc", b"../elsewhere", b"no such run", b"a\nb"])
def test_a_damaged_latest_is_skipped(copies: Path, content: bytes) -> None:
    (copies / "LATEST").write_bytes(content)
    path, reason = newest_with_weights(copies)
    assert path in (copies / "labeled", copies / "masked")
    assert "LATEST: does not name a run in this folder; pass a run, or remove this file" in reason


@pytest.mark.parametrize("name", ["LATEST", "config.json"])
def test_a_pipe_in_a_folder_of_runs_does_not_block(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert run_weights(str(tmp_path)) is None


def test_a_file_whose_name_looks_like_a_reference(tmp_path: Path) -> None:
    (tmp_path / "a:best").touch()
    assert split_reference(str(tmp_path / "a:best")) == (tmp_path / "a:best", "")
    assert split_reference("timm:best") == (Path("timm:best"), "")
