"""Several processes that one command starts: how many there may be, and what is said when one of them is gone."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from vitctl.cli.boundary import LOST
from vitctl.cli.launch import ALWAYS, exit_code_of_ranks
from vitctl.machine import cores, cuda_devices

TRAINING = (
    "pretrain", "--model", "vit-mu/8", "--data", "data.h5", "--recipe", "small", "--steps", "60", "--batch", "8",
    "--device", "cpu", "--devices", "2", "--out", "run", "--set", "save_every=1")  # fmt: skip


@pytest.mark.parametrize("command", ["pretrain", "selfsup", "finetune"])
def test_more_processes_than_devices_are_refused(refused: Callable[..., str], command: str) -> None:
    there = max(cores(), ALWAYS)
    line = refused(command, "--device", "cpu", "--devices", "300", code=2)
    assert line == f"error: --devices 300: more than the {there} CPU cores here; use at most {there}"
    line = refused(command, "--devices", str(max(cuda_devices(), there) + 1), code=2)
    assert ("CUDA devices here" if cuda_devices() else "CPU cores here") in line


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "vitctl", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


def ranks_of(launcher: int) -> dict[str, int]:
    """The processes that it started, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0") if parent == launcher else []
        except OSError:  # it is gone, or somebody else's
            continue
        found |= {each.decode()[5:]: int(folder.name) for each in environment if each.startswith(b"RANK=")}
    return found


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("victim", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_killed_rank_is_one_line_that_goes_on(vitctl: Any, tmp_path: Path, data: str, victim: str) -> None:
    process = started(tmp_path, *TRAINING)
    checkpoints = tmp_path / "run" / "checkpoints"
    wait_for(lambda: list(checkpoints.glob("step-*.safetensors")), process)
    os.kill(ranks_of(process.pid)[victim], signal.SIGKILL)
    answer, told = process.communicate(timeout=120)
    assert (process.returncode, answer) == (4, ""), told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    cause, _, command = line.partition("; continue with: ")
    assert cause == f"error: rank {victim} was killed by signal 9 (out of memory? A smaller --micro-batch needs less)"
    assert "Traceback" not in told
    if victim == "1":
        vitctl(*shlex.split(command)[1:])
        assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_ranks_are_ready(tmp_path: Path, data: str, number: int, code: int) -> None:
    process = started(tmp_path, *TRAINING)
    wait_for(lambda: len(ranks_of(process.pid)) == 2, process)
    time.sleep(0.2)  # until the handlers are there
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == code


@pytest.mark.parametrize(
    ("codes", "sent", "code"),
    [
        ((None, 3), (), 3),
        ((LOST, 3), (), 3),
        ((-6, 3), (), 3),  # the one that failed has said why; NCCL aborts the others
        ((LOST, None), (), 0),
        ((LOST, LOST), (), 0),
        ((143, 143), (signal.SIGTERM,), 143),
        ((LOST, 143), (signal.SIGTERM,), 143),
        ((-15, None), (signal.SIGTERM,), 143),
        ((-2, None), (signal.SIGINT,), 130),
        ((130, None), (signal.SIGTERM,), 143),
        ((1, 143), (signal.SIGTERM,), 143),
        ((1, LOST), (), 1),
        ((3, 143), (signal.SIGTERM,), 3),
    ],
)
def test_the_reason_is_that_of_the_rank_that_knows_it(codes: Any, sent: Any, code: int) -> None:
    assert exit_code_of_ranks(codes, sent) == code


@pytest.mark.parametrize(("codes", "rank", "number"), [((LOST, -9), 1, 9), ((-11, LOST), 0, 11), ((None, -6), 1, 6)])
def test_a_signal_that_we_did_not_send(capsys: Any, codes: Any, rank: int, number: int) -> None:
    with pytest.raises(typer.Exit) as stopped:
        exit_code_of_ranks(codes, ())
    assert stopped.value.exit_code == 4
    line = capsys.readouterr().err
    assert line.startswith(f"error: rank {rank} was killed by signal {number}")
    assert ("out of memory" in line) == (number == 9)


def test_a_rank_that_is_no_number_is_one_line(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert "RANK, WORLD_SIZE, LOCAL_RANK in the environment are 0, two, 0" in refused("pretrain", code=2)
