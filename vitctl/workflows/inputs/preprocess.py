"""Images in memory or on disk, as a model takes them: prepared exactly as `vitctl predict` prepares files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from vitctl.config.eval_crop import EvalCrop
from vitctl.config.model import ModelSpec
from vitctl.data.patchifier.decode import Target, decode, flatten
from vitctl.data.patchifier.image_file import read_whole
from vitctl.data.sources.files import content_of
from vitctl.io.weights import About
from vitctl.models.input import normalize

Picture = str | Path | Image.Image | np.ndarray[Any, Any]  # uint8 [H, W] or [H, W, C]


class Preprocess:
    """`model.preprocess`: one image, or a list of them, to normalized images [B, C, H, W] in float32."""

    def __init__(self, spec: ModelSpec, about: About, takes_bytes: bool = False) -> None:
        self.about = about
        self.target = target_for_model(spec, about.eval_crop, takes_bytes)

    def __call__(self, images: Picture | Sequence[Picture]) -> torch.Tensor:
        pixels = torch.from_numpy(self.to_bytes(images))
        return normalize(pixels, self.about.mean, self.about.std).permute(0, 3, 1, 2).contiguous()

    def to_bytes(self, images: Picture | Sequence[Picture]) -> np.ndarray[Any, Any]:
        """uint8 [B, H, W, C]."""
        return np.stack([self.decode(each) for each in as_list(images)])

    def decode(self, image: Picture) -> np.ndarray[Any, Any]:
        if isinstance(image, Image.Image):
            image = flatten(ImageOps.exif_transpose(image))
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3):
                raise TypeError(f"an image is uint8 [H, W] or [H, W, C], not {image.dtype} {list(image.shape)}")
            return decode(image, self.target)
        return decode(read_whole(content_of(str(image)), self.target.max_pixels), self.target)


def target_for_model(spec: ModelSpec, crop: EvalCrop, takes_bytes: bool = False) -> Target:
    """What an image file is decoded to for a model; for an export that takes the center itself, to more."""
    return Target(spec.height, spec.width, spec.channels, center=replace(crop, border=takes_bytes))


def as_list(images: Picture | Sequence[Picture]) -> list[Picture]:
    single = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    return [images] if single else list(images)  # type: ignore[list-item,arg-type]
