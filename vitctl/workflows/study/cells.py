"""A cell of a study: a chain of runs for one choice of factors and one seed, and what comes of it."""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.config.interpolate import InterpolateConfig
from vitctl.config.model import model_spec
from vitctl.io.atomic import write_json
from vitctl.models.count import count
from vitctl.reporting import Reporter
from vitctl.training.ranks import Ranks
from vitctl.workflows.asked import Training
from vitctl.workflows.interpolate import interpolate_positions
from vitctl.workflows.study.speed import answers_a_second
from vitctl.workflows.train.start import device_of

MEASURED = "cell.json"
Factors = dict[str, str | float]


@dataclass(frozen=True)
class Interpolation:
    """Weights for another resolution, on the way from one run to the next."""

    source: Path
    out: Path
    res: str
    method: str

    def make(self, reporter: Reporter) -> None:
        config = InterpolateConfig(self.res, str(self.source), str(self.out), method=self.method)  # type: ignore[arg-type]
        interpolate_positions(config, reporter, overwrite=True)


@dataclass(frozen=True)
class Timing:
    """Answers of a fresh model, a second: in batches of whatever size is quickest."""

    model: str
    pixels: int
    classes: int
    device: str

    def measure(self) -> dict[str, Any]:
        spec = model_spec(self.model, height=self.pixels, width=self.pixels, classes=self.classes)
        began = time.perf_counter()
        rates = answers_a_second(spec, device_of(self.device, Ranks()))
        quickest = max(rates, key=rates.__getitem__)
        return {
            "images_per_s": rates[quickest],
            "batch": quickest,
            "largest_batch": max(rates),
            "parameters": count(spec).parameters,
            "elapsed_s": time.perf_counter() - began,
        }


Step = Training | Interpolation | Timing
KEPT = ("top1", "loss", "parameters", "images_per_s", "batch", "largest_batch")  # of the last step


@dataclass(frozen=True)
class Cell:
    factors: Factors
    seed: int
    folder: Path
    steps: tuple[Step, ...]  # the last one is what is measured

    @property
    def trainings(self) -> list[Training]:
        return [step for step in self.steps if isinstance(step, Training)]

    @property
    def name(self) -> str:
        return self.folder.name

    def measured(self) -> dict[str, Any] | None:
        """What it found, where it is done."""
        path = self.folder / MEASURED
        return json.loads(path.read_text()) if path.exists() else None

    def run(self, reporter: Reporter, keep: bool) -> None:
        began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        results = [done for step in self.steps if (done := attempted(step, reporter)) is not None]
        last, seconds = results[-1], sum(each["elapsed_s"] for each in results)
        found = {
            "factors": self.factors,
            "seed": self.seed,
            **{name: last[name] for name in KEPT if name in last},
            "train_s": seconds,
            "commands": [step.line() for step in self.trainings],
            "digests": [each["digest"] for each in results if "digest" in each],
            "elapsed_s": time.perf_counter() - began,
        }
        write_json(self.folder / MEASURED, found)
        if not keep:
            self.tidy()

    def tidy(self) -> None:
        """What is large goes; what says how it was made stays."""
        for path in list(self.folder.rglob("checkpoints")):
            shutil.rmtree(path)
        for path in list(self.folder.rglob("*.safetensors")):
            path.unlink()


def attempted(step: Step, reporter: Reporter) -> dict[str, Any] | None:
    if isinstance(step, Interpolation):
        step.make(reporter)
        return None
    if isinstance(step, Timing):
        return step.measure()
    return vars(step.train_unlabelled(reporter) if step.command == "selfsup" else step.train(reporter))


def slug(factors: Factors, seed: int) -> str:
    words = [f"{name}-{value}" for name, value in factors.items()]
    return re.sub(r"[^\w.+-]+", "-", "_".join([*words, f"seed-{seed}"]))
