"""What the commands that train have in common: flags, several processes, the answer."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitctl.cli.options import DEVICE, PRECISION

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitctl.workflows.train.conclude import TrainResult

Out = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="The run directory; else runs/<date-time>-<command>-<model>.")
]


def models_like(begun: str) -> list[str]:
    """For the shell, which completes what was begun."""
    from vitctl.config.model import LISTED

    return [name for name in LISTED if name.startswith(begun)]


def recipes_like(begun: str) -> list[str]:
    from vitctl.config.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(begun)]


Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Model to train; default: vit-b/16. vitctl models lists them.",
        autocompletion=models_like,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Recipe to begin with; flags and --set change it. vitctl recipes lists them.",
        autocompletion=recipes_like,
    ),
]
Res = Annotated[
    str | None,
    typer.Option(metavar="RES", help="224, or 192x256 for height x width; else that of the data, or of the weights."),
]
Epochs = Annotated[float | None, typer.Option(metavar="N", help="Passes over the training data.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Optimizer steps, in place of epochs.")]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Images per step, over all devices.")]
MicroBatch = Annotated[
    str | None,
    typer.Option(metavar="N", help="Images per forward pass on one device; auto takes what fits into memory."),
]
Lr = Annotated[float | None, typer.Option(metavar="LR", help="Peak learning rate.")]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Random seed of weights, data order, augmentation, dropout.")
]
Precision = Annotated[Literal["auto", "float32", "bf16"] | None, PRECISION]
Device = Annotated[str | None, DEVICE]
Devices = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Processes on this machine, with a device each; for several machines there is torchrun."
    ),
]
Parallel = Annotated[
    Literal["ddp", "fsdp"] | None,
    typer.Option(help="A whole copy of the model on each device, or a part of it (FSDP2)."),
]
ResumeRun = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        help="Go on with this run; auto goes on with --out, or the newest, and starts where there is none.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Build everything, run one step, write nothing.")]


def collect_flags(**flags: Any) -> dict[str, Any]:
    """The flags that were given on the command line: those that are not None."""
    return {name: value for name, value in flags.items() if value is not None}


def run_on_devices(devices: int | None, device: str | None) -> bool:
    """Whether other processes did the work, one for each device."""
    from vitctl.cli.launch import launch

    return launch(devices, device)


def print_run(command: str, result: Any, as_json: bool, told: "Callable[[Any], dict[str, str]] | None" = None) -> None:
    import os

    if os.environ.get("RANK", "0") != "0":
        return
    from vitctl.cli.console import facts_table, print_result

    print_result(command, result, as_json, [facts_table((told or train_rows)(result))], run=result.run)


def train_rows(result: "TrainResult") -> dict[str, str]:
    from vitctl.reporting import format_count, format_duration

    told = {
        "model": f"{result.model} at {result.res[0]}x{result.res[1]}, {result.parameters:,} parameters",
        "data": f"{result.data}, {result.classes} classes, digest {result.data_digest[:12]}",
        "trained": f"{format_count(result.steps, 'step')} of {result.batch} ({result.epochs:.3g} epochs), "
        f"recipe {result.recipe}",
        "on": f"{result.device}, {result.precision}, {result.images_per_s:,.0f} img/s, "
        f"{result.ceiling_share:.0%} of its matrix ceiling, in {format_duration(result.elapsed_s)}",
    }
    if result.tried:
        told["tried"] = ", ".join(f"lr {lr}: {score:.2%}" for lr, score in result.tried.items())
    told["loss"] = f"{result.loss:.4f}"
    if result.top1 is not None and result.best_top1 is not None:
        among = f", top-5 {result.top5:.2%}" if result.classes > 5 else ""
        told["val"] = f"top-1 {result.top1:.2%}{among}, loss {result.val_loss:.4f}"
        told["best"] = f"top-1 {result.best_top1:.2%} at step {result.best_step:,}"
    if result.weights:
        told["weights"] = result.weights
    return told


def rates(text: str | None) -> dict[str, Any]:
    """One lr, or a grid of them."""
    from vitctl.config.checks import parse_number
    from vitctl.errors import UsageError

    if text is None:
        return {}
    values = []
    for part in text.split(","):
        try:
            values.append(parse_number(part))
        except ValueError:
            raise UsageError(f"--lr {text}: {part!r} is no number; write one, or several as 0.003,0.01") from None
    return {"lr": values[0], "lrs": ()} if len(values) == 1 else {"lrs": tuple(values)}
