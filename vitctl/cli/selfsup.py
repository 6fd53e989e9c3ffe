from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitctl.cli.options import Data, Json, Overwrite, Quiet, Set
from vitctl.cli.training import (
    Batch,
    Device,
    Devices,
    DryRun,
    Epochs,
    Lr,
    MicroBatch,
    Model,
    Out,
    Parallel,
    Precision,
    Recipe,
    Res,
    ResumeRun,
    Seed,
    Steps,
)

if TYPE_CHECKING:
    from vitctl.workflows.selfsup import SelfsupResult


def selfsup(
    objective: Annotated[
        Literal["mean-color", "downsampled", "pixels", "mae"] | None,
        typer.Option(help="What is predicted of a hidden patch; default: mean-color, the paper's."),
    ] = None,
    model: Model = None,
    data: Data = None,
    out: Out = None,
    recipe: Recipe = None,
    res: Res = None,
    ratio: Annotated[float | None, typer.Option(metavar="SHARE", help="Share of the patches to hide.")] = None,
    probe: Annotated[
        int | None,
        typer.Option(metavar="N", help="Labeled images per class of the probe on the way; 0 turns it off."),
    ] = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    micro_batch: MicroBatch = None,
    lr: Lr = None,
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
    """Train a model from scratch, without labels, by patches that are hidden from it.

    The paper hides half of the patches and asks for the mean color of each; mae hides three quarters, does not compute
    them, and asks for their pixels. A folder of images is enough. Where there are labels, a few of them measure the
    model on the way.

    Example: [bold]vitctl selfsup --model vit-s/16 --data photos/ --objective mae[/bold]
    """
    from vitctl.cli.training import collect_flags, print_run, run_on_devices

    if run_on_devices(devices, device):
        return
    from vitctl.cli.console import reporter
    from vitctl.workflows.selfsup import selfsup as run

    given = collect_flags(
        objective=objective, model=model, data=data, res=res, epochs=epochs, steps=steps, batch=batch,
        micro_batch=micro_batch, lr=lr, ratio=ratio, probe=probe, seed=seed, precision=precision,
        device=device, parallel=parallel,
    )  # fmt: skip
    result = run(
        given, reporter(quiet), settings=settings or (), recipe=recipe, out=out, resume=resume, overwrite=overwrite,
        dry_run=dry_run,
    )  # fmt: skip
    print_run("selfsup", result, json, selfsup_rows)


def selfsup_rows(result: "SelfsupResult") -> dict[str, str]:
    from vitctl.reporting import format_count, format_duration

    told = {
        "model": f"{result.model} at {result.res[0]}x{result.res[1]}, {result.parameters:,} parameters",
        "objective": f"{result.objective}, {result.hidden} of {result.patches} patches hidden",
        "data": f"{result.data}, digest {result.data_digest[:12]}",
        "trained": f"{format_count(result.steps, 'step')} of {result.batch} ({result.epochs:.3g} epochs), "
        f"recipe {result.recipe}",
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, "
        f"{result.ceiling_share:.0%} of its matrix ceiling, in {format_duration(result.elapsed_s)}",
        "loss": f"{result.loss:.4f}" + ("" if result.val_loss is None else f", on val {result.val_loss:.4f}"),
    }
    if result.val_top1 is not None:
        told["hidden patches"] = f"{result.val_top1:.2%} right on val"
    if result.probe_top1 is not None:
        told["probe"] = f"top-1 {result.probe_top1:.2%} on val with {result.probe_shots} shots per class, frozen"
    if result.weights and result.pictures:
        told |= {"weights": result.weights, "images": result.pictures}
    return told
