"""How large a model is, and how much it computes, without making it: on torch's meta device."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitctl.config.model import ModelSpec
from vitctl.models.create import build_module, collect_tensors

BACKWARD = 3  # a training step computes what a forward pass does three times


@dataclass(frozen=True)
class Count:
    parameters: int
    flops: int  # of one image forward, two for each multiply-add


def count(spec: ModelSpec) -> Count:
    with torch.device("meta"):
        model = build_module(spec).eval().requires_grad_(False)  # the counter stumbles over parameters under no_grad
        picture = torch.empty(1, spec.channels, spec.height, spec.width)
        with FlopCounterMode(display=False) as counter:
            model(picture)
    return Count(sum(tensor.numel() for tensor in collect_tensors(model).values()), counter.get_total_flops())
