"""The masking of self-supervised training, and its targets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Between, Pixels, Range, Share, check_config, require
from vitctl.config.option import Partial, option, setting
from vitctl.errors import ConfigError

Objective = Literal["mean-color", "downsampled", "pixels", "mae"]
ROUNDING = 1e-9  # of a share of patches: 0.9 of 10 leaves one, not none


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Partial):
    """The paper (appendix B.1.2) does not specify the choices marked with *; they are stored with the run."""

    ratio: Between = option(0.5, "Share of the patches to hide.", metavar="SHARE")  # int(N (1 - ratio)) stay, as in MAE
    masked: Share = setting(0.8, "share of the hidden patches that become the learned mask token")
    swapped: Share = setting(
        0.1, "share of the hidden patches that become another patch of the image; the rest stays, but is predicted too"
    )  # * another patch of the same image
    # A color is floor(mean / 256 * 2^bits)* of the bytes*, so that 0..255 is cut into equal parts.
    bits: Annotated[int, Range(1, 8)] = setting(3, "bits of a color channel for mean-color and downsampled")
    side: Pixels = setting(4, "side of a patch for downsampled")
    normalise: bool = setting(True, "mae: normalize the pixels of each patch by their mean and deviation")
    decoder_dim: Annotated[int, Range(4, 100_000)] = setting(512, "width of the decoder of mae")
    decoder_depth: Annotated[int, Range(1, 1000)] = setting(8, "blocks of the decoder of mae")
    decoder_heads: Annotated[int, Range(1, 10_000)] = setting(16, "attention heads of the decoder of mae")

    def __post_init__(self) -> None:
        check_config(self, "masking.")
        require(self.decoder_dim % 4 == 0, f"masking.decoder_dim is {self.decoder_dim}; it must be a multiple of 4")

    def counts(self, patches: int) -> "Counts":
        """How many patches of an image are hidden. Checked here, because `--set` changes one field at a time."""
        require(self.masked + self.swapped <= 1 + ROUNDING, "masking.masked and masking.swapped add up to more than 1")
        left = int(patches * (1 - self.ratio) + ROUNDING)
        hidden = patches - left
        if not left or not hidden:
            raise ConfigError(
                f"masking.ratio is {self.ratio}: of {patches} patches, {hidden} would be hidden and {left} left; "
                "both must be at least one. Use smaller patches or another ratio"
            )
        masked = round(self.masked * hidden)
        return Counts(hidden, masked, min(round(self.swapped * hidden), hidden - masked))


@dataclass(frozen=True)
class Counts:
    hidden: int  # to predict
    masked: int
    swapped: int
