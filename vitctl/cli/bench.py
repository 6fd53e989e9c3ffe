from typing import Annotated, Literal

import typer

from vitctl.cli.options import Json, Overwrite, Quiet, Set


def bench(
    what: Annotated[
        Literal["data", "models", "train", "selfsup", "features", "fewshot", "export", "all"],
        typer.Argument(help="Which part to measure."),
    ] = "all",
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="JPEGs to measure on; made up where none are given.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="How often each figure is taken; else 5, or 3 of all parts.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Keep config, result and a figure as a run directory.")
    ] = None,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure this machine against its limits and against the usual tools, side by side.

    Figures are medians with their spread; ratios compare pairs taken in the same round.
    Example: [bold]vitctl bench data --rounds 3[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table, print_result, reporter
    from vitctl.config.bench import BenchConfig
    from vitctl.config.overrides import override
    from vitctl.reporting import format_duration
    from vitctl.workflows.bench import bench as run

    config = override(BenchConfig(what=what, data=data, rounds=rounds), settings or ())
    result = run(config, reporter(quiet), out=out, overwrite=overwrite)
    columns = ["figure", "median", "min", "max", "unit"]
    figures = [
        [
            each.name,
            *(f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in (each.median, each.min, each.max)),
            each.unit,
        ]
        for each in result.figures
    ]
    ratios = [
        [each.name, each.against, f"{each.median:.2f}", f"{each.min:.2f}-{each.max:.2f}"] for each in result.ratios
    ]
    about = {
        "machine": f"{result.machine}, {result.cores} cores",
        "libraries": ", ".join(f"{name} {version}" for name, version in result.libraries.items()),
        "took": format_duration(result.elapsed_s),
    }
    about |= {f"remark {number + 1}": line for number, line in enumerate([*result.remarks, *result.left_out])}
    print_result(
        "bench",
        result,
        json,
        [
            columns_table("figures", columns, figures, columns[1:4]),
            columns_table("ratios", ["", "against", "times", "min-max"], ratios, ["times", "min-max"]),
            facts_table(about),
        ],
        run=out,
    )
