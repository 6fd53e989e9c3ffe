from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import StudyOptions
from vitctl.config.study import StudyConfig, override_study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from vitctl.workflows.study import StudyResult


@command(StudyConfig, "vitctl.workflows.study:study", StudyOptions, override=override_study)
def study(result: "StudyResult") -> "list[Table]":
    """Repeat a study of the paper, at a scale that fits the time.

    A grid of runs with several seeds, ending in a table, a figure and JSON. vitctl prints what it scaled down. The same
    command resumes a study that was stopped, and collects cells that other machines have run.

    NAME: data-size, scaling, positions, head, shape, optimizer, selfsup, axial, speed, resolution or vtab.

    Example: [bold]vitctl study positions --budget 10[/bold]
    """
    from vitctl.cli.console import facts_table

    return [*study_tables(result), facts_table(study_facts(result))]


def study_tables(result: "StudyResult") -> "Iterator[Table]":
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

    facts = {
        "cells": f"{result.done} of {result.cells} done"
        + ("" if result.steps is None else f", {result.steps:,} steps each, {result.seeds} seeds"),
        "data": f"{result.data}, digest {result.data_digest[:12]}",
        "scaled down": "; ".join(result.scaled_down),
        "the paper": result.found,
        "seeds": "one: small differences may be due to the seed" if result.seeds == 1 else "",
        "costs": f"{result.flops:.3g} FLOPs, {result.expected_s / 3600:.3g} hours of this device",
        "figure": result.figure or "",
        "table": result.table or "",
        "took": format_duration(result.elapsed_s),
    }
    return {name: value for name, value in facts.items() if value}
