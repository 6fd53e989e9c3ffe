"""What cells cost, before they run: counted operations, and seconds on this device."""

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

OVERHEAD = 1.5  # seconds of a run that are no steps
USUAL = 0.4  # of the ceiling, where nothing is timed

Seconds = Callable[[ModelSpec], float]  # of an image in a training step


@dataclass(frozen=True)
class Price:
    flops: float
    seconds: float

    def __add__(self, other: "Price") -> "Price":
        return Price(self.flops + other.flops, self.seconds + other.seconds)


@dataclass(frozen=True)
class Prices:
    """What is known of all cells: the data that they train on, and the weights that they begin with, if any."""

    data: Data
    begun: ModelSpec | None
    seconds: Seconds
    device: torch.device

    def total(self, cells: Sequence[Cell]) -> Price:
        """A run that several cells go on from is paid for once."""
        runs = {run: price for cell in cells for run, price in self.runs(cell).items()}
        timings = (self.time(step) for cell in cells for step in cell.steps if isinstance(step, Timing))
        return sum((*runs.values(), *timings), Price(0.0, 0.0))

    def runs(self, cell: Cell) -> dict[Path, Price]:
        return {
            training.out: self.run(spec, pictures)
            for training, (spec, pictures) in zip(cell.trainings, self.trainings_of(cell), strict=True)
        }

    def run(self, spec: ModelSpec, pictures: int) -> Price:
        judged = self.data.val.rows if self.data.val else 0
        took = self.seconds(spec) * (pictures + judged / BACKWARD)
        return Price(BACKWARD * operations(spec) * pictures, took + OVERHEAD)

    def time(self, step: Timing) -> Price:
        """A batch of each size at least, and half a second of each."""
        forward = guess_from_ceiling(self.device)(step.spec) / BACKWARD
        return Price(0.0, sum(max(SECONDS, batch * forward) + batch * forward for batch in BATCHES[self.device.type]))

    def trainings_of(self, cell: Cell) -> Iterator[tuple[ModelSpec, int]]:
        """Of each training: its model, and how many images it sees."""
        geometry = self.data.file.geometry
        before = self.begun and self.begun.replace(channels=geometry.channels)
        for training in cell.trainings:
            config, rows = settle_training(training), self.data.train.rows
            if before is None:
                assert isinstance(config, FreshConfig)  # the first run of a cell starts from scratch
                before = fresh_spec(config, self.data, len(self.data.file.class_names))
            if config.res and training.config.command == "finetune":
                height, width = config.res
                before = before.replace(height=height, width=width)
            yield before, config.total_steps(min(rows, config.limit or rows)) * config.batch


def settle_training(training: Training) -> TrainConfig:
    """The config with its recipe; every training of a study names one."""
    return training.config.over(recipe(training.config.recipe).config)


@functools.cache
def operations(spec: ModelSpec) -> int:
    return count(spec).flops


def time_models(data: Data, device: torch.device) -> Seconds:
    """Each model for a few steps, once."""
    return functools.cache(lambda spec: seconds_per_image(spec, data, device))


@functools.cache
def guess_from_ceiling(device: torch.device) -> Seconds:
    """From the ceiling of this device alone: for models that it cannot hold."""
    rate = USUAL * measure_ceiling(choose_precision("auto", device), device)
    return lambda spec: BACKWARD * operations(spec) / rate
