"""What a model sees of an image where nothing is random: how it is resized, and which part of it is taken."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from vitctl.errors import ConfigError, did_you_mean

Filter = Literal["bicubic", "bilinear"]
FILTERS: tuple[str, ...] = get_args(Filter)


@dataclass(frozen=True)
class EvalCrop:
    """timm's crop_mode, crop_pct and interpolation.

    An image is resized to the model's size divided by `share`: its short side, or squashed or padded to it. The center
    is the model's input.
    """

    fit: str = "crop"  # crop, squash or pad
    share: float = 1.0
    filter: str = "bicubic"
    border: bool = False  # keep what surrounds the center, for an exported graph that takes the center itself

    def outer_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the center is taken, rounded down as by timm: 256 for 224 and 0.875."""
        return math.floor(height / self.share + 1e-6), math.floor(width / self.share + 1e-6)

    def result_size(self, height: int, width: int) -> tuple[int, int]:
        return self.outer_size(height, width) if self.border else (height, width)

    def __str__(self) -> str:
        words = {"crop": "the short side is resized", "squash": "squashed", "pad": "padded"}
        part = f", then the central {self.share:.4g} of each side" if self.share < 1 else ""
        return f"{words[self.fit]} ({self.filter}){part}"


SHORT_SIDE = EvalCrop()  # all of it
PROTOCOLS = {
    "whole": SHORT_SIDE,
    "vit_jax": EvalCrop("squash", 1.0, "bilinear"),  # resize((res, res))
    "big_vision": EvalCrop("crop", 0.875, "bilinear"),  # resize_small(256)|central_crop(224)
    "big_vision/transfer": EvalCrop("crop", 384 / 448, "bilinear"),  # resize_small(448)|central_crop(384)
    "big_vision/few-shot": EvalCrop("squash", 0.875, "bilinear"),  # resize(256)|central_crop(224)
    "mae": EvalCrop("crop", 0.875),
    "deit": EvalCrop("crop", 0.875),
    "deit3": EvalCrop("crop", 1.0),
    "dino": EvalCrop("crop", 0.875),
}


def parse_eval_crop(text: str, own: EvalCrop) -> EvalCrop:
    """A share of what the weights say otherwise, or the name of a protocol; "" is what the weights say."""
    if not text:
        return own
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    try:
        share = float(text)
    except ValueError:
        near = did_you_mean(text, PROTOCOLS)
        raise ConfigError(f"--eval-crop {text!r}: is neither a share nor a protocol; {near}") from None
    if not 0.1 <= share <= 1:
        raise ConfigError(f"--eval-crop {text}: a share of the image's sides is from 0.1 to 1")
    return replace(own, share=share)
