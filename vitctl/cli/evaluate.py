from typing import Annotated, Literal

import typer

from vitctl.cli.options import AllowMissing, From, Json, Quiet
from vitctl.cli.training import Data


def evaluate(
    source: From = None,
    data: Data = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which pictures; test unless named, or val where there is no test."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 64,
    precision: Annotated[
        Literal["auto", "float32", "bf16"], typer.Option(help="auto takes bf16 where the device has it.")
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    allow_missing: AllowMissing = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how often weights are right: top-1, top-5 and loss on a split.

    Classes are matched by name where the weights have names.

    Example: [bold]vitctl evaluate --from runs/ --data photos.h5 --split test[/bold]
    """
    from vitctl.cli.console import emit, facts, reporter
    from vitctl.config.evaluate import EvaluateConfig
    from vitctl.reporting import duration
    from vitctl.workflows.evaluate import evaluate as run

    config = EvaluateConfig(source, data, split, batch, precision, device, allow_missing)
    result = run(config, reporter(quiet))
    table = {
        "weights": f"{result.weights}, {result.model} at {result.res[0]}x{result.res[1]}",
        "data": f"{result.data}, split {result.split}, {result.pictures:,} pictures",
        "top-1": f"{result.top1:.2%}",
        "top-5": f"{result.top5:.2%}",
        "loss": f"{result.loss:.4f}",
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, {duration(result.elapsed_s)}",
    }
    emit("evaluate", result, json, [facts(table)])
