"""The paper's ResNets, built from timm's: the backbone of a hybrid, and the BiT baseline."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GroupNormAct, HybridEmbed, StdConv2d, StdConv2dSame
from timm.layers.padding import pad_same
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from torch import nn

from vitctl.config.model import ModelSpec

GROUPS = 32


class OfficialConv(StdConv2dSame):
    """Weight standardization of the official hybrids: divides by (std + 1e-5), not by sqrt(var + eps)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.same_pad:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (std + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def hybrid_layers(spec: ModelSpec) -> dict[str, Any]:
    """Convolution and norm of a hybrid's ResNet, with the official constants, or timm's for weights trained by it."""
    if spec.numerics == "timm":
        return {"conv_layer": partial(StdConv2dSame, eps=1e-8), "norm_layer": partial(GroupNormAct, num_groups=GROUPS)}
    return {"conv_layer": OfficialConv, "norm_layer": partial(GroupNormAct, num_groups=GROUPS, eps=1e-6)}


def feature_map(spec: ModelSpec) -> nn.Module:
    """The ResNet of a hybrid, post-activation, with TensorFlow's padding. Without layers it is only the stem."""
    common = {"stem_type": "same", "preact": False, **hybrid_layers(spec)}
    if not spec.layers:
        stem: nn.Module = create_resnetv2_stem(spec.channels, **common)
        stem.num_features = 64  # type: ignore[assignment]
        return stem
    resnet = ResNetV2(spec.layers, num_classes=0, global_pool="", in_chans=spec.channels, zero_init_last=True, **common)
    del resnet.feature_info  # HybridEmbed fails on a list; without the attribute it uses num_features
    return resnet  # type: ignore[no-any-return]


class HybridEmbedding(HybridEmbed):
    """Tokens of a ResNet's feature map, whose size is computed, where timm would run the ResNet to find it."""

    def __init__(self, spec: ModelSpec, **options: Any) -> None:
        self.pad = spec.pad
        rows, columns = (spec.patch * side for side in spec.grid)
        super().__init__(feature_map(spec), feature_size=(rows, columns), feature_ratio=spec.stride, **options)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        height, width = self.img_size
        if images.ndim != 4 or tuple(images.shape[2:]) != (height, width):
            raise ValueError(
                f"a hybrid takes images [B, C, {height}, {width}], not {list(images.shape)}; "
                'use View("images") in the loader, or run vitctl interpolate-pos --res to adapt the model'
            )
        if self.pad:
            reach = self.feature_ratio[0] * self.patch_size[0]  # pixels of a token's side
            images = F.pad(images, (0, -width % reach, 0, -height % reach))
        return super().forward(images)  # type: ignore[no-any-return]


class BiT(ResNetV2):
    """The paper's ResNet baseline: BiT's, pre-activation, for any image size."""

    def __init__(self, spec: ModelSpec) -> None:
        conv = partial(StdConv2d, eps=1e-8 if spec.numerics == "timm" else 1e-10)
        super().__init__(
            spec.layers, num_classes=spec.classes, in_chans=spec.channels, width_factor=spec.factor, stem_type="fixed",
            conv_layer=conv, drop_path_rate=spec.drop_path, drop_rate=spec.dropout,
        )  # fmt: skip
        self.spec = spec
