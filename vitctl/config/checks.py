"""Checks used by every config; each error is one line that names the field."""

import dataclasses
import functools
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vitctl.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Range:
    """The numbers allowed for a field, as part of its type: `depth: Annotated[int, Range(1, 1000)]`."""

    low: float
    high: float
    above: bool = False  # low itself is not allowed
    under: bool = False  # high itself is not allowed

    def __contains__(self, value: Any) -> bool:
        """Never true for NaN; for infinity, only if `high` is infinite."""
        low = self.low < value if self.above else self.low <= value
        return bool(low and (value < self.high if self.under else value <= self.high))

    def __str__(self) -> str:
        low, high = (f"{each:,}" if isinstance(each, int) else f"{each:g}" for each in (self.low, self.high))
        if not (self.above or self.under):
            return f"lie between {low} and {high}"
        return f"be {'above' if self.above else 'at least'} {low} and {'under' if self.under else 'at most'} {high}"


SHARE = Range(0, 1)  # of a whole
COUNT = Range(1, 1_000_000)  # such as images in a batch

Share = Annotated[float, SHARE]
BelowOne = Annotated[float, Range(0, 1, under=True)]
AboveZero = Annotated[float, Range(0, 1, above=True)]
Between = Annotated[float, Range(0, 1, above=True, under=True)]
Amount = Annotated[float, Range(0, 1000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # valid for torch, NumPy and scikit-learn
Steps = Annotated[int, Range(1, 1_000_000_000)]
StepsOrZero = Annotated[int, Range(0, 1_000_000_000)]
Count = Annotated[int, COUNT]
CountOrZero = Annotated[int, Range(0, 1_000_000)]
Pixels = Annotated[int, Range(1, 100_000)]  # of a side
Limit = Annotated[int, Range(1, 1_000_000_000_000)]  # images, of a whole data set
Mean = Annotated[float, Range(-1000, 1000)]  # of pixels from 0 to 1, for one channel
Std = Annotated[float, Range(0, 1000, above=True)]
MaxPixels = Annotated[int, Range(1, 100_000_000_000)]


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


def within(name: str, value: Any, allowed: Range) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!s:.40}; it must {allowed}")


@dataclass(frozen=True)
class Limits:
    """The values allowed for a field."""

    allowed: Range | None
    choices: tuple[str, ...]
    is_resolution: bool


def check_config(config: Any, prefix: str = "") -> None:
    """Check every field against its type: numbers of a Range, choices of a Literal."""
    for name, limits in limits_of(config.__class__).items():
        value = getattr(config, name)
        if limits.is_resolution:
            require(not isinstance(value, str), f"{prefix}{name} is {value!r}; write Res(224), or Res.parse({value!r})")
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and limits.allowed:
                within(f"{prefix}{name}", each, limits.allowed)
            if each is not None and limits.choices:
                one_of(f"{prefix}{name}", each, limits.choices)


@functools.cache
def limits_of(kind: type) -> dict[str, Limits]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        field.name: Limits(range_of(hint), choices_of(hint), "config.res.Res" in str(hint))
        for field in dataclasses.fields(kind)
        for hint in [hints[field.name]]
    }


def choices_of(hint: Any) -> tuple[str, ...]:
    """The choices of the Literals in an annotation."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for part in typing.get_args(hint) for choice in choices_of(part))


def range_of(hint: Any) -> Range | None:
    """The range in an annotation, at any depth inside unions and tuples."""
    parts = typing.get_args(hint)
    ranges = (part if isinstance(part, Range) else range_of(part) for part in parts)
    return next((each for each in ranges if each), None)


def whole_number(text: str) -> int:
    """Like int(), but only for plain digits: not 1_000, and no digits of other scripts."""
    if not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
        raise ValueError(text)
    return int(text)


def parse_number(text: str) -> float:
    """Like float(), but only for plain digits; also inf and nan, which no range allows."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def word_or_number(name: str, text: str, word: str, what: str, allowed: Range) -> None:
    """A setting that is one word, or a whole number as text."""
    if text == word:
        return
    try:
        value = whole_number(text)
    except ValueError:
        raise ConfigError(f"{name} {text!r} is not understood; write {word}, or {what}") from None
    within(name, value, allowed)
