"""LoRA (arXiv 2106.09685): frozen linear layers that learn a product of two thin matrices beside their weight.

The weight of a layer is W + scale * B A, computed as a whole in float32 at every step, exactly as it is merged in the
end: a model with adapters and the merged one give the same logits to the bit. Written here rather than taken from peft,
which computes B (A x) beside W x, and would change the names of all tensors.
"""

import torch
from torch import nn

from vitctl.config.model import ModelSpec
from vitctl.config.train import LoraConfig
from vitctl.errors import UsageError
from vitctl.io.adapters import DOWN, UP, merge_weight
from vitctl.randomness import stream


class LoraLinear(nn.Linear):
    """A linear layer with an adapter. Callers that read its weight, as timm's EVA and BEiT do, get the sum."""

    scale: float

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return merge_weight(self._parameters["weight"], self._parameters[DOWN], self._parameters[UP], self.scale)  # type: ignore[arg-type]


def add_adapters(model: nn.Module, config: LoraConfig, seed: int) -> int:
    """Turns the linear layers that the config names into layers with adapters; returns how many there are.

    A is drawn as torch draws a linear layer, B is zero: the model computes what it computed before.
    """
    assert config.rank is not None
    random = torch.Generator().manual_seed(stream(seed, "lora"))
    layers = [
        module for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.on
    ]  # fmt: skip
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    if not layers:
        raise UsageError(f"{spec.name}: has no linear layers called {', '.join(config.on)}; name others by lora.on")
    for layer in layers:
        if config.rank > min(layer.in_features, layer.out_features):
            size = f"{layer.out_features}x{layer.in_features}"
            raise UsageError(f"--lora {config.rank}: a rank cannot be larger than a layer, and one is {size}")
        bound = layer.in_features**-0.5
        down = torch.empty(config.rank, layer.in_features).uniform_(-bound, bound, generator=random)
        layer.register_parameter(DOWN, nn.Parameter(down))
        layer.register_parameter(UP, nn.Parameter(torch.zeros(layer.out_features, config.rank)))
        layer.__class__ = LoraLinear
        layer.scale = config.scale  # type: ignore[assignment]
    return len(layers)
