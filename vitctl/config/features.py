"""What `vitctl features` takes from which model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vitctl.config.checks import Count, Mean, Range, Seed, Std, check_numbers, one_of, parse_resolution, require

PIXELS = "pixels"  # in place of weights: the images themselves
POOLS = ("auto", "cls", "gap", "none")


@dataclass(frozen=True)
class FeaturesConfig:
    source: str | None = None  # weights; or pixels, or random:MODEL, to compare with
    data: str | None = None
    out: str | None = None  # else in the cache, where later commands find it
    layers: Annotated[int, Range(1, 1000)] = 1  # outputs of the last N blocks, concatenated
    pool: Literal["auto", "cls", "gap", "none"] = "auto"  # as the model does; none: a vector for each patch
    res: str | None = None  # as the weights, or for random:MODEL as the data; pixels: 32 at most
    dtype: Literal["float32", "float16"] = "float32"  # of what is stored
    batch: Count = 32
    part: Count = 2048  # images that are kept together, and that a kill can lose
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: str = "auto"
    cache: bool = True
    seed: Seed = 0  # of random:MODEL
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self)
        is_raw = self.source == PIXELS and (self.mean or self.std)
        require(not is_raw, "pixels are features as they are; leave --mean and --std out")
        one_of("pool", self.pool, POOLS)
        one_of("dtype", self.dtype, ("float32", "float16"))
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
        require(self.out is None or self.out.endswith(".h5"), f"--out {self.out}: features are written as .h5")
        if self.res is not None:
            parse_resolution(self.res)
