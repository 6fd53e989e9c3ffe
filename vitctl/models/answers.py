"""What the outputs of a model mean: one class, a set of classes, or a number."""

from typing import Any

import torch

from vitctl.io.weights import About


def compute_probabilities(about: About, outputs: torch.Tensor) -> torch.Tensor:
    """Of each class, [B, K], by the loss of the training: they add up to one, or each is between 0 and 1 by itself."""
    return outputs.sigmoid() if about.uses_sigmoid else outputs.softmax(1)


def compute_numbers(about: About, outputs: torch.Tensor) -> Any:
    """float64 [B], from outputs [B, 1]."""
    mean, deviation = about.target
    return outputs[:, 0].cpu().double().numpy() * deviation + mean
