import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.config.predict import PredictConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.predict import Prediction, PredictResult

SHOWN = 100  # images on the terminal


def read_names(config: PredictConfig, as_json: bool) -> PredictConfig:
    """Replace - by the names on stdin; without --json, keep only the predictions to print."""
    names = config.pictures
    if "-" in names:
        names = (*(each for each in names if each != "-"), *sys.stdin.read().splitlines())
    return replace(config, pictures=names, kept=config.kept if as_json else SHOWN)


def describe_prediction(each: "Prediction", task: str) -> list[str]:
    """A cell for each class; of sets, all of them in one."""
    if each.number is not None:
        return [f"{each.number:.8g}"]
    cells = [f"{top.name} {top.probability:.1%}" for top in each.top]
    return [", ".join(cells) or "none"] if task == "sets" else cells


@command(PredictConfig, "vitctl.workflows.predict:predict", prepare=read_names)
def predict(result: "PredictResult") -> "list[Table]":
    """Classify images: the most likely classes of each, by weights or by an exported file.

    Weights that were trained on sets of classes answer with all classes of an image, and those of numbers with a
    number. A folder named after a class labels its images. Images that cannot be read are reported and skipped.

    Example: [bold]vitctl predict holiday.jpg photos/ --sheet answers.png[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table

    rows = [[each.path, *describe_prediction(each, result.task)] for each in result.predictions]
    more = result.pictures - len(rows)
    ranks = range(max(map(len, rows), default=1) - 1)
    columns = [
        "image",
        *({"sets": ["classes"], "numbers": ["number"]}.get(result.task) or (f"{n + 1}." for n in ranks)),
    ]
    facts = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "images": f"{result.pictures:,}, {result.images_per_s:,.0f} img/s on {result.device}, {result.precision}",
        "unreadable": f"{len(result.unreadable):,}" if result.unreadable else "",
        "top-1": "" if result.top1 is None else f"{result.top1:.2%} of {result.labelled:,} with a label",
        "not shown": f"{more:,} more; --csv or --json has them all" if more else "",
        "csv": result.csv or "",
        "sheet": result.sheet or "",
    }
    return [columns_table("", columns, rows), facts_table({name: value for name, value in facts.items() if value})]
