"""The data, device and ranks of a run."""

import time
from dataclasses import dataclass, field

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
    start_time: float = field(default_factory=time.perf_counter)  # of the command, less what the run used before
    import_seconds: float = 0.0


def make_environment(
    config: TrainConfig,
    train: Split,
    val: Split | None,
    ranks: Ranks,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
    start_time: float,
    import_seconds: float,
) -> Environment:
    precision = choose_precision(config.precision, device)
    images, steps = format_count(config.batch, "image"), config.total_steps(train.rows)
    length = (
        f"{format_count(steps, 'step')} of {images}, {steps * config.batch / train.rows:.3g} epochs of {train.rows:,}"
    )
    if config.minutes:
        length = f"{describe_length(config)} in steps of {images}, out of {train.rows:,}"
    reporter.note(f"{length}; {device.type}, {precision}" + (f", {ranks.world} ranks" if ranks.world > 1 else ""))
    return Environment(train, val, ranks, device, precision, reporter, stop, start_time, import_seconds)


def describe_length(config: TrainConfig) -> str:
    """30 minutes, 500 steps or 7.5 epochs, as it was asked for."""
    if config.minutes:
        return f"{config.minutes:g} minute" + ("s" if config.minutes != 1 else "")
    return format_count(config.steps, "step") if config.steps else f"{config.epochs or 1:g} epochs"
