"""Losses and the number of correct predictions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.models.corruption import Corruption
from vitctl.patches import take_tokens


class Batchlike(Protocol):
    """A rank's share of a batch, labeled or masked."""

    @property
    def first(self) -> int:
        """The index of its first example in the global batch."""

    def __len__(self) -> int: ...

    def part(self, start: int, end: int) -> Self: ...


@dataclass(frozen=True)
class Examples:
    pixels: torch.Tensor  # [B, ...], from 0 to 255; float32 where an augmentation goes beyond, otherwise uint8
    targets: torch.Tensor  # [B], or [B, K] if labels are mixed, smoothed or sets; of numbers, [B, 1]
    labels: torch.Tensor  # int64 [B]; of sets and numbers they say nothing
    first: int

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, end: int) -> Self:
        part = slice(start, end)
        return replace(
            self,
            pixels=self.pixels[part],
            targets=self.targets[part],
            labels=self.labels[part],
            first=self.first + start,
        )


Normalize = Callable[[torch.Tensor], torch.Tensor]  # bytes to the input of a model


class Objective(Protocol):
    def __call__(self, model: nn.Module, examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss, and the number of correct predictions."""


class Supervised:
    def __init__(self, normalize: Normalize, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        """`loss`: of logits [B, K] and targets [B] or [B, K]."""
        self.normalize, self.loss = normalize, loss

    def __call__(self, model: nn.Module, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(self.normalize(examples.pixels)).float()  # [B, K]
        return self.loss(logits, examples.targets), (logits.argmax(-1) == examples.labels).sum()


@dataclass(frozen=True)
class Masked:
    """Images without labels, as patches, some of them hidden."""

    pixels: torch.Tensor  # uint8 [B, N, P*P*C]
    corruption: Corruption
    first: int

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, start: int, end: int) -> Self:
        return replace(
            self,
            pixels=self.pixels[start:end],
            corruption=self.corruption.part(start, end),
            first=self.first + start,
        )


class PatchClasses:
    """Predict hidden patches as classes of color."""

    def __init__(self, normalize: Normalize, classes: int, targets: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.normalize, self.classes, self.targets = normalize, classes, targets

    def __call__(self, model: nn.Module, examples: Masked) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss, and the share of correct predictions, summed over the images."""
        targets = self.targets(take_tokens(examples.pixels, examples.corruption.hidden))  # [B, M, colors]
        logits = model(self.normalize(examples.pixels), examples.corruption).float()
        logits = logits.reshape(-1, self.classes)
        correct = (logits.argmax(-1) == targets.flatten()).float().mean()
        return F.cross_entropy(logits, targets.flatten()), correct * len(examples)


class PatchValues:
    """Predict hidden patches as numbers."""

    def __init__(self, normalize: Normalize, targets: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.normalize, self.targets = normalize, targets

    def __call__(self, model: nn.Module, examples: Masked) -> tuple[torch.Tensor, torch.Tensor]:
        values = self.normalize(examples.pixels)
        targets = self.targets(take_tokens(values, examples.corruption.hidden))  # [B, M, P*P*C]
        predicted = model(values, examples.corruption).float()
        return F.mse_loss(predicted, targets), torch.zeros((), device=predicted.device)


def softmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def mean_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of outputs and standardized numbers [B, 1]."""
    return F.mse_loss(outputs, targets)


def softmax_weighted(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The cross-entropy of each image times the weight [K] of its class, or of its two classes if it is mixed.

    Smoothing is taken back for the weight: most of it goes to classes that the image is not of, and small classes have
    large weights. The mean is not divided by the weights of the batch, as torch does it: it would depend on the
    micro-batch.
    """
    own = weights[targets] if targets.ndim == 1 else (targets @ weights - smoothing * weights.mean()) / (1 - smoothing)
    return (own * F.cross_entropy(logits, targets, reduction="none")).mean()


def softmax_adjusted(logits: torch.Tensor, targets: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """With logits that are higher [K] for frequent classes, so that the model itself need not make them so."""
    return F.cross_entropy(logits + added, targets)


def sigmoid(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each class, summed over the classes as in big_vision."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[-1]).float()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()
