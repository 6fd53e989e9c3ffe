"""Runs of earlier versions go on by the laws that they began with, under the names that these have now."""

from dataclasses import replace
from typing import Any, TypeVar

from vitctl.config.option import Partial
from vitctl.config.train import TrainConfig

CONFIG_VERSION = 2  # of config.json; files of 0.1 state none
Config = TypeVar("Config", bound=TrainConfig)
Part = TypeVar("Part", bound=Partial)

RENAMED = {"crop": {"inception": "random-resized"}, "randaug_space": {"tf": "tf-unwrapped"}}


def restore_meaning(config: Config, version: int) -> Config:
    """The settings of a run's config.json, in which fields that its version did not have hold today's defaults."""
    if version >= CONFIG_VERSION:
        return config
    config = rename_settings(config, version)
    return replace_values(config, augment=replace_values(config.augment, erase_fill="bytes"), ema_ramp=False)


def rename_settings(config: Config, version: int) -> Config:
    """What a request means for a run of this version."""
    if version >= CONFIG_VERSION:
        return config
    names = {name: values.get(getattr(config.augment, name)) for name, values in RENAMED.items()}
    changes = {name: value for name, value in names.items() if value}
    return replace_values(config, augment=replace_values(config.augment, **changes))


def replace_values(config: Part, **changes: Any) -> Part:
    """With other values, and the same fields as set by the caller."""
    new = replace(config, **changes)  # type: ignore[type-var]
    object.__setattr__(new, "named", config.named)
    return new
