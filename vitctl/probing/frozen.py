"""Features of a model: the tokens or the vector before its head."""

from typing import Any

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.errors import ConfigError


def compute_pre_logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The input of the head, [B, D]."""
    layers: Any = model
    return layers.forward_head(layers.forward_features(pixels), pre_logits=True)  # type: ignore[no-any-return]


def describe_pooling(spec: ModelSpec, layers: int, pool: str) -> str:
    """Which tokens a feature is made of, and which norm they have passed."""
    if spec.family in ("timm", "bit"):
        return "the input of the head"
    tokens = {"cls": "class token", "gap": "mean of the patches", "map": "attention pooling of the patches"}
    what = tokens.get(spec.head if pool == "auto" else pool, "every patch")
    if layers > 1:
        return f"{what} of the last {layers} blocks, each after the last norm"
    if pool == "auto" and spec.norm == "pooled":
        what += ", then the last norm"
    else:
        what += " after the last norm"
    return f"{what}, then the pre-logits layer" if pool == "auto" and spec.hidden else what


def average_layers(model: nn.Module, pixels: torch.Tensor, layers: int, pool: str) -> torch.Tensor:
    """Tokens of the last blocks, each through the final norm, concatenated and pooled: [B, D'] or [B, N, D']."""
    parts: Any = model
    last = list(parts.layers(pixels))[-layers:]
    tokens = torch.cat([parts.final_norm(each) for each in last], dim=-1)  # [B, T, D']
    if pool == "cls":
        return tokens[:, 0]
    patches = tokens[:, parts.num_prefix_tokens :]
    return patches if pool == "none" else patches.mean(1)


def check_layers(model: nn.Module, layers: int, pool: str, name: str) -> None:
    if not hasattr(model, "final_norm"):
        raise ConfigError(f"{name}: has no blocks of tokens; use the features before its head (layers=1, pool=auto)")
    count = len(model.blocks)  # type: ignore[arg-type]
    if layers > count:
        raise ConfigError(f"layers is {layers}, but {name} has {count} blocks")
    if pool == "cls" and not model.spec.class_token:  # type: ignore[union-attr]
        raise ConfigError(f"{name}: has no class token; use pool=gap")
