"""The few checks that every config uses; each failure is one line that names the field."""

import re
from collections.abc import Iterable

from vitctl.errors import ConfigError, did_you_mean


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: str, options: Iterable[str]) -> None:
    known = list(options)
    if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown; {did_you_mean(value, known)}")


def at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")


def fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} is {value}; it must lie between 0 and 1")


def resolution(text: str) -> tuple[int, int]:
    """'224' or 'HxW', in pixels: (height, width)."""
    match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text.strip())
    if not match or int(match[1]) < 1 or int(match[2] or 1) < 1:
        raise ConfigError(f"resolution {text!r} is not understood; write 224, or 192x256 for height x width")
    return int(match[1]), int(match[2] or match[1])
