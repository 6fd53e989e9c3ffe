"""What a file format can store. Every field that a format's table does not list must have its default value.

So every foreign format rejects a new field of ModelSpec until it is added to a table.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vitctl.config.model import ModelSpec
from vitctl.errors import UsageError
from vitctl.io.weights import HALF, About, Weights, for_channels

NOT_COMPUTED = ("name", "dropout", "drop_path", "patch_dropout")  # a label, and options that act in training only
ANY = None  # every value
Values = Callable[[ModelSpec], Collection[Any] | None]  # allowed for a field; may depend on the other fields


def allow(*values: Any) -> Values:
    return lambda spec: values


def allow_any(spec: ModelSpec) -> None:
    return ANY


@dataclass(frozen=True)
class Capabilities:
    format: str  # in words
    instead: str  # the advice for a model that the format cannot store
    fields: Mapping[str, Values]
    about: Collection[str] = ()  # which of mean and std are stored; otherwise readers take 0.5


def check_supported(weights: Weights, capabilities: Capabilities) -> None:
    """Rejects weights that this format cannot store, and names every field that it would lose."""
    lost = find_lost_fields(weights.spec, capabilities)
    lost += find_lost_normalization(weights.about, weights.spec.channels, capabilities)
    if lost:
        raise UsageError(f"{capabilities.format} cannot store {', '.join(lost)}; {capabilities.instead}")


def find_lost_fields(spec: ModelSpec, capabilities: Capabilities) -> list[str]:
    lost = []
    for field in dataclasses.fields(spec):
        allowed = capabilities.fields.get(field.name, allow(field.default))(spec)
        value = getattr(spec, field.name)
        if field.name not in NOT_COMPUTED and allowed is not None and value not in allowed:
            lost.append(f"{field.name} {value} (only {', '.join(map(str, allowed))})")
    return lost


def find_lost_normalization(about: About, channels: int, capabilities: Capabilities) -> list[str]:
    return [
        f"{name} {list(getattr(about, name))} (only 0.5)"
        for name, half in zip(("mean", "std"), HALF, strict=True)
        if name not in capabilities.about and tuple(getattr(about, name)) != for_channels(half, channels)
    ]
