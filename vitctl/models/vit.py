"""The Vision Transformer: timm's, plus what the paper has and timm lacks. Parameters have timm's names."""

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionPoolLatent, LayerNorm, Mlp
from timm.layers.activations import QuickGELU
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.models.layers import (
    Offsets,
    PatchEmbedding,
    PositionTable,
    PositionTable2d,
    RotaryTable,
    SwiGlu,
    TableAttention,
    TanhGelu,
)
from vitctl.models.resize import WAVES, waves_with_prefix
from vitctl.models.resnets import HybridEmbedding

POOLS = {"cls": "token", "gap": "avg", "map": "map"}
GELUS = {"tanh": TanhGelu, "erf": nn.GELU, "quick": QuickGELU}


class PlacedBlock(Block):
    """A block that can add positions to its input."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.positions: nn.Module | None = None  # a class attribute would hide the module that is set later

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if self.positions is not None:
            x = x + self.positions()
        return super().forward(x, *args, **options)  # type: ignore[no-any-return]


class AxialBlock(nn.Module):
    """Attention along the rows and an MLP, then attention along the columns and an MLP."""

    def __init__(self, grid: tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.grid = grid
        self.positions: nn.Module | None = None
        self.row, self.column = Block(**options), Block(**options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, dim = x.shape
        if self.positions is not None:
            x = x + self.positions()
        x = x.reshape(batch, *self.grid, dim)  # [B, h, w, D]
        x = self.row(x.flatten(0, 1)).reshape(batch, *self.grid, dim).transpose(1, 2)  # [B, w, h, D]
        x = self.column(x.flatten(0, 1)).reshape(batch, *self.grid[::-1], dim).transpose(1, 2)
        return torch.flatten(x, 1, 2)


class ViT(VisionTransformer):
    def __init__(self, spec: ModelSpec) -> None:
        at_stem = spec.added == "stem" and spec.positions in ("1d", "1d+rope", *WAVES)
        hybrid, has_tables = spec.family == "hybrid", spec.positions == "relative" or spec.is_rotary
        norm = partial(LayerNorm, eps=spec.norm_eps)
        super().__init__(
            img_size=(spec.height, spec.width), patch_size=spec.patch, in_chans=spec.channels, num_classes=spec.classes,
            global_pool=POOLS[spec.head], embed_dim=spec.dim, depth=spec.depth, num_heads=spec.heads,
            mlp_ratio=(spec.mlp * (1 + spec.swiglu) + 0.5) / spec.dim,  # timm rounds the product down
            qkv_bias=spec.qkv_bias, qk_norm=spec.qk_norm,
            scale_attn_norm=spec.attn_norm, scale_mlp_norm=spec.mlp_norm, pre_norm=spec.pre_norm,
            init_values=1e-5 if spec.layer_scale else None,
            class_token=spec.class_token,
            pos_embed="learn" if at_stem else "none",
            no_embed_class=not spec.class_position,
            reg_tokens=spec.registers,
            fc_norm=spec.norm == "pooled", final_norm=spec.norm != "none",
            pos_drop_rate=spec.dropout, proj_drop_rate=spec.dropout, drop_path_rate=spec.drop_path, weight_init="skip",
            patch_drop_rate=spec.patch_dropout,
            embed_layer=partial(HybridEmbedding, spec) if hybrid else partial(PatchEmbedding, pad=spec.pad),
            norm_layer=norm, act_layer=GELUS[spec.gelu], mlp_layer=SwiGlu if spec.swiglu else Mlp,
            block_fn=partial(AxialBlock, spec.grid) if spec.family == "axial" else PlacedBlock,
            attn_layer=TableAttention if has_tables or not spec.key_bias else Attention,
        )  # fmt: skip
        self.spec = spec
        if spec.head == "map" and (spec.swiglu or spec.pool_heads or spec.pool_mlp):
            self.attn_pool = AttentionPoolLatent(
                spec.dim, num_heads=spec.pool_heads or spec.heads, norm_layer=norm, act_layer=GELUS[spec.gelu],
                mlp_ratio=((spec.pool_mlp or spec.mlp) + 0.5) / spec.dim,
            )  # fmt: skip
        self.pre_logits: nn.Module = nn.Identity()
        if spec.hidden:  # the pretraining head; the tanh is in the paper's current code
            layers = OrderedDict(fc=nn.Linear(spec.dim, spec.hidden), act=nn.Tanh())
            self.pre_logits = nn.Sequential(layers)
            if spec.classes:
                self.head = nn.Linear(spec.hidden, spec.classes)
        if at_stem and spec.positions in WAVES:
            self.pos_embed = nn.Parameter(waves_with_prefix(spec), requires_grad=False)
        self.positions = PositionTable2d(spec) if spec.added == "stem" and spec.positions == "2d" else None
        if spec.added != "stem":
            self.place_blocks()
        rotary = RotaryTable(spec) if spec.is_rotary else None
        for attention in (block.attn for block in self.blocks if spec.family != "axial"):
            attention.rotary, attention.key_bias = rotary, spec.key_bias

    def place_blocks(self) -> None:
        """Gives every block its positions: a table of its own, or the shared one."""
        spec = self.spec
        kind = {"2d": PositionTable2d, "relative": Offsets}.get(spec.positions, PositionTable)
        shared = kind(spec)
        for block in self.blocks:
            table = shared if spec.added == "shared" else kind(spec)
            if spec.positions == "relative":
                block.attn.offsets = table
            else:
                block.positions = table

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        tokens = super()._pos_embed(x)
        return tokens if self.positions is None else self.pos_drop(tokens + self.positions())  # type: ignore[no-any-return]

    def pool(self, x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        return self.attn_pool(x) if self.spec.pool_prefix else super().pool(x, pool_type)  # type: ignore[no-any-return]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.pre_logits(self.fc_norm(self.pool(x)))  # [B, D], or [B, R] with a pre-logits layer
        return x if pre_logits else self.head(self.head_drop(x))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of all patches [B, N, D] to the input of the first block, [B, T, D]."""
        return self.norm_pre(self.patch_drop(self._pos_embed(tokens)))  # type: ignore[no-any-return]

    def embed_visible(self, patches: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Visible patches [B, L, P*P*C] and their indices [B, L] to the input of the first block, [B, prefix + L, D].

        Hidden patches are not computed at all.
        """
        tokens = self.patch_embed.embed(patches)
        table = self._pos_embed(tokens.new_zeros(1, self.patch_embed.num_patches, tokens.shape[-1]))
        front, positions = table[:, : self.num_prefix_tokens], table[0, self.num_prefix_tokens :]
        placed = tokens + F.embedding(places, positions)
        return self.norm_pre(torch.cat([front.expand(len(tokens), -1, -1), placed], dim=1))  # type: ignore[no-any-return]

    def run_blocks(self, tokens: torch.Tensor) -> torch.Tensor:
        return checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)  # type: ignore[no-any-return]

    def final_norm(self, tokens: torch.Tensor) -> torch.Tensor:
        """The norm behind the blocks; one of the two is an identity."""
        return self.fc_norm(self.norm(tokens))  # type: ignore[no-any-return]

    def layers(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """Tokens [B, T, D] before the first block and after each."""
        x = self.embed(self.patch_embed(pixels))
        yield x
        for block in self.blocks:
            x = block(x)
            yield x
