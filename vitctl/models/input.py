"""The input of a model: uint8 images or patches to normalized values."""

from dataclasses import dataclass

import torch

from vitctl.config.model import ModelSpec
from vitctl.io.weights import About
from vitctl.patches import patchify_images


@dataclass(frozen=True)
class Normalizer:
    """uint8 patches [B, N, P*P*C] or images [B, H, W, C] to the normalized patches or images that the model takes."""

    spec: ModelSpec
    about: About

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        values = normalize(pixels, self.about.mean, self.about.std)
        if values.ndim == 3:
            return values
        if takes_patches(self.spec):
            return patchify_images(values, self.spec.patch)
        return values.permute(0, 3, 1, 2)


def takes_patches(spec: ModelSpec) -> bool:
    return spec.family in ("vit", "axial") and not spec.pad


def normalize(
    pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(x / 255 - mean) / std of patches [B, N, P*P*C] or images [B, H, W, C], channels last in both."""
    lines = pixels.flatten(2)  # long rows are fast
    repeats = lines.shape[-1] // len(mean)
    scale, shift = torch.tensor([[1 / (255 * d) for d in std], [-m / d for m, d in zip(mean, std, strict=True)]])
    scale, shift = (each.repeat(repeats).to(pixels.device, dtype, non_blocking=True) for each in (scale, shift))
    values = lines.to(dtype, copy=True)
    return torch.addcmul(shift, values, scale, out=values).view(pixels.shape)  # one pass over memory instead of two
