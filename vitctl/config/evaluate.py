"""What `vitctl evaluate` is asked for."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import Count, Mean, Std, check_numbers, one_of, require


@dataclass(frozen=True)
class EvaluateConfig:
    source: str | None = None  # weights, or an exported file
    data: str | None = None
    split: str | None = None  # test, else val
    batch: Count | None = None  # as in training, so that the same answers come out; else 64
    precision: Literal["auto", "float32", "bf16"] = "auto"  # of weights; an exported file has its own
    device: str = "auto"
    crops: Count = 1
    labels: str | None = None  # a JSON file with several right answers an image, as ImageNet-ReaL's
    confusion: str | None = None  # a figure
    allow_missing: bool = False
    mean: tuple[Mean, ...] = ()  # of the pixels, in place of what the weights say
    std: tuple[Std, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self)
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
        require(self.crops in (1, 5, 10), f"crops is {self.crops}; write 1, 5, or 10 (5 and their mirror images)")
