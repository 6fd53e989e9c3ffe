"""Targets for hidden patches. They are computed from bytes: normalized colors would all fall into one class."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from vitctl.config.masking import MaskingConfig
from vitctl.training.objective import Objective

JOINT_BITS = 12  # up to which a color is one class; with more bits, every channel has its own classes
EPS = 1e-6  # added to a variance, as in MAE


@dataclass(frozen=True)
class MaskedTarget:
    """The target of a hidden patch, and how to draw a prediction."""

    outputs: int  # of the decoder, for each patch
    objective: Objective
    draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # outputs [B, M, outputs], bytes [B, M, X] -> bytes
    remark: str = ""  # about the drawing
    ideal: Callable[[torch.Tensor], torch.Tensor] | None = None  # bytes -> the best possible prediction, if not them


def color_outputs(channels: int, bits: int) -> tuple[int, int]:
    """(predictions per color, classes of each): one of 512 for three bits of three channels."""
    return (1, 2 ** (bits * channels)) if bits * channels <= JOINT_BITS else (channels, 2**bits)


def color_classes(colors: torch.Tensor, bits: int) -> torch.Tensor:
    """[..., C] in 0..255 to int64 [..., answers]; red comes first: (r * 8 + g) * 8 + b."""
    levels: int = 2**bits
    steps = (colors * (levels / 256)).floor().clamp(0, levels - 1).long()
    channels = colors.shape[-1]
    if bits * channels > JOINT_BITS:
        return steps
    weights = torch.tensor([levels**power for power in reversed(range(channels))], device=colors.device)
    return (steps * weights).sum(-1, keepdim=True)


def class_colors(classes: torch.Tensor, channels: int, bits: int) -> torch.Tensor:
    """The middle of each class, [..., C] in 0..255: the inverse of color_classes, for drawing."""
    levels: int = 2**bits
    if bits * channels <= JOINT_BITS:
        powers = torch.tensor([levels**power for power in reversed(range(channels))], device=classes.device)
        classes = classes // powers % levels
    return (classes.float() + 0.5) * (256 / levels)


def square(patches: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 [B, M, P*P*C] -> float [B*M, C, P, P]."""
    side = round((patches.shape[-1] / channels) ** 0.5)
    return patches.float().reshape(-1, side, side, channels).permute(0, 3, 1, 2)


def mean_colors(patches: torch.Tensor, channels: int, config: MaskingConfig) -> torch.Tensor:
    """uint8 [B, M, P*P*C] -> int64 [B, M, answers]."""
    colors = patches.float().reshape(*patches.shape[:2], -1, channels).mean(-2)  # [B, M, C]
    return color_classes(colors, config.bits)


def downsample_colors(patches: torch.Tensor, channels: int, config: MaskingConfig) -> torch.Tensor:
    """The classes of a downsampled patch: int64 [B, M, side * side * answers]."""
    small = F.adaptive_avg_pool2d(square(patches, channels), config.side)  # [B*M, C, s, s]
    classes = color_classes(small.permute(0, 2, 3, 1), config.bits)
    return classes.reshape(*patches.shape[:2], -1)


def normalize_patches(values: torch.Tensor) -> torch.Tensor:
    """Normalize each patch by its own mean and deviation, as in MAE."""
    mean, variance = values.mean(-1, keepdim=True), values.var(-1, keepdim=True)
    return (values - mean) / (variance + EPS).sqrt()
