import sys
from typing import Annotated

import typer

from vitctl.cli.options import AllowMissing, Device, From, Json, Mean, Precision, Quiet, Set, Std
from vitctl.config.patchify import Fit

SHOWN = 100  # images on the terminal


def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, quoted patterns, or - for names on stdin."),
    ],
    source: From = None,
    top: Annotated[int, typer.Option(metavar="N", help="Classes shown for each image.")] = 5,
    csv: Annotated[str | None, typer.Option(metavar="FILE.csv", help="Write a line per image to this file.")] = None,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw images with answers, right and wrong in color.")
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(help="How images are fitted to the model's input; else as those that it was trained on."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Batch size.")] = 32,
    precision: Precision = "auto",
    device: Device = "auto",
    mean: Mean = None,
    std: Std = None,
    allow_missing: AllowMissing = False,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify images: the likeliest classes of each, by weights or by an exported file.

    A folder that is called like a class labels its images. What cannot be read is told, and stops nothing.

    Example: [bold]vitctl predict holiday.jpg photos/ --sheet answers.png[/bold]
    """
    from vitctl.cli.console import columns_table, facts_table, print_result, reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.config.overrides import override
    from vitctl.config.predict import PredictConfig
    from vitctl.workflows.predict import predict as run

    kept = None if json else SHOWN
    if "-" in pictures:  # their names, a line each
        pictures = [each for each in pictures if each != "-"] + sys.stdin.read().splitlines()
    config = PredictConfig(
        tuple(pictures),
        source,
        top,
        batch,
        fit,
        precision,
        device,
        csv,
        sheet,
        kept=kept,
        allow_missing=allow_missing,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
    )
    result = run(override(config, settings or ()), reporter(quiet))
    rows = [
        [each.path, *(f"{answer.name} {answer.probability:.1%}" for answer in each.top)] for each in result.predictions
    ]
    more = result.pictures - len(rows)
    columns = ["image", *(f"{number + 1}." for number in range(max(map(len, rows), default=1) - 1))]
    table = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "images": f"{result.pictures:,}, {result.images_per_s:,.0f} img/s on {result.device}, {result.precision}",
        "unreadable": f"{len(result.unreadable):,}" if result.unreadable else "",
        "right": "" if result.top1 is None else f"{result.top1:.2%} of {result.labelled:,} with a label",
        "not shown": f"{more:,} more; --csv or --json has them all" if more else "",
        "csv": result.csv or "",
        "sheet": result.sheet or "",
    }
    print_result(
        "predict",
        result,
        json,
        [columns_table("", columns, rows), facts_table({name: value for name, value in table.items() if value})],
    )
