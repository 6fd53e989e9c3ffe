"""`vitctl bench accuracy`: what vitctl and its peers reach in the same minutes, from scratch, on the same images.

A round trains each of them once, in turn, with the number of the round as the seed.
"""

import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from vitctl.config.bench import BenchConfig
from vitctl.errors import DataError, UsageError
from vitctl.io.run_directory import PLANS, read_lines
from vitctl.machine import cores
from vitctl.reporting import Reporter
from vitctl.training.device import choose_device, choose_precision
from vitctl.training.ranks import Ranks
from vitctl.workflows.bench.measure import CaseTable, Measurement
from vitctl.workflows.bench.resnet import Point, train_resnet

OURS, TIMM, RESNET = "vitctl pretrain", "timm's train.py", "ResNet-18 of torchvision"
RUN_SCRIPT = """
import os, runpy, sys
from PIL import ImageOps
posterize = ImageOps.posterize
ImageOps.posterize = lambda image, bits: posterize(image, max(1, bits))  # timm asks for 0 bits, which Pillow refuses
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CALIBRATION = 0.1  # of the minutes, before timm's script is timed: it takes epochs, so that their time must be known


def keep_curve(runs: list[list[Point]], train: Callable[[int], list[Point]]) -> Measurement:
    """A figure of the bench, in percent, whose curve is kept in `runs`; the next call has the next seed."""

    def measure() -> float:
        runs.append(train(len(runs)))
        return 100 * runs[-1][-1][1]

    return measure


def bench_accuracy(config: BenchConfig, folder: Path, reporter: Reporter) -> Iterator[CaseTable]:
    if not config.data:
        raise UsageError("bench accuracy: name a folder with train/ and val/ or test/, and in them a folder per class")
    data = Path(config.data).resolve()
    split = next((name for name in ("val", "test") if (data / name).is_dir()), None)
    if split is None or not (data / "train").is_dir():
        raise DataError(f"{data}: has no train/ with val/ or test/ beside it; accuracy is measured on the latter")
    device = choose_device("auto", Ranks())
    programs: dict[str, Callable[[int], list[Point]]] = {
        OURS: partial(train_ours, config, data, split, folder),
        TIMM: partial(train_timm, config, data, split, folder, device),
        RESNET: partial(train_resnet, data / "train", data / split, config.res, config.minutes, device),
    }
    skipped = []
    if not config.timm_scripts:
        del programs[TIMM]
        skipped.append(f"{TIMM}: name a checkout of timm with --set timm_scripts=PATH")
    curves: dict[str, list[list[Point]]] = {name: [] for name in programs}

    def remarks(_: dict[str, float]) -> list[str]:
        return [describe_runs(name, runs) for name, runs in curves.items()]

    cases = {name: keep_curve(curves[name], train) for name, train in programs.items()}
    yield CaseTable(
        cases,
        [(OURS, peer) for peer in cases if peer != OURS],
        skipped,
        remarks,
        dict.fromkeys(cases, "% top-1"),
        curves,
    )


def describe_runs(name: str, runs: list[list[Point]]) -> str:
    """Each seed's accuracy, and the minutes that its run took."""
    ends = ", ".join(f"{points[-1][1]:.1%} after {points[-1][0]:.1f} min" for points in runs)
    return f"{name}: {ends}"


def train_ours(config: BenchConfig, data: Path, split: str, folder: Path, seed: int) -> list[Point]:
    run = folder / f"ours-{seed}"
    line = [sys.executable, "-m", "vitctl", "pretrain", "--data", str(data), "--res", str(config.res)]
    line += ["--minutes", str(config.minutes), "--set", f"val={split}", "--seed", str(seed), "--out", str(run)]
    started = time.perf_counter()
    answer = json.loads(run_program([*line, *shlex.split(config.ours), "--json", "-q"], folder))
    accuracies = {line["step"]: line["val_top1"] for line in read_lines(run / "metrics.jsonl") if "val_top1" in line}
    times = {line["step"]: line["used_s"] / 60 for line in read_lines(run / PLANS) if line["step"] in accuracies}
    points = [(minutes, accuracies[step]) for step, minutes in sorted(times.items()) if step < answer["steps"]]
    return [*points, ((time.perf_counter() - started) / 60, answer["top1"])]


def train_timm(
    config: BenchConfig, data: Path, split: str, folder: Path, device: torch.device, seed: int
) -> list[Point]:
    script = Path(config.timm_scripts or "").resolve() / "train.py"
    if not script.is_file():
        raise DataError(f"{script}: does not exist; timm_scripts is a checkout of pytorch-image-models")
    classes = sum(each.is_dir() for each in (data / "train").iterdir())
    line = [sys.executable, "-c", RUN_SCRIPT, str(script), "--device", device.type, "--workers", str(cores())]
    line += ["--amp", "--amp-dtype", "bfloat16"] if choose_precision("auto", device) == "bf16" else []
    line += ["--data-dir", str(data), "--val-split", split, "--num-classes", str(classes)]
    line += ["--img-size", str(config.res), *shlex.split(config.timm.format(res=config.res))]
    line += ["--seed", str(seed), "--output", str(folder / f"timm-{seed}")]
    first, rest = time_epochs([*line, "--epochs", "100000"], folder, 60 * CALIBRATION * config.minutes)
    epochs = max(1, 1 + math.floor((60 * config.minutes - first) / rest))
    warm_up = max(1, epochs // 20)
    points = list(follow_epochs([*line, "--epochs", str(epochs), "--warmup-epochs", str(warm_up)], folder))
    if not points:
        raise DataError(f"{script}: printed no accuracy; run it by hand: {shlex.join(line)}")
    return points


def time_epochs(line: list[str], folder: Path, seconds: float) -> tuple[float, float]:
    """The seconds to the end of the first epoch, and those of a later one. The run is stopped when it has two."""
    ends: list[float] = []
    for minutes, _ in follow_epochs(line, folder, lambda: len(ends) >= 2 and 60 * ends[-1] > seconds):
        ends.append(minutes)
    return 60 * ends[0], 60 * (ends[-1] - ends[0]) / (len(ends) - 1)


TESTED = re.compile(r"Test.*\[ *(\d+)/ *(\d+)\].*Acc@1: *[\d.]+ \( *([\d.]+)\)")


def follow_epochs(line: list[str], folder: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[Point]:
    """The minutes and the top-1 at the end of each epoch of timm's script."""
    started = time.perf_counter()
    log = folder / "timm.txt"
    with subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        try:
            with open(log, "w") as copy:
                for text in program.stdout or ():
                    copy.write(text)
                    found = TESTED.search(text)
                    if found and found[1] == found[2]:
                        yield (time.perf_counter() - started) / 60, float(found[3]) / 100
                        if stop():
                            return
        finally:
            program.kill()
    if program.returncode:
        raise DataError(f"timm's script ended with code {program.returncode}: {log.read_text()[-300:]}")


def run_program(line: list[str], folder: Path) -> str:
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{shlex.join(line)} ended with code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout
