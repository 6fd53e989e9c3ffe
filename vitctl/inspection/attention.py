"""The attention of every layer, and attention rollout.

Fused attention never stores its matrix, so each layer's matrix is computed a second time from the layer's input. It is
passed to a callback and released before the next layer runs: only one is in memory at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

Visit = Callable[[int, torch.Tensor], None]  # the layer's number, and its attention [B, H, T, T]


def attention_layers(model: nn.Module) -> list[Any]:
    """Every self-attention layer, in order."""
    return [each for each in model.modules() if hasattr(each, "qkv") and hasattr(each, "num_heads")]


def attention_of(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The attention [B, H, T, T] of a layer for its input [B, T, D]."""
    if hasattr(layer, "project"):
        queries, keys, _ = layer.project(tokens)  # [B, H, T, D/H]
    else:  # timm's
        batch, count, _ = tokens.shape
        qkv = layer.qkv(tokens).reshape(batch, count, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
        queries, keys = layer.q_norm(qkv[0]), layer.k_norm(qkv[1])
    queries = queries * layer.scale
    logits = queries @ keys.transpose(-2, -1)
    offsets = getattr(layer, "offsets", None)  # relative positions
    logits = logits if offsets is None else logits + offsets(queries)
    weights: torch.Tensor = logits.softmax(-1)
    return weights


@contextmanager
def watch_attention(model: nn.Module, visit: Visit) -> Iterator[None]:
    """Within this context every forward pass calls `visit` with the attention of each layer."""

    def hook(number: int, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        visit(number, attention_of(layer, inputs[0]))

    layers = attention_layers(model)
    handles = [layer.register_forward_pre_hook(partial(hook, number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_for(heads: int, tokens: int, budget: int = 256 * 2**20) -> int:
    """The batch size for which three float32 matrices of a layer stay within the budget in bytes."""
    return max(1, min(32, budget // (3 * heads * tokens * tokens * 4)))


class Rollout:
    """Attention rollout (Abnar and Zuidema): R = A'_L ... A'_1, where A' = (A + I) / 2 and A is the mean over heads.

    Called with the attention [B, H, T, T] of one layer after another.
    """

    def __init__(self) -> None:
        self.product: torch.Tensor | None = None  # [B, T, T]

    def __call__(self, attention: torch.Tensor) -> None:
        mean = attention.mean(1)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / (mean.sum(-1, keepdim=True) + 1)
        self.product = step if self.product is None else step @ self.product


def on_patches(weights: torch.Tensor, prefix: int, by_token: bool) -> torch.Tensor:
    """Attention [..., T, T] to that of the patches [..., N], from the class token or averaged over all patches."""
    queries = weights[..., 0, :] if by_token else weights[..., prefix:, :].mean(-2)
    return queries[..., prefix:]
