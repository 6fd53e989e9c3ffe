from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitctl.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.recipes import RecipeRow


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them, to see all that it sets; or a part of a name.")
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes for pretraining and fine-tuning: where they come from, and what their sources report for them.

    Each is taken by --recipe NAME, and any of its settings is changed by --set.

    Example: [bold]vitctl recipes paper/vit-b16-jft[/bold]
    """
    from vitctl.cli.console import print_result
    from vitctl.workflows.recipes import list_recipes

    result = list_recipes(name)
    rows = result.recipes
    print_result("recipes", result, json, print_recipe(rows[0]) if name and len(rows) == 1 else [print_recipes(rows)])


def print_recipes(rows: "list[RecipeRow]") -> "Table":
    from vitctl.cli.console import columns_table

    columns = ["recipe", "purpose", "source", "expected"]
    return columns_table("", columns, [[row.name, row.purpose, row.source, row.expected] for row in rows])


def print_recipe(row: "RecipeRow") -> "list[Table]":
    from vitctl.cli.console import facts_table

    told = {
        "recipe": row.name,
        "purpose": row.purpose,
        "model": row.model,
        "source": row.source,
        "expected": row.expected or "no result is published for these settings",
        "command": row.command,
    }
    return [facts_table(told), facts_table({name: as_settings(value) for name, value in row.settings.items()})]


def as_settings(value: Any) -> str:
    """As --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(as_settings(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
