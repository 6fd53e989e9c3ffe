"""Where a patch is: the paper's kinds of position embedding (appendix D.4) that timm does not have.

    1d           a learned row for each token (timm's pos_embed)
    2d           a learned row for each column and each line, half the width each, put together
    relative     an embedding for each distance in the sequence, which queries meet as further keys
    sincos       fixed waves of the line and the column, in two versions

Added at the stem, or to the input of every block (from a table of its own, or from one that all share).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.models.sincos import waves_with_prefix


class PositionTable(nn.Module):
    """Positions [1, T, D] of all tokens: a learned row each, or fixed waves."""

    embed: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.prefix = spec.tokens - spec.position_rows  # tokens in front that have no position
        if spec.positions == "1d":
            self.embed = nn.Parameter(torch.empty(1, spec.position_rows, spec.dim))
            nn.init.normal_(self.embed, std=0.02)
        else:
            self.register_buffer("embed", waves_with_prefix(spec), persistent=False)

    def forward(self) -> torch.Tensor:
        return F.pad(self.embed, (0, 0, self.prefix, 0))


class PositionTable2d(nn.Module):
    """Positions [1, T, D] put together from those of the column and the line. Tokens in front have none."""

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
        """What queries [B, H, T, D/H] add to the logits [B, H, T, T]; tokens in front have no place: nothing."""
        patches = queries[:, :, self.prefix :]
        logits = patches @ self.embed.to(queries.dtype).transpose(-2, -1)  # [B, H, N, 2N-1]
        bias = logits.gather(-1, self.index.expand(*logits.shape[:3], -1))  # [B, H, N, N]
        return F.pad(bias, (self.prefix, 0, self.prefix, 0))


class RelativeAttention(Attention):
    """timm's attention with the distances' logits beside the content's, under the same scale."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.offsets: Offsets | None = None  # set by the model: one for each layer, or one for all

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        assert self.offsets is not None
        assert not is_causal
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)  # [B, H, T, D/H]
        bias = self.offsets(queries * self.scale)
        dropout = self.attn_drop.p if self.training else 0.0
        mask = bias if attn_mask is None else bias + attn_mask
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]
