from typing import Annotated

import typer

from vitctl.cli.options import AllowMissing, Data, Device, From, Json, Mean, Precision, Quiet, Std

SHOWN = 10  # classes


def evaluate(
    source: From = None,
    data: Data = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split to evaluate on; default: test, else val."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Batch size; default: that of the evaluations in training, or 64.")
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    crops: Annotated[
        int, typer.Option(metavar="1|5|10", help="Average over 1, 5 or 10 crops; 10 are 5 and their mirror images.")
    ] = 1,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE.json", help="Several right answers per image, as in ImageNet-ReaL."),
    ] = None,
    confusion: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw the confusion matrix.")] = None,
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the accuracy of weights or of an exported file: top-1, top-5, loss, calibration, and class by class.

    Classes are matched by name where the weights have names.

    Example: [bold]vitctl evaluate --from runs/ --data photos.h5 --split test[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.evaluate import EvaluateConfig
    from vitctl.reporting import format_duration
    from vitctl.workflows.evaluate import evaluate as run

    config = EvaluateConfig(
        source,
        data,
        split,
        batch,
        precision,
        device,
        crops,
        labels,
        confusion,
        allow_missing,
        parse_numbers("--mean", mean),
        parse_numbers("--std", std),
    )
    result = run(config, reporter(quiet))
    low, high = result.top1_ci95
    table = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": f"{result.data}, split {result.split}, {result.pictures:,} images",
        "top-1": f"{result.top1:.2%}, 95% interval {low:.2%} to {high:.2%}",
        **({"top-5": f"{result.top5:.2%}"} if result.classes > 5 else {}),
        "loss": f"{result.loss:.4f}",
        "calibration": f"confidence is {result.calibration_error:.2%} off, on average over 15 bins",
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, "
        f"{format_duration(result.elapsed_s)}",
    }
    worst = sorted(result.per_class, key=lambda each: (each.top1, -each.pictures))[:SHOWN]
    rows = [[each.name, f"{each.pictures:,}", f"{each.top1:.2%}", each.taken_for] for each in worst]
    title = "classes" if len(worst) == len(result.per_class) else f"worst {SHOWN} of {len(result.per_class):,} classes"
    columns = ["class", "images", "top-1", "mostly taken for"]
    print_result("evaluate", result, json, [facts_table(table), columns_table(title, columns, rows, columns[1:3])])
