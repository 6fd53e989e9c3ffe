from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.evaluate import EvaluateResult
    from vitctl.workflows.evaluate_outputs import NumbersResult, SetsResult

SHOWN = 10  # classes


@command(EvaluateConfig, "vitctl.workflows.evaluate:evaluate")
def evaluate(result: "EvaluateResult | SetsResult | NumbersResult") -> "list[Table]":
    """Measure the accuracy of weights or of an exported file: top-1, top-5, loss, calibration, and per class.

    Classes are matched by name where the weights have names. Where an image has a set of classes: mAP, F1 and exact
    match at the thresholds of the weights; where it has a number: R² and errors.

    Example: [bold]vitctl evaluate --from runs/ --data photos.h5 --split test[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.workflows.evaluate import EvaluateResult

    if not isinstance(result, EvaluateResult):
        return output_tables(result)
    low, high = result.top1_ci95
    balanced = (
        f"{result.balanced:.2%}, mean accuracy of the classes; macro F1 {result.macro_f1:.2%}"
        if result.balanced is not None
        else ""
    )
    facts = {
        **source_rows(result),
        "top-1": f"{result.top1:.2%}, 95% interval {low:.2%} to {high:.2%}",
        **({"top-5": f"{result.top5:.2%}"} if result.classes > 5 else {}),
        **({"balanced": balanced} if balanced else {}),
        "loss": f"{result.loss:.4f}",
        **comparison_rows(result),
        "calibration": f"expected calibration error {result.calibration_error:.2%}, 15 bins",
        "on": describe_speed(result),
        **({"confusion": result.confusion} if result.confusion else {}),
    }
    worst = sorted(result.per_class, key=lambda each: (each.top1, -each.pictures))[:SHOWN]
    rows = [[each.name, f"{each.pictures:,}", f"{each.top1:.2%}", each.taken_for] for each in worst]
    title = "classes" if len(worst) == len(result.per_class) else f"worst {SHOWN} of {len(result.per_class):,} classes"
    columns = ["class", "images", "top-1", "most often predicted as"]
    return [facts_table(facts), columns_table(title, columns, rows, columns[1:3])]


def source_rows(result: "EvaluateResult | SetsResult | NumbersResult") -> dict[str, str]:
    return {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": f"{result.data}, split {result.split}, {result.pictures:,} images",
    }


def comparison_rows(result: "EvaluateResult | SetsResult | NumbersResult") -> dict[str, str]:
    """Of --compare."""
    from vitctl.probing.metrics import WORDS, describe_metrics

    other = result.comparison
    if other is None:
        return {}
    source = f"{other.against}: {other.weights}, {other.model}"
    if other.value is None or other.difference is None:
        return {"against": source}
    scale, unit, form = (1, "", "+.4f") if result.task == "numbers" else (100, " points", "+.2f")
    text = f"{WORDS[other.metric][0]} {scale * other.difference:{form}}{unit}"
    if other.ci95:
        low, high = (f"{scale * end:{form}}" for end in other.ci95)
        text += f", 95% interval {low} to {high}"
    if other.only_this is not None:
        word = "has the whole set right" if result.task == "sets" else "is right"
        text += f"; only this {word}: {other.only_this:,}, only the other: {other.only_other:,}, p = {other.p:.2g}"
    return {"against": f"{source}, {describe_metrics({other.metric: other.value})}", "difference": text}


def describe_speed(result: "EvaluateResult | SetsResult | NumbersResult") -> str:
    from vitctl.reporting import format_duration

    speed = f"{result.images_per_s:,.0f} img/s"
    return f"{result.device}, {result.precision}, {speed}, {format_duration(result.elapsed_s)}"


def output_tables(result: "SetsResult | NumbersResult") -> "list[Table]":
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.probing.metrics import WORDS, describe_metrics
    from vitctl.workflows.evaluate_outputs import SetsResult

    known = {name: value for name, value in vars(result).items() if name in WORDS and value is not None}
    names = {name: WORDS[name][0] for name in WORDS if name in known}
    metrics = {word: describe_metrics(known, name).removeprefix(f"{word} ") for name, word in names.items()}
    facts = facts_table({**source_rows(result), **metrics, **comparison_rows(result), "on": describe_speed(result)})
    if not isinstance(result, SetsResult):
        return [facts]
    worst = sorted(result.per_class, key=lambda each: (each.f1 is not None, each.f1 or 0, -each.pictures))[:SHOWN]
    shown = [(each.average_precision, each.precision, each.recall, each.f1) for each in worst]
    rows = [
        [each.name, f"{each.pictures:,}", *("" if value is None else f"{value:.2%}" for value in shares),
         f"{each.threshold:.3f}"]
        for each, shares in zip(worst, shown, strict=True)
    ]  # fmt: skip
    columns = ["class", "images", "AP", "precision", "recall", "F1", "threshold"]
    title = "classes" if len(worst) == len(result.per_class) else f"worst {SHOWN} of {len(result.per_class):,} classes"
    return [facts, columns_table(title, columns, rows, columns[1:])]
