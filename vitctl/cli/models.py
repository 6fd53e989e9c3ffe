from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import Json, Quiet

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.models import TimmResult


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="Part of a name, a glob, or the full name of any model, listed or not."),
    ] = None,
    res: Annotated[str, typer.Option(metavar="N|HxW", help="Resolution for counting tokens and GFLOPs.")] = "224",
    timm: Annotated[bool, typer.Option("--timm", help="Search the pretrained models of timm instead.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models with their size and cost.

    Other names work too: every size takes any patch size, as in vit-s/4, and every model of timm is timm:NAME.

    Example: [bold]vitctl models dinov3 --timm[/bold]
    """
    from vitctl.cli.console import columns_table, print_result, reporter
    from vitctl.config.res import Res
    from vitctl.workflows.models import list_models, list_timm_models

    if timm:
        listed = list_timm_models(pattern, reporter(quiet))
        return print_result("models", listed, json, [print_timm_models(listed)])
    result = list_models(pattern, Res.parse(res), reporter(quiet))
    columns = ["model", "parameters", "GFLOPs", "tokens", "paper's exaFLOPs"]
    rows = [
        [
            row.name,
            f"{row.parameters:,}",
            f"{row.gflops:,.2f}" if row.gflops < 100 else f"{row.gflops:,.0f}",
            f"{row.tokens:,}" if row.tokens else "-",
            row.exaflops or "",
        ]
        for row in result.models
    ]
    title = f"at {res}, 1,000 classes; 2 FLOPs a multiply-add"
    print_result("models", result, json, [columns_table(title, columns, rows, columns[1:])])


def print_timm_models(result: "TimmResult") -> "Table":
    from vitctl.cli.console import columns_table

    columns = ["--from", "parameters", "resolution", "classes", "license"]
    rows = [
        [
            row.name,
            f"{row.parameters:,}" if row.parameters else "-",
            "x".join(map(str, row.res)),
            f"{row.classes:,}" if row.classes else "-",
            row.license or "not stated",
        ]
        for row in result.models
    ]
    return columns_table("", columns, rows, columns[1:4])
