"""The graph that is exported: the model, with preprocessing, any input size or half precision if requested."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import About
from vitctl.models.exports.convolutions import standardize_once
from vitctl.models.resize import WAVES, sincos


def graph_of(model: nn.Module, about: About, *, any_size: bool, preprocessing: bool, half: bool) -> nn.Module:
    """Normalized images [B, C, H, W], or uint8 images [B, H, W, C] of any size, to float32 logits [B, K]."""
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    standardize_once(model)
    if any_size:
        check_any_size(spec)
    inner = AnySize(model) if any_size and spec.family == "vit" else model
    if half:
        inner = Halved(inner)
    return (Preprocessed(inner, spec, about) if preprocessing else inner).eval()


def check_any_size(spec: ModelSpec) -> None:
    """Checks that the model takes images of any size: a ResNet does, and a ViT whose positions can be interpolated."""
    interpolates = spec.family == "vit" and spec.positions in ("none", "1d", *WAVES) and spec.added == "stem"
    if spec.pad or not (interpolates or spec.family == "bit"):
        has = f"is of family {spec.family} with {spec.positions} positions, added: {spec.added}"
        raise UsageError(
            f"{spec.name}: --dynamic-size needs a ResNet, or a ViT with 1d or fixed positions at the stem, but this "
            f"model {'pads its images' if spec.pad else has}; export one file for each --res"
        )


class AnySize(nn.Module):
    """A ViT that interpolates its positions in the official way at every call, for any whole number of patches."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.spec = model, model.spec

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patch, model = self.spec.patch, self.model
        rows, columns = images.shape[2] // patch, images.shape[3] // patch
        tokens = model.patch_embed.embed(patchify_any(images.permute(0, 2, 3, 1), rows, columns, patch))
        tokens = model.norm_pre(self.add_positions(tokens, rows, columns))
        return model.forward_head(model.norm(model.run_blocks(tokens)))  # type: ignore[no-any-return]

    def add_positions(self, tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Tokens [B, N, D] plus their positions, behind the prefix tokens: [B, T, D]."""
        model, spec = self.model, self.spec
        prefix = [part for part in (model.cls_token, model.reg_token) if part is not None]
        if model.pos_embed is not None:
            count = spec.grid[0] * spec.grid[1]
            table, prefix_table = model.pos_embed[:, -count:], model.pos_embed[:, :-count]
            tokens = tokens + self.positions(table, rows, columns)
            if prefix and prefix_table.shape[1]:
                prefix = [torch.cat(prefix, dim=1) + prefix_table]
        return torch.cat([*(part.expand(tokens.shape[0], -1, -1) for part in prefix), tokens], dim=1)

    def positions(self, table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Interpolates a learned table; computes fixed waves for the grid."""
        if self.spec.positions != "1d":
            return sincos((rows, columns), self.spec.dim, self.spec.positions).to(table.dtype)
        grid = table.reshape(1, *self.spec.grid, self.spec.dim).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (rows, columns), mode="bilinear", align_corners=True).to(table.dtype)
        return grid.flatten(2).transpose(1, 2)


def patchify_any(images: torch.Tensor, rows: int, columns: int, patch: int) -> torch.Tensor:
    """`patchify_images` without its checks, for sizes that are not known when the graph is traced."""
    batch, channels = images.shape[0], images.shape[3]
    grid = images.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
    return grid.reshape(batch, rows * columns, patch * patch * channels)


class Halved(nn.Module):
    """A model in half precision with float32 inputs and outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.half()).float()  # type: ignore[no-any-return]


class Preprocessed(nn.Module):
    """Takes decoded uint8 images [B, H, W, C] of any size: resizes them, takes the center and normalizes.

    The pixels are those of a patch file: resized with antialiased bicubic interpolation and rounded to bytes.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, spec: ModelSpec, about: About) -> None:
        super().__init__()
        self.model, self.size, self.crop = model, (spec.height, spec.width), about.eval_crop
        if about.fit == "pad":
            raise UsageError(
                "--with-preprocessing can crop or squash, but this model's images were padded; export without it"
            )
        for name, values in (("mean", about.mean), ("std", about.std)):
            scaled = torch.tensor(values, dtype=torch.float64) * 255
            self.register_buffer(name, scaled.float().reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outer: tuple[Any, Any] = self.crop.outer_size(*self.size)
        high, wide = outer
        rows, columns = images.shape[1], images.shape[2]
        if self.crop.fit == "crop":  # the short side, as in frames.resize_short_side
            outer = torch.sym_max(high, wide * rows // columns), torch.sym_max(wide, high * columns // rows)
        pixels = images.permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, outer, mode=self.crop.filter, antialias=True).round().clamp(0, 255)
        return self.model((self.take_middle(pixels, outer) - self.mean) / self.std)  # type: ignore[no-any-return]

    def take_middle(self, pixels: torch.Tensor, outer: tuple[Any, Any]) -> torch.Tensor:
        """[B, C, H, W] of images resized to `outer`."""
        if self.crop.fit == "squash" and self.crop.share == 1:
            return pixels
        for axis, side, size in zip((2, 3), outer, self.size, strict=True):
            # index_select keeps the start symbolic; a slice would make it a constant of the graph
            pixels = pixels.index_select(axis, torch.arange(size) + halve_even(side - size))
        return pixels


def halve_even(value: Any) -> Any:
    """round(value / 2) as Python rounds, half to even, in integers that torch.export can trace."""
    return value // 2 + value % 2 * (value // 2 % 2)
