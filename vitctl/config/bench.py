"""What `vitctl bench` measures."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import at_least, one_of


@dataclass(frozen=True)
class BenchConfig:
    what: Literal["data", "models", "train", "all"] = "all"
    data: str | None = None  # a folder of JPEGs; made up where none is given
    rounds: int = 5  # every figure is taken this often, all of them in turn
    pictures: int = 256  # JPEGs decoded for a figure
    copies: int = 8  # of them in the file that the loaders read
    large: int = 8  # photos of 4000x3000
    batch: int = 256
    batches: int = 32  # timed for a loader's figure
    model: str = "vit-b/16"  # whose first layer is measured
    train_model: str = "vit-ti/16"  # that is trained
    res: int = 224  # at which it is
    images: int = 32  # that a model takes at once
    steps: int = 10  # of training for a figure
    compile: Literal["auto", "on", "off"] = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("what", self.what, ("data", "models", "train", "all"))
        for name in ("rounds", "pictures", "copies", "large", "batch", "batches", "images", "res", "steps"):
            at_least(name, getattr(self, name), 1)
