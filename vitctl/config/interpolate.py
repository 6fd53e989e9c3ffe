"""The config of `vitctl interpolate-pos`."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import check_config
from vitctl.config.common import WeightsConfig
from vitctl.config.option import option
from vitctl.config.res import Res

Method = Literal["official", "bilinear", "bicubic", "bicubic-aa", "fresh"]


@dataclass(frozen=True, kw_only=True)
class InterpolateConfig(WeightsConfig):
    res: Res = option(..., "The new resolution: larger or smaller, square or not.", metavar="N|HxW")
    out: str | None = option(
        None, "A .safetensors, or an .npz in the official layout. Default: MODEL-RES.safetensors.", metavar="FILE"
    )
    method: Method = option(
        "official",
        "official: as the paper's code, bilinear with aligned corners; bicubic: as MAE; bicubic-aa: as timm; "
        "fresh: re-initialized.",
    )
    plot: str | None = option(None, "Draw the similarity of positions before and after.", metavar="FILE.png")
    pad: bool = option(False, "Pad a resolution that is no multiple of the patch size, at the bottom and right.")

    def __post_init__(self) -> None:
        check_config(self)
