from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.recipes import RecipeRow


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A recipe, to see all its settings; or part of a name.")
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes for pretraining and fine-tuning: their sources, and the results that the sources report.

    Select one with --recipe NAME; change any of its settings with --set.

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
    from vitctl.config.overrides import as_setting

    about = {
        "recipe": row.name,
        "purpose": row.purpose,
        "model": row.model,
        "source": row.source,
        "expected": row.expected or "no result is published for these settings",
        "command": row.command,
    }
    return [facts_table(about), facts_table({name: as_setting(value, 6) for name, value in row.settings.items()})]
