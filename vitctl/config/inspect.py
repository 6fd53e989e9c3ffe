"""The config of `vitctl inspect`."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Count, CountOrZero, Range, check_config, require
from vitctl.config.common import DataConfig, DeviceConfig, WeightsConfig
from vitctl.config.option import option, setting
from vitctl.config.res import Res


@dataclass(frozen=True, kw_only=True)
class InspectConfig(DeviceConfig, DataConfig, WeightsConfig):
    images: tuple[str, ...] = option((), "A file, folder or pattern in place of --data; repeatable.", metavar="IMAGE")
    split: str | None = option(None, "Split to look at. Default: test, or else val.", metavar="NAME")
    res: Res | None = option(None, "Look at another resolution, with positions before and after.", metavar="N|HxW")
    shown: Annotated[int, Range(1, 10_000)] = option(8, "How many images attention is drawn over.", metavar="N")
    pictures: Annotated[int, Range(4, 1_000_000)] = setting(
        128, "images that attention and layers are measured on, as in the paper"
    )
    shots: CountOrZero = setting(10, "labeled images per class by which layers are probed; 0 turns it off")
    judged: Count = setting(1000, "images that probes are tested on, at most")

    def __post_init__(self) -> None:
        check_config(self)
        require(not (self.images and self.data), "both --images and --data are given; give one of them")
