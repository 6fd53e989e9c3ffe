"""What is written into an exported file: the model, and around it what was asked for."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import About
from vitctl.models.exports.convolutions import standardize_once
from vitctl.models.sincos import sincos


def graph_of(model: nn.Module, about: About, *, any_size: bool, preprocessing: bool, half: bool) -> nn.Module:
    """Normalized images [B, C, H, W], or bytes [B, H, W, C] of any size, to float32 logits [B, K]."""
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    standardize_once(model)
    if any_size:
        check_any_size(spec)
    inner = AnySize(model) if any_size and spec.family == "vit" else model
    if half:
        inner = Halved(inner)
    return (Preprocessed(inner, spec, about) if preprocessing else inner).eval()


def check_any_size(spec: ModelSpec) -> None:
    """Whether the model takes images of every size: a ResNet does, a ViT if its positions can be interpolated."""
    fits = spec.family == "bit" or (
        spec.family == "vit" and spec.positions in ("none", "1d", "sincos", "sincos-mae") and spec.added == "stem"
    )
    if not fits or spec.pad:
        what = "pads" if spec.pad else f"has {spec.positions} positions, {spec.added}" if fits else spec.family
        raise UsageError(
            f"{spec.name}: --dynamic-size is for ViTs with 1d positions at the stem, and for ResNets; this one is "
            f"{what}; export one file for each --res"
        )


class AnySize(nn.Module):
    """A ViT whose positions are interpolated the official way as it runs, for any whole number of patches."""

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
        """Positions added, and the tokens in front put before."""
        model, spec = self.model, self.spec
        front = [part for part in (model.cls_token, model.reg_token) if part is not None]
        if model.pos_embed is not None:
            count = spec.grid[0] * spec.grid[1]
            table, before = model.pos_embed[:, -count:], model.pos_embed[:, :-count]
            tokens = tokens + self.positions(table, rows, columns)
            if front and before.shape[1]:
                front = [torch.cat(front, dim=1) + before]
        return torch.cat([*(part.expand(tokens.shape[0], -1, -1) for part in front), tokens], dim=1)

    def positions(self, table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """A learned table is interpolated; waves are computed for the grid."""
        if self.spec.positions != "1d":
            return sincos((rows, columns), self.spec.dim, self.spec.positions).to(table.dtype)
        grid = table.reshape(1, *self.spec.grid, self.spec.dim).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (rows, columns), mode="bilinear", align_corners=True).to(table.dtype)
        return grid.flatten(2).transpose(1, 2)


def patchify_any(images: torch.Tensor, rows: int, columns: int, patch: int) -> torch.Tensor:
    """`patchify` for a size that is not known when the graph is drawn, and so cannot be checked."""
    batch, channels = images.shape[0], images.shape[3]
    grid = images.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
    return grid.reshape(batch, rows * columns, patch * patch * channels)


class Halved(nn.Module):
    """Half precision inside, float32 at both ends."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.half()).float()  # type: ignore[no-any-return]


class Preprocessed(nn.Module):
    """Bytes [B, H, W, C] as they were decoded, of any size: the largest centered crop or all, resized, normalized.

    The same pixels as in a patch file: antialiased bicubic on bytes, rounded to bytes.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, spec: ModelSpec, about: About) -> None:
        super().__init__()
        self.model, self.size, self.crops = model, (spec.height, spec.width), about.fit == "crop"
        if about.fit == "pad":
            raise UsageError("preprocessing inside a file crops or squashes; this model's images were padded")
        for name, values in (("mean", about.mean), ("std", about.std)):
            scaled = torch.tensor(values, dtype=torch.float64) * 255
            self.register_buffer(name, scaled.float().reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = (center_crop(images, *self.size) if self.crops else images).permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True).round().clamp(0, 255)
        return self.model((pixels - self.mean) / self.std)  # type: ignore[no-any-return]


def round_half_even(value: Any, by: int) -> Any:
    """value / by as Python rounds: a half goes to the even one."""
    down, rest = value // by, value % by
    return down + (2 * rest + down % 2) // (by + 1)


def center_crop(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B, h, w, C] to the largest centered part of the shape height:width."""
    rows, columns = images.shape[1], images.shape[2]
    high = torch.sym_max(1, torch.sym_min(rows, round_half_even(columns * height, width)))
    wide = torch.sym_max(1, torch.sym_min(columns, round_half_even(rows * width, height)))
    top, left = (rows - high) // 2, (columns - wide) // 2
    rows_taken, columns_taken = torch.arange(high) + top, torch.arange(wide) + left  # a slice would fix what is cut
    return images.index_select(1, rows_taken).index_select(2, columns_taken)
