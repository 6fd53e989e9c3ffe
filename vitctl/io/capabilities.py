"""What a format can hold. A writer never loses anything in silence: what its table does not list must be the default.

A new field of ModelSpec is therefore refused by every format of others until somebody enters it in a table.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import HALF, About, Weights, for_channels

NOT_COMPUTED = ("name", "dropout", "drop_path")  # a label, and what acts in training alone


class Anything(Collection[Any]):
    """Every value of a field."""

    def __contains__(self, value: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


ANY = Anything()
Values = Callable[[ModelSpec], Collection[Any]]  # of a field; they may depend on the others


def allow(*values: Any) -> Values:
    return lambda spec: values


def allow_any(spec: ModelSpec) -> Collection[Any]:
    return ANY


@dataclass(frozen=True)
class Capabilities:
    format: str  # in words
    instead: str  # what to do with a model that it does not hold
    fields: Mapping[str, Values]
    about: Collection[str] = ()  # which of mean and std; a format without them is read as 0.5


def check_supported(weights: Weights, capabilities: Capabilities) -> None:
    """Refuses, field by field, what this format would lose."""
    wrong = [
        *find_lost_fields(weights.spec, capabilities),
        *find_lost_normalization(weights.about, weights.spec.channels, capabilities),
    ]
    if wrong:
        raise UsageError(f"{capabilities.format} has no place for {', '.join(wrong)}; {capabilities.instead}")


def find_lost_fields(spec: ModelSpec, capabilities: Capabilities) -> list[str]:
    lost = []
    for field in dataclasses.fields(spec):
        allowed = capabilities.fields.get(field.name, allow(field.default))(spec)
        value = getattr(spec, field.name)
        if field.name not in NOT_COMPUTED and value not in allowed:
            lost.append(f"{field.name} {value} (only {', '.join(map(str, allowed))})")
    return lost


def find_lost_normalization(about: About, channels: int, capabilities: Capabilities) -> list[str]:
    return [
        f"{name} {list(getattr(about, name))} (only 0.5)"
        for name, half in zip(("mean", "std"), HALF, strict=True)
        if name not in capabilities.about and tuple(getattr(about, name)) != for_channels(half, channels)
    ]
