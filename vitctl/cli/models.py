from typing import Annotated

import typer

from vitctl.cli.options import Json, Quiet


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="Part of a name, a glob, or the full name of any model, listed or not."),
    ] = None,
    res: Annotated[str, typer.Option(metavar="N|HxW", help="Resolution for counting tokens and GFLOPs.")] = "224",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models with their size and cost.

    Other names work too: every size takes any patch size, as in vit-s/4, and every model of timm is timm:NAME.

    Example: [bold]vitctl models vit-b[/bold]
    """
    from vitctl.cli.console import columns_table, print_result, reporter
    from vitctl.config.res import Res
    from vitctl.workflows.models import list_models

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
