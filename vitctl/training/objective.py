"""What a model is asked for, and what of its answers is counted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.patches import taken


class Batchlike(Protocol):
    """A rank's share of a batch, whatever it is made of."""

    @property
    def first(self) -> int:
        """The place of the first of them in the global batch."""

    def __len__(self) -> int: ...

    def part(self, begin: int, end: int) -> Self: ...


@dataclass(frozen=True)
class Examples:
    pixels: torch.Tensor  # uint8, [B, ...]
    targets: torch.Tensor  # [B], or [B, K] where labels are mixed or smoothed
    labels: torch.Tensor  # int64 [B]
    first: int

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, begin: int, end: int) -> Self:
        own = slice(begin, end)
        return replace(
            self, pixels=self.pixels[own], targets=self.targets[own], labels=self.labels[own], first=self.first + begin
        )


Normalise = Callable[[torch.Tensor], torch.Tensor]  # bytes to what a model takes


class Objective(Protocol):
    def __call__(self, model: nn.Module, examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss, and how many were right."""


class Supervised:
    def __init__(self, normalise: Normalise, loss: Literal["softmax", "sigmoid"] = "softmax") -> None:
        self.normalise = normalise
        self.loss = {"softmax": softmax, "sigmoid": sigmoid}[loss]

    def __call__(self, model: nn.Module, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(self.normalise(examples.pixels)).float()  # [B, K]
        return self.loss(logits, examples.targets), (logits.argmax(-1) == examples.labels).sum()


class Hidden(Protocol):
    """Which patches of each picture are asked for."""

    @property
    def hidden(self) -> torch.Tensor:
        """[B, M]"""

    def part(self, begin: int, end: int) -> Self: ...


@dataclass(frozen=True)
class Masked:
    """Pictures without labels, as patches."""

    pixels: torch.Tensor  # uint8 [B, N, P*P*C]
    corruption: Hidden
    first: int

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, begin: int, end: int) -> Self:
        return replace(
            self,
            pixels=self.pixels[begin:end],
            corruption=self.corruption.part(begin, end),
            first=self.first + begin,
        )


class PatchClasses:
    """Hidden patches are told apart by classes that are made of their bytes."""

    def __init__(self, normalise: Normalise, classes: int, targets: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.normalise, self.classes, self.targets = normalise, classes, targets

    def __call__(self, model: nn.Module, examples: Masked) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss, and the share of answers that are right, summed over the pictures."""
        targets = self.targets(taken(examples.pixels, examples.corruption.hidden))  # [B, M, answers]
        logits = model(self.normalise(examples.pixels), examples.corruption).float()
        logits = logits.reshape(-1, self.classes)
        right = (logits.argmax(-1) == targets.flatten()).float().mean()
        return F.cross_entropy(logits, targets.flatten()), right * len(examples)


class PatchValues:
    """Hidden patches are told number by number."""

    def __init__(self, normalise: Normalise, targets: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.normalise, self.targets = normalise, targets

    def __call__(self, model: nn.Module, examples: Masked) -> tuple[torch.Tensor, torch.Tensor]:
        values = self.normalise(examples.pixels)
        targets = self.targets(taken(values, examples.corruption.hidden))  # [B, M, P*P*C]
        found = model(values, examples.corruption).float()
        return F.mse_loss(found, targets), torch.zeros((), device=found.device)


def softmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def sigmoid(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Each class for itself, summed over the classes as in big_vision."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[-1]).float()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()
