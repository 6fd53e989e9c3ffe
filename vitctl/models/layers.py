"""Layers that timm does not have: GELU, the patch embedding and the position embeddings of appendix D.4.

    1d           a learned row for each token (timm's pos_embed)
    2d           a learned row for each column and each row of the grid, half the width each, concatenated
    relative     an embedding for each distance in the sequence, used as additional keys
    sincos       fixed sine and cosine waves of the column and the row, in two versions
    rope         queries and keys are turned by angles of the row and the column, in every block

Positions are added once at the stem, or to the input of every block (each block has its own table, or all share one).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, GluMlp, PatchEmbed
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.models.resize import rope_waves, waves_with_prefix
from vitctl.patches import patchify_images

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


class TanhGelu(nn.Module):
    """GELU by the tanh formula, as in the official code.

    Code compiled for a CPU uses the equivalent sigmoid: a vectorized tanh takes six times as long as exp.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            wide = x.float()  # (1 + tanh(u)) / 2 = sigmoid(2 * u)
            return (wide * torch.sigmoid(wide * (LINEAR + CUBIC * wide * wide))).to(x.dtype)
        return F.gelu(x, approximate="tanh")


class PatchEmbedding(PatchEmbed):
    """timm's patch convolution, computed as a linear layer on [B, N, P*P*C]. Parameters and names are timm's.

    Rows of a patch file are used directly; images are cut into the same rows first, so both give the same bits. On a
    CPU the linear layer is also faster than the convolution, several times so in the backward pass.
    """

    def __init__(self, *args: object, pad: bool = False, **options: object) -> None:
        super().__init__(*args, **options)
        self.pad = pad
        if pad:  # timm counts whole patches only
            height, width = self.img_size
            self.grid_size = (-(-height // self.patch_size[0]), -(-width // self.patch_size[1]))
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] or patches [B, N, P*P*C] to tokens [B, N, D]."""
        if pixels.ndim == 4:
            pixels = self.cut(pixels)
        count, values = self.num_patches, self.proj.weight[0].numel()
        if tuple(pixels.shape[1:]) != (count, values):
            raise ValueError(
                f"patches {tuple(pixels.shape[1:])} do not fit a model of {count} patches of {values} values; "
                "read the file with another patch size or resolution, or change the model's"
            )
        return self.embed(pixels)

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """Any number of patches [B, L, P*P*C] to tokens [B, L, D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, P*P*C], channels last as in a patch
        return self.norm(F.linear(patches, weight, self.proj.bias))  # type: ignore[no-any-return]

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, N, P*P*C]."""
        height, width = self.img_size
        if tuple(images.shape[2:]) != (height, width):
            raise ValueError(
                f"images of {images.shape[2]}x{images.shape[3]} do not fit a model for {height}x{width}; "
                "run vitctl interpolate-pos --res to adapt the model"
            )
        if self.pad:
            patch = self.patch_size[0]
            images = F.pad(images, (0, self.grid_size[1] * patch - width, 0, self.grid_size[0] * patch - height))
        return patchify_images(images.permute(0, 2, 3, 1), self.patch_size[0])


class PositionTable(nn.Module):
    """Positions [1, T, D] of all tokens: one learned row each, or fixed waves."""

    embed: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.prefix = spec.tokens - spec.position_rows  # leading tokens without a position
        if spec.positions == "1d":
            self.embed = nn.Parameter(torch.empty(1, spec.position_rows, spec.dim))
            nn.init.normal_(self.embed, std=0.02)
        else:
            self.register_buffer("embed", waves_with_prefix(spec), persistent=False)

    def forward(self) -> torch.Tensor:
        return F.pad(self.embed, (0, 0, self.prefix, 0))


class PositionTable2d(nn.Module):
    """Positions [1, T, D]: the column's half and the row's half, concatenated. Prefix tokens have zeros."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.grid, self.prefix = spec.grid, spec.prefix
        self.x = nn.Parameter(torch.empty(1, spec.grid[1], spec.dim // 2))
        self.y = nn.Parameter(torch.empty(1, spec.grid[0], spec.dim // 2))
        for half in (self.x, self.y):
            nn.init.normal_(half, std=0.02)

    def forward(self) -> torch.Tensor:
        rows, columns = self.grid
        x = self.x[:, None].expand(1, rows, -1, -1)  # [1, h, w, D/2]
        y = self.y[:, :, None].expand(1, -1, columns, -1)
        return F.pad(torch.cat([x, y], dim=-1).flatten(1, 2), (0, 0, self.prefix, 0))


class Offsets(nn.Module):
    """An embedding [H, 2N-1, D/H] for each distance of two patches in the sequence, from -(N-1) to N-1."""

    index: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        count = spec.grid[0] * spec.grid[1]
        self.prefix = spec.prefix
        self.embed = nn.Parameter(torch.empty(spec.heads, 2 * count - 1, spec.dim // spec.heads))
        nn.init.normal_(self.embed, std=0.02)
        place = torch.arange(count)
        self.register_buffer("index", place[:, None] - place + count - 1, persistent=False)  # [N, N] of query, key

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries [B, H, T, D/H] to a bias of the logits [B, H, T, T], which is zero for prefix tokens."""
        patches = queries[:, :, self.prefix :]
        logits = patches @ self.embed.to(queries.dtype).transpose(-2, -1)  # [B, H, N, 2N-1]
        bias = logits.gather(-1, self.index.expand(*logits.shape[:3], -1))  # [B, H, N, N]
        return F.pad(bias, (self.prefix, 0, self.prefix, 0))


class RotaryTable(nn.Module):
    """Turns queries or keys [B, H, T, D/H] by the row and the column of their patch; those of prefix tokens stay."""

    waves: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        cosines, sines = rope_waves(spec.rope, spec.grid, spec.dim // spec.heads)
        front = (0, 0, spec.prefix, 0)
        waves = torch.stack([F.pad(cosines, front, value=1.0), F.pad(sines, front)])  # [2, T, D/H]
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        turned = x * self.waves[0] + torch.cat([-second, first], dim=-1) * self.waves[1]
        return turned.to(x.dtype)


class TableAttention(Attention):
    """timm's attention with positions in every block, and perhaps without a bias of the keys."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.key_bias = True
        self.offsets: Offsets | None = None  # set by the model: one per block, or one shared by all
        self.rotary: RotaryTable | None = None  # one for all

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens [B, T, D] to queries, keys and values [B, H, T, D/H]."""
        bias = self.qkv.bias
        if bias is not None and not self.key_bias:
            query, _, value = bias.chunk(3)
            bias = torch.cat([query, torch.zeros_like(query), value])
        qkv = F.linear(x, self.qkv.weight, bias).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        if self.rotary is not None:
            queries, keys = self.rotary(queries), self.rotary(keys)
        return queries, keys, values

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        assert not is_causal
        queries, keys, values = self.project(x)
        if self.offsets is not None:  # logits of the distances, under the same scale
            bias = self.offsets(queries * self.scale)
            attn_mask = bias if attn_mask is None else bias + attn_mask
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask, dropout_p=dropout)
        return self.proj_drop(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))  # type: ignore[no-any-return]


class SwiGlu(GluMlp):
    """timm's gated MLP with a SiLU; its first layer holds the gates, then the values."""

    def __init__(self, *args: Any, act_layer: Any = None, **options: Any) -> None:
        super().__init__(*args, act_layer=nn.SiLU, gate_last=False, **options)
