"""`vitctl recipes`: recipes, their sources and their settings."""

import dataclasses
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vitctl.config.recipes import RECIPES, Recipe, recipe
from vitctl.config.res import Res


@dataclass(frozen=True)
class RecipeRow:
    name: str
    purpose: str
    model: str
    source: str
    command: str
    expected: str
    settings: dict[str, Any]  # batch, lr and every field that differs from its default, named as in --set


@dataclass(frozen=True)
class RecipesResult:
    recipes: list[RecipeRow]


def list_recipes(pattern: str | None = None) -> RecipesResult:
    """The recipe of this name, or those whose name contains `pattern` or matches it as a glob. None: all recipes."""
    if pattern in RECIPES:
        return RecipesResult([make_recipe_row(RECIPES[pattern])])
    part = (pattern or "").lower()
    matches = [each for name, each in RECIPES.items() if part in name or fnmatch.fnmatch(name, part)]
    return RecipesResult([make_recipe_row(each) for each in matches or [recipe(str(pattern))]])


def make_recipe_row(entry: Recipe) -> RecipeRow:
    changed = dict(list_changed_fields(entry.config, type(entry.config)()))
    settings = {"batch": entry.config.batch, "optim.lr": entry.config.optim.lr} | changed
    settings.pop("model", None)
    return RecipeRow(entry.name, entry.purpose, entry.model, entry.source, entry.command, entry.expected, settings)


def list_changed_fields(config: Any, default: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that differs from its default; fields of inner configs as optim.lr."""
    for field in dataclasses.fields(config):
        value, default_value = getattr(config, field.name), getattr(default, field.name)
        if isinstance(value, Res):
            yield f"{above}{field.name}", str(value)
        elif dataclasses.is_dataclass(value):
            yield from list_changed_fields(value, default_value, f"{above}{field.name}.")
        elif value != default_value:
            yield f"{above}{field.name}", value
