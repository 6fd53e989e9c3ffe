"""What `vitctl predict` looks at, and what it writes besides its answer."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import at_least, one_of
from vitctl.config.patchify import FITS, Fit


@dataclass(frozen=True)
class PredictConfig:
    pictures: tuple[str, ...]  # files, folders, patterns
    source: str | None = None  # weights, or an exported file
    top: int = 5
    batch: int = 32
    fit: Fit | None = None  # None: as the pictures that it was trained on
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: str = "auto"
    csv: str | None = None
    sheet: str | None = None
    sheet_pictures: int = 60
    kept: int | None = None  # predictions that the result holds; all, where it is not said
    max_pixels: int = 89_478_485
    allow_missing: bool = False

    def __post_init__(self) -> None:
        for name in ("top", "batch", "sheet_pictures", "max_pixels"):
            at_least(name, getattr(self, name), 1)
        at_least("kept", self.kept, 0)
        if self.fit is not None:
            one_of("fit", self.fit, FITS)
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
