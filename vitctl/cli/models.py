from typing import Annotated

import typer

from vitctl.cli.options import Json, Quiet


def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="FILTER", help="A part of a name, a glob, or any whole name, listed or not.")
    ] = None,
    res: Annotated[
        str, typer.Option(metavar="N|HxW", help="The resolution at which tokens and GFLOPs are counted.")
    ] = "224",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models that can be named, with their size and cost.

    More can be named than are listed: every size with any patch, as in vit-s/4, and every model of timm as timm:NAME.

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
