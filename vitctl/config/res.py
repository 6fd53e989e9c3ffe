"""A resolution: `Res(384)` or `Res(192, 256)`; as text 384 or 192x256, height first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from vitctl.config.checks import Pixels, Range, check_config
from vitctl.errors import ConfigError


@dataclass(frozen=True)
class Res:
    height: Pixels
    width: Annotated[int, Range(0, 100_000)] = 0  # the height, unless given

    def __post_init__(self) -> None:
        check_config(self, "resolution: ")
        object.__setattr__(self, "width", self.width or self.height)

    def __iter__(self) -> Iterator[int]:
        return iter((self.height, self.width))

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "Res":
        match = re.fullmatch(r"([0-9]{1,5})(?:[xX]([0-9]{1,5}))?", text.strip())
        if not match or int(match[1]) < 1 or int(match[2] or 1) < 1:
            raise ConfigError(f"resolution {text!r} is not understood; write 224, or 192x256 for height x width")
        return cls(int(match[1]), int(match[2] or match[1]))
