"""`--minutes` and `--patience` of the real command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vitctl.io.run_directory import open_run
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]
QUICK = (
    "pretrain",
    "--model",
    "vit-mu/8",
    "--batch",
    "16",
    "--device",
    "cpu",
    "--precision",
    "float32",
    "--out",
    "run",
)
BUSY = "while True: sum(range(10**6))"


def test_a_run_of_minutes_says_how_many_steps_fit(ran: Run, data: str, tmp_path: Path) -> None:
    answer = ran(*QUICK, "--minutes", "0.1", "--json")
    told, run = json.loads(answer.stdout), open_run(tmp_path / "run")
    assert "0.1 minutes in steps of 16 images, out of 120" in answer.stderr
    assert (told["minutes"], told["stopped"]) == (0.1, None)
    assert told["steps"] == run.plans()[-1]["plan"]["steps"] == run.metrics()[-1]["step"]
    assert [line["share"] for line in run.metrics() if "share" in line][-1] == 1
    assert ran(*QUICK, "--minutes", "0.1", "--json", "--resume", "auto").stdout == answer.stdout
    assert "minutes is 0.2 now and was 0.1" in ran(*QUICK, "--minutes", "0.2", "--resume", "run", code=2).stderr


def test_too_little_time_is_said_in_a_line(ran: Run, data: str, tmp_path: Path) -> None:
    answer = ran(*QUICK, "--minutes", "0.001")
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("warning: ")]
    assert line == (
        "warning: 0s do not suffice for the start, an evaluation, the saving and the steps between; "
        f"training for {open_run(tmp_path / 'run').metrics()[-1]['step']} steps"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--minutes", "0"), "minutes is 0.0; it must be above 0"),
        (("--minutes", "-3"), "minutes is -3.0; it must be above 0"),
        (("--minutes", "1", "--epochs", "3"), "both epochs and minutes are given; give one of them"),
        (("--minutes", "1", "--steps", "3"), "both steps and minutes are given; give one of them"),
        (("--patience", "0"), "patience is 0"),
        (("--patience", "2", "--set", "eval_every=0"), "patience needs evaluations; leave out eval_every=0"),
        (("--patience", "2", "--set", "val=dev"), "has no images in split dev, which patience needs"),
    ],
)
def test_what_is_refused(
    refused: Callable[..., str], data: str, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    assert words in refused(*QUICK, *flags, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_minutes_replace_the_epochs_of_a_recipe_and_of_its_warm_up(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*QUICK, "--recipe", "paper/vit-i1k", "--set", "res=16", "--minutes", "0.05")  # 10,000 steps of warm-up
    config = open_run(tmp_path / "run").config["config"]
    assert (config["minutes"], config["epochs"], config["steps"]) == (0.05, None, None)


@pytest.mark.slow
def test_trials_of_learning_rates_share_the_minutes(ran: Run, data: str, trained: TrainResult, tmp_path: Path) -> None:
    shutil.copy(str(trained.weights), tmp_path / "weights.safetensors")
    line = ("finetune", "--from", "weights.safetensors", "--batch", "8", "--device", "cpu", "--out", "run")
    ran(*line, "--lr", "0.01,0.03", "--minutes", "0.15")
    used = [
        max(line["used_s"] for line in open_run(tmp_path / "run").part(part).plans())
        for part in ("trials/lr-0.01", "trials/lr-0.03", ".")
    ]
    assert used == sorted(used)


def test_flags_that_the_help_leaves_out_still_work(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*QUICK, "--steps", "2", "--micro-batch", "4", "--parallel", "ddp")
    assert open_run(tmp_path / "run").config["config"]["micro_batch"] == "4"


@pytest.mark.slow
def test_ranks_agree_on_the_plans(vitctl: Run, data: str, tmp_path: Path) -> None:
    told = vitctl(*QUICK, "--minutes", "0.2", "--devices", "2", "--json").json
    assert told["ranks"] == 2
    assert told["steps"] == open_run(tmp_path / "run").plans()[-1]["step"]


def test_a_run_that_is_stopped_goes_on_with_the_time_that_is_left(vitctl: Run, data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_in_background((*QUICK, "--minutes", "5"), tmp_path)
    wait_for(lambda: (run / "plans.jsonl").exists() and len(open_run(run).plans()) > 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    plans = open_run(run).plans()
    lines = [json.dumps(line | {"used_s": line["used_s"] + 300}) for line in plans]  # as if it had used all
    (run / "plans.jsonl").write_text("\n".join(lines) + "\n")
    told = vitctl(*QUICK, "--minutes", "5", "--resume", "run", "--json").json
    assert told["elapsed_s"] > 300
    assert float((run / "clock.txt").read_text()) > 300
    assert told["steps"] <= plans[-1]["step"] + 4


# --- by the clock ----------------------------------------------------------------------------------------------------


def start_in_background(line: tuple[str, ...], folder: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "vitctl", *line]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(is_so: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not is_so():
        assert process.poll() is None
        time.sleep(0.05)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_five_minutes_end_within_fifteen_seconds_of_it_whatever_else_runs(data: str, tmp_path: Path) -> None:
    """Half way, each core gets something else to do."""
    start_time = time.monotonic()
    process = start_in_background((*QUICK, "--minutes", "5"), tmp_path)
    time.sleep(150)
    with busy_cores(os.cpu_count() or 1):
        assert process.wait() == 0
    assert abs(time.monotonic() - start_time - 300) < 15


@pytest.mark.slow
def test_killed_and_resumed_five_minutes_are_five_minutes_of_all_processes(data: str, tmp_path: Path) -> None:
    line, total = (*QUICK, "--minutes", "5", "--resume", "auto"), 0.0
    for seconds in (70, 100, None):
        start_time = time.monotonic()
        process = start_in_background(line, tmp_path)
        if seconds:
            time.sleep(seconds)
            process.kill()
        assert process.wait() == (-signal.SIGKILL if seconds else 0)
        total += time.monotonic() - start_time
    assert abs(total - 300) < 15
