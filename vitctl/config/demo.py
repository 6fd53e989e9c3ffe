"""What `vitctl demo` shows."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Pixels, Range, Seed, check_numbers, require

FIRST, SECOND = 4, 6  # patches a side: trained with the first, fine-tuned with the second


@dataclass(frozen=True)
class DemoConfig:
    data: str = "digits"  # or any source of images that patchify takes
    model: str = "vit-ti"  # its patches go with the data
    patch: Pixels | None = None  # pixels; 4 for digits, else 16
    steps: Annotated[int, Range(10, 1_000_000_000)] = 450  # of pretraining; the other stages have a part of it
    batch: Annotated[int, Range(2, 1_000_000)] = 64
    limit: Annotated[int, Range(2, 1_000_000_000)] = 5000  # images of a split, spread over the classes
    seed: Seed = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require("/" not in self.model, f"model {self.model}: is named without its patches, which go with --patch")
        check_numbers(self)

    @property
    def embedded(self) -> bool:
        return self.data == "digits"

    @property
    def pixels(self) -> int:
        """Of a patch."""
        return self.patch or (4 if self.embedded else 16)
