"""A cell of a study: a chain of runs for one choice of factors and one seed, and what comes of it."""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.config.interpolate import InterpolateConfig, Method
from vitctl.config.model import ModelSpec, model_spec
from vitctl.config.res import Res
from vitctl.errors import DataError, NoSpace, RunError
from vitctl.io.atomic import write_json
from vitctl.models.count import count
from vitctl.reporting import Reporter
from vitctl.training.device import choose_device
from vitctl.training.ranks import Ranks
from vitctl.workflows.interpolate import interpolate_positions
from vitctl.workflows.study.speed import answers_a_second
from vitctl.workflows.subcommands import Training

MEASURED = "cell.json"
Factors = dict[str, str | float]


@dataclass(frozen=True)
class Interpolation:
    """Weights for another resolution, on the way from one run to the next."""

    source: Path
    out: Path
    res: Res
    method: Method

    def make(self, reporter: Reporter) -> None:
        config = InterpolateConfig(res=self.res, source=str(self.source), out=str(self.out), method=self.method)
        interpolate_positions(config, reporter, overwrite=True)


@dataclass(frozen=True)
class Timing:
    """Images a second through a fresh model, in batches of whatever size is quickest."""

    model: str
    pixels: int
    channels: int
    classes: int
    device: str

    @property
    def spec(self) -> ModelSpec:
        return model_spec(
            self.model, height=self.pixels, width=self.pixels, channels=self.channels, classes=self.classes
        )

    def measure(self) -> dict[str, Any]:
        spec, began = self.spec, time.perf_counter()
        rates = answers_a_second(spec, choose_device(self.device, Ranks()))
        quickest = max(rates, key=rates.__getitem__)
        return {
            "images_per_s": rates[quickest],
            "batch": quickest,
            "largest_batch": max(rates),
            "parameters": count(spec).parameters,
            "elapsed_s": time.perf_counter() - began,
        }


Step = Training | Interpolation | Timing
KEPT = ("top1", "loss", "parameters", "device", "images_per_s", "batch", "largest_batch")  # of the last step


@dataclass(frozen=True)
class Cell:
    factors: Factors
    seed: int
    folder: Path
    steps: tuple[Step, ...]  # the last one is what is measured
    plan: dict[str, Any]  # what it shares with all cells of its study

    @property
    def trainings(self) -> list[Training]:
        return [step for step in self.steps if isinstance(step, Training)]

    @property
    def name(self) -> str:
        return self.folder.name

    def result(self) -> dict[str, Any] | None:
        """What it found, where it is done."""
        path = self.folder / MEASURED
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        if found["plan"] != self.plan:
            raise DataError(f"{path}: is of a study with other steps, batch or data; it cannot be gathered with these")
        return found

    def run(self, reporter: Reporter, keep: bool) -> None:
        """A run that fails by itself, by a loss that is not finite or for want of memory, is a finding too."""
        began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            found = self.outcome([done for step in self.steps if (done := attempt_step(step, reporter)) is not None])
        except NoSpace:
            raise
        except RunError as error:
            found = {"failed": str(error)}
        found |= {"commands": [step.line() for step in self.trainings], "elapsed_s": time.perf_counter() - began}
        shared = {"factors": self.factors, "seed": self.seed, "plan": self.plan}
        write_json(self.folder / MEASURED, shared | found)
        if not keep:
            tidy(self.folder)

    def outcome(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        last = results[-1]
        return {
            **{name: last[name] for name in KEPT if name in last},
            "train_s": sum(map(seconds_of, results)),
            "digests": [each["digest"] for each in results if "digest" in each],
        }


def tidy(folder: Path) -> None:
    """What is large goes; what says how it was made stays."""
    for path in list(folder.rglob("checkpoints")):
        shutil.rmtree(path)
    for path in list(folder.rglob("*.safetensors")):
        path.unlink()


def seconds_of(result: dict[str, Any]) -> float:
    """Of all steps at the rate of the last process; of a process that had no step left, all of its time."""
    if not result.get("images_per_s") or "steps" not in result:
        return float(result["elapsed_s"])
    return float(result["steps"] * result["batch"] / result["images_per_s"])


def attempt_step(step: Step, reporter: Reporter) -> dict[str, Any] | None:
    if isinstance(step, Interpolation):
        step.make(reporter)
        return None
    if isinstance(step, Timing):
        return step.measure()
    return dict(vars(step.train(reporter)))


def cell_folder_name(factors: Factors, seed: int) -> str:
    words = [f"{name}-{value}" for name, value in factors.items()]
    return re.sub(r"[^\w.+-]+", "-", "_".join([*words, f"seed-{seed}"]))
