from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import BenchOptions
from vitctl.config.bench import BenchConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.bench import BenchResult


@command(BenchConfig, "vitctl.workflows.bench:bench", BenchOptions)
def bench(result: "BenchResult") -> "list[Table]":
    """Measure this machine against its limits and against the usual tools, side by side.

    Figures are medians with their spread; ratios compare pairs that were measured in the same round.

    Example: [bold]vitctl bench data --rounds 3[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_duration

    columns = ["figure", "median", "min", "max", "unit"]
    figures = [
        [each.name, *map(format_figure, (each.median, each.min, each.max)), each.unit] for each in result.figures
    ]
    ratios = [
        [each.name, each.against, f"{each.median:.2f}", f"{each.min:.2f}-{each.max:.2f}"] for each in result.ratios
    ]
    facts = {
        "machine": f"{result.machine}, {result.cores} cores",
        "libraries": ", ".join(f"{name} {version}" for name, version in result.libraries.items()),
        "took": format_duration(result.elapsed_s),
    }
    facts |= {f"remark {number + 1}": line for number, line in enumerate([*result.remarks, *result.left_out])}
    return [
        columns_table("figures", columns, figures, columns[1:4]),
        columns_table("ratios", ["", "against", "times", "min-max"], ratios, ["times", "min-max"]),
        facts_table(facts),
    ]


def format_figure(value: float) -> str:
    return f"{value:,.4g}" if value < 100 else f"{value:,.0f}"
