"""What masked-patch self-supervision hides, and what it asks for."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Between, Pixels, Range, Share, check_numbers, require
from vitctl.errors import ConfigError

Objective = Literal["labels", "mean-color", "downsampled", "pixels", "mae"]
OBJECTIVES = ("labels", "mean-color", "downsampled", "pixels", "mae")
ROUNDING = 1e-9  # of a share of patches: 0.9 of 10 leaves one, not none


@dataclass(frozen=True)
class MaskingConfig:
    """The paper (appendix B.1.2) leaves open what is marked with *; what is chosen here is stored with the run."""

    ratio: Between = 0.5  # of the patches; int(N (1 - ratio)) are left alone, as MAE counts
    masked: Share = 0.8  # of these: get the learnable token
    swapped: Share = 0.1  # of these: get another patch* of the same image; the rest stays as it is, but is asked for
    # of a color: floor(mean / 256 * 2^bits)* of the bytes*, so that 0..255 is cut into equal parts
    bits: Annotated[int, Range(1, 8)] = 3
    side: Pixels = 4  # of a patch that is asked for downsampled
    normalise: bool = True  # mae: each patch's values less their mean, by their deviation
    decoder_dim: Annotated[int, Range(4, 100_000)] = 512  # mae
    decoder_depth: Annotated[int, Range(1, 1000)] = 8
    decoder_heads: Annotated[int, Range(1, 10_000)] = 16

    def __post_init__(self) -> None:
        check_numbers(self, "masking.")
        require(self.decoder_dim % 4 == 0, f"masking.decoder_dim is {self.decoder_dim}; waves of positions need fours")

    def counts(self, patches: int) -> "Counts":
        """How many of so many patches. Fields that are set one after the other are compared here."""
        require(self.masked + self.swapped <= 1 + ROUNDING, "masking.masked and masking.swapped are more than all")
        left = int(patches * (1 - self.ratio) + ROUNDING)
        hidden = patches - left
        if not left or not hidden:
            raise ConfigError(
                f"masking.ratio is {self.ratio}: of {patches} patches, {hidden} would be hidden and {left} left; "
                "both must be one at least. Take smaller patches, or another ratio"
            )
        masked = round(self.masked * hidden)
        return Counts(hidden, masked, min(round(self.swapped * hidden), hidden - masked))


@dataclass(frozen=True)
class Counts:
    hidden: int  # asked for
    masked: int
    swapped: int
