"""Parameters and floating point operations of a model, counted on torch's meta device without allocating it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn
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
        parameters = sum(tensor.numel() for tensor in collect_tensors(model).values())
        repeats = {} if spec.family == "timm" else dict(remove_repeats(model))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, spec.channels, spec.height, spec.width))
    flops = {name.partition(".")[2]: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return Count(parameters, counter.get_total_flops() + sum(flops[name] * times for name, times in repeats.items()))


def remove_repeats(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Keep the first of equal blocks in a row; yield its name and how many were removed: a forward pass is slow here.

    Blocks with the same description keep the shape of their input, so each costs as much as the first.
    """
    for stack_name, stack in list(model.named_modules()):
        if isinstance(stack, nn.Sequential):
            for _, group in groupby(stack.named_children(), lambda child: repr(child[1])):
                (first, _), *rest = group
                for name, _ in rest:
                    setattr(stack, name, nn.Identity())
                if rest:
                    yield f"{stack_name}.{first}", len(rest)
