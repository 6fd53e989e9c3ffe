"""What `vitctl demo` shows."""

from dataclasses import dataclass

from vitctl.config.checks import at_least, require

FIRST, SECOND = 4, 6  # patches a side: trained with the first, fine-tuned with the second


@dataclass(frozen=True)
class DemoConfig:
    data: str = "digits"  # or any source of pictures that patchify takes
    model: str = "vit-ti"  # its patches go with the data
    patch: int | None = None  # pixels; 4 for digits, else 16
    steps: int = 450  # of pretraining; the other stages have a part of it
    batch: int = 64
    limit: int = 5000  # pictures of a split, spread over the classes
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require("/" not in self.model, f"model {self.model}: is named without its patches, which go with --patch")
        at_least("patch", self.patch, 1)
        for name in ("batch", "limit"):
            at_least(name, getattr(self, name), 2)
        at_least("steps", self.steps, 10)

    @property
    def embedded(self) -> bool:
        return self.data == "digits"

    @property
    def pixels(self) -> int:
        """Of a patch."""
        return self.patch or (4 if self.embedded else 16)
