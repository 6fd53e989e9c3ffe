"""A cell of a study: a chain of runs for one choice of factors and one seed, and its result."""

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
from vitctl.workflows.study.speed import measure_image_rates
from vitctl.workflows.subcommands import Training

RESULT = "cell.json"
Factors = dict[str, str | float]


@dataclass(frozen=True)
class Interpolation:
    """Interpolates the weights to another resolution between two runs."""

    source: Path
    out: Path
    res: Res
    method: Method

    def make(self, reporter: Reporter) -> None:
        config = InterpolateConfig(res=self.res, source=str(self.source), out=str(self.out), method=self.method)
        interpolate_positions(config, reporter, overwrite=True)


@dataclass(frozen=True)
class Timing:
    """Images a second through a fresh model, at the fastest batch size."""

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
        spec, start_time = self.spec, time.perf_counter()
        rates = measure_image_rates(spec, choose_device(self.device, Ranks()))
        fastest = max(rates, key=rates.__getitem__)
        return {
            "images_per_s": rates[fastest],
            "batch": fastest,
            "largest_batch": max(rates),
            "parameters": count(spec).parameters,
            "elapsed_s": time.perf_counter() - start_time,
        }


Step = Training | Interpolation | Timing
RESULT_KEYS = ("top1", "loss", "parameters", "device", "images_per_s", "batch", "largest_batch")  # of the last step


@dataclass(frozen=True)
class Cell:
    factors: Factors
    seed: int
    folder: Path
    steps: tuple[Step, ...]  # the last one gives the score
    plan: dict[str, Any]  # shared by all cells of the study

    @property
    def trainings(self) -> list[Training]:
        return [step for step in self.steps if isinstance(step, Training)]

    @property
    def name(self) -> str:
        return self.folder.name

    def result(self) -> dict[str, Any] | None:
        """The stored result; None until the cell is done."""
        path = self.folder / RESULT
        if not path.exists():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        if result["plan"] != self.plan:
            raise DataError(f"{path}: belongs to a study with other steps, batch or data, so it cannot be used here")
        return result

    def run(self, reporter: Reporter, keep: bool) -> None:
        """Run all steps and store the result. A run that diverges or runs out of memory is stored as a failure."""
        start_time = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            results = [run_step(step, reporter) for step in self.steps]
            outcome = self.outcome([each for each in results if each is not None])
        except NoSpace:
            raise
        except RunError as error:
            outcome = {"failed": str(error)}
        outcome |= {"commands": [step.line() for step in self.trainings], "elapsed_s": time.perf_counter() - start_time}
        identity = {"factors": self.factors, "seed": self.seed, "plan": self.plan}
        write_json(self.folder / RESULT, identity | outcome)
        if not keep:
            tidy(self.folder)

    def outcome(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        last = results[-1]
        return {
            **{name: last[name] for name in RESULT_KEYS if name in last},
            "train_s": sum(map(step_seconds, results)),
            "digests": [each["digest"] for each in results if "digest" in each],
        }


def tidy(folder: Path) -> None:
    """Delete checkpoints and weights; configs and logs stay."""
    for path in list(folder.rglob("checkpoints")):
        shutil.rmtree(path)
    for path in list(folder.rglob("*.safetensors")):
        path.unlink()


def step_seconds(result: dict[str, Any]) -> float:
    """Seconds of all steps at the rate of the last process; if it had no steps left, its total time."""
    if not result.get("images_per_s") or "steps" not in result:
        return float(result["elapsed_s"])
    return float(result["steps"] * result["batch"] / result["images_per_s"])


def run_step(step: Step, reporter: Reporter) -> dict[str, Any] | None:
    if isinstance(step, Interpolation):
        step.make(reporter)
        return None
    if isinstance(step, Timing):
        return step.measure()
    return dict(vars(step.train(reporter)))


def cell_folder_name(factors: Factors, seed: int) -> str:
    words = [f"{name}-{value}" for name, value in factors.items()]
    return re.sub(r"[^\w.+-]+", "-", "_".join([*words, f"seed-{seed}"]))
