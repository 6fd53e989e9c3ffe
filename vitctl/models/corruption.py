"""Which patches are hidden: a function of (seed, epoch, sample), whatever the rank, the batch or the resumed step."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from vitctl.config.masking import MaskingConfig
from vitctl.randomness import Draws


@dataclass(frozen=True)
class Corruption:
    """Places of patches, int64; the hidden ones are first masked, then swapped, then kept as they are."""

    hidden: torch.Tensor  # [B, M]
    left: torch.Tensor  # [B, N - M]
    others: torch.Tensor  # [B, S], what the swapped ones get
    masked: int

    def part(self, begin: int, end: int) -> "Corruption":
        own = slice(begin, end)
        return replace(self, hidden=self.hidden[own], left=self.left[own], others=self.others[own])

    def to(self, device: torch.device) -> "Corruption":
        return replace(self, **{name: getattr(self, name).to(device) for name in ("hidden", "left", "others")})


def corruption(config: MaskingConfig, patches: int, seed: int, epochs: Any, samples: Any) -> Corruption:
    counts = config.counts(patches)
    draws = Draws(seed, epochs, samples)
    order = torch.as_tensor(draws.bits("hidden", patches)).argsort(dim=1, stable=True)  # [B, N]
    hidden = order[:, : counts.hidden]
    swapped = hidden[:, counts.masked : counts.masked + counts.swapped]
    further = torch.as_tensor(draws.integers("others", patches - 1, counts.swapped)) + 1
    return Corruption(hidden, order[:, counts.hidden :], (swapped + further) % patches, counts.masked)
