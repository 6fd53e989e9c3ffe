"""The config of `vitctl predict`."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Count, MaxPixels, Range, StepsOrZero, check_config, require
from vitctl.config.common import DeviceConfig, PrecisionConfig, WeightsConfig
from vitctl.config.option import option, setting
from vitctl.config.patchify import Fit


@dataclass(frozen=True, kw_only=True)
class PredictConfig(DeviceConfig, PrecisionConfig, WeightsConfig):
    pictures: tuple[str, ...] = option(
        ..., "Files, folders, quoted patterns, or - for names on stdin.", metavar="IMAGE...", argument=True
    )
    top: Count = option(5, "Classes shown for each image; of a set, all are.", metavar="N")
    csv: str | None = option(None, "Write one line per image to this file.", metavar="FILE.csv")
    sheet: str | None = option(
        None, "Draw the images with their predictions, correct and wrong ones in color.", metavar="FILE.png"
    )
    fit: Fit | None = option(None, "How images are fitted to the model's input. Default: as during training.")
    batch: Count = option(32, "Batch size.", metavar="N")
    sheet_pictures: Annotated[int, Range(1, 10_000)] = setting(60, "images of the sheet, at most")
    kept: StepsOrZero | None = setting(None, "predictions in the result; default: all")
    max_pixels: MaxPixels = setting(89_478_485, "an image with more pixels is refused before it is decoded")

    def __post_init__(self) -> None:
        require(bool(self.pictures), "no image is given; name files, folders or patterns, or - and names on stdin")
        check_config(self)
