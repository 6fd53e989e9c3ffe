"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) between neighboring images of a batch.

Images 0 and 1 are mixed, 2 and 3, and so on. Each pair draws its share from (seed, epoch, its first sample). So the
result does not depend on how a batch is divided among ranks and micro-batches, as long as these are even.
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
    lam: np.ndarray  # float32 [B], an image's share of its own mixture: of brightness (mixup) or area (cutmix)
    cut: np.ndarray  # bool [B]: cutmix, not mixup
    boxes: np.ndarray  # int64 [B, 4]: top, left, bottom, right of the partner's part; empty if not cut

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Mixes [B, H, W, C] of uint8 or any float type, to the same type."""
        result = torch.empty_like(images)
        for part in portions(images, len(images)):
            own = self.shares(part, images)
            others = images.index_select(0, to_device(self.partner[part], images.device))
            mixed = own * images[part].float() + (1 - own) * others.float()
            result[part] = mixed.add_(0.5).to(torch.uint8) if images.dtype == torch.uint8 else mixed.to(images.dtype)
        return result

    def shares(self, part: slice, images: torch.Tensor) -> torch.Tensor:
        """float32 [n, H, W, 1]: an image's share of each pixel of its own mixture."""
        partners = box_mask(self.boxes[part], images.shape[1], images.shape[2], images.device).movedim(1, -1)
        lam = to_device(np.where(self.cut, 1, self.lam)[part].astype(np.float32), images.device)
        return lam[:, None, None, None] * ~partners

    def targets(self, labels: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
        """Labels int64 [B] -> float32 [B, K]; zeros for a label of -1."""
        known = (labels >= 0)[:, None]
        smooth = torch.full((len(labels), classes), smoothing / classes, device=labels.device)  # float32 [B, K]
        smooth.scatter_(1, labels.clamp(min=0)[:, None], 1 - smoothing + smoothing / classes)
        smooth *= known
        return self.mix(smooth)

    def mix(self, targets: torch.Tensor) -> torch.Tensor:
        """[B, ...] in the shares of the images."""
        own = to_device(self.lam, targets.device)[:, None]
        return own * targets + (1 - own) * targets[to_device(self.partner, targets.device)]


class Mixing:
    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def plan(self, epoch: int | torch.Tensor, samples: torch.Tensor, height: int, width: int) -> MixPlan:
        """Keep `samples` [B], and `epoch` if it is [B], on the CPU. The last image of an odd batch is not mixed."""
        batch = len(samples) - len(samples) % 2
        epochs = epoch[:batch:2].cpu().numpy() if isinstance(epoch, torch.Tensor) else epoch
        draws = Draws(self.seed, epochs, samples[:batch:2].cpu().numpy())  # per pair
        cut, lam = self.lambdas(draws)
        boxes = cutmix_boxes(draws, np.where(cut, lam, 1), height, width)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        lam = np.where(cut, 1 - areas / (height * width), lam)  # the box may be cut off at the border
        rest = len(samples) - batch
        partner = np.append(np.arange(batch) ^ 1, np.arange(batch, batch + rest))
        return MixPlan(
            partner,
            np.append(lam.repeat(2), np.ones(rest)).astype(np.float32),
            np.append(cut.repeat(2), np.zeros(rest, bool)),
            np.append(boxes.repeat(2, 0), np.zeros((rest, 4), int), 0),
        )

    def lambdas(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Per pair: whether it is cutmix, bool [pairs], and the first image's share, from Beta(alpha, alpha)."""
        config = self.config
        switch, place, use = draws.uniform("mix", 3).astype(np.float64).T
        cut_probability = config.mix_switch if config.mixup and config.cutmix else float(config.cutmix > 0)
        cut = switch < cut_probability
        alpha = np.where(cut, config.cutmix, config.mixup)
        mixed = (use < config.mix_probability) & (alpha > 0)
        share = betaincinv(np.where(mixed, alpha, 1.0), np.where(mixed, alpha, 1.0), place)  # the inverse of its CDF
        return cut & mixed, np.where(mixed, share, 1.0)


def cutmix_boxes(draws: Draws, lam: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 [pairs, 4]: top, left, bottom, right, of area 1 - lam around a random center, cut off at the border."""
    size = np.array([height, width])
    sides = np.floor(size * np.sqrt(1 - lam)[:, None])
    center = np.floor(draws.uniform("mix-place", 2) * size)
    start = np.clip(center - sides // 2, 0, size)
    stop = np.clip(center + (sides + 1) // 2, 0, size)
    return np.concatenate([start, stop], axis=1).astype(np.int64)
