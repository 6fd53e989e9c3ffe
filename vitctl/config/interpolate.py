"""What `vitctl interpolate-pos` does."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import Mean, Std, check_numbers, one_of, parse_resolution


@dataclass(frozen=True)
class InterpolateConfig:
    res: str  # 384, or HxW
    source: str | None = None  # --from
    out: str | None = None  # MODEL-RES.safetensors unless named; .npz writes the official layout
    method: Literal["official", "bilinear", "bicubic", "bicubic-aa", "fresh"] = "official"
    plot: str | None = None  # a .png of the similarity maps before and after
    pad: bool = False  # a size that patches do not divide is padded
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self)
        parse_resolution(self.res)
        one_of("method", self.method, ("official", "bilinear", "bicubic", "bicubic-aa", "fresh"))

    @property
    def size(self) -> tuple[int, int]:
        return parse_resolution(self.res)
