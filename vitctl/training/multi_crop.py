"""Several crops of an image, and the mean of their probabilities."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

SHARE = 0.875  # of each side, as 224 of 256


class MultiCrop(nn.Module):
    """Bytes [B, H, W, C] to logits [B, K]: those of the mean probability over the center and the corners, and over
    their mirror images for 10 crops. `task` says what the outputs are; of numbers, it is their mean."""

    def __init__(
        self,
        model: nn.Module,
        normalize: Callable[[torch.Tensor], torch.Tensor],
        size: tuple[int, int],
        count: int,
        task: str = "classes",
    ) -> None:
        super().__init__()
        self.model, self.normalize, self.size, self.count, self.task = model, normalize, size, count, task

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([self.model(self.normalize(each)).float() for each in self.make_crops(pixels)])
        if self.task == "numbers":
            return outputs.mean(0)
        if self.task == "sets":
            return log_mean(F.logsigmoid(outputs)) - log_mean(F.logsigmoid(-outputs))
        return log_mean(outputs.log_softmax(2))

    def make_crops(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        crops = [self.resize(each) for each in cut_corners(pixels)]
        return crops + [each.flip(2) for each in crops] if self.count == 10 else crops

    def resize(self, crop: torch.Tensor) -> torch.Tensor:
        if tuple(crop.shape[1:3]) == self.size:
            return crop
        channels_first = crop.permute(0, 3, 1, 2)
        if crop.device.type != "cpu":  # CUDA has no kernel for bytes
            channels_first = channels_first.float()
        sized = F.interpolate(channels_first, self.size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
        return sized.round().clamp(0, 255).to(crop.dtype)


def log_mean(logs: torch.Tensor) -> torch.Tensor:
    """The log of the mean over the first axis."""
    return logs.logsumexp(0) - math.log(len(logs))


def cut_corners(pixels: torch.Tensor) -> list[torch.Tensor]:
    """The center and the four corners of [B, H, W, C]."""
    height, width = pixels.shape[1:3]
    high, wide = max(1, round(height * SHARE)), max(1, round(width * SHARE))
    down, right = height - high, width - wide
    corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    return [pixels[:, top : top + high, left : left + wide] for top, left in corners]
