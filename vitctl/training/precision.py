"""In which numbers a step is computed. Weights, gradients and the optimizer stay in float32 always."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from vitctl.machine import native_bf16

Precision = Literal["float32", "bf16"]


def choose_precision(wanted: Literal["auto", "float32", "bf16"], device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it itself."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if device.type == "cpu" and native_bf16() else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def quick_attention(model: nn.Module, precision: Precision, device: torch.device) -> None:
    """In bfloat16 on a CPU the backward pass of the fused attention takes half of the step: products and a softmax."""
    if device.type != "cpu" or precision != "bf16":
        return
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - a module's own attributes are typed as tensors
