"""Parameters and floating point operations of a model, counted on torch's meta device without allocating it."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitctl.config.model import ModelSpec
from vitctl.models.create import build_module, collect_tensors

BACKWARD = 3  # a training step costs three forward passes


@dataclass(frozen=True)
class Count:
    parameters: int
    flops: int  # of a forward pass of one image; a multiply-add counts as two


def count(spec: ModelSpec) -> Count:
    with torch.device("meta"):
        model = build_module(spec).eval().requires_grad_(False)  # the counter fails on parameters under no_grad
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, spec.channels, spec.height, spec.width))
    return Count(sum(tensor.numel() for tensor in collect_tensors(model).values()), counter.get_total_flops())
