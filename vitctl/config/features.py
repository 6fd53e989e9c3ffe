"""The config of `vitctl features`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Range, Seed, check_config, require
from vitctl.config.common import DataConfig, DeviceConfig, PrecisionConfig, WeightsConfig
from vitctl.config.option import option, setting
from vitctl.config.res import Res

PIXELS = "pixels"  # instead of weights: the images themselves


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(DeviceConfig, PrecisionConfig, DataConfig, WeightsConfig):
    source: str | None = option(
        None, "Weights, as in every command; or pixels, or random:MODEL, for comparison.", "from", metavar="WEIGHTS"
    )
    out: str | None = option(None, "An .h5 file. Default: the cache, where later commands find it.", metavar="FILE")
    layers: Annotated[int, Range(1, 1000)] = option(1, "Concatenate the outputs of the last N blocks.", metavar="N")
    pool: Literal["auto", "cls", "gap", "none"] = option(
        "auto", "auto is the input of the head; none keeps a vector for each patch."
    )
    cache: bool = option(True, "Reuse features that were computed before.")
    res: Res | None = setting(
        None, "resolution; default: that of the weights, of the data for random:MODEL, 32 at most for pixels"
    )
    dtype: Literal["float32", "float16"] = setting("float32", "of the stored features")
    batch: Count = setting(32, "batch size")
    part: Count = setting(2048, "images that are saved together; a kill loses at most one such part")
    seed: Seed = setting(0, "random seed of random:MODEL")

    def __post_init__(self) -> None:
        check_config(self)
        is_raw = self.source == PIXELS and (self.mean or self.std)
        require(not is_raw, "pixels are features as they are; leave --mean and --std out")
        require(self.out is None or self.out.endswith(".h5"), f"--out {self.out}: features are written as .h5")
