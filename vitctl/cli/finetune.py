from typing import Annotated

import typer

from vitctl.cli.options import Data, From, Json, Mean, Overwrite, Quiet, Set, Std
from vitctl.cli.training import (
    Batch,
    Device,
    Devices,
    DryRun,
    Epochs,
    MicroBatch,
    Out,
    Parallel,
    Precision,
    Recipe,
    Res,
    ResumeRun,
    Seed,
    Steps,
)


def finetune(
    source: From = None,
    data: Data = None,
    out: Out = None,
    recipe: Recipe = None,
    res: Res = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    micro_batch: MicroBatch = None,
    lr: Annotated[
        str | None,
        typer.Option(
            metavar="LR[,LR...]", help="Peak learning rate; of several, the best on a held-out part of train is used."
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            metavar="PART", help="What is frozen: backbone (all but the head), or N (the stem and the first N blocks)."
        ),
    ] = None,
    keep_head: Annotated[
        bool, typer.Option("--keep-head", help="Keep the head of the weights: for the same classes, in any order.")
    ] = False,
    mean: Mean = None,
    std: Std = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    devices: Devices = None,
    parallel: Parallel = None,
    settings: Set = None,
    resume: ResumeRun = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Transfer weights to other classes, and to a higher resolution.

    The head is a new one unless it is kept; positions are interpolated the official way. Without --recipe it is
    SGD as in the paper, for a number of steps that goes by the number of images.

    Example: [bold]vitctl finetune --from weights.npz --data flowers/ --res 384 --lr 0.003,0.01,0.03[/bold]
    """
    from vitctl.cli.training import collect_flags, print_run, rates, run_on_devices

    if run_on_devices(devices, device):
        return
    from vitctl.cli.console import reporter
    from vitctl.config.checks import parse_numbers
    from vitctl.workflows.finetune import finetune as run

    given = collect_flags(
        source=source, data=data, res=res, epochs=epochs, steps=steps, batch=batch, micro_batch=micro_batch,
        freeze=freeze, keep_head="always" if keep_head else None, seed=seed, precision=precision, device=device,
        parallel=parallel, **rates(lr), mean=parse_numbers("--mean", mean) or None,
        std=parse_numbers("--std", std) or None,
    )  # fmt: skip
    result = run(
        given, reporter(quiet), settings=settings or (), recipe=recipe, out=out, resume=resume, overwrite=overwrite,
        dry_run=dry_run,
    )  # fmt: skip
    print_run("finetune", result, json)
