"""What `vitctl predict` looks at, and what it writes besides its answer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, MaxPixels, Mean, Range, Std, StepsOrZero, check_numbers, one_of, require
from vitctl.config.patchify import FITS, Fit


@dataclass(frozen=True)
class PredictConfig:
    pictures: tuple[str, ...]  # files, folders, patterns
    source: str | None = None  # weights, or an exported file
    top: Count = 5
    batch: Count = 32
    fit: Fit | None = None  # None: as the images that it was trained on
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: str = "auto"
    csv: str | None = None
    sheet: str | None = None
    sheet_pictures: Annotated[int, Range(1, 10_000)] = 60
    kept: StepsOrZero | None = None  # predictions that the result holds; all, where it is not said
    max_pixels: MaxPixels = 89_478_485
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.pictures), "no image is named; name files, folders or patterns, or - and names on stdin")
        check_numbers(self)
        if self.fit is not None:
            one_of("fit", self.fit, FITS)
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
