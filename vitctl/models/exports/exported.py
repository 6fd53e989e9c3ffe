"""An exported file as a module, so that the same code can measure it and the model that it was made from."""

from abc import abstractmethod
from pathlib import Path

import torch
from torch import nn

from vitctl.models.exports.checksum import make_damage_error
from vitctl.models.exports.labels import UNSEALED, Labels
from vitctl.patches import unpatchify_images

UNVERIFIED = "was exported without a checksum (version 1), so damage cannot be detected; export it again"


class ExportedModel(nn.Module):
    """Normalized images [B, C, H, W] or patches [B, N, P*P*C] to float32 logits [B, K].

    A file with preprocessing takes uint8 images [B, H, W, C] or uint8 patches instead.
    """

    def __init__(self, labels: Labels, path: Path, sealed: bool) -> None:
        """`sealed`: the file has a checksum, and it matches."""
        super().__init__()
        if not sealed and labels.version != UNSEALED:
            raise make_damage_error(path)
        self.warning = "" if sealed else f"{path}: {UNVERIFIED}"
        self.spec, self.about, self.takes_bytes = labels.spec, labels.about, labels.takes_bytes
        self.precision, self.digest = labels.precision, labels.digest

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.ndim == 3:
            spec = self.spec
            pixels = unpatchify_images(pixels, spec.height, spec.width, spec.patch)
            pixels = pixels if self.takes_bytes else pixels.permute(0, 3, 1, 2)
        return self.compute(pixels.cpu()).float().to(pixels.device)

    @abstractmethod
    def compute(self, images: torch.Tensor) -> torch.Tensor:
        """Runs the file on the CPU."""
