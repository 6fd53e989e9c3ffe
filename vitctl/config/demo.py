"""The config of `vitctl demo`."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Pixels, Range, Seed, check_config, require
from vitctl.config.option import option, setting

FIRST, SECOND = 4, 6  # patches a side: trained with the first, fine-tuned with the second


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    data: str = option("digits", "Your own images: any source that patchify takes.", metavar="SOURCE")
    seed: Seed = option(0, "Random seed of weights, data order and augmentation.", metavar="N")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
    model: str = setting("vit-ti", "without a patch size, which goes with the data")
    patch: Pixels | None = setting(None, "patch size; default: 4 for digits, or else 16")
    steps: Annotated[int, Range(10, 1_000_000_000)] = setting(450, "of pretraining; other stages take a part of it")
    batch: Annotated[int, Range(2, 1_000_000)] = setting(64, "batch size")
    limit: Annotated[int, Range(2, 1_000_000_000)] = setting(5000, "images per split, spread over the classes")

    def __post_init__(self) -> None:
        require(
            "/" not in self.model, f"model {self.model}: must be named without its patch size, which --set patch=N sets"
        )
        check_config(self)

    @property
    def embedded(self) -> bool:
        return self.data == "digits"

    @property
    def pixels(self) -> int:
        """The patch size."""
        return self.patch or (4 if self.embedded else 16)
