"""Augmentation as data: one dataclass, and the literature's settings as literal rows."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from vitctl.config.checks import Amount, Range, Share, check_config, require
from vitctl.config.option import Partial, setting
from vitctl.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Partial):
    crop: Literal["none", "inception", "random-resized", "resize-small", "simple"] = setting(
        "none", "how a crop is drawn; inception: by TensorFlow's law; random-resized: by torchvision's"
    )
    crop_area: tuple[Share, Share] = setting(
        (0.05, 1.0), "inception, random-resized: share of the image that a crop covers"
    )
    crop_ratio: Annotated[tuple[float, float], Range(0, 1000, above=True)] | None = setting(
        None, "the same: width / height; default: 0.75 to 1.33 (inception), 3/4 to 4/3 (random-resized)"
    )
    crop_small: Annotated[float, Range(1, 1000)] = setting(
        256 / 224, "resize-small: the small side, in units of the resolution"
    )
    crop_pad: Annotated[int, Range(0, 10_000)] = setting(4, "simple: reflected border, in pixels")
    filter: Literal["bilinear", "bicubic"] | None = setting(
        None, "antialiased either way; default: bilinear for crops, and without a crop that of the evaluation, bicubic"
    )
    flip: Share = setting(0.0, "probability of a horizontal flip")
    brightness: Amount = setting(0.0, "color jitter: factors are drawn from 1 ± this")
    contrast: Amount = setting(0.0, "as brightness")
    saturation: Amount = setting(0.0, "as brightness")
    hue: Annotated[float, Range(0, 0.5)] = setting(0.0, "color jitter, in turns")
    grayscale: Share = setting(0.0, "probability")
    randaug_layers: Annotated[int, Range(0, 100)] = setting(0, "RandAugment: operations per image; 0 is off")
    randaug_magnitude: Amount = setting(10.0, "RandAugment: magnitude")
    randaug_std: Amount = setting(0.0, "RandAugment: deviation of the magnitude")
    randaug_probability: Share = setting(1.0, "RandAugment: probability of each operation")
    randaug_space: Literal["tf", "tf-unwrapped", "timm-inc"] = setting(
        "tf", "RandAugment: whose operations and scales; tf-unwrapped: solarize's threshold may be above 255"
    )
    three: bool = setting(False, "DeiT III: one of grayscale, solarize, blur")
    erase: Share = setting(0.0, "probability of random erasing")
    erase_area: tuple[Share, Share] = setting((0.02, 1 / 3), "share of the image that is erased")
    erase_fill: Literal["normal", "bytes"] = setting(
        "normal", "noise of erasing; normal: N(0, 1) in normalized pixels (timm); bytes: all alike often (1708.04896)"
    )
    mixup: Amount = setting(0.0, "alpha of mixup, Beta(alpha, alpha); 0 is off")
    cutmix: Amount = setting(0.0, "alpha of cutmix; 0 is off")
    mix_probability: Share = setting(1.0, "probability that a pair is mixed at all")
    mix_switch: Share = setting(0.5, "probability of cutmix where both are on")

    def __post_init__(self) -> None:
        check_config(self, "augment.")
        for name in ("crop_area", "erase_area"):
            low, high = getattr(self, name)
            require(0 < low <= high <= 1, f"augment.{name} is {low},{high}; it must be 0 < low <= high <= 1")
        require(self.ratio[0] <= self.ratio[1], "augment.crop_ratio must be 0 < low <= high")

    @property
    def ratio(self) -> tuple[float, float]:
        """Width / height of a crop."""
        return self.crop_ratio or ((0.75, 1.33) if self.crop == "inception" else (3 / 4, 4 / 3))

    @property
    def kernel(self) -> Literal["bilinear", "bicubic"]:
        """The filter that resizes."""
        return self.filter or ("bicubic" if self.crop == "none" else "bilinear")

    @property
    def mixes_labels(self) -> bool:
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def summary(self) -> str:
        """The fields that are not the default, for a log line."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return " ".join(changed) or "none"


def augmentation(name: str) -> AugmentConfig:
    if name not in PRESETS:
        raise ConfigError(f"augmentation {name!r} is unknown; {did_you_mean(name, PRESETS)}")
    return replace(PRESETS[name])  # names all fields, so that they replace those of a recipe


PRESETS: dict[str, AugmentConfig] = {
    "none": AugmentConfig(),
    "flip": AugmentConfig(flip=0.5),
    # "An Image is Worth 16x16 Words" (arXiv 2010.11929), through the Inception crop of arXiv 1409.4842, section 6, as
    # vision_transformer and big_vision call TensorFlow's sample_distorted_bounding_box: its default ratios are 0.75
    # to 1.33
    "inception": AugmentConfig(crop="inception", crop_area=(0.05, 1.0), flip=0.5),
    # torchvision's RandomResizedCrop and its defaults
    "random-resized": AugmentConfig(crop="random-resized", crop_area=(0.08, 1.0), flip=0.5),
    # "Big Transfer" (arXiv 1912.11370), section 3.3; sizes in the ratio 256 to 224 of big_vision's resize_small
    "resize-small": AugmentConfig(crop="resize-small", crop_small=256 / 224, flip=0.5),
    # "How to train your ViT?" (arXiv 2106.10270), section 3.4; the numbers are those of big_vision's
    # configs/vit_i21k.py, RANDAUG_DEF and MIXUP_DEF. Magnitude 0 of light1 is not nothing: the enhancing
    # operations of this space are strongest at both of their ends.
    "augreg-none": AugmentConfig(crop="inception", flip=0.5),
    "augreg-light1": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=0.0),
    "augreg-light2": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=10.0, mixup=0.2),
    "augreg-medium1": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=15.0, mixup=0.2),
    "augreg-medium2": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=15.0, mixup=0.5),
    "augreg-strong1": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=20.0, mixup=0.5),
    "augreg-strong2": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=20.0, mixup=0.8),
    # "Better plain ViT baselines for ImageNet-1k" (arXiv 2205.01580); big_vision's configs/vit_s16_i1k.py
    "vit-s16-i1k": AugmentConfig(crop="inception", flip=0.5, randaug_layers=2, randaug_magnitude=10.0, mixup=0.2),
    # "DeiT III: Revenge of the ViT" (arXiv 2204.07118), table 1, ImageNet-1k; deit's README_revenge.md and augment.py
    "deit3": AugmentConfig(
        crop="random-resized",
        crop_area=(0.08, 1.0),
        filter="bicubic",
        flip=0.5,
        three=True,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        mixup=0.8,
        cutmix=1.0,
    ),
    # the same, ImageNet-21k: the simple random crop (--src), and no mixup
    "deit3-i21k": AugmentConfig(
        crop="simple",
        filter="bicubic",
        flip=0.5,
        three=True,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        cutmix=1.0,
    ),
    # "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377), table 9; mae's FINETUNE.md: --aa
    # rand-m9-mstd0.5-inc1, in which timm leaves out every second operation, --reprob 0.25 --mixup 0.8 --cutmix 1.0
    "mae-finetune": AugmentConfig(
        crop="random-resized",
        crop_area=(0.08, 1.0),
        filter="bicubic",
        flip=0.5,
        randaug_layers=2,
        randaug_magnitude=9.0,
        randaug_std=0.5,
        randaug_probability=0.5,
        randaug_space="timm-inc",
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
}
