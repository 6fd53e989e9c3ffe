from typing import TYPE_CHECKING

from vitctl.cli.command import command
from vitctl.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from vitctl.workflows.evaluate import EvaluateResult

SHOWN = 10  # classes


@command(EvaluateConfig, "vitctl.workflows.evaluate:evaluate")
def evaluate(result: "EvaluateResult") -> "list[Table]":
    """Measure the accuracy of weights or of an exported file: top-1, top-5, loss, calibration, and per class.

    Classes are matched by name where the weights have names.

    Example: [bold]vitctl evaluate --from runs/ --data photos.h5 --split test[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table
    from vitctl.reporting import format_duration

    low, high = result.top1_ci95
    balanced = (
        f"{result.balanced:.2%}, mean accuracy of the classes; macro F1 {result.macro_f1:.2%}"
        if result.balanced is not None
        else ""
    )
    facts = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": f"{result.data}, split {result.split}, {result.pictures:,} images",
        "top-1": f"{result.top1:.2%}, 95% interval {low:.2%} to {high:.2%}",
        **({"top-5": f"{result.top5:.2%}"} if result.classes > 5 else {}),
        **({"balanced": balanced} if balanced else {}),
        "loss": f"{result.loss:.4f}",
        "calibration": f"expected calibration error {result.calibration_error:.2%}, 15 bins",
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, "
        f"{format_duration(result.elapsed_s)}",
        **({"confusion": result.confusion} if result.confusion else {}),
    }
    worst = sorted(result.per_class, key=lambda each: (each.top1, -each.pictures))[:SHOWN]
    rows = [[each.name, f"{each.pictures:,}", f"{each.top1:.2%}", each.taken_for] for each in worst]
    title = "classes" if len(worst) == len(result.per_class) else f"worst {SHOWN} of {len(result.per_class):,} classes"
    columns = ["class", "images", "top-1", "most often predicted as"]
    return [facts_table(facts), columns_table(title, columns, rows, columns[1:3])]
