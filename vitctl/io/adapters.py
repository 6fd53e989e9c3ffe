"""Tensors of LoRA adapters beside those of the layers that they change, and the sum of both."""

import torch

from vitctl.io.weights import Tensors

DOWN, UP = "lora_a", "lora_b"  # [R, in] and [out, R]


def merge_weight(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """W + scale * B A, in float32 under autocast too."""
    with torch.autocast(weight.device.type, enabled=False):
        return torch.addmm(weight, up, down, alpha=scale)


def merge_adapters(tensors: Tensors, scale: float) -> Tensors:
    """Tensors of the model without adapters."""
    merged = {name: tensor for name, tensor in tensors.items() if not name.endswith((DOWN, UP))}
    for name in tensors:
        if name.endswith(f".{DOWN}"):
            layer = name.removesuffix(DOWN)
            merged[f"{layer}weight"] = merge_weight(
                merged[f"{layer}weight"], tensors[name], tensors[f"{layer}{UP}"], scale
            )
    return merged
