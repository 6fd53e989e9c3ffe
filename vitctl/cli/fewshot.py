from collections.abc import Callable
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
    from vitctl.probing.metrics import MAIN, WORDS
    from vitctl.reporting import format_count, format_duration

    show = "{:.1%}".format if result.task != "numbers" else "{:.3f}".format
    others = [name for name in WORDS if name in result.results[0].scores and name != MAIN[result.task]]
    rows = [
        [each.weights, each.probe, str(each.shots or "all"), show(each.mean), format_spread(each.ci95, show),
         *(f"{each.scores[name]:{WORDS[name][1]}}" for name in others), describe_seeds(each, show)]
        for each in result.results
    ]  # fmt: skip
    word = WORDS[MAIN[result.task]][0]
    classes = f", {format_count(result.classes, 'class')}" if result.classes else ""
    title = f"{word} on {result.pictures:,} images of {result.split}{classes}" + (
        f", in episodes of {result.ways} classes" if result.ways else ""
    )
    columns = ["features", "probe", "shots", "mean", "±95%", *(WORDS[name][0] for name in others), "seeds"]
    tables = [columns_table(title, columns, rows, columns[2:-1])]
    if result.differences:
        rows = [
            [f"{each.weights} minus {each.against}", each.probe, str(each.shots or "all"), show(each.mean),
             format_spread(each.ci95, show)]
            for each in result.differences
        ]  # fmt: skip
        columns = ["difference", "probe", "shots", "mean", "±95%"]
        tables.append(columns_table("on the same draws", columns, rows, columns[2:]))
    figure = {"figure": result.plot} if result.plot else {}
    worst = find_worst(result.closer, "average precision" if result.task == "sets" else word) if result.closer else {}
    return [*tables, facts_table(worst | {"in": format_duration(result.elapsed_s)} | figure)]


def find_worst(closers: "list[Closer]", score: str) -> dict[str, str]:
    """Of the best model and probe, the classes with the lowest score and the most frequent mistakes."""
    closer = max(closers, key=lambda each: sum(each.per_class.values()))
    hardest = sorted(closer.per_class.items(), key=lambda item: item[1])[:5]
    pairs = ", ".join(f"{each['true']} as {each['predicted']} {each['share']:.0%}" for each in closer.confused)
    rows = {
        "details of": f"{closer.weights}, {closer.probe}, {closer.shots or 'all'} shots",
        f"lowest {score}": ", ".join(f"{name} {value:.0%}" for name, value in hardest),
    }
    return rows | ({"most confused": pairs} if pairs else {})


def format_spread(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None else show(value)


def describe_seeds(each: "ProbeResult", show: Callable[[float], str]) -> str:
    if each.trials > len(each.seeds):
        return f"{each.trials:,} episodes"
    return " ".join(show(seed.main) for seed in each.seeds) + (", chosen on test" if each.optimistic else "")
