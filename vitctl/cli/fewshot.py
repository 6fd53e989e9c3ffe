from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.cli.options import FewshotOptions
from vitctl.config.fewshot import FewshotConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.fewshot import Closer, FewshotResult, ProbeResult


@command(FewshotConfig, "vitctl.workflows.fewshot:fewshot", FewshotOptions)
def fewshot(result: "FewshotResult") -> "list[Table]":
    """Measure frozen features with a few labels per class, as in the paper.

    The model is not trained: a linear probe is fitted to the features of the shots, and tested on all test images.

    Example: [bold]vitctl fewshot --shots 1 --shots 5 --from runs/ --from pixels[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_duration

    rows = [
        [each.weights, each.probe, str(each.shots or "all"), format_percent(each.mean), format_spread(each.ci95),
         describe_seeds(each)]
        for each in result.results
    ]  # fmt: skip
    title = f"top-1 on {result.pictures:,} images of {result.split}, {result.classes} classes"
    columns = ["features", "probe", "shots", "mean", "±95%", "seeds"]
    tables = [columns_table(title, columns, rows, columns[2:5])]
    if result.differences:
        rows = [
            [f"{each.weights} minus {each.against}", each.probe, str(each.shots or "all"), format_percent(each.mean),
             format_spread(each.ci95)]
            for each in result.differences
        ]  # fmt: skip
        columns = ["difference", "probe", "shots", "mean", "±95%"]
        tables.append(columns_table("on the same draws", columns, rows, columns[2:]))
    best = max(result.closer, key=lambda each: sum(each.per_class.values()))
    figure = {"figure": result.plot} if result.plot else {}
    return [*tables, facts_table(find_worst(best) | {"in": format_duration(result.elapsed_s)} | figure)]


def find_worst(closer: "Closer") -> dict[str, str]:
    """The classes with the lowest accuracy, and the most frequent mistakes."""
    hardest = sorted(closer.per_class.items(), key=lambda item: item[1])[:5]
    pairs = ", ".join(f"{each['true']} as {each['predicted']} {each['share']:.0%}" for each in closer.confused)
    rows = {
        "details of": f"{closer.weights}, {closer.probe}, {closer.shots or 'all'} shots",
        "lowest top-1": ", ".join(f"{name} {top1:.0%}" for name, top1 in hardest),
    }
    return rows | ({"most confused": pairs} if pairs else {})


def format_percent(value: float) -> str:
    return f"{value:.1%}"


def format_spread(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def describe_seeds(each: "ProbeResult") -> str:
    return " ".join(f"{seed.top1:.1%}" for seed in each.seeds) + (", chosen on test" if each.optimistic else "")
