"""The learning rate, a function of the place in the schedule only."""

import math
from typing import assert_never

from vitctl.config.train import ScheduleConfig


def lr_share(config: ScheduleConfig, step: float, steps: int) -> float:
    """The share of the peak lr at a step, or between two. With a warm-up it is 0 at step 0, as in the official code."""
    warm, cool = config.warmup_steps(steps), config.cooldown_steps(steps)
    value = decay_share(config, step - warm, steps - warm)
    if warm:
        value *= min(1.0, step / warm)
    if cool:
        value *= min(1.0, (steps - step) / cool)
    return value


def decay_share(config: ScheduleConfig, step: float, steps: int) -> float:
    """The share after the warm-up, at `step` of `steps`."""
    progress = min(1.0, max(0.0, step / max(steps, 1)))
    if config.kind == "cosine":
        return config.end + (1 - config.end) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.kind == "linear":
        return config.end + (1 - config.end) * (1 - progress)
    if config.kind == "rsqrt":
        return math.sqrt(config.timescale / (config.timescale + max(0, step)))
    if config.kind == "constant":
        return 1.0
    assert_never(config.kind)
