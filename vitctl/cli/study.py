from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitctl.cli.options import Data, Device, Json, Overwrite, Quiet, Set
from vitctl.config.study import Name

if TYPE_CHECKING:
    from vitctl.workflows.study import StudyResult


def study(
    name: Annotated[
        Name,
        typer.Argument(help="Which table or figure of the paper to repeat.", metavar="NAME"),
    ],
    data: Data = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="WEIGHTS", help="vtab: the weights that are transferred.")
    ] = None,
    budget: Annotated[
        float, typer.Option(metavar="MINUTES", help="Time for all cells together, on this machine.")
    ] = 10,
    scale: Annotated[
        Literal["budget", "paper"], typer.Option(help="paper: its own models, recipes and resolutions.")
    ] = "budget",
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds per cell.")] = 3,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of a cell, in place of what the budget allows.")
    ] = None,
    cells: Annotated[
        str, typer.Option(metavar="I/N", help="The I-th of N parts, for several machines with one --out or their own.")
    ] = "1/1",
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where it is kept, and continued from; default: runs/study-NAME."),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and run nothing.")] = False,
    overwrite: Overwrite = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat a study of the paper, at the scale that there is time for.

    A grid of runs with several seeds, ending in a table, a figure and JSON. What was scaled down is told. The same
    command goes on with a study that was stopped, and gathers cells that other machines have done.

    NAME: data-size, scaling, positions, head, shape, optimizer, selfsup, axial, speed, resolution or vtab.

    Example: [bold]vitctl study positions --budget 10[/bold]
    """
    from vitctl.cli.console import facts_table, print_result, reporter
    from vitctl.config.study import StudyConfig, with_settings
    from vitctl.workflows.study import study as run

    config = StudyConfig(
        name=name, data=data, source=source, budget=budget, scale=scale, seeds=seeds, steps=steps, cells=cells,
        device=device,
    )  # fmt: skip
    result = run(with_settings(config, settings or ()), reporter(quiet), out=out, overwrite=overwrite, dry_run=dry_run)
    print_result(
        "study", result, json, [*print_study(result), facts_table(study_facts(result))], run=result.run or None
    )


def print_study(result: "StudyResult"):  # type: ignore[no-untyped-def]
    from vitctl.cli.console import columns_table

    shares = result.score == "top1"
    if result.rows:
        names = list(result.rows[0].factors)
        columns = [*names, result.score, "±", "seeds", "FLOPs", "s"]
        rows = [
            [
                *(f"{value:g}" if isinstance(value, float) else str(value) for value in row.factors.values()),
                "failed" if row.mean is None else f"{row.mean:.1%}" if shares else f"{row.mean:,.1f}",
                "" if row.std is None else f"{row.std:.1%}" if shares else f"{row.std:.1f}",
                str(row.seeds),
                f"{row.flops:.2e}" if row.flops else "",
                f"{row.train_s:.1f}",
            ]
            for row in result.rows
        ]
        yield columns_table(f"{result.study}, {result.source}", columns, rows, columns[len(names) :])
    if result.groups:
        rows = [[each.group, str(each.tasks), f"{each.mean:.1%}"] for each in result.groups]
        yield columns_table("means", ["group", "tasks", "top1"], rows, ["tasks", "top1"])


def study_facts(result: "StudyResult") -> dict[str, str]:
    from vitctl.reporting import format_duration

    told = {
        "cells": f"{result.done} of {result.cells} done"
        + ("" if result.steps is None else f", {result.steps:,} steps each, {result.seeds} seeds"),
        "data": f"{result.data}, digest {result.data_digest[:12]}",
        "scaled down": "; ".join(result.scaled_down),
        "the paper": result.found,
        "seeds": "one: differences as small as between seeds cannot be told" if result.seeds == 1 else "",
        "costs": f"{result.flops:.3g} FLOPs, {result.expected_s / 3600:.3g} hours of this device",
        "figure": result.figure or "",
        "table": result.table or "",
        "took": format_duration(result.elapsed_s),
    }
    return {name: value for name, value in told.items() if value}
