"""What queries look at, in every layer: caught exactly, although the model runs with fused attention that never has it.

Each layer's matrix is computed a second time from what the layer was given, shown to whoever asked, and dropped: no two
are in memory at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Visit = Callable[[int, torch.Tensor], None]  # the layer's number, and its attention [B, H, T, T]


def attention_layers(model: nn.Module) -> list[Any]:
    """Every layer that makes queries, keys and values of the same tokens, in order."""
    return [each for each in model.modules() if hasattr(each, "qkv") and hasattr(each, "num_heads")]


def attention_of(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Softmax of the logits [B, H, T, T], of tokens [B, T, D] as the layer gets them."""
    batch, count, _ = tokens.shape
    qkv = layer.qkv(tokens).reshape(batch, count, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
    queries, keys = layer.q_norm(qkv[0]) * layer.scale, layer.k_norm(qkv[1])  # [B, H, T, D/H]
    logits = queries @ keys.transpose(-2, -1)
    offsets = getattr(layer, "offsets", None)  # relative positions
    logits = logits if offsets is None else logits + offsets(queries)
    weights: torch.Tensor = logits.softmax(-1)
    return weights


@contextmanager
def watch_attention(model: nn.Module, visit: Visit) -> Iterator[None]:
    """While this lasts, every forward pass shows the attention of each of its layers."""
    layers = attention_layers(model)

    def hook(number: int) -> Any:
        def look(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            visit(number, attention_of(layer, given[0]))

        return look

    handles = [layer.register_forward_pre_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_for(heads: int, tokens: int, budget: int = 256 * 2**20) -> int:
    """Images at once, so that a few matrices of a layer stay within the budget."""
    return max(1, min(32, budget // (3 * heads * tokens * tokens * 4)))
