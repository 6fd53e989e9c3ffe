"""Runs that are killed again and again, at any moment, end in the bytes of one that was left alone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.workflows.train.result import TrainResult

KILLS = 13  # of each of sixteen kinds of run
KILLS_ON_A_SLOW_DISK = 50
LONGEST = 0.6  # seconds between the first sign of life and the kill
COMMON = (
    "--data", "data.h5", "--batch", "8", "--micro-batch", "4", "--device", "cpu", "--steps", "240", "--set",
    "ema=0.9", "--set", "save_every=3", "--set", "eval_every=20", "--set", "log_every=3")  # fmt: skip
COMMANDS = {
    "pretrain": ("pretrain", "--model", "vit-mu/8", "--recipe", "small", "--set", "dropout=0.1", *COMMON),
    "muon": (
        "pretrain", "--model", "vit-mu/8", "--recipe", "small", "--set", "optim.name=muon", "--set", "init=mimetic",
        *COMMON),
    "finetune": (
        "finetune", "--from", "weights.safetensors", "--res", "24", "--lr", "0.01,0.03", "--set", "drop_path=0.1",
        "--set", "augment.mixup=0.2", *COMMON),
    "selfsup": (
        "selfsup", "--model", "vit-mu/4", "--objective", "mae", "--probe", "2", "--set", "masking.decoder_dim=16",
        "--set", "masking.decoder_depth=1", "--set", "masking.decoder_heads=2", *COMMON)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_runs_end_in_the_bytes_of_an_undisturbed_one(
    data: str,
    trained: TrainResult,
    vitctl: Callable[..., Any],
    tmp_path: Path,
    command: str,
    precision: str,
    ranks: int,
) -> None:
    shutil.copy(trained.weights, tmp_path / "weights.safetensors")
    line = (*COMMANDS[command], "--precision", precision, *(("--devices", "2") if ranks == 2 else ()))
    vitctl(*line, "--out", "whole")
    chance = random.Random(f"{command} {precision} {ranks}")
    kills, number = 0, 0
    while kills < KILLS:
        out = f"run-{number}"
        while kills < KILLS and killed((*line, "--resume", "auto", "--out", out), tmp_path, out, chance):
            kills += 1
        vitctl(*line, "--resume", "auto", "--out", out)
        assert kept(tmp_path / out) == kept(tmp_path / "whole"), f"{out}, behind {kills} kills"
        number += 1


SLOWED = """
import time
from vitctl.cli import main
from vitctl.io.background import Background

put = Background.put

def put_slowly(self, write, *arguments):
    put(self, lambda: (time.sleep(0.03), write(*arguments)))

Background.put = put_slowly
main()
"""
ON_A_SLOW_DISK = {
    "pretrain": COMMANDS["pretrain"],
    "study": ("study", "head", "--data", "data.h5", "--steps", "60", "--seeds", "1", "--set", "size=mu", "--set",
              "batch=8", "--set", "keep=true", "--set", "save_every=2", "--set", "log_every=3", "--set",
              "micro_batch=4")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", ON_A_SLOW_DISK)
def test_on_a_slow_disk_kills_change_no_byte(
    data: str, vitctl: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    """Every checkpoint is written 30 ms after it was taken."""
    line, program = ON_A_SLOW_DISK[command], ("-c", SLOWED)
    resumed = (*line, "--resume", "auto") if command == "pretrain" else line
    vitctl(*line, "--out", "whole")
    chance, kills, number = random.Random(command), 0, 0
    while kills < KILLS_ON_A_SLOW_DISK:
        out = f"run-{number}"
        while kills < KILLS_ON_A_SLOW_DISK and killed((*resumed, "--out", out), tmp_path, out, chance, program):
            kills += 1
        vitctl(*resumed, "--out", out)
        assert kept(tmp_path / out) == kept(tmp_path / "whole"), f"{out}, behind {kills} kills"
        number += 1


def killed(
    line: tuple[str, ...], folder: Path, out: str, chance: random.Random, program: tuple[str, ...] = ("-m", "vitctl")
) -> bool:
    """Kills it and all that it started at some moment of its work; False where it was done before."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, *program, *line]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=-1, start_new_session=True
    )
    before = signs(folder / out)
    while signs(folder / out) == before and process.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, LONGEST))
    is_running = process.poll() is None
    if is_running:
        os.killpg(process.pid, signal.SIGKILL)
    told = process.communicate()[1].decode()
    assert is_running or process.returncode == 0, told
    return is_running


def signs(run: Path) -> set[tuple[str, int]]:
    """Everything below it and how long it is."""
    found = set()
    for path in run.rglob("*"):
        try:
            found.add((str(path), path.stat().st_size))
        except OSError:  # renamed meanwhile
            continue
    return found


def kept(run: Path) -> dict[str, bytes]:
    names = ("weights.safetensors", "best.safetensors", "metrics.jsonl")
    paths = [path for name in names for path in run.rglob(name)] + [
        *run.rglob("checkpoints/*"),
        *run.rglob("reconstructions/*"),
    ]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}
