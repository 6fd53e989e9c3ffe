"""The data, device and ranks of a run."""

from dataclasses import dataclass

import torch

from vitctl.config.train import TrainConfig
from vitctl.io.patch_file import Split
from vitctl.reporting import Reporter, format_count
from vitctl.training.device import Precision, choose_precision
from vitctl.training.ranks import Ranks
from vitctl.training.stop import Stop


@dataclass(frozen=True)
class Environment:
    train: Split
    val: Split | None
    ranks: Ranks
    device: torch.device
    precision: Precision
    reporter: Reporter
    stop: Stop


def make_environment(
    config: TrainConfig,
    train: Split,
    val: Split | None,
    ranks: Ranks,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
) -> Environment:
    precision = choose_precision(config.precision, device)
    steps = config.total_steps(train.rows)
    reporter.note(
        f"{format_count(steps, 'step')} of {format_count(config.batch, 'image')}, "
        f"{steps * config.batch / train.rows:.3g} epochs of {train.rows:,}; {device.type}, {precision}"
        + (f", {ranks.world} ranks" if ranks.world > 1 else "")
    )
    return Environment(train, val, ranks, device, precision, reporter, stop)
