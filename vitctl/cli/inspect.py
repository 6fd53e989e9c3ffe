from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import InspectOptions
from vitctl.config.inspect import InspectConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.inspect import InspectResult


@command(InspectConfig, "vitctl.workflows.inspect:inspect", InspectOptions)
def inspect(result: "InspectResult") -> "list[Table]":
    """Show what a model has learned: filters, positions, attention, and how good the features of its layers are.

    Writes figures, their numbers, and one HTML page with everything.

    Example: [bold]vitctl inspect --from runs/first --data photos.h5[/bold]
    """
    from vitctl.cli.console import facts_table
    from vitctl.reporting import format_duration

    facts = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "images": f"{result.pictures:,} of {result.data} {result.split}".rstrip(),
        **findings_rows(result),
        "left out": "; ".join(result.left_out),
        "figures": ", ".join(each.rpartition("/")[2] for each in result.figures),
        "page": result.page,
        "took": f"{format_duration(result.elapsed_s)} on {result.device}",
    }
    return [facts_table({name: value for name, value in facts.items() if value})]


def findings_rows(result: "InspectResult") -> dict[str, str]:
    """The findings, one line each."""
    rows = {}
    if result.distances:
        first, last = (sum(line) / len(line) for line in (result.distances[0], result.distances[-1]))
        rows["attention"] = f"mean distance {first:.1f} px in the first layer, {last:.1f} px in the last"
        rows["uniform"] = f"{result.uniform_distance:.1f} px, if attention were uniform"
    if result.explained_variance:
        count = len(result.explained_variance)
        rows["filters"] = f"{count} components explain {sum(result.explained_variance):.1%}"
    if result.layer_top1:
        best = max(range(len(result.layer_top1)), key=result.layer_top1.__getitem__)
        share = f"{result.layer_top1[best]:.1%} with {result.shots} shots per class"
        rows["layers"] = f"layer {best} of {len(result.layer_top1) - 1} is best: {share}"
    return rows
