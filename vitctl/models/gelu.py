"""GELU by its tanh formula, as the official code has it."""

import math

import torch
import torch.nn.functional as F
from torch import nn

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


class TanhGelu(nn.Module):
    """Torch's own, but not where it is compiled for a CPU: there a vector of tanh takes six times one of exp."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return by_sigmoid(x)
        return F.gelu(x, approximate="tanh")


def by_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """(1 + tanh(u)) / 2 is sigmoid(2 * u)."""
    wide = x.float()
    return (wide * torch.sigmoid(wide * (LINEAR + CUBIC * wide * wide))).to(x.dtype)
