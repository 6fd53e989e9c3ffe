"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) between the neighbors of a batch.

Images 0 and 1 are mixed, 2 and 3, and so on; each pair has its own share, drawn from (seed, epoch, its first sample).
So nothing changes when a batch is split over ranks or micro-batches, as long as these are even.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv

from vitctl.config.augment import AugmentConfig
from vitctl.data.augmentation.operations import box_mask
from vitctl.data.augmentation.resampling import portions, to_device
from vitctl.randomness import Draws


@dataclass(frozen=True)
class MixPlan:
    partner: np.ndarray  # int64 [B]
    lam: np.ndarray  # float32 [B], an image's own share in its mixture: of light, or of area
    cut: np.ndarray  # bool [B], cutmix
    boxes: np.ndarray  # int64 [B, 4]: top, left, bottom, right of what the partner gives; empty where not cut

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """[B, H, W, C] of bytes or any floats -> the same, mixed."""
        result = torch.empty_like(images)
        for part in portions(images, len(images)):
            own = self.shares(part, images)
            others = images.index_select(0, to_device(self.partner[part], images.device))
            mixed = own * images[part].float() + (1 - own) * others.float()
            result[part] = mixed.add_(0.5).to(torch.uint8) if images.dtype == torch.uint8 else mixed.to(images.dtype)
        return result

    def shares(self, part: slice, images: torch.Tensor) -> torch.Tensor:
        """An image's own share in each pixel of its mixture: float32 [n, H, W, 1]."""
        given = box_mask(self.boxes[part], images.shape[1], images.shape[2], images.device).movedim(1, -1)
        lam = to_device(np.where(self.cut, 1, self.lam)[part].astype(np.float32), images.device)
        return lam[:, None, None, None] * ~given

    def targets(self, labels: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
        """Labels int64 [B] -> float32 [B, K]; a label of -1 asks for nothing."""
        known = (labels >= 0)[:, None]
        each = torch.full((len(labels), classes), smoothing / classes, device=labels.device)  # float32 [B, K]
        each.scatter_(1, labels.clamp(min=0)[:, None], 1 - smoothing + smoothing / classes)
        each *= known
        own = to_device(self.lam, labels.device)[:, None]
        return own * each + (1 - own) * each[to_device(self.partner, labels.device)]


class Mixing:
    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def plan(self, epoch: int | torch.Tensor, samples: torch.Tensor, height: int, width: int) -> MixPlan:
        """Keep `samples` [B], and `epoch` where it is [B], on the CPU. A last odd image stays as it is."""
        batch = len(samples) - len(samples) % 2
        epochs = epoch[:batch:2].cpu().numpy() if isinstance(epoch, torch.Tensor) else epoch
        draws = Draws(self.seed, epochs, samples[:batch:2].cpu().numpy())  # of each pair
        cut, lam = self.lambdas(draws)
        boxes = cutmix_boxes(draws, np.where(cut, lam, 1), height, width)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        lam = np.where(cut, 1 - areas / (height * width), lam)  # what the border took from a box is the owner's
        rest = len(samples) - batch
        partner = np.append(np.arange(batch) ^ 1, np.arange(batch, batch + rest))
        return MixPlan(
            partner,
            np.append(lam.repeat(2), np.ones(rest)).astype(np.float32),
            np.append(cut.repeat(2), np.zeros(rest, bool)),
            np.append(boxes.repeat(2, 0), np.zeros((rest, 4), int), 0),
        )

    def lambdas(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """For each pair: is it cutmix, and the first image's share, from Beta(alpha, alpha)."""
        config = self.config
        switch, place, use = draws.uniform("mix", 3).astype(np.float64).T
        chance = config.mix_switch if config.mixup and config.cutmix else float(config.cutmix > 0)
        cut = switch < chance
        alpha = np.where(cut, config.cutmix, config.mixup)
        mixed = (use < config.mix_probability) & (alpha > 0)
        share = betaincinv(np.where(mixed, alpha, 1.0), np.where(mixed, alpha, 1.0), place)  # the inverse of its CDF
        return cut & mixed, np.where(mixed, share, 1.0)


def cutmix_boxes(draws: Draws, lam: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 [pairs, 4]: top, left, bottom, right, of area 1 - lam about a center anywhere, less what falls outside."""
    size = np.array([height, width])
    sides = np.floor(size * np.sqrt(1 - lam)[:, None])
    center = np.floor(draws.uniform("mix-place", 2) * size)
    start = np.clip(center - sides // 2, 0, size)
    stop = np.clip(center + (sides + 1) // 2, 0, size)
    return np.concatenate([start, stop], axis=1).astype(np.int64)
