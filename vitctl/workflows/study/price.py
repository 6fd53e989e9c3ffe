"""Estimates the cost of cells before they run: operations, and seconds on this device."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitctl.config.model import ModelSpec
from vitctl.config.recipes import recipe
from vitctl.config.train import TrainConfig
from vitctl.models.count import BACKWARD, count
from vitctl.training.device import choose_precision, measure_ceiling
from vitctl.workflows.study.cells import Cell, Timing
from vitctl.workflows.study.speed import BATCHES, SECONDS, seconds_per_image
from vitctl.workflows.subcommands import Training
from vitctl.workflows.train.fresh import FreshConfig, fresh_spec
from vitctl.workflows.train.start import Data

OVERHEAD = 1.5  # seconds of a run outside its steps
USUAL = 0.4  # share of the ceiling, if nothing is timed

Seconds = Callable[[ModelSpec], float]  # of an image in a training step


@dataclass(frozen=True)
class Price:
    flops: float
    seconds: float

    def __add__(self, other: "Price") -> "Price":
        return Price(self.flops + other.flops, self.seconds + other.seconds)


@dataclass(frozen=True)
class Prices:
    """Estimates the cost of cells that train on the same data."""

    data: Data
    source_spec: ModelSpec | None  # of the weights that cells start from
    seconds: Seconds
    device: torch.device

    def total(self, cells: Sequence[Cell]) -> Price:
        """The cost of all cells. A run that several cells continue from counts once."""
        runs = {run: price for cell in cells for run, price in self.runs(cell).items()}
        timings = (self.time(step) for cell in cells for step in cell.steps if isinstance(step, Timing))
        return sum((*runs.values(), *timings), Price(0.0, 0.0))

    def runs(self, cell: Cell) -> dict[Path, Price]:
        return {
            training.out: self.run(spec, pictures)
            for training, (spec, pictures) in zip(cell.trainings, self.trainings_of(cell), strict=True)
        }

    def run(self, spec: ModelSpec, pictures: int) -> Price:
        val_rows = self.data.val.rows if self.data.val else 0
        seconds = self.seconds(spec) * (pictures + val_rows / BACKWARD)
        return Price(BACKWARD * operations(spec) * pictures, seconds + OVERHEAD)

    def time(self, step: Timing) -> Price:
        """At least one batch and half a second for each batch size, after a warm-up batch."""
        forward = guess_from_ceiling(self.device)(step.spec) / BACKWARD
        return Price(0.0, sum(max(SECONDS, batch * forward) + batch * forward for batch in BATCHES[self.device.type]))

    def trainings_of(self, cell: Cell) -> Iterator[tuple[ModelSpec, int]]:
        """For each training: its model, and how many images it processes."""
        geometry = self.data.file.geometry
        spec = self.source_spec and self.source_spec.replace(channels=geometry.channels)
        for training in cell.trainings:
            config, rows = settle_training(training), self.data.train.rows
            if spec is None:
                assert isinstance(config, FreshConfig)  # the first run of a cell starts from scratch
                spec = fresh_spec(config, self.data, len(self.data.file.class_names))
            if config.res and training.config.command == "finetune":
                height, width = config.res
                spec = spec.replace(height=height, width=width)
            yield spec, config.total_steps(min(rows, config.limit or rows)) * config.batch


def settle_training(training: Training) -> TrainConfig:
    """The config with its recipe; every training of a study names one."""
    return training.config.over(recipe(training.config.recipe).config)


@functools.cache
def operations(spec: ModelSpec) -> int:
    return count(spec).flops


def time_models(data: Data, device: torch.device) -> Seconds:
    """Times each model once, for a few steps."""
    return functools.cache(lambda spec: seconds_per_image(spec, data, device))


@functools.cache
def guess_from_ceiling(device: torch.device) -> Seconds:
    """Estimates seconds from the ceiling of this device, for models too large to run on it."""
    rate = USUAL * measure_ceiling(choose_precision("auto", device), device)
    return lambda spec: BACKWARD * operations(spec) / rate
