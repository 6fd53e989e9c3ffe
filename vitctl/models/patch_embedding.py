"""The first layer: patches as they lie in the patch file, or images, through the same weights."""

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed

from vitctl.patches import patchify_images


class PatchEmbedding(PatchEmbed):
    """timm's convolution as the product it is: its parameters, its names, but a linear layer on [B, N, P*P*C].

    A patch file's rows go in without a detour over images, and images are cut into the same rows first: both give the
    same bits. On a CPU the product is also faster than the convolution, several times so in its backward pass.
    """

    def __init__(self, *args: object, pad: bool = False, **options: object) -> None:
        super().__init__(*args, **options)
        self.pad = pad
        if pad:  # timm counts whole patches only
            height, width = self.img_size
            self.grid_size = (-(-height // self.patch_size[0]), -(-width // self.patch_size[1]))
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W], or patches [B, N, P*P*C], to tokens [B, N, D]."""
        if pixels.ndim == 4:
            pixels = self.cut(pixels)
        count, values = self.num_patches, self.proj.weight[0].numel()
        if tuple(pixels.shape[1:]) != (count, values):
            raise ValueError(
                f"patches {tuple(pixels.shape[1:])} do not fit a model of {count} patches of {values} numbers; "
                "read the file with another patch size or resolution, or change the model's"
            )
        return self.embed(pixels)

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """Any patches [B, L, P*P*C] to tokens [B, L, D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, P*P*C], channels last as in a patch
        return self.norm(F.linear(patches, weight, self.proj.bias))  # type: ignore[no-any-return]

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, N, P*P*C]."""
        height, width = self.img_size
        if tuple(images.shape[2:]) != (height, width):
            raise ValueError(
                f"images of {images.shape[2]}x{images.shape[3]} do not fit a model for {height}x{width}; "
                "vitctl interpolate-pos --res makes one that does"
            )
        if self.pad:
            patch = self.patch_size[0]
            images = F.pad(images, (0, self.grid_size[1] * patch - width, 0, self.grid_size[0] * patch - height))
        return patchify_images(images.permute(0, 2, 3, 1), self.patch_size[0])
