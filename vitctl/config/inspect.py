"""What `vitctl inspect` looks at."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Count, CountOrZero, Mean, Range, Std, check_numbers, parse_resolution, require


@dataclass(frozen=True)
class InspectConfig:
    source: str | None = None
    data: str | None = None
    images: tuple[str, ...] = ()  # images to look at, in place of those of the data
    split: str | None = None  # test, else val, else the first
    res: str | None = None  # another resolution: positions are shown before and after
    pictures: Annotated[int, Range(4, 1_000_000)] = 128  # that attention and layers are measured on, as in the paper
    shown: Annotated[int, Range(1, 10_000)] = 8  # that attention is drawn over
    shots: CountOrZero = 10  # a class, by which layers are probed; 0 is off
    judged: Count = 1000  # images that probes are judged on, at most
    device: str = "auto"
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self)
        require(not (self.images and self.data), "both --images and --data are given; give one of them")
        if self.res is not None:
            parse_resolution(self.res)
