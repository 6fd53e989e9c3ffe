"""Which patches are hidden. It is a function of (seed, epoch, sample), so ranks, batches and resuming do not matter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitctl.config.masking import MaskingConfig
from vitctl.randomness import Draws


@dataclass(frozen=True)
class Corruption:
    """Indices of patches, int64. The hidden ones are, in this order: masked, swapped with another, left unchanged."""

    hidden: torch.Tensor  # [B, M]
    left: torch.Tensor  # [B, N - M], the visible patches
    others: torch.Tensor  # [B, S], the patches that replace the swapped ones
    masked: int

    def part(self, begin: int, end: int) -> "Corruption":
        return self.apply(lambda indices: indices[begin:end])

    def to(self, device: torch.device) -> "Corruption":
        return self.apply(lambda indices: indices.to(device))

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Corruption":
        return replace(self, hidden=change(self.hidden), left=change(self.left), others=change(self.others))


def corruption(config: MaskingConfig, patches: int, seed: int, epochs: Any, samples: Any) -> Corruption:
    counts = config.counts(patches)
    draws = Draws(seed, epochs, samples)
    order = torch.as_tensor(draws.bits("hidden", patches)).argsort(dim=1, stable=True)  # [B, N]
    hidden = order[:, : counts.hidden]
    swapped = hidden[:, counts.masked : counts.masked + counts.swapped]
    step = torch.as_tensor(draws.integers("others", patches - 1, counts.swapped)) + 1  # never 0: another patch
    return Corruption(hidden, order[:, counts.hidden :], (swapped + step) % patches, counts.masked)
