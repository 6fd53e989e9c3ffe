"""`vitctl recipes`: what is published, and what it would set."""

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
    settings: dict[str, Any]  # batch, lr, and what differs from the defaults, by the names of --set


@dataclass(frozen=True)
class RecipesResult:
    recipes: list[RecipeRow]


def list_recipes(pattern: str | None = None) -> RecipesResult:
    """The one of this name, or those whose name has `pattern` in it or fits it as a glob; all if it is left out."""
    if pattern is None:
        return RecipesResult([make_recipe_row(each) for each in RECIPES.values()])
    if pattern in RECIPES:
        return RecipesResult([make_recipe_row(RECIPES[pattern])])
    names = [name for name in RECIPES if pattern.lower() in name or fnmatch.fnmatch(name, pattern.lower())]
    return RecipesResult([make_recipe_row(RECIPES[name]) for name in names] or [make_recipe_row(recipe(pattern))])


def make_recipe_row(row: Recipe) -> RecipeRow:
    settings = {"batch": row.config.batch, "optim.lr": row.config.optim.lr} | dict(
        list_changed_fields(row.config, type(row.config)())
    )
    settings.pop("model", None)
    return RecipeRow(row.name, row.purpose, row.model, row.source, row.command, row.expected, settings)


def list_changed_fields(config: Any, default: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is not the default's; those of inner configs as optim.lr."""
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if isinstance(value, Res):
            yield f"{above}{field.name}", str(value)
        elif dataclasses.is_dataclass(value):
            yield from list_changed_fields(value, usual, f"{above}{field.name}.")
        elif value != usual:
            yield f"{above}{field.name}", value
