"""Where a run is, and how long it is."""

import math
from dataclasses import dataclass

import torch

from vitctl.config.train import TrainConfig
from vitctl.io.patch_file import Split
from vitctl.reporting import Reporter, counted
from vitctl.training.precision import Precision, chosen
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop


@dataclass(frozen=True)
class Place:
    """What a run works on, and with."""

    train: Split
    val: Split | None
    ranks: Ranks
    device: torch.device
    precision: Precision
    reporter: Reporter
    stop: Stop


def place_of(
    config: TrainConfig,
    train: Split,
    val: Split | None,
    ranks: Ranks,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
) -> Place:
    precision = chosen(config.precision, device)
    steps = total_steps(config, train.rows)
    reporter.note(
        f"{counted(steps, 'step')} of {counted(config.batch, 'picture')}, {steps * config.batch / train.rows:.3g} "
        f"epochs of {train.rows:,}; {device.type}, {precision}" + (f", {ranks.world} ranks" if ranks.world > 1 else "")
    )
    return Place(train, val, ranks, device, precision, reporter, stop)


def total_steps(config: TrainConfig, rows: int) -> int:
    return config.steps or max(1, math.ceil((config.epochs or 1) * rows / config.batch))
