"""An exported file as a module, so that it can be measured exactly as the model that it was made from."""

from abc import abstractmethod
from pathlib import Path

import torch
from torch import nn

from vitctl.models.exports.checksum import make_damage_error
from vitctl.models.exports.labels import UNSEALED, Labels
from vitctl.patches import unpatchify_images

UNVERIFIED = "is an export of version 1, which has no checksum: damage cannot be detected; export it again"


class ExportedModel(nn.Module):
    """Normalized images [B, C, H, W] or patches [B, N, P*P*C]; or bytes [B, H, W, C] where it prepares them itself;
    to float32 logits [B, K]."""

    def __init__(self, labels: Labels, path: Path, sealed: bool) -> None:
        """`sealed`: the file has a checksum, and its bytes are those that were written."""
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
        """By the runtime, on the CPU."""
