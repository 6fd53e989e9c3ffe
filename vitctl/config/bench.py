"""What `vitctl bench` measures."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Pixels, Range, Seed, check_numbers, one_of
from vitctl.errors import ConfigError

PARTS = ("data", "models", "train", "selfsup", "features", "fewshot", "export", "all")
SMALL = ("vit-ti/16@224x32", "vit-ti/4@32x128")


@dataclass(frozen=True)
class BenchConfig:
    what: Literal["data", "models", "train", "selfsup", "features", "fewshot", "export", "all"] = "all"
    data: str | None = None  # a folder of JPEGs; made up where none is given
    rounds: Count | None = None  # every figure is taken this often, all of them in turn; 5, or 3 of all parts
    pictures: Count = 256  # JPEGs decoded for a figure
    copies: Count = 8  # of them in the file that the loaders read
    large: Count = 8  # photos of 4000x3000
    batch: Count = 256
    batches: Count = 32  # timed for a loader's figure
    model: str = "vit-b/16"  # whose first layer is measured
    images: Count = 32  # that it takes at once
    train: tuple[str, ...] = ()  # model, pixels, batch; three of them, or of all parts the two small ones
    train_images: Count = 64  # images for a figure of training, in whole steps and two at least
    compiled: bool = False  # measure our loop compiled as well
    selfsup: str = "vit-s/16@224x16"
    features: str = "vit-b/16@224x32"
    features_images: Count | None = None  # 64, or 32 of all parts
    probe_classes: Annotated[int, Range(2, 1_000_000)] = 1000
    probe_width: Count = 1024  # features of an image
    export: str = "vit-s/16@224x32"
    seed: Seed = 0

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
        one_of("what", self.what, PARTS)
        check_numbers(self)
        for case in (*self.train, self.selfsup, self.features, self.export):
            TrainCase.parse(case)


@dataclass(frozen=True)
class TrainCase:
    model: str
    res: Pixels
    batch: Count

    def __post_init__(self) -> None:
        check_numbers(self, "train case: ")

    def __str__(self) -> str:
        return f"{self.model}@{self.res}x{self.batch}"

    @classmethod
    def parse(cls, text: str) -> "TrainCase":
        found = re.fullmatch(r"(.+)@([0-9]{1,18})x([0-9]{1,18})", text)
        if not found:
            raise ConfigError(f"train case {text!r} is not understood; write MODEL@PIXELSxBATCH: vit-ti/16@224x32")
        return cls(found[1], int(found[2]), int(found[3]))
