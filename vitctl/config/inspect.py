"""What `vitctl inspect` looks at."""

from dataclasses import dataclass

from vitctl.config.checks import at_least, require, resolution


@dataclass(frozen=True)
class InspectConfig:
    source: str | None = None
    data: str | None = None
    images: tuple[str, ...] = ()  # pictures to look at, in place of those of the data
    split: str | None = None  # test, else val, else the first
    res: str | None = None  # another resolution: positions are shown before and after
    pictures: int = 128  # that attention and layers are measured on, as in the paper
    shown: int = 8  # that attention is drawn over
    shots: int = 10  # a class, by which layers are probed; 0 is off
    judged: int = 1000  # pictures that probes are judged on, at most
    device: str = "auto"
    allow_missing: bool = False

    def __post_init__(self) -> None:
        at_least("pictures", self.pictures, 4)
        at_least("shown", self.shown, 1)
        at_least("shots", self.shots, 0)
        at_least("judged", self.judged, 1)
        require(not (self.images and self.data), "both --images and --data are given; give one of them")
        if self.res is not None:
            resolution(self.res)
