"""The config of `vitctl bench`."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Pixels, Range, Seed, check_config
from vitctl.config.option import option, setting
from vitctl.errors import ConfigError

What = Literal["data", "models", "train", "selfsup", "features", "fewshot", "export", "accuracy", "all"]
TIMM_SMALL = (
    "--model vit_tiny_patch16_224 --model-kwargs img_size={res} patch_size=8 class_token=False --gp avg "
    "--batch-size 128 --opt adamw --lr 1e-3 --weight-decay 0.05 --clip-grad 1 --sched cosine --min-lr 0 "
    "--warmup-lr 0 --aa rand-m9-mstd0.5-inc1 --scale 0.3 1.0 --mixup 0.2 --cutmix 1 --mixup-prob 0.5 "
    "--smoothing 0.1 --drop-path 0.1 --reprob 0 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 "
    "--train-interpolation bicubic --interpolation bicubic --crop-pct 1.0 --no-prefetcher"
)
SMALL = ("vit-ti/16@224x32", "vit-ti/4@32x128")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    what: What = option("all", "Which part to measure.", argument=True)
    data: str | None = option(None, "JPEGs to measure on. Default: generated ones.", metavar="FOLDER")
    rounds: Count | None = option(
        None, "How often each figure is measured. Default: 5, or 3 for all parts.", metavar="N"
    )
    minutes: Annotated[float, Range(0, 10_000, above=True)] = option(
        10.0, "Of accuracy: how long each program trains.", metavar="N"
    )
    pictures: Count = setting(256, "JPEGs decoded for a figure")
    copies: Count = setting(8, "of them in the file that the loaders read")
    large: Count = setting(8, "photos of 4000x3000")
    batch: Count = setting(256, "batch size of the loaders")
    batches: Count = setting(32, "batches timed for a loader")
    model: str = setting("vit-b/16", "model whose first layer is measured")
    images: Count = setting(32, "batch size of that layer")
    train: tuple[str, ...] = setting(
        (), "model, pixels, batch; default: three of them, or two small ones for all parts"
    )
    train_images: Count = setting(64, "images for a figure of training, in whole steps and two at least")
    compiled: bool = setting(False, "measure our loop compiled as well")
    selfsup: str = setting("vit-s/16@224x16", "model, pixels, batch")
    features: str = setting("vit-b/16@224x32", "model, pixels, batch")
    features_images: Count | None = setting(None, "default: 64, or 32 for all parts")
    probe_classes: Annotated[int, Range(2, 1_000_000)] = setting(1000, "classes of the probes")
    probe_width: Count = setting(1024, "features of an image")
    export: str = setting("vit-s/16@224x32", "model, pixels, batch")
    res: Pixels = setting(64, "resolution of accuracy")
    ours: str = setting("", "more options of vitctl pretrain for accuracy, such as --model vit-ti/8")
    timm: str = setting(TIMM_SMALL, "options of timm's train.py for accuracy")
    timm_scripts: str | None = setting(None, "a checkout of pytorch-image-models, for accuracy")
    seed: Seed = setting(0, "random seed")

    @property
    def times(self) -> int:
        return self.rounds or (3 if self.what == "all" else 5)

    @property
    def cases(self) -> tuple[str, ...]:
        return self.train or (SMALL if self.what == "all" else (*SMALL, "vit-b/16@224x16"))

    @property
    def extracted(self) -> int:
        return self.features_images or (32 if self.what == "all" else 64)

    def __post_init__(self) -> None:
        check_config(self)
        for case in (*self.train, self.selfsup, self.features, self.export):
            TrainCase.parse(case)


@dataclass(frozen=True)
class TrainCase:
    model: str
    res: Pixels
    batch: Count

    def __post_init__(self) -> None:
        check_config(self, "train case: ")

    def __str__(self) -> str:
        return f"{self.model}@{self.res}x{self.batch}"

    @classmethod
    def parse(cls, text: str) -> "TrainCase":
        match = re.fullmatch(r"(.+)@([0-9]{1,18})x([0-9]{1,18})", text)
        if not match:
            raise ConfigError(f"train case {text!r} is not understood; write MODEL@PIXELSxBATCH: vit-ti/16@224x32")
        return cls(match[1], int(match[2]), int(match[3]))
