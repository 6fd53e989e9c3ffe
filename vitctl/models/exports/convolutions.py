"""Replaces convolutions that standardize their weights at every call by plain ones with standardized weights."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import StdConv2d, StdConv2dSame
from timm.layers.padding import pad_same
from torch import nn

from vitctl.models.resnets import OfficialConv


class PlainConvolution(nn.Conv2d):
    """A convolution with the standardized weights of `layer`, and TensorFlow's padding if the layer has it."""

    def __init__(self, layer: Any) -> None:
        size = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        super().__init__(*size, groups=layer.groups, bias=layer.bias is not None)
        self.same = getattr(layer, "same_pad", False)
        with torch.no_grad():
            self.weight.copy_(standardize_weight(layer))
            if layer.bias is not None and self.bias is not None:
                self.bias.copy_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.same:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardize_weight(layer: Any) -> torch.Tensor:
    std, mean = torch.std_mean(layer.weight.double(), dim=(1, 2, 3), keepdim=True, correction=0)
    scale = std + 1e-5 if isinstance(layer, OfficialConv) else (std.square() + layer.eps).sqrt()
    weight: torch.Tensor = (layer.weight.double() - mean) / scale
    return weight


def standardize_once(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (StdConv2d, StdConv2dSame)):
                setattr(parent, name, PlainConvolution(layer))
