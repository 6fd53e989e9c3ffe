"""What `vitctl evaluate` is asked for."""

from dataclasses import dataclass
from typing import Literal

from vitctl.config.checks import at_least, one_of


@dataclass(frozen=True)
class EvaluateConfig:
    source: str | None = None
    data: str | None = None
    split: str | None = None  # test, else val
    batch: int = 64
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: str = "auto"
    allow_missing: bool = False

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 1)
        one_of("precision", self.precision, ("auto", "float32", "bf16"))
